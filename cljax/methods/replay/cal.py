"""Continual active learning: a round trains on its new labels and on a few of the old ones, not on all of them anew."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import stored
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  Replay,
  append,
  append_with_logits,
  at_places,
  drawn,
  example_prediction,
  example_row,
  insert_pending,
  make_memory,
  offered,
  predictions_of,
  rows_of,
  scrub_memory,
  start,
  stored_gap,
)
from cljax.methods.replay.mir import interference
from cljax.objectives.rows import grouped

VARIANTS = ("sd", "sds2", "er", "mir", "der")
CHOOSING, STORING = ("mir", "sds2"), ("der", "sd", "sds2")


class History(NamedTuple):
  """The memory of :func:`cal`, and how many rows the round has."""

  replay: Replay
  rows: Any  # float32; 0 between rounds


def likeness_and_doubt(logits, class_mask, width):
  """``(exp(-|z_i - z_j|^2 / width) [B, B], 1 - max softmax(z_i) [B])`` of logits ``[B, C]``, over the mask's classes:
  1 for equal outputs, and 0 for a row that is certain."""
  z = logits if class_mask is None else jnp.where(class_mask, logits, 0.0)
  gap = jnp.sum(jnp.square(z[:, None] - z[None]), axis=-1)
  sure = jnp.exp(jnp.max(losses.masked_log_softmax(logits, class_mask), axis=-1, where=class_mask, initial=-jnp.inf))
  return jnp.exp(-gap / width), 1.0 - sure


def cal(
  model, spec: Spec, *, alpha, beta, virtual_rate, uncertainty, kernel_width, capacity: int, policy: str = "reservoir",
  replay_batch: int = 0, candidates: int = 100, variant: str = "sd",
) -> Method:  # fmt: skip
  """CAL, scaled distillation: ``n/(n+m) mean CE(new) + m/(n+m) (alpha mean KL(z || f(x)) + beta mean CE)(old)``.

  A round of active learning is a task: new are its rows, n in number; old are ``replay_batch`` rows of earlier rounds,
  drawn uniformly among the m of them that are stored. So a round takes ``n / batch_size`` steps an epoch, however many
  rows are labelled. A row is stored once, when the run comes to it first, with its logits z of then; give a
  ``capacity`` of all rows that will be labelled, and all of them stay. ``variant``: 'er', the mean CE of new and old
  rows together; 'mir', the same, and old are, of ``candidates`` drawn ones, those whose loss rises most by the step on
  the new rows (:func:`cljax.methods.replay.mir.interference`); 'der', ``mean CE(new) + alpha MSE + beta mean CE(old)``;
  'sds2', scaled distillation on a set S of the candidates that is greedily large in ``sum_i max_{j in S} exp(-|z_i -
  z_j|^2 / kernel_width) + uncertainty log(1 + sum_{j in S} (1 - max p_j))``, z and p of the network of now.

  Where a step has all new and all old rows, 'er', 'mir' and the scaled variants with alpha 0 and beta 1 step on the
  mean over all labelled rows: warm-started training on everything, as ``cumulative``.

  Written from the abstract and the released code; the paper's own formulas are UNVERIFIED. Deviations: KL is of
  distributions and a mean over rows, where the released code gives probabilities in the place of log-probabilities and
  divides by the classes as well; 'mir' takes the highest rises, the released code draws by their softmax; its n is
  rounded up to whole batches; rows are judged in eval mode and without augmentation, the virtual step is one of plain
  SGD. The rate of later rounds, there larger by the replayed rows, is the run's. Raises UsageError for a
  ``replay_batch`` above ``candidates``. Spec A17; Das et al., 2023.
  """
  if variant in CHOOSING and replay_batch > candidates:
    raise UsageError(
      f"method.replay_batch: got {replay_batch}, above method.candidates, which is {candidates}; expected at most that"
    )
  memory = make_memory(spec, capacity, policy)
  size = min(replay_batch or spec.batch_size, candidates if variant in CHOOSING else capacity, capacity)

  def said(learner, some):
    told = {"task": model.task_for(some.task), "mask": None}
    x = spec.view(some.x, some.task)
    out, _ = model.apply(learner.params, learner.model_state, x, train=False, key=learner.key, **told)
    return out.logits.astype(jnp.float32)

  def chosen(key, learner, state, batch):
    """``(rows, weight)`` of the old rows of a step."""
    most = candidates if variant in CHOOSING else size
    old = lambda rows: rows["task"] != batch.visit.task
    _, rows, weight = stored.draw_among(fold(key, "sample"), memory, state, most, old)
    some = drawn(spec, rows, weight, batch.visit)
    if variant == "mir":
      own = stored.own_rows(spec, batch)
      before, after = interference(model, spec, learner, own, some, virtual_rate, fold(key, "scores"))
      return stored.highest(rows, weight, after - before, size)
    if variant == "sds2":
      alike, doubt = likeness_and_doubt(said(learner, some), some.class_mask, kernel_width)
      return stored.covering(rows, weight, alike, doubt, uncertainty, size)
    return rows, weight

  def old_share(state: History, task):
    """m / (n + m)."""
    rows, there = memory.contents(state.replay.memory)
    m = jnp.sum(jnp.where(rows["task"] != task, there, 0.0))
    return m / jnp.maximum(state.rows + m, 1.0)

  def prepare(key, learner, batch):
    state = learner.method_state
    state = state._replace(replay=insert_pending(key, memory, state.replay))
    rows, weight = chosen(key, learner, state.replay.memory, batch)
    learner = learner._replace(method_state=state)
    if variant not in STORING:
      return learner, append(batch, drawn(spec, rows, weight, batch.visit))
    if variant == "der":
      return learner, append_with_logits(spec, batch, rows, weight, scale=beta)
    share, batch = old_share(state, batch.visit.task), grouped(batch)
    batch = batch._replace(scale=batch.scale.at[0].multiply(1.0 - share), extra={**batch.extra, "share": share})
    return learner, append_with_logits(spec, batch, rows, weight, scale=share * beta)

  def term(key, params, learner, batch, outputs):
    del key, params, learner
    if variant == "der":
      return alpha * stored_gap(spec, outputs, batch.extra["logits"])
    target, rows, at = batch.extra["logits"]
    gap = losses.kl_divergence(at_places(outputs.logits, at), target, 1.0, rows.class_mask)
    return batch.extra["share"] * alpha * losses.reduce(gap, rows.weight)

  def after_step(key, learner, info):
    del key
    more = {"logits": predictions_of(spec, info)} if variant in STORING else {}
    state = learner.method_state
    replay = state.replay._replace(pending=rows_of(spec, info.batch, **more), weight=offered(spec, info.batch, "once"))
    return learner._replace(method_state=state._replace(replay=replay))

  def counted(learner, rows):
    return learner._replace(method_state=learner.method_state._replace(rows=jnp.asarray(rows, jnp.float32)))

  def scrub(learner, request):
    state = learner.method_state
    replay = scrub_memory(memory)(learner._replace(method_state=state.replay), request).method_state
    return learner._replace(method_state=state._replace(replay=replay))

  row = example_row(spec, **({"logits": example_prediction(model, spec)} if variant in STORING else {}))
  return Method(
    init=lambda key, learner: History(start(memory, spec, row), jnp.float32(0)),
    start_task=lambda key, learner, task: counted(learner, task.count),
    prepare=prepare,
    terms={"logits": term} if variant in STORING else {},
    after_step=after_step,
    end_task=lambda key, learner, task: counted(learner, 0),
    scrub=scrub,
  )


register(
  "cal",
  Entry(
    cal,
    {
      "alpha": Option(0.25, 0, needs={"variant": STORING}),
      "beta": Option(0.75, 0, needs={"variant": STORING}),
      "virtual_rate": Option(0.05, 0, needs={"variant": ("mir",)}),
      "uncertainty": Option(1.0, 0, needs={"variant": ("sds2",)}),
      "kernel_width": Option(0.1, 1e-6, needs={"variant": ("sds2",)}),
      "candidates": Option(100, 1, needs={"variant": CHOOSING}),
      "variant": Option(VARIANTS[0], choices=VARIANTS),
      **{k: v for k, v in BUFFER.items() if k != "insert"},
    },
    ACCESS._replace(task_boundaries=True, needs=("classes", "each", "plain_inputs")),
    "Das et al. 2023",
  ),
)
