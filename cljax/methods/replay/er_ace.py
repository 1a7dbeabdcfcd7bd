"""ER with asymmetric cross-entropy: new rows compete among themselves, replayed rows with all classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  Replay,
  append,
  drawn,
  example_row,
  insert_pending,
  make_memory,
  offered,
  rows_of,
  scrub_memory,
  start,
)

MASKS = ("present_or_unseen", "present", "none")


class AsymmetricReplay(NamedTuple):
  """The memory of :func:`er_ace`, and which labels its rows have had."""

  replay: Replay
  seen: Any  # [C] bool


def labels_of(y, weight, num_classes: int):
  """``[C]`` bool: the labels among ``y [B]`` of the rows of positive weight."""
  return (jax.nn.one_hot(y, num_classes, dtype=bool) & (weight > 0)[:, None]).any(0)


def er_ace(
  model, spec: Spec, *, beta, capacity: int, policy: str = "reservoir", replay_batch: int = 0, insert: str = "once",
  mask: str = "present_or_unseen",
) -> Method:  # fmt: skip
  """ER-ACE: ``mean CE(current, classes of the batch and unseen ones) + beta mean CE(memory, all classes)``.

  So new rows do not push down the logits of classes that were learned before and are not in their batch; within a task
  too. A class is unseen until a row of it was trained on, whatever its number (the released code takes all numbers from
  the largest seen on). ``mask`` 'present' closes unseen classes as well (Avalanche); 'none' is ER whose two means are
  added. ``beta`` 1 is the paper's. Replayed rows have the mask that the stream gives them. Replay starts inside the
  first task, from rows of earlier batches alone. A request that takes a class whole makes it unseen again. The released
  run has a cosine head (scale 10), which is the model's to have. Options else as in
  :func:`cljax.methods.replay.er`. Spec A2; Caccia et al., 2022.
  """
  del model
  memory, classes = make_memory(spec, capacity, policy), spec.num_classes
  size, scrub_rows = min(replay_batch or spec.batch_size, capacity), scrub_memory(memory)

  def prepare(key, learner, batch):
    state, own = learner.method_state, slice(0, spec.batch_size)
    present = labels_of(batch.y[own], batch.weight[own], classes)
    seen = state.seen | present
    if mask != "none":
      least = present | ~seen if mask == "present_or_unseen" else present
      given = jnp.ones((*batch.weight.shape, classes), bool) if batch.class_mask is None else batch.class_mask
      batch = batch._replace(class_mask=given.at[own].set(given[own] & least[None]))
    replay = insert_pending(key, memory, state.replay)
    rows, weight = memory.sample(fold(key, "sample"), replay.memory, size)
    batch = append(batch, drawn(spec, rows, weight, batch.visit), scale=beta)
    return learner._replace(method_state=AsymmetricReplay(replay, seen)), batch

  def after_step(key, learner, info):
    del key
    state, weight = learner.method_state, offered(spec, info.batch, insert)
    replay = state.replay._replace(pending=rows_of(spec, info.batch), weight=weight)
    return learner._replace(method_state=state._replace(replay=replay))

  def scrub(learner, request):
    state = learner.method_state
    replay = scrub_rows(learner._replace(method_state=state.replay), request).method_state
    return learner._replace(method_state=AsymmetricReplay(replay, state.seen & ~request.classes))

  return Method(
    init=lambda key, learner: AsymmetricReplay(start(memory, spec, example_row(spec)), jnp.zeros(classes, bool)),
    prepare=prepare,
    after_step=after_step,
    scrub=scrub,
  )


register(
  "er_ace",
  Entry(er_ace, {"beta": Option(1.0, 0), "mask": Option(MASKS[0], choices=MASKS), **BUFFER}, ACCESS,
        "Caccia et al. 2022"),
)  # fmt: skip
