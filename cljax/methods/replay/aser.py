"""ASER: rows are replayed, and kept, by their Shapley values for a nearest-neighbour classifier on the features."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import memory as memories
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec, UsageError
from cljax.memory import slots
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay import stored
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  append,
  drawn,
  example_row,
  offered,
  rows_of,
  scrub_memory,
  start,
)
from cljax.models import heads

SCORES = ("mean", "extreme", "adversarial")


def neighbour_values(points, point_y, candidates, y, there, neighbours: int):
  """``[E, N]``: the Shapley value of each candidate for the K-nearest-neighbour classifier at each point.

  The game is ``v(S) = 1/K sum_(k <= min(K, |S|)) 1[y_k = y]`` over the rows of S by their distance to the point. With
  the N candidates in that order ``s_N = 1[y_N = y] min(K, N) / (K N)`` and ``s_m = s_(m+1) + (1[y_m = y] -
  1[y_(m+1) = y]) min(K, m) / (K m)``; at equal distances the earlier one is nearer. points ``[E, D]``, candidates
  ``[N, D]``; those that are not ``there [N]`` bool have the value 0 and change nothing. Jia et al. 2019.
  """
  square = lambda a: jnp.sum(jnp.square(a), axis=-1)
  distance = square(points)[:, None] + square(candidates)[None] - 2 * points @ candidates.T
  order = jnp.argsort(jnp.where(there[None], distance, jnp.inf), axis=1, stable=True)
  right = ((point_y[:, None] == y[None]) & there[None]).astype(jnp.float32)
  right = jnp.take_along_axis(right, order, axis=1)
  place = jnp.arange(1, y.shape[0] + 1, dtype=jnp.float32)
  share = (jnp.minimum(neighbours, place) / (neighbours * place))[None]
  change = (right - jnp.pad(right[:, 1:], ((0, 0), (0, 1)))) * share
  values = jnp.cumsum(change[:, ::-1], axis=1)[:, ::-1]
  return jnp.zeros_like(values).at[jnp.arange(values.shape[0])[:, None], order].set(values)


def of_each_class(key, y, there, num_classes: int, number: int):
  """``[C number]`` int32: slots of ``number`` rows of each class, drawn without replacement from those that are ``there
  [M]`` bool; M where a class has fewer."""
  group = jnp.where(there, y, num_classes)
  rank = sets.drawn_ranks(key, group)
  taken = there & (rank < number)
  none, size = num_classes * number, y.shape[0]
  at = jnp.full(none, size, jnp.int32)
  return at.at[jnp.where(taken, group * number + rank, none)].set(jnp.arange(size, dtype=jnp.int32), mode="drop")


def left_of(there, *taken):
  """``there [M]`` bool without the slots in ``taken``."""
  for at in taken:
    there = there.at[at].set(False, mode="drop")
  return there


def is_rare(y, stored_y, there, share):
  """``[B]`` bool: whether the class of a row has less than ``share`` of all slots ``[M]``."""
  same = (y[:, None] == stored_y[None]) & there[None]
  return jnp.mean(same.astype(jnp.float32), axis=1) < share


def combined(own, own_weight, theirs, theirs_weight, score: str):
  """``[N]``: what makes a candidate worth a replay. own ``[E, N]`` are its values at points of stored rows, theirs
  ``[B, N]`` at new ones. 'mean': ``mean own - mean theirs``; 'extreme': ``max own - min theirs``; 'adversarial':
  ``-sum theirs``; over the points of positive weight."""
  own_weight, theirs_weight = (w.astype(jnp.float32) for w in (own_weight, theirs_weight))
  there = lambda v, w, empty: jnp.where((w > 0)[:, None], v, empty)
  mean = lambda v, w: there(v, w, 0.0).sum(0) / jnp.maximum(jnp.sum(w > 0, dtype=jnp.float32), 1.0)
  if score == "adversarial":
    return -there(theirs, theirs_weight, 0.0).sum(0)
  if score == "mean":
    return mean(own, own_weight) - mean(theirs, theirs_weight)
  return there(own, own_weight, -jnp.inf).max(0) - there(theirs, theirs_weight, jnp.inf).min(0)


def replaced(values, candidate_there, new_there):
  """``[B]`` int32: of the new rows, the place among the candidates that each takes; N for none.

  values ``[N + B]`` of N candidates, then of B new rows. As many rows stay as there are candidates, those of the
  largest values; at equal ones candidates stay. The best new row takes the place of the best candidate that goes.
  """
  size, news = candidate_there.shape[0], new_there.shape[0]
  there = jnp.concatenate([candidate_there, new_there])
  order = jnp.argsort(jnp.where(there, -values, jnp.inf), stable=True)
  rank = jnp.zeros(size + news, jnp.int32).at[order].set(jnp.arange(size + news, dtype=jnp.int32))
  stays = rank < jnp.sum(candidate_there, dtype=jnp.int32)
  goes, enters = candidate_there & ~stays[:size], new_there & stays[size:]
  number = lambda chosen, rank: jnp.sum(chosen[None] & (rank[None] < rank[:, None]), axis=1, dtype=jnp.int32)
  place = jnp.full(news, size, jnp.int32)
  turn = jnp.where(goes, number(goes, rank[:size]), news)
  place = place.at[turn].set(jnp.arange(size, dtype=jnp.int32), mode="drop")
  return jnp.where(enters, place[jnp.minimum(number(enters, rank[size:]), news - 1)], size)


def aser(
  model, spec: Spec, *, beta, capacity: int, replay_batch: int = 0, neighbours: int = 5, per_class: int = 2,
  score: str = "mean", insert: str = "once",
) -> Method:  # fmt: skip
  """ASER: ``mean CE(current) + beta mean CE(the replay_batch of per_class C stored rows with the largest ASV)``.

  ``ASV_j = mean_(e in other stored rows) s_e(j) - mean_(b in current rows) s_b(j)``, s the values of
  :func:`neighbour_values` in the space of features (Euclidean, eval mode): rows that stand for what is stored, and in
  the way of what comes. Both sets are ``per_class`` rows of each class, without a common one; :func:`combined` has the
  other ``score``. While the memory is not full, rows enter as they come and replay is uniform. A full one draws
  ``per_class`` rows of each class to be judged by, with the new rows of classes whose share of the memory is below one
  draw of U(0, 1 / C), and ``per_class C`` others, which stand against the new ones: those of the largest summed values
  have the places. Features are those of the parameters behind the row's step. ``replay_batch`` 0: as many as a batch.

  Features of up to ``4 per_class C`` stored rows and twice those of the batch are made anew in each step. K is
  ``neighbours``, 5 the released code's default. Where there are fewer than K candidates the last term has ``1 / K``, as
  the Shapley value has; the released code has ``1 / N``. Deviation: both losses make one step; what is judged are rows
  without the run's augmentation. Raises UsageError for a ``replay_batch`` above ``per_class C`` and for a model without
  features. Spec A7; Shim et al., 2021.
  """
  memory, classes = memories.reservoir(capacity), spec.num_classes
  few = min(per_class * classes, capacity)
  if replay_batch > per_class * classes:
    raise UsageError(
      f"method.replay_batch: got {replay_batch}, above method.per_class times {classes} classes, which is "
      f"{per_class * classes}; expected at most that"
    )
  heads.width_of(model, spec, "aser")
  size = min(replay_batch or spec.batch_size, few)

  def features(learner, rows):
    """``[N, D]`` of rows as they were read."""
    told = {"task": model.task_for(rows["task"]), "mask": None}
    x = spec.view(rows["x"], rows["task"])
    out, _ = model.apply(learner.params, learner.model_state, x, train=False, key=learner.key, **told)
    return heads.flat(out.features)

  def judged(key, learner, filled, new, new_there):
    """The full memory with those of the new rows that are worth more than stored ones."""
    rows, there = memory.contents(filled)
    there = there > 0
    at = of_each_class(fold(key, "judges"), rows["y"], there, classes, per_class)
    among, _, weight = stored.draw_among(fold(key, "candidates"), memory, filled, few, lambda rows: left_of(there, at))
    rare = is_rare(new["y"], rows["y"], there, jax.random.uniform(fold(key, "share")) / classes)
    f = features(learner, new)
    of = lambda at: slots.read(rows, at)
    points = jnp.concatenate([features(learner, of(at)), f])
    values = neighbour_values(
      points, jnp.concatenate([of(at)["y"], new["y"]]), jnp.concatenate([features(learner, of(among)), f]),
      jnp.concatenate([of(among)["y"], new["y"]]), jnp.concatenate([weight > 0, new_there]), neighbours,
    )  # fmt: skip
    judges = jnp.concatenate([at < capacity, new_there & rare])
    place = replaced(jnp.where(judges[:, None], values, 0.0).sum(0), weight > 0, new_there)
    slot = jnp.append(among, capacity)[place]
    slot = jnp.where(slot < capacity, slot, capacity + jnp.arange(place.shape[0], dtype=jnp.int32))
    return filled._replace(rows=slots.write(filled.rows, new, slot))

  def inserted(key, learner):
    """The memory behind the pending rows: what fits enters, the rest is judged."""
    state = learner.method_state
    real = state.weight > 0
    fits = real & (state.memory.count + jnp.cumsum(real, dtype=jnp.int32) <= capacity)
    filled = memory.add(fold(key, "add"), state.memory, state.pending, fits.astype(jnp.float32))
    rest = real & ~fits
    filled = jax.lax.cond(
      rest.any(), lambda m: judged(fold(key, "judged"), learner, m, state.pending, rest), lambda m: m, filled
    )
    return state._replace(memory=filled, weight=jnp.zeros_like(state.weight))

  def retrieved(key, learner, state, own):
    """``(rows, weight)``, those of the largest value first."""
    rows, there = memory.contents(state.memory)
    there = there > 0
    at = of_each_class(fold(key, "candidates"), rows["y"], there, classes, per_class)
    judges = of_each_class(fold(key, "judges"), rows["y"], left_of(there, at), classes, per_class)
    some, others = slots.read(rows, at), slots.read(rows, judges)
    f = features(learner, some)
    values = lambda points, y: neighbour_values(points, y, f, some["y"], at < capacity, neighbours)
    mine = {"x": own.x, "y": own.y, "task": own.task}
    worth = combined(
      values(features(learner, others), others["y"]), judges < capacity, values(features(learner, mine), own.y),
      own.weight, score,
    )  # fmt: skip
    best = jax.lax.top_k(jnp.where(at < capacity, worth, -jnp.inf), size)[1]
    return slots.read(some, best), (at < capacity).astype(jnp.float32)[best]

  def prepare(key, learner, batch):
    state = inserted(fold(key, "insert"), learner)
    own = stored.own_rows(spec, batch)
    rows, weight = jax.lax.cond(
      state.memory.count >= capacity,
      lambda: retrieved(fold(key, "retrieve"), learner, state, own),
      lambda: memory.sample(fold(key, "sample"), state.memory, size),
    )
    return learner._replace(method_state=state), append(batch, drawn(spec, rows, weight, batch.visit), scale=beta)

  def after_step(key, learner, info):
    del key
    state = learner.method_state._replace(pending=rows_of(spec, info.batch), weight=offered(spec, info.batch, insert))
    return learner._replace(method_state=state)

  return Method(
    init=lambda key, learner: start(memory, spec, example_row(spec)),
    prepare=prepare,
    after_step=after_step,
    scrub=scrub_memory(memory),
  )


register(
  "aser",
  Entry(
    aser,
    {
      "beta": Option(1.0, 0),
      "neighbours": Option(5, 1),
      "per_class": Option(2, 1),
      "score": Option(SCORES[0], choices=SCORES),
      **{k: v for k, v in BUFFER.items() if k != "policy"},
    },
    ACCESS._replace(needs=("classes", "plain_inputs")),
    "Shim et al. 2021",
  ),
)
