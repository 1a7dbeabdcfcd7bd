"""Brain-inspired replay against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, batch_of, cross_entropy, leaves, log_softmax
from normed import normed

from cljax import methods, models
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.generative import bir, feedback

LATENT, WIDTH, T, STRENGTH = 3, 7, 2.0, 0.3
HYPER = {"latent": LATENT, "width": WIDTH, "strength": STRENGTH, "shut": 0.3, "likelihood": "gaussian"}
PLAIN = {"modes": False, "targets": "hard", "shut": 0.0, "gates": "task", "likelihood": "bernoulli"}


def solver(p, x):
  h = np.maximum(x @ p["network/hidden_0/kernel"] + p["network/hidden_0/bias"], 0)
  return h, h @ p["network/head/kernel"] + p["network/head/bias"]


def decoder(p, z, gates):
  for i in range(3):
    z = (gates[i - 1] * np.maximum(z, 0) if i else z) @ p[f"feedback/decoder/layer_{i}/kernel"]
    z = z + p[f"feedback/decoder/layer_{i}/bias"]
  return z


def tables(learner, hyper, kinds):
  """Of each kind the units with the ``floor(shut * units)`` smallest draws are shut."""
  out = []
  for i in range(2):
    key = tree.fold(tree.fold(learner.key, "gates"), f"{i}")
    draws = np.asarray(jax.random.uniform(key, (kinds, WIDTH)))
    out.append(np.array([[float((row < v).sum() >= int(hyper["shut"] * WIDTH)) for v in row] for row in draws]))
  return out


def normals(key):
  return np.stack([np.asarray(jax.random.normal(jax.random.fold_in(key, i), (LATENT,)), np.float64) for i in range(8)])


def picked(key, open_):
  logits = jnp.where(jnp.asarray(open_), 0.0, -jnp.inf)
  return np.array([int(jax.random.categorical(jax.random.fold_in(key, i), logits[i])) for i in range(8)])


def generative(p, key, hyper, gates, h, x, y, kind):
  code = h @ p["feedback/code/kernel"] + p["feedback/code/bias"]
  m, v, e = code[:, :LATENT], code[:, LATENT:], normals(key)
  z = m + np.exp(v / 2) * e
  r = decoder(p, z, [g[kind] for g in gates])
  if hyper["likelihood"] == "gaussian":
    away = ((r - x) ** 2).sum(1) / 2
  else:
    away = (np.logaddexp(0, r) - np.clip(x, 0, 1) * r).sum(1)
  if not hyper["modes"]:
    return away + 0.5 * (m**2 + np.exp(v) - 1 - v).sum(1)
  c, s = p["feedback/modes/mean"][y], p["feedback/modes/spread"][y]
  log_q = -0.5 * ((z - m) ** 2 / np.exp(v) + v).sum(1)
  return away + log_q + 0.5 * ((z - c) ** 2 / np.exp(s) + s).sum(1)


def by_hand(p, learner, hyper, new, task, old_classes, apart=False):
  """The loss of a step of ``task`` behind one other task, or of the first."""
  hyper = {"modes": True, "targets": "soft", "gates": "class", **hyper}
  kinds = 4 if hyper["gates"] == "class" else 2
  gates, by_class = tables(learner, hyper, kinds), hyper["gates"] == "class"
  key = jax.random.fold_in(learner.key, learner.step)
  of_term, of_rows = tree.fold(key, "replay"), tree.fold(key, "bir")
  x, y = new[0].reshape(8, -1).astype(np.float64), new[1]
  cut = lambda z, own: np.where(own, z, -np.inf) if apart else z
  h, z = solver(p, x)
  g = generative(p, tree.fold(of_term, "own"), hyper, gates, h, x, y, y if by_class else np.full(8, task))
  own = cross_entropy(cut(z, ~np.asarray(old_classes)), y).mean() + STRENGTH * g.mean()
  if not task:
    return own
  q = leaves(learner.method_state.network.params)
  label = picked(tree.fold(of_rows, "class"), np.broadcast_to(old_classes, (8, 4)))
  assert set(label) <= set(np.flatnonzero(old_classes))
  code = normals(tree.fold(of_rows, "code"))
  if hyper["modes"]:
    code = q["feedback/modes/mean"][label] + np.exp(q["feedback/modes/spread"][label] / 2) * code
  kind = label if by_class else np.zeros(8, int)
  made = decoder(q, code, [t[kind] for t in gates])
  made = made if hyper["likelihood"] == "gaussian" else 1 / (1 + np.exp(-made))
  said, (h, z) = np.where(old_classes, solver(q, made)[1], -np.inf), solver(p, made)
  z = cut(z, old_classes)
  if hyper["targets"] == "hard":
    gap = cross_entropy(z, said.argmax(1))
  else:
    with np.errstate(invalid="ignore"):
      terms = np.exp(log_softmax(said / T)) * (log_softmax(said / T) - log_softmax(z / T))
    gap = T**2 * np.where(old_classes, terms, 0).sum(1)
  g = generative(p, tree.fold(of_term, "made"), hyper, gates, h, made, label, kind)
  return 0.5 * own + 0.5 * (gap.mean() + STRENGTH * g.mean())


def trained(hyper, stream, model):
  """The bench, a learner at the start of the second task off biases of 0, its step; and a step of the first task."""
  bench = Bench("bir", stream, model, {**HYPER, **hyper})
  one = bench.train(2, (0,))
  return bench, one, bench.step(one, *bench.arguments(1, 0, met=(0,)))


@pytest.fixture(scope="module")
def run(class_stream, small_model):
  return trained({}, class_stream, small_model)


def assert_slope(bench, before, after, loss):
  step = {n: (v - leaves(after.params)[n]) / RATE for n, v in leaves(before.params).items()}
  p, rng = leaves(before.params), np.random.default_rng(0)
  for part in ("network", "feedback/code", "feedback/decoder", "feedback/modes"):
    way = {n: rng.normal(size=v.shape) * n.startswith(part) for n, v in p.items()}
    at = lambda t, way=way: loss({n: v + t * way[n] for n, v in p.items()})
    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    assert abs(slope) > 1e-4 or part == "feedback/modes"
    np.testing.assert_allclose(sum((step[n] * way[n]).sum() for n in p), slope, rtol=5e-3, atol=2e-4, err_msg=part)


@pytest.mark.parametrize("hyper", [{}, PLAIN], ids=["all", "plain"])
def test_bir_s_loss_and_gradient_are_of_new_and_made_up_rows(hyper, run, class_stream, small_model):
  """With all its parts: modes, gates of classes, soft targets; and without any: a shared trunk's generative replay.
  The generator's loss reaches the network, which is its encoder."""
  bench, one, (after, _, got) = run if not hyper else trained(hyper, class_stream, small_model)
  new, old = batch_of(bench, 1, 0), np.arange(4) < 2
  loss = lambda p: by_hand(p, one, {**HYPER, **hyper}, new, 1, old)
  np.testing.assert_allclose(float(got), loss(leaves(one.params)), rtol=2e-5)
  assert_slope(bench, one, after, loss)


def test_the_first_task_of_bir_has_no_replay(run):
  """New rows alone, labels and their generation, at full weight."""
  bench = run[0]
  start = bench.start()
  _, _, got = bench.step(start, *bench.arguments(0, 0))
  want = by_hand(leaves(start.params), start, HYPER, batch_of(bench, 0, 0), 0, np.zeros(4, bool))
  np.testing.assert_allclose(float(got), want, rtol=2e-5)


def test_tasks_with_softmaxes_of_their_own_hold_made_up_rows_to_theirs(task_stream, small_model):
  bench, one, (_, _, got) = trained({}, task_stream, small_model)
  want = by_hand(leaves(one.params), one, HYPER, batch_of(bench, 1, 0), 1, np.arange(4) < 2, apart=True)
  np.testing.assert_allclose(float(got), want, rtol=2e-5)


def test_the_divergence_of_one_draw_is_right_in_the_mean():
  """At e = -1 and 1, which have a normal draw's first two moments, the mean is the closed form."""
  rng = np.random.default_rng(0)
  m, v, c, s = rng.normal(size=(4, 5, 1))
  at = lambda e: np.asarray(feedback.of_one_draw(m + np.exp(v / 2) * e, jnp.full((5, 1), e), v, c, s))
  closed = 0.5 * (np.exp(v - s) + (m - c) ** 2 / np.exp(s) - 1 + s - v).sum(1)
  np.testing.assert_allclose((at(1.0) + at(-1.0)) / 2, closed, rtol=1e-5)
  assert np.abs(at(1.0) - closed).max() > 0.1


def test_targets_are_cut_to_old_classes_and_padded_with_0():
  """The network's softmax runs over all: new classes are pushed down, which they are not where both sides are cut."""
  rng = np.random.default_rng(0)
  z, said, old = rng.normal(size=(3, 5)), rng.normal(size=(3, 5)), np.arange(5) < 3
  q = np.exp(log_softmax(said[:, :3] / 1.7))
  want = 1.7**2 * (q * (np.log(q) - log_softmax(z / 1.7)[:, :3])).sum(1)
  both = jnp.broadcast_to(jnp.asarray(old), (3, 5))
  got = lambda z, mask=None: bir.padded(z, jnp.asarray(said), 1.7, both, mask)
  np.testing.assert_allclose(got(jnp.asarray(z)), want, rtol=1e-5)
  slope = jax.grad(lambda z: got(z).sum())(jnp.asarray(z))
  assert (np.asarray(slope)[:, 3:] > 1e-2).all()
  alone = jax.grad(lambda z: got(z, both).sum())(jnp.asarray(z))
  assert (np.asarray(alone)[:, 3:] == 0).all()


def test_gates_shut_a_share_of_units_of_each_kind():
  """The same number for each, others for other kinds, the same ones at each call; none at 0."""
  shut = 1 - np.asarray(feedback.gate(jax.random.key(0), 20, 6, 0.37))
  np.testing.assert_array_equal(shut.sum(1), 7)
  assert len({tuple(row) for row in shut}) == 6
  np.testing.assert_array_equal(1 - np.asarray(feedback.gate(jax.random.key(0), 20, 6, 0.37)), shut)
  assert (np.asarray(feedback.gate(jax.random.key(0), 20, 6, 0.0)) == 1).all()


def test_the_network_of_before_stands_still_within_a_task(run):
  bench, one, (after, _, _) = run
  assert_same(one.method_state.network.params, one.params)
  assert_same(after.method_state, one.method_state)
  assert bool(one.method_state.ready)
  assert not bool(bench.start().method_state.ready)


def test_made_up_rows_are_not_counted_by_bir_s_batch_norm(class_stream):
  """Running statistics are those of new rows; their parameters learn from both."""
  bench, one, (after, _, got) = trained({}, class_stream, normed())
  bare = one._replace(method_state=one.method_state._replace(ready=jnp.zeros((), bool)))
  plain, _, other = bench.step(bare, *bench.arguments(1, 0, met=(0,)))
  assert_same(after.model_state, plain.model_state)
  assert abs(float(got) - float(other)) > 1e-3


def test_a_request_throws_the_feedback_away(run):
  """It begins anew, of the network and of that of before; nothing is replayed until the next boundary. One that names
  no row leaves all as it is. The network of before follows an edit."""
  bench, one, _ = run
  none = jnp.zeros(bench.spec.num_rows, bool)
  same = bench.parts.scrub(one, none, jnp.zeros(4, bool))
  assert_same((same.params, same.method_state), (one.params, one.method_state))
  left = bench.parts.scrub(one, none.at[3].set(True), jnp.zeros(4, bool))
  assert_same(left.params["network"], one.params["network"])
  assert_same(left.params["feedback"], left.method_state.network.params["feedback"])
  gap = lambda a, b: np.abs(np.asarray(a["decoder"]["layer_0"]["kernel"] - b["decoder"]["layer_0"]["kernel"])).max()
  assert gap(left.params["feedback"], one.params["feedback"]) > 0.1
  _, _, got = bench.step(left, *bench.arguments(1, 0, met=(0,)))
  gates, p = tables(left, HYPER, 4), leaves(left.params)
  x, y = batch_of(bench, 1, 0)
  h, z = solver(p, x.reshape(8, -1))
  key = tree.fold(tree.fold(jax.random.fold_in(left.key, left.step), "replay"), "own")
  g = generative(p, key, {**HYPER, "modes": True}, gates, h, x.reshape(8, -1), y, y)
  np.testing.assert_allclose(float(got), (cross_entropy(z, y) + STRENGTH * g).mean(), rtol=2e-5)
  edited = one._replace(params=jax.tree.map(lambda p: p + 1.0, one.params))
  followed = bench.parts.method.after_forget(edited, one.params).method_state.network.params
  assert_near(followed, edited.params)


def test_bir_refuses_what_it_can_not_make(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  tokens = jax.ShapeDtypeStruct((5,), jnp.int32)
  with pytest.raises(UsageError, match="'bir' makes rows up; expected inputs that are one array of real numbers"):
    methods.make("bir", models.mlp((5,), 4, hidden=(8,)), spec._replace(shown=tokens, scale=None))
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'bir' needs a model that returns features"):
    methods.make("bir", bare, spec)
  with pytest.raises(UsageError, match=r"method\.temperature: got 3\.0, which 'bir' does not read with targets='hard'"):
    methods.check_options("bir", {"temperature": 3.0, "targets": "hard"})
