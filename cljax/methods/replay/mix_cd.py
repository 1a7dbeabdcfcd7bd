"""Mix-CD: what is replayed are earlier rows of the kind that the new task is found to damage."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars, stored
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  Replay,
  append,
  at_places,
  drawn,
  example_row,
  insert_pending,
  make_memory,
  offered,
  places,
  rows_of,
  scrub_memory,
  start,
)

BY, CHANCE = ("loss", "class", "both"), ("rows", "bins")
LEAST = 1e-3  # what a rate counts as at least, so that no bin is closed for good


class MixCD(NamedTuple):
  """The memory of :func:`mix_cd`, and the rate of damage in each bin of its rows."""

  replay: Replay
  rates: Any  # [K] float32


def quantile_bins(loss, among, bins: int):
  """``[N]`` int32: in which of ``bins`` parts of equal size (to one row) each row of ``among [N]`` is by its loss, the
  smallest first; equal losses in the order of their places. Others: anything."""
  n = loss.shape[0]
  order = jnp.lexsort((loss, ~among))
  rank = jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32))
  return jnp.minimum(rank * bins // jnp.maximum(among.sum(dtype=jnp.int32), 1), bins - 1)


def is_wrong(logits, y, class_mask):
  """``[B]`` bool: whether the largest logit, among the classes that take part, is another class's."""
  at = logits if class_mask is None else jnp.where(class_mask, logits, -jnp.inf)
  return jnp.argmax(at, axis=-1) != y


def moved_rates(rates, bin_of, wrong, weight, speed):
  """``[K]``: ``r_k <- (1 - speed) r_k + speed wrong_k / drawn_k`` of bins of which rows were drawn; others stand."""
  of = jax.nn.one_hot(bin_of, rates.shape[0], dtype=jnp.float32) * (weight > 0).astype(jnp.float32)[:, None]
  count = of.sum(0)
  share = (of * wrong.astype(jnp.float32)[:, None]).sum(0) / jnp.maximum(count, 1.0)
  return jnp.where(count > 0, (1.0 - speed) * rates + speed * share, rates)


def mix_cd(
  model, spec: Spec, *, beta, speed, capacity: int, policy: str = "reservoir", replay_batch: int = 0,
  bins: int = 10, by: str = "loss", chance: str = "rows", insert: str = "once",
) -> Method:  # fmt: skip
  """Mix-CD: ``mean CE(current) + beta mean CE(rows of bin k, drawn with a chance r_k N_k)``, r_k the damage found in k.

  A stored row is damaged where the network of the task's beginning labels it rightly and that of now does not. Where a
  task begins, the stored rows that are right are put into bins: ``by`` their 'loss' (``bins`` quantiles), their 'class'
  or 'both'; these alone are replayed, N_k of each. The forward pass of a step tells which of its rows are wrong now:
  ``r_k <- (1 - speed) r_k + speed wrong_k / drawn_k``, from 1 at the task's beginning: no pass but the training's own,
  beside one over the memory a task. ``chance`` 'bins': r_k alone. A rate counts as at least ``LEAST`` in a draw. With
  one bin this is uniform replay of rows that were right.

  Rows that the current task offers are replayed from the next one on. Rates are of rows as they are augmented, in train
  mode. Deviations: written from the abstract (forms of rate, chance and weight are UNVERIFIED); the prior data is a
  memory of ``capacity`` rows; rows are drawn without replacement within a step. Spec A11; Bai et al., 2025.
  """
  memory, classes = make_memory(spec, capacity, policy), spec.num_classes
  count = {"loss": bins, "class": classes, "both": bins * classes}[by]
  size, scrub_rows = min(replay_batch or spec.batch_size, capacity), scrub_memory(memory)

  def judged(learner, replay: Replay, trained) -> Replay:
    """The memory with each row's bin, and whether it is right, by the network of now."""
    rows, there = memory.contents(replay.memory)

    def logits_of(x, task):
      told = {"task": model.task_for(task), "mask": None}
      out, _ = model.apply(learner.params, learner.model_state, x, train=False, key=learner.key, **told)
      return out.logits.astype(jnp.float32)

    logits, mask = exemplars.of_stored(spec, rows, logits_of), spec.class_mask(rows["task"], trained)
    right = (there > 0) & ~is_wrong(logits, rows["y"], mask)
    by_loss = quantile_bins(losses.cross_entropy(logits, rows["y"], mask), right, bins)
    bin_of = {"loss": by_loss, "class": rows["y"], "both": rows["y"] * bins + by_loss}[by]
    numbers = {"bin": jnp.where(right, bin_of, 0), "right": right}
    return replay._replace(memory=replay.memory._replace(rows={**rows, **numbers}))

  def start_task(key, learner, task):
    replay = judged(learner, insert_pending(key, memory, learner.method_state.replay), task.visit.met)
    return learner._replace(method_state=MixCD(replay, jnp.ones(count, jnp.float32)))

  def prepare(key, learner, batch):
    state = learner.method_state
    replay = insert_pending(key, memory, state.replay)

    def chances(rows):
      rate = jnp.maximum(state.rates, LEAST)
      if chance == "bins":
        rate = rate / jnp.maximum(
          jnp.zeros(count, jnp.float32).at[rows["bin"]].add(rows["right"].astype(jnp.float32)), 1.0
        )
      return jnp.where(rows["right"], rate[rows["bin"]], 0.0)

    _, rows, weight = stored.draw_by_weight(fold(key, "sample"), memory, replay.memory, size, chances)
    some = drawn(spec, rows, weight, batch.visit)
    batch = batch._replace(extra={**batch.extra, "mixed": (some, rows["bin"], places(batch, weight.shape[0]))})
    return learner._replace(method_state=state._replace(replay=replay)), append(batch, some, scale=beta)

  def after_step(key, learner, info):
    del key
    state, (some, bin_of, at) = learner.method_state, info.batch.extra["mixed"]
    wrong = is_wrong(at_places(info.outputs.logits, at), some.y, some.class_mask)
    rates = moved_rates(state.rates, bin_of, wrong, some.weight, speed)
    replay = state.replay._replace(
      pending=rows_of(spec, info.batch, **unjudged((spec.batch_size,))), weight=offered(spec, info.batch, insert)
    )
    return learner._replace(method_state=MixCD(replay, rates))

  def scrub(learner, request):
    state = learner.method_state
    replay = scrub_rows(learner._replace(method_state=state.replay), request).method_state
    return learner._replace(method_state=state._replace(replay=replay))

  def init(key, learner):
    del key, learner
    return MixCD(start(memory, spec, example_row(spec, **unjudged(()))), jnp.ones(count, jnp.float32))

  return Method(init=init, start_task=start_task, prepare=prepare, after_step=after_step, scrub=scrub)


def unjudged(shape):
  """What stands beside rows that no network has judged: they are not replayed."""
  return {"bin": jnp.zeros(shape, jnp.int32), "right": jnp.zeros(shape, bool)}


register(
  "mix_cd",
  Entry(
    mix_cd,
    {
      "beta": Option(1.0, 0),
      "speed": Option(0.1, 0, 1),
      "bins": Option(10, 1, needs={"by": ("loss", "both")}),
      "by": Option(BY[0], choices=BY),
      "chance": Option(CHANCE[0], choices=CHANCE),
      **BUFFER,
    },
    ACCESS._replace(task_boundaries=True, needs=("classes", "plain_inputs")),
    "Bai et al. 2025",
  ),
)
