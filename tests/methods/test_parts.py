"""Parts of a hybrid: what each may see and change, and how the rows that parts append add up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import BATCH, Bench, assert_near

import cljax
from cljax import methods, projectors, streams

PENALTIES = {"si": 0.6, "ewc": 0.6, "online_ewc": 0.4, "mas": 0.3, "l2_previous": 0.2, "hierarchical": 0.5}


def test_a_penalty_of_no_strength_is_not_there(class_stream, small_model):
  """Six penalties, and the same six with six more of strength 0: the end of a task moves each part's own anchor."""
  one = {n: (n, {"strength": s}) for n, s in PENALTIES.items()}
  two = {**one, **{f"{n}_0": (n, {"strength": 0.0}) for n in PENALTIES}}
  alone, beside = (Bench(parts, class_stream, small_model).train() for parts in (one, two))
  assert_near(beside.params, alone.params)
  assert set(beside.opt_state.penalty) == set(two)
  for n in PENALTIES:
    assert_near(beside.opt_state.penalty[n], alone.opt_state.penalty[n])


def test_a_basis_grows_by_its_own_part_alone(class_stream, small_model):
  """Two OGDs of different sizes and two GPMs: each stores its own rows once a task."""
  sizes = {"a": 3, "b": 5}
  parts = {f"ogd_{n}": ("ogd", {"samples": k}) for n, k in sizes.items()}
  parts.update({f"gpm_{n}": ("gpm", {"samples": k, "skip": ""}) for n, k in sizes.items()})
  bench = Bench(parts, class_stream, small_model)
  learner = bench.boundary("end_task", bench.start(), 0)
  state = learner.opt_state.finalize
  for n, k in sizes.items():
    assert isinstance(state[f"ogd_{n}"], projectors.OGDState)
    assert int(state[f"ogd_{n}"].rank) == k
    assert int(state[f"gpm_{n}"].tasks) == 1


STILL = optax.sgd(0.0)  # stored logits stay equal to current ones


def losses(parts, stream, model, steps=4):
  bench = Bench(parts, stream, model, optimizer=STILL)
  learner, out = bench.start(), []
  for k in range(steps):
    learner, _, loss = bench.step(learner, *bench.arguments(0, k))
    out.append(float(loss))
  return out


def test_stored_logits_are_compared_with_those_of_their_own_rows(class_stream, small_model):
  """At learning rate 0 the term of stored logits is 0 for every part, wherever its rows stand; labels weigh nothing."""
  er = {"e": ("er", {})}
  still = {"alpha": 5.0, "beta": 0.0}
  unified = ("unified", {"output": "logits", "parameter": "none", **still})
  many = {"c": ("derpp", still), **er, "d": ("derpp", {**still, "alpha": 3.0}), "u": unified}
  np.testing.assert_allclose(losses(many, class_stream, small_model), losses(er, class_stream, small_model), rtol=1e-5)


def test_parts_that_replay_add_up_in_any_order(class_stream, small_model):
  parts = {
    "first": ("er", {}),
    "dark": ("derpp", {"alpha": 0.5, "beta": 0.5}),
    "labels": ("unified", {"output": "labels", "parameter": "none", "alpha": 0.7}),
    "second": ("er", {"replay_batch": 3}),
  }
  orders = (("first", "dark", "labels", "second"), ("labels", "second", "dark", "first"))
  trained = [Bench({n: parts[n] for n in names}, class_stream, small_model).train(4) for names in orders]
  assert_near(trained[0].params, trained[1].params)


def test_a_mean_behind_what_was_added_is_the_mean_of_all_averaged_rows():
  """``1/7 sum l`` over five current and two replayed rows, beside ``0.3 l`` of an added one; absent rows count not."""
  from cljax.core.types import Batch
  from cljax.methods.replay.buffers import append
  from cljax.objectives.objective import reduced

  def rows(weight):
    weight = jnp.asarray(weight, jnp.float32)
    whole = jnp.zeros(len(weight), jnp.int32)
    return Batch(weight[:, None], whole, weight, whole, whole, fresh=weight)

  slopes = lambda batch: jax.grad(lambda each: reduced(each, None, batch))(jnp.arange(len(batch.weight)) + 0.5)
  current, added, replayed = rows([1, 1, 0, 1, 1, 1]), rows([1, 0]), rows([1, 1, 0])
  behind = append(append(current, added, scale=0.3), replayed)
  np.testing.assert_allclose(
    slopes(behind), np.r_[np.array([1, 1, 0, 1, 1, 1]) / 7, 0.3, 0, 1 / 7, 1 / 7, 0], rtol=1e-6
  )
  before = append(append(current, replayed), added, scale=0.3)
  np.testing.assert_allclose(np.sort(slopes(before)), np.sort(slopes(behind)), rtol=1e-6)
  # Where no current row is left, the mean is that of the replayed ones, before and behind.
  none = append(append(rows([0, 0]), added, scale=0.3), replayed)
  np.testing.assert_allclose(slopes(none), [0, 0, 0.3, 0, 0.5, 0.5, 0], rtol=1e-6)


def test_a_part_with_groups_of_its_own_is_added_to(class_stream, small_model):
  """Half of the rows at scale 2, none of the others: er's mean is over all rows of group 0, wherever they stand."""
  seen = []

  def mine(model, spec):
    del model, spec

    def prepare(key, learner, batch):
      group = jnp.arange(batch.weight.shape[0], dtype=jnp.int32) % 2
      return learner, batch._replace(group=group, scale=jnp.float32([2.0, 0.0]))

    return cljax.Method(prepare=prepare)

  def made(model, spec):
    def look(key, learner, info):
      seen.append((info.batch.group.shape, info.batch.scale.shape))
      return learner

    looker = cljax.Method(after_step=look)
    return cljax.compose(
      mine=mine(model, spec), er=methods.make("er", model, spec, capacity=10, replay_batch=5), dark=methods.make(
        "derpp", model, spec, capacity=10, replay_batch=3), looker=looker)  # fmt: skip

  result = cljax.run(class_stream, small_model, made, training=cljax.Recipe(batch_size=BATCH))
  assert np.isfinite(result.accuracy).all()
  assert seen[-1] == ((BATCH + 5 + 3 + 3,), (4,))


@pytest.mark.parametrize("insert", ["once", "every_pass"])
def test_a_memory_counts_each_row_once(insert, class_stream, small_model):
  """Three epochs of two tasks of 42 rows: 84 rows are offered, or 252 with 'every_pass'."""
  recipe = cljax.Recipe(batch_size=BATCH, epochs=3)
  result = cljax.run(class_stream, small_model, "er", {"capacity": 200, "insert": insert}, training=recipe)
  rows = sum(map(len, class_stream.train))
  state = jax.tree.map(lambda a: np.asarray(a)[0], result.learner.method_state)
  waiting = int(state.weight.sum())
  assert int(state.memory.seen) + waiting == (rows if insert == "once" else 3 * rows)
  if insert == "once":
    stored = state.memory.rows["id"][: int(state.memory.count)]
    assert len(set(stored.tolist())) == len(stored) == rows - waiting


def test_replay_beside_all_seen_rows_under_the_mask_of_seen_classes(make_blobs, small_model):
  """Rows of the task before stand first in some batches of ``cumulative``: each row's label lies inside its mask."""
  stream = streams.build(make_blobs(), "class", tasks=2, active="seen")

  def made(model, spec):
    return cljax.compose(
      cumulative=methods.make("cumulative", model, spec), er=methods.make("er", model, spec, capacity=20)
    )

  result = cljax.run(stream, small_model, made, training=cljax.Recipe(batch_size=BATCH, epochs=2))
  assert result.alive.all()
  assert result.accuracy[0, -1].min() > 0.5
