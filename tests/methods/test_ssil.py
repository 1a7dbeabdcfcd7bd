"""SS-IL against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, backward, forward, log_softmax, near

from cljax import methods, models, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.replay import ssil

T = 2.0
HYPER = {"capacity": 12, "replay_batch": 12, "strength": 0.6}


@pytest.fixture(scope="module")
def three(make_blobs):
  """Three tasks of two classes."""
  return streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def model():
  return models.mlp((4, 4, 1), 6, hidden=(8,))


@pytest.fixture(scope="module")
def benches(three, model):
  """By options."""
  return {
    name: Bench("ssil", three, model, {**HYPER, **given})
    for name, given in (("own", {}), ("joint", {"softmax": "joint"}), ("together", {"held": "together"}))
  }


@pytest.fixture(scope="module")
def trained(benches):
  """The learner after two tasks and two steps into the third."""
  bench = benches["own"]
  two = bench.train(3, (0, 1))
  return two, bench.steps(bench.boundary("start_task", two, 2), 2, 2, met=(0, 1))


def stored(state):
  return np.asarray(state.memory.rows["id"])[: int(state.memory.count)]


def by_hand(params, teacher, x, y, sides, heads):
  """The loss, and its slope by the logits."""
  z, said, size = forward(params, x)[1], forward(teacher, x)[1], len(y)
  total, slope = 0.0, np.zeros_like(z)
  for i, side in enumerate(sides):
    side = np.array(side)
    log_p = log_softmax(z[i : i + 1, side])[0]
    total -= log_p[side == y[i]].sum() / size
    slope[i, side] += (np.exp(log_p) - (side == y[i])) / size
  for head in heads:
    p, q = (log_softmax(a[:, head] / T) for a in (z, said))
    total += 0.6 * T**2 * (np.exp(q) * (q - p)).sum(-1).mean()
    slope[:, head] += 0.6 * T * (np.exp(p) - np.exp(q)) / size
  return total, backward(params, x, slope)


@pytest.mark.parametrize("option", ["own", "joint", "together"])
def test_ssil_s_loss_has_a_softmax_for_each_side(benches, trained, option):
  """New rows among new classes, stored ones among old ones, all rows alike; KL within each old task, of all rows."""
  bench, (two, begun) = benches[option], trained
  after, _, loss = bench.step(begun, *bench.arguments(2, 0, met=(0, 1)))
  split, kept = bench.stream.dataset.train, stored(begun.method_state)
  rows = np.r_[np.asarray(bench.rows(2, 0)[0]), kept]
  assert len(rows) == 8 + 12
  x, y = split.x[rows], split.y[rows]
  new, old, every = [4, 5], [0, 1, 2, 3], list(range(6))
  sides = [every if option == "joint" else new if c > 3 else old for c in y]
  heads = [old] if option == "together" else [[0, 1], [2, 3]]
  want, gradient = by_hand(begun.params, two.params, x, y, sides, heads)
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  near(jax.tree.map(lambda a, b: a - b, after.params, begun.params), {p: -RATE * g for p, g in gradient.items()})


def test_new_rows_push_no_old_output_down(benches, trained):
  """Without stored rows and distillation the old classes' weights stand still, to the bit; jointly they do not."""
  bench, (_, begun) = benches["own"], trained
  named = jnp.ones(bench.spec.num_rows, bool)
  empty = jax.jit(bench.parts.scrub)(begun, named, jnp.zeros(6, bool))
  assert stored(empty.method_state).size == 0
  assert not np.asarray(empty.method_state.memory.rows["x"]).any()
  moved = {}
  for option in ("own", "joint"):
    after = benches[option].step(empty, *bench.arguments(2, 0, met=(0, 1)), strength=0.0)[0]
    moved[option] = np.abs(np.asarray(after.params["head"]["kernel"] - begun.params["head"]["kernel"])).max(0)
  assert (moved["own"][:4] == 0).all()
  assert (moved["own"][4:] > 1e-4).all()
  assert (moved["joint"] > 1e-6).all()


def test_the_first_task_of_ssil_is_cross_entropy_over_its_classes(benches):
  bench = benches["own"]
  start = bench.start()
  _, _, loss = bench.step(start, *bench.arguments(0, 0))
  rows = np.asarray(bench.rows(0, 0)[0])
  split = bench.stream.dataset.train
  z, y = forward(start.params, split.x[rows])[1][:, :2], split.y[rows]
  np.testing.assert_allclose(loss, -log_softmax(z)[np.arange(8), y].mean(), rtol=1e-5)


def test_ssil_s_lists_are_drawn_and_cut_alike(benches, trained):
  """Three rows of each of four classes; they are not the first ones, nor the same for another seed."""
  bench, (two, _) = benches["own"], trained
  split = bench.stream.dataset.train
  assert np.bincount(split.y[stored(two.method_state)], minlength=6).tolist() == [3, 3, 3, 3, 0, 0]
  assert_same(two.method_state.teacher.params, two.params)
  lists = [stored(bench.train(1, (0,), seed=s).method_state) for s in range(3)]
  assert len({tuple(np.sort(l)) for l in lists}) == 3


def test_a_row_s_side_is_that_of_its_label():
  """Within what the stream lets compete; a class that the task shares with an earlier one is a new one."""
  old, new = jnp.array([1, 1, 0, 0], bool), jnp.array([0, 0, 1, 1], bool)
  given = jnp.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]], bool)
  got = ssil.own_side(jnp.array([2, 0, 1]), old, new, given)
  np.testing.assert_array_equal(got, [[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0]])


def test_where_classes_are_everybody_s_ssil_is_replay(three, make_blobs):
  """No class is old: all compete, and nothing is held."""
  stream = streams.build(make_blobs(), "domain", tasks=2, validation=0.0)
  model = models.mlp((4, 4, 1), stream.num_classes, hidden=(8,))
  one = Bench("ssil", stream, model, {"capacity": 40, "replay_batch": 40}).train(2)
  other = Bench("ssil", stream, model, {"capacity": 40, "replay_batch": 40, "softmax": "joint", "strength": 0.0}).train(
    2
  )
  assert_near(one.params, other.params)


def test_ssil_s_teacher_follows_edits(benches, trained):
  bench, (two, _) = benches["own"], trained
  moved = two._replace(params=jax.tree.map(lambda a: a + 1.0, two.params))
  followed = bench.parts.method.after_forget(moved, two.params).method_state.teacher.params
  assert_same(followed, moved.params)


def test_ssil_needs_an_exemplar_for_each_class(three, model):
  with pytest.raises(UsageError, match=r"capacity: got 5, below the 6 classes"):
    methods.make("ssil", model, spec_of(three, 8), capacity=5)
