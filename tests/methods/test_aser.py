"""ASER against NumPy in float64."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import batch_of, cross_entropy, forward

from cljax import methods
from cljax.core.types import Batch, UsageError
from cljax.engine.setup import spec_of
from cljax.methods.replay import aser

K = 3


def by_recursion(point, label, candidates, y, neighbours):
  """The values of the candidates at one point, from the farthest to the nearest."""
  n, order = len(y), np.argsort(((candidates - point) ** 2).sum(-1), kind="stable")
  right, s = (y[order] == label).astype(float), np.zeros(n)
  s[n - 1] = right[n - 1] * min(neighbours, n) / (neighbours * n)
  for m in range(n - 1, 0, -1):
    s[m - 1] = s[m] + (right[m - 1] - right[m]) / neighbours * min(neighbours, m) / m
  values = np.zeros(n)
  values[order] = s
  return values


def all_values(points, labels, candidates, y, neighbours):
  return np.array([by_recursion(p, c, candidates, y, neighbours) for p, c in zip(points, labels, strict=True)])


@pytest.fixture(scope="module")
def game():
  rng = np.random.default_rng(0)
  return rng.normal(size=(3, 2)), np.array([0, 1, 0]), rng.normal(size=(6, 2)), np.array([0, 1, 0, 2, 0, 1])


def values_of(points, labels, candidates, y, neighbours, there=None):
  there = np.ones(len(y), bool) if there is None else there
  floats = lambda a: jnp.asarray(a, jnp.float32)
  return np.asarray(
    aser.neighbour_values(
      floats(points), jnp.asarray(labels), floats(candidates), jnp.asarray(y), jnp.asarray(there), neighbours
    )
  )


@pytest.mark.parametrize("neighbours", [1, 3, 6, 8])
def test_values_are_shapley_s_of_the_neighbours_game(game, neighbours):
  """By all coalitions of six, those of fewer rows than neighbours too; and they add up to the value of all."""
  points, labels, candidates, y = game
  got = values_of(points, labels, candidates, y, neighbours)
  for e, (point, label) in enumerate(zip(points, labels, strict=True)):
    far = ((candidates - point) ** 2).sum(-1)

    def worth(rows, far=far, label=label):
      near = sorted(rows, key=lambda i: far[i])[:neighbours]
      return sum(y[i] == label for i in near) / neighbours

    for i in range(6):
      others, want = [j for j in range(6) if j != i], 0.0
      for size in range(6):
        part = math.factorial(size) * math.factorial(5 - size) / math.factorial(6)
        want += part * sum(worth([*s, i]) - worth(s) for s in itertools.combinations(others, size))
      assert got[e, i] == pytest.approx(want, abs=1e-6)
    assert got[e].sum() == pytest.approx(worth(range(6)), abs=1e-6)
  np.testing.assert_allclose(got, all_values(points, labels, candidates, y, neighbours), atol=1e-6)


def test_candidates_that_are_not_there_change_nothing(game):
  points, labels, candidates, y = game
  there = np.array([1, 0, 1, 1, 0, 1], bool)
  got = values_of(points, labels, candidates, y, K, there)
  np.testing.assert_allclose(got[:, there], all_values(points, labels, candidates[there], y[there], K), atol=1e-6)
  assert (got[:, ~there] == 0).all()


def test_of_equally_far_candidates_the_earlier_is_nearer():
  got = values_of(np.zeros((1, 2)), [0], np.ones((2, 2)), np.array([0, 1]), 1)
  np.testing.assert_allclose(got, [[1.0, 0.0]])


def test_some_rows_of_each_class_are_drawn_alike():
  """Two of each class without replacement, one where there is but one, each row as often; taken slots are left out."""
  y, there = jnp.array([0, 0, 0, 1, 2, 2, 1]), jnp.array([1, 1, 1, 1, 1, 1, 0], bool)
  draw = jax.jit(jax.vmap(lambda key: aser.of_each_class(key, y, there, 4, 2)))
  at = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
  np.testing.assert_array_equal((at < 7).sum(1), 5)
  assert ((at[:, :2] < 3) & (at[:, :1] != at[:, 1:2])).all()
  assert (at[:, 2:4] == [3, 7]).all()
  assert (np.sort(at[:, 4:6], axis=1) == [4, 5]).all()
  assert (at[:, 6:] == 7).all()
  np.testing.assert_allclose(np.bincount(at[:, :2].ravel(), minlength=3) / 2000, 2 / 3, atol=0.04)
  left = aser.left_of(there, jnp.array([0, 7, 3]), jnp.array([5]))
  np.testing.assert_array_equal(left, [0, 1, 1, 0, 1, 0, 0])


def test_a_class_is_rare_below_a_share_of_all_slots():
  """Of eight slots, seven used: classes 0, 1 and 2 have three, two and two."""
  y, there = jnp.array([0, 0, 0, 1, 1, 2, 2, 2]), jnp.array([1] * 7 + [0], bool)
  of = lambda share: np.asarray(aser.is_rare(jnp.array([0, 1, 2, 3]), y, there, share)).tolist()
  assert of(0.25) == [False, False, False, True]
  assert of(0.26) == [False, True, True, True]
  assert of(0.0) == [False] * 4


def test_scores_set_stored_points_against_new_ones():
  rng = np.random.default_rng(0)
  own, theirs = rng.normal(size=(4, 5)), rng.normal(size=(3, 5))
  w, v = np.array([1.0, 1, 0, 1]), np.array([1.0, 0, 1])
  got = lambda score: np.asarray(aser.combined(*(jnp.asarray(a) for a in (own, w, theirs, v)), score))
  a, b = own[w > 0], theirs[v > 0]
  np.testing.assert_allclose(got("mean"), a.mean(0) - b.mean(0), rtol=1e-5)
  np.testing.assert_allclose(got("extreme"), a.max(0) - b.min(0), rtol=1e-5)
  np.testing.assert_allclose(got("adversarial"), -b.sum(0), rtol=1e-5)


def test_new_rows_take_the_places_of_candidates_that_are_worth_less():
  """As many rows stay as there were candidates; of equal worth the stored ones; absent ones are neither."""
  place = lambda values, there, new: np.asarray(
    aser.replaced(jnp.array(values, jnp.float32), jnp.array(there, bool), jnp.array(new, bool))
  )
  # Candidates 4, 1, (absent), 2; new rows 3, 0, 5: 5, 4 and 3 stay, 2 and 1 go, the best of them to the best new row.
  np.testing.assert_array_equal(place([4, 1, 9, 2, 3, 0, 5], [1, 1, 0, 1], [1, 1, 1]), [1, 4, 3])
  np.testing.assert_array_equal(place([4, 1, 9, 2, 3, 0, 5], [1, 1, 0, 1], [1, 1, 0]), [1, 4, 4])
  np.testing.assert_array_equal(place([1, 1, 1, 1], [1, 1], [1, 1]), [2, 2])
  np.testing.assert_array_equal(place([-1, -2, -1.5], [1, 1], [1]), [2 - 1])


HYPER = {"capacity": 12, "replay_batch": 6, "neighbours": K, "beta": 0.6}


@pytest.fixture(scope="module")
def bench(class_stream, small_model):
  return Bench("aser", class_stream, small_model, HYPER)


def stored_ids(learner):
  state = learner.method_state.memory
  return np.asarray(state.rows["id"])[: int(state.count)]


@pytest.fixture(scope="module")
def walk(bench):
  """``(learner before, batch arguments, loss, learner after)`` of steps on both tasks."""
  learner, steps = bench.start(), []
  for task, k in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)):
    after, _, loss = bench.step(learner, *bench.arguments(task, k, met=range(task)))
    steps.append((learner, (task, k), float(loss), after))
    learner = after
  return steps


def test_rows_enter_as_they_come_until_the_memory_is_full(bench, walk):
  """Eight of the first batch, four of the second; from then on there are twelve, all different, and replay begins at
  what is stored: in the first step there is none."""
  split = bench.stream.dataset.train
  counts = [int(s[3].method_state.memory.count) for s in walk]
  assert counts == [0, 8, 12, 12, 12, 12, 12]
  for _, _, _, after in walk[2:]:
    assert len(set(stored_ids(after).tolist())) == 12
  learner, (task, k), loss, _ = walk[0]
  x, y = batch_of(bench, task, k)
  np.testing.assert_allclose(loss, cross_entropy(forward(learner.params, x)[1], y).mean(), rtol=1e-5)
  assert set(split.y[stored_ids(walk[-1][3])].tolist()) == {0, 1, 2, 3}


def ranks_in_order(key, group):
  """In place of a draw: the rows of a list in the order of their slots."""
  del key
  earlier = jnp.arange(len(group))[None] < jnp.arange(len(group))[:, None]
  return jnp.sum((group[:, None] == group[None]) & earlier, axis=1, dtype=jnp.int32)


def first_among(key, memory, state, n, open_):
  """In place of a draw: the first slots of those allowed."""
  del key
  rows, there = memory.contents(state)
  slot = jnp.arange(len(there), dtype=jnp.int32)
  at = jnp.sort(jnp.where((there > 0) & open_(rows), slot, len(there)))[:n]
  return at, jax.tree.map(lambda a: a.at[at].get(mode="fill", fill_value=0), rows), (at < len(there)).astype("float32")


@pytest.fixture(scope="module")
def prepared(bench, walk):
  """``(learner before, memory after, batch)`` of a step on task 1 without chance in what is drawn: at the start, with
  a full memory and new rows of its classes, with new rows of others, with none to be inserted, and with such rows of
  its classes as would keep others if they judged too."""
  patch = pytest.MonkeyPatch()
  patch.setattr(aser.sets, "drawn_ranks", ranks_in_order)
  patch.setattr(aser.stored, "draw_among", first_among)
  split, own = bench.stream.dataset.train, np.asarray(bench.rows(1, 0)[0])
  batch = Batch(jnp.asarray(split.x[own]), jnp.asarray(split.y[own]), jnp.ones(8), jnp.asarray(own),
                jnp.ones(8, jnp.int32), fresh=jnp.ones(8), visit=bench.where(1).visit)  # fmt: skip
  prepare = jax.jit(lambda learner: bench.parts.method.prepare(jax.random.key(5), learner, batch)[:2])
  last = walk[-1][3]
  quiet = last._replace(method_state=last.method_state._replace(weight=jnp.zeros(8)))
  full = walk[2][3]
  fresh = np.setdiff1d(np.concatenate([np.asarray(bench.rows(0, k)[0]) for k in range(6)]), stored_ids(full))
  fresh = np.random.default_rng(2).permutation(fresh)[:8]
  pending = {**full.method_state.pending, "id": jnp.asarray(fresh), "x": jnp.asarray(split.x[fresh])}
  pending["y"] = jnp.asarray(split.y[fresh])
  crowd = full._replace(method_state=full.method_state._replace(pending=pending))
  made = []
  for learner in (walk[0][0], full, walk[3][3], quiet, crowd):
    after, shown = prepare(learner)
    made.append((learner, after.method_state, shown))
  patch.undo()
  return made


def in_order(y, classes, number, without=()):
  """Places of the first ``number`` rows of each class."""
  open_ = [i for i in range(len(y)) if i not in without]
  return np.array([i for c in range(classes) for i in [j for j in open_ if y[j] == c][:number]], int)


def test_aser_replays_rows_of_the_largest_adversarial_value(bench, prepared):
  """Two of each class may be replayed, two others speak for what is stored, the current rows against."""
  learner, _, made = prepared[3]
  split, rows, own = bench.stream.dataset.train, stored_ids(learner), np.asarray(bench.rows(1, 0)[0])
  candidates = in_order(split.y[rows], 4, 2)
  judges = in_order(split.y[rows], 4, 2, candidates)
  features = lambda i: forward(learner.params, split.x[i])[0]
  of = lambda points: all_values(
    features(points), split.y[points], features(rows[candidates]), split.y[rows[candidates]], K
  )
  worth = of(rows[judges]).mean(0) - of(own).mean(0)
  want = rows[candidates][np.argsort(-worth, kind="stable")[:6]]
  assert len(judges) >= 3
  np.testing.assert_array_equal(np.asarray(made.id)[8:], want)
  np.testing.assert_array_equal(np.asarray(made.weight), 1)
  assert float(made.scale[1]) == pytest.approx(0.6)


def test_nothing_is_replayed_while_nothing_is_stored(prepared):
  _, _, made = prepared[0]
  np.testing.assert_array_equal(np.asarray(made.id)[8:], -1)
  np.testing.assert_array_equal(np.asarray(made.weight)[8:], 0)


@pytest.mark.parametrize(("case", "rare"), [(1, False), (2, True), (4, False)])
def test_what_a_full_memory_keeps_follows_from_summed_values(bench, prepared, case, rare):
  """The new rows against others than those by which they are judged; new rows of rare classes judge too."""
  learner, after, _ = prepared[case]
  split, rows, new = bench.stream.dataset.train, stored_ids(learner), np.asarray(learner.method_state.pending["id"])
  assert len(rows) == 12
  assert set(split.y[rows].tolist()) == {0, 1}
  assert set(split.y[new].tolist()) == ({2, 3} if rare else {0, 1})
  judges = in_order(split.y[rows], 4, 2)
  candidates = np.array([i for i in range(12) if i not in judges])[:8]
  features = lambda i: forward(learner.params, split.x[i])[0]
  all_ = np.r_[rows[candidates], new]

  def kept(points):
    values = all_values(features(points), split.y[points], features(all_), split.y[all_], K).sum(0)
    return np.argsort(-values, kind="stable")[:8]

  stays = kept(np.r_[rows[judges], new[: 8 if rare else 0]])
  if case == 4:
    assert set(kept(np.r_[rows[judges], new])) != set(stays)
  want = set(rows) - set(rows[candidates]) | set(all_[stays])
  got = np.asarray(after.memory.rows["id"])
  assert set(got.tolist()) == {int(i) for i in want}
  assert (set(got.tolist()) & set(new.tolist())) or not rare
  assert int(after.memory.count) == 12
  assert (np.asarray(after.weight) == 0).all()
  for i, x in zip(got, np.asarray(after.memory.rows["x"]), strict=True):
    np.testing.assert_array_equal(x, split.x[i])


def test_aser_forgets_rows_and_fills_up_again(bench, walk):
  """A memory with room takes rows as they come, and replays uniformly."""
  learner = walk[-1][3]
  gone = stored_ids(learner)[:5]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  left = jax.jit(bench.parts.scrub)(learner, named, jnp.zeros(4, bool))
  assert set(stored_ids(left)) == set(stored_ids(learner)) - set(gone)
  assert not np.asarray(left.method_state.memory.rows["x"])[7:].any()
  again = bench.step(left, *bench.arguments(1, 1, met=(0,)))[0]
  assert int(again.method_state.memory.count) == 12


def test_aser_draws_no_more_than_it_looks_at(class_stream, small_model):
  with pytest.raises(UsageError, match=r"replay_batch: got 9, above method.per_class times 4 classes, which is 8"):
    methods.make("aser", small_model, spec_of(class_stream, 8), replay_batch=9)
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'aser' needs a model that returns features"):
    methods.make("aser", bare, spec_of(class_stream, 8))
