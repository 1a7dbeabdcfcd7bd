"""NAPA-VQ against NumPy: the graph row by row, distances to neighbours, mixed means, and the loss of a step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import cross_entropy, leaves

from cljax import methods
from cljax.core.types import UsageError
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.methods.prototypes import napa_vq as napa

TEMPERATURE, NEAREST = 0.5, 3
BENCHES: dict = {}


def bench_of(stream, model, form="paper"):
  """Its weights are arguments of its programs."""
  if form not in BENCHES:
    optimizer = recipe.make_optimizer("momentum", learning_rate=0.05)
    options = {"form": form, "temperature": TEMPERATURE, "neighbours": NEAREST}
    BENCHES[form] = Bench("napa_vq", stream, model, options, optimizer=optimizer)
  return BENCHES[form]


def features(params, x):
  p = leaves(params)
  return np.maximum(x.reshape(len(x), -1) @ p["network/hidden_0/kernel"] + p["network/hidden_0/bias"], 0)


def turned(x, y):
  return np.concatenate([np.rot90(x, k, axes=(1, 2)) for k in range(4)]), np.concatenate([4 * y + k for k in range(4)])


def batch_of(bench, task, k):
  index = np.asarray(bench.rows(task, k)[0])
  split = bench.stream.dataset.train
  return np.float64(split.x[index]), split.y[index]


def squares_of(f, vectors):
  return np.square(f[:, None] - vectors[None]).sum(-1)


def graph_by_rows(edges, squares, known, nearest):
  """Counts of the released loop, row by row: how often a was nearest, and how often j was then among the nearest."""
  size = len(edges)
  met, both = np.zeros(size), np.zeros((size, size))
  for row in squares:
    order = [j for j in np.argsort(row) if known[j]][:nearest]
    met[order[0]] += 1
    both[order[0], order] += 1
  edges = edges.copy()
  for a in range(size):
    for j in range(size):
      edges[a, j] = max(edges[a, j], both[a, j] > 0) * 0.9 ** max(met[a] - both[a, j], 0)
  edges[edges < 0.9**10 * (1 - 1e-5)] = 0
  return edges


def near_by_rows(squares, y, edges):
  out = []
  for d, c in zip(squares, y, strict=True):
    js = [j for j in range(len(edges)) if edges[c, j] > 0 and j != c]
    w = np.array([np.exp(-0.001 * d[j]) for j in js])
    out.append(max(d[c] - ((w / w.sum()) @ d[js] if js else 0.0), 0))
  return np.array(out)


def test_the_graph_of_a_batch_is_that_of_its_rows():
  rng = np.random.default_rng(0)
  known = np.arange(9) != 4
  edges = np.eye(9)
  for _ in range(4):
    squares = rng.uniform(size=(12, 9)) + 2.0 * (np.arange(9) > 5)
    there = np.float32(rng.uniform(size=12) < 0.7)
    got = napa.connected(jnp.float32(edges), jnp.float32(squares), jnp.asarray(there), jnp.asarray(known), NEAREST)
    want = graph_by_rows(edges, squares[there > 0], known, NEAREST)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    edges = (want + want.T) / 2
    assert np.diag(edges).min() == 1
    assert not edges[4, np.arange(9) != 4].any()
  assert ((edges > 0) & (edges < 1)).any()


def test_an_edge_lives_ten_decays():
  """Vector 0 is nearest to all rows, with 1 beside it; the edge to 2 decays with each."""
  squares = jnp.float32([[0.0, 1.0, 2.0]])
  edges = jnp.eye(3).at[0, 2].set(1.0)
  for n in range(1, 12):
    edges = napa.connected(edges, squares, jnp.ones(1), jnp.ones(3, bool), 2)
    np.testing.assert_allclose(edges[0, 2], 0.9**n if n <= 10 else 0.0, rtol=1e-5)
  assert edges[0, 1] == 1


def test_more_neighbours_than_vectors_are_all_that_are_known():
  known = jnp.array([True, True, False])
  edges = napa.connected(jnp.eye(3), jnp.float32([[1.0, 0.5, 0.1]]), jnp.ones(1), known, 15)
  np.testing.assert_array_equal(edges, [[1, 0, 0], [1, 1, 0], [0, 0, 1]])


def test_a_row_is_pushed_from_neighbours_by_their_shares():
  rng = np.random.default_rng(0)
  f, vectors, y = 3 * rng.normal(size=(7, 5)), 9 * rng.normal(size=(6, 5)), np.array([0, 1, 2, 3, 4, 5, 0])
  edges = (rng.uniform(size=(6, 6)) < 0.5) * rng.uniform(size=(6, 6))
  edges[3] = 0
  one = lambda f: napa.neighbour_loss(napa.squared(f, jnp.float32(vectors)), jnp.asarray(y), jnp.float32(edges))
  want = near_by_rows(squares_of(f, vectors), y, edges)
  np.testing.assert_allclose(one(jnp.float32(f)), want, rtol=1e-4, atol=1e-3)
  assert want[3] == pytest.approx(np.square(f[3] - vectors[3]).sum())
  assert (want > 0).any()
  # Shares have no gradient: the slope is that of the distances alone.
  slope = jax.grad(lambda f: one(f)[6])(jnp.float32(f))[6]
  js = [j for j in range(1, 6) if edges[0, j] > 0]
  w = np.exp(-0.001 * squares_of(f, vectors)[6, js])
  w = w / w.sum()
  by_hand = 2 * (f[6] - vectors[0]) - sum(2 * a * (f[6] - vectors[j]) for a, j in zip(w, js, strict=True))
  np.testing.assert_allclose(slope, by_hand * (want[6] > 0), rtol=1e-4, atol=1e-4)


def test_a_distance_of_zero_has_no_slope():
  v = jnp.float32([[1.0, 2.0]])
  slope = jax.grad(lambda f: napa.root(napa.squared(f, v)).sum())(v)
  np.testing.assert_array_equal(slope, np.zeros((1, 2)))


def test_mixed_means_lie_nearer_to_their_own():
  """Old classes alike, neighbours alike, the own class among them; shares between a half and one."""
  rng = np.random.default_rng(0)
  means, old = jnp.float32(rng.normal(size=(12, 4))), jnp.array([True, False, True])
  edges = jnp.eye(12).at[8, 1].set(0.4).at[8, 6].set(0.9)
  p, label = napa.mixed_means(jax.random.key(0), means, old, edges, 4000)
  assert abs((np.asarray(label) == 0).mean() - 0.5) < 0.03
  assert set(np.unique(label)) == {0, 2}
  np.testing.assert_allclose(p[label == 0], np.broadcast_to(means[0], p[label == 0].shape), rtol=1e-5, atol=1e-6)
  p, m = np.asarray(p, np.float64)[np.asarray(label) == 2], np.asarray(means, np.float64)
  found = []
  for n in (8, 1, 6):
    along = m[n] - m[8] if n != 8 else np.zeros(4)
    share = (p - m[8]) @ along / max(along @ along, 1e-9)
    on = np.abs(p - m[8] - share[:, None] * along).max(-1) < 1e-5
    on &= (share > 1e-5) | (n == 8)
    found.append(on.mean())
    if n != 8:
      assert share[on].min() >= -1e-6
      assert share[on].max() <= 0.5 + 1e-6
      assert abs(share[on].mean() - 0.25) < 0.02
  np.testing.assert_allclose(found, 1 / 3, atol=0.04)


def loss_by_hand(learner, x, y, begun, temperature=TEMPERATURE):
  """``(loss, edges)`` of the rows alone."""
  f, v, known = features(learner.params, x), leaves(learner.params)["vectors"], np.repeat(begun, 4)
  squares = squares_of(f, v)
  edges = graph_by_rows(np.float64(learner.model_state.edges), squares, known, NEAREST)
  z = np.where(known[None], -np.sqrt(squares) / temperature, -1e30)
  return cross_entropy(z, y).mean() + near_by_rows(squares, y, edges).mean(), edges


def test_the_first_task_learns_vectors_of_turned_classes(class_stream, small_model):
  bench = bench_of(class_stream, small_model)
  start = bench.boundary("start_task", bench.start(), 0, ())
  x, y = turned(*batch_of(bench, 0, 0))
  want, edges = loss_by_hand(start, x, y, np.arange(4) < 2)
  after, _, loss = bench.step(start, *bench.arguments(0))
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)
  np.testing.assert_allclose(after.model_state.edges, (edges + edges.T) / 2, rtol=1e-5)
  moved = np.abs(np.asarray(after.params["vectors"] - start.params["vectors"])).max(1) > 0
  assert moved[:8].any()
  assert not moved[8:].any()


@pytest.mark.parametrize("form", ["paper", "released"])
def test_napa_vq_s_loss_is_by_hand(form, class_stream, small_model):
  """Where the two old means are no neighbours: whoever was drawn, so many are of each; else within what mixes give."""
  bench = bench_of(class_stream, small_model, form)
  learner = bench.boundary("start_task", bench.train(steps=3, tasks=(0,)), 1, (0,))
  state = learner.method_state
  plain = (jnp.arange(16) % 4 == 0) & (jnp.arange(16) < 8)  # the means that are known: of old classes, not turned
  learner = learner._replace(
    params=jax.tree.map(lambda a: a + 0.01, learner.params),
    method_state=state._replace(counts=jnp.where(plain, state.counts, 0)),
  )
  x, y = turned(*batch_of(bench, 1, 0))
  base, edges = loss_by_hand(learner, x, y, np.ones(4, bool))
  f, before = features(learner.params, x), features(state.teacher.params, x)
  gap = np.linalg.norm(f - before, axis=1).mean() if form == "paper" else np.linalg.norm(f - before)
  loss = lambda **weights: float(bench.step(learner, *bench.arguments(1, met=(0,)), **weights)[2])
  np.testing.assert_allclose(loss(distillation=0.0, prototypes=0.0), base, rtol=2e-5)
  np.testing.assert_allclose(loss(distillation=3.0, prototypes=0.0), base + 3 * gap, rtol=2e-5)
  got = (loss(distillation=0.0, prototypes=2.0) - base) / 2
  means, v = np.float64(state.means)[[0, 4]], leaves(learner.params)["vectors"]
  if edges[0, 4] == 0 and edges[4, 0] == 0:
    each = cross_entropy(-np.sqrt(squares_of(means, v)) / TEMPERATURE, np.array([0, 4]))
    drawn = [(n * each[0] + (8 - n) * each[1]) / 8 for n in range(9)]
    assert np.abs(np.array(drawn) - got).min() < 1e-3 * max(each)
  else:
    shares = np.linspace(0.5, 1, 101)
    line = lambda a, b: cross_entropy(
      -np.sqrt(squares_of(shares[:, None] * means[a] + (1 - shares[:, None]) * means[b], v)) / TEMPERATURE,
      np.full(101, 4 * a),
    )
    every = np.concatenate([line(a, b) for a in (0, 1) for b in (0, 1)])
    assert every.min() - 1e-4 <= got <= every.max() + 1e-4


def test_at_its_own_teacher_the_distance_of_features_has_no_gradient(class_stream, small_model):
  bench = bench_of(class_stream, small_model)
  learner = bench.boundary("start_task", bench.train(steps=2, tasks=(0,)), 1, (0,))
  step = lambda weight: bench.step(learner, *bench.arguments(1, met=(0,)), distillation=weight, prototypes=0.0)
  one, two = step(10.0), step(0.0)
  assert float(one[2]) == float(two[2])
  for a, b in zip(jax.tree.leaves(one[0].params), jax.tree.leaves(two[0].params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_vectors_learn_by_plain_descent_and_old_ones_stand(class_stream, small_model):
  """At their own rate, without the run's momentum; from the second task on at a tenth of it."""
  bench = bench_of(class_stream, small_model)
  one = bench.train(steps=3, tasks=(0,))
  begun = bench.boundary("start_task", one, 1, (0,))
  both = bench.steps(begun, 1, 3, met=(0,))
  np.testing.assert_array_equal(both.params["vectors"][:8], one.params["vectors"][:8])
  first = bench.boundary("start_task", bench.start(), 0, ())

  def slope(learner, task, **where):
    moved = lambda rate: bench.step(learner, *bench.arguments(task, **where), vector_rate=rate, prototypes=0.0)[0]
    small, large = (np.float64(moved(r).params["vectors"] - learner.params["vectors"]) for r in (0.01, 0.02))
    np.testing.assert_allclose(large, 2 * small, rtol=1e-2, atol=1e-5)
    assert np.abs(large).max() > 1e-4
    return small / -0.01

  for learner, task, where, factor in ((first, 0, {}, 1.0), (begun, 1, {"met": (0,)}, 0.1)):
    x, y = turned(*batch_of(bench, task, 0))
    seen = np.arange(4) < 2 * task + 2
    got = slope(learner, task, **where)
    vectors = np.float64(learner.params["vectors"])
    direction = np.zeros_like(vectors)
    direction[8 * task : 8 * task + 8] = np.random.default_rng(task).normal(size=(8, vectors.shape[1]))
    at = lambda t, learner=learner, x=x, y=y, seen=seen, v=vectors, d=direction: loss_by_hand(
      learner._replace(params={**learner.params, "vectors": v + t * d}), x, y, seen
    )[0]
    np.testing.assert_allclose((got * direction).sum(), factor * (at(1e-6) - at(-1e-6)) / 2e-6, rtol=2e-2)


def test_means_are_of_all_turned_rows_when_a_task_begins_and_ends(class_stream, small_model):
  """The last short batch counts, which the released loop drops; by the network of that moment."""
  bench = bench_of(class_stream, small_model)
  one = bench.train(steps=3, tasks=(0,))
  begun = bench.boundary("start_task", one, 1, (0,))
  both = bench.boundary("end_task", bench.steps(begun, 1, 2, met=(0,)), 1, (0,))
  split = class_stream.dataset.train
  for learner, task in ((one, 0), (begun, 1), (both, 1)):
    rows = class_stream.train[task]
    x, y = turned(np.float64(split.x[rows]), split.y[rows])
    f, state = features(learner.params, x), learner.method_state
    for c in range(8 * task, 8 * task + 8):
      np.testing.assert_allclose(state.means[c], f[y == c].mean(0), rtol=1e-4, atol=1e-5)
      assert state.counts[c] == (y == c).sum()
  np.testing.assert_array_equal(both.method_state.means[:8], one.method_state.means[:8])
  for a, b in zip(jax.tree.leaves(both.method_state.teacher.params), jax.tree.leaves(both.params), strict=True):
    np.testing.assert_array_equal(a, b)


def said_by(bench, learner):
  x = bench.stream.dataset.test.x
  return np.asarray(jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))(learner)), x


def test_answers_are_the_nearest_vectors_of_unturned_classes(class_stream, small_model):
  """Both of norm 1; classes that were not begun, or went whole, are not answered."""
  bench = bench_of(class_stream, small_model)
  unit = lambda a: a / np.linalg.norm(a, axis=-1, keepdims=True)
  every, _ = said_by(bench, bench.start())
  assert np.isfinite(every).all()
  one = bench.train(steps=3, tasks=(0,))
  got, x = said_by(bench, one)
  want = -np.sqrt(squares_of(unit(features(one.params, x)), unit(leaves(one.params)["vectors"][::4])))
  np.testing.assert_allclose(got[:, :2], want[:, :2], atol=1e-5)
  assert np.isneginf(got[:, 2:]).all()
  both = bench.train(steps=2)
  gone = jnp.arange(4) == 1
  left = jax.jit(bench.parts.scrub)(both, jnp.zeros(bench.spec.num_rows, bool), gone)
  got = said_by(bench, left)[0]
  assert np.isneginf(got[:, 1]).all()
  assert np.isfinite(got[:, [0, 2, 3]]).all()
  state, graph = left.method_state, np.asarray(left.model_state.edges)
  assert not np.asarray(state.means)[4:8].any()
  assert np.asarray(state.counts > 0).reshape(4, 4).all(1).tolist() == [True, False, True, True]
  np.testing.assert_array_equal(graph[4:8], np.eye(16)[4:8])
  np.testing.assert_array_equal(graph[:, 4:8], np.eye(16)[:, 4:8])
  kept = np.r_[0:4, 8:16]
  np.testing.assert_array_equal(graph[np.ix_(kept, kept)], np.asarray(both.model_state.edges)[np.ix_(kept, kept)])
  np.testing.assert_array_equal(np.diag(graph), np.ones(16))
  np.testing.assert_array_equal(both.model_state.edges, np.asarray(both.model_state.edges).T)


def test_napa_vq_s_teacher_follows_an_edit(class_stream, small_model):
  bench = bench_of(class_stream, small_model)
  one = bench.train(steps=2, tasks=(0,))
  edited = one._replace(params=jax.tree.map(lambda p: p * 0.5, one.params))
  after = bench.parts.method.after_forget(edited, one.params)
  for a, b in zip(jax.tree.leaves(after.method_state.teacher.params), jax.tree.leaves(edited.params), strict=True):
    np.testing.assert_array_equal(a, b)


def test_napa_vq_turns_square_pictures_alone(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match="'napa_vq' turns pictures; expected square inputs"):
    methods.make("napa_vq", small_model, spec._replace(shown=jax.ShapeDtypeStruct((4, 5, 1), jnp.float32)))


def test_napa_vq_is_named_where_a_model_gives_no_features(class_stream, small_model):
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'napa_vq' needs a model that returns features"):
    methods.make("napa_vq", bare, spec_of(class_stream, 8))
