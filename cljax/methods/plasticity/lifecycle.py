"""Methods that let parts of a network go for a while: sleeping units, random forgetting."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cljax import edits
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.plasticity.edits import layers, listed
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.averaging import (
  Average,
  current_average,
  forget_average,
  predict_average,
  start_average,
)
from cljax.objectives.objective import reduced


def epoch_steps(spec: Spec, period: int) -> int:
  """``period``, or one pass over the largest task where it is 0."""
  return period or -(-spec.task_rows // spec.batch_size)


def lifecycle(model, spec: Spec, *, probability, duration: int = 5, period: int = 0) -> Method:
  """The lifecycle principle: each ``period`` steps, awake hidden units fall asleep with ``probability``.

  They sleep for ``duration`` periods and then wake with the weights they fell asleep with. A sleeping
  unit's weights and bias are 0, in prediction too. ``period`` 0 is one pass over the largest task. The paper's own text
  was not available: the rule and its defaults are a reconstruction (UNVERIFIED). ``probability=0`` changes nothing.
  Needs ``model.units``. Spec 8.1; Yang, 2025.
  """
  every = epoch_steps(spec, period)

  def prepare(key, learner, batch):
    # Before a step, so that no unit falls asleep between the last step of a task and its evaluation.
    def epoch(learner):
      params, optimizer, state = edits.lifecycle_epoch(
        key, learner.params, learner.opt_state.optimizer, learner.method_state, model.units, probability=probability,
        duration=duration,
      )  # fmt: skip
      opt_state = learner.opt_state._replace(optimizer=optimizer)
      return learner._replace(params=params, opt_state=opt_state, method_state=state)

    due = (learner.step % every == 0) & (learner.step > 0)
    return jax.lax.cond(due, epoch, lambda same: same, learner), batch

  def after_step(key, learner, info):
    del key, info  # momentum and weight decay would move sleeping weights
    return learner._replace(params=edits.lifecycle_mask(learner.params, learner.method_state, model.units))

  def init(key, learner):
    del key
    return edits.lifecycle_init(learner.params, model.units)

  return Method(init=init, prepare=prepare, after_step=after_step)


def fomo(
  model, spec: Spec, *, fraction, decay, strength, temperature, period: int = 0, warmup: int = 0, patterns: str = ""
) -> Method:
  """FOMO: each ``period`` steps a random ``fraction`` of the later layers' weights is initialised afresh; predicts with
  a stable model.

  Before it forgets, the stable model takes in what was relearned, ``stable <- decay stable + (1 - decay) theta``, and
  ``strength T^2 KL(stable || f)`` keeps the relearning near it. No forgetting in the first ``warmup`` steps. ``period``
  0 is one pass over the largest task; ``patterns``: comma-separated paths or globs of the later layers, empty: the last
  hidden layer of ``model.units`` and the head. The paper trains on adversarial examples: choose the objective
  :func:`cljax.objectives.adversarial`; the stable model of the pull then sees the rows as they are. The paper's own
  text was not available: all but the idea is a reconstruction, the defaults too (UNVERIFIED). Spec 8.2; Ramkumar et
  al., 2024.
  """
  every = epoch_steps(spec, period)
  chosen = listed(patterns) or layers(model, "fomo", "patterns")[-2:]

  def after_step(key, learner, info):
    del info

    def forget(learner):
      now = (learner.params, learner.model_state)
      stable = edits.ema(current_average(learner), now, decay)
      fresh, _ = model.init(tree.fold(key, "fresh"))
      gone = jnp.where(learner.step > warmup, fraction, 0.0)
      params = edits.fomo_forget(tree.fold(key, "forget"), learner.params, fresh, gone, chosen)
      return learner._replace(params=params, method_state=Average(stable[0], stable[1], jnp.zeros((), bool)))

    return jax.lax.cond(learner.step % every == 0, forget, lambda same: same, learner)

  def consistency(key, params, learner, batch, outputs):
    del params
    stable, model_state = current_average(learner)
    task = model.task_for(batch.task)
    old, _ = model.apply(stable, model_state, batch.x, train=False, key=key, task=task, mask=None)
    learned = spec.objective
    parts = learned.divergence(outputs.logits, jax.lax.stop_gradient(old.logits), batch, temperature)
    # Not before the stable model has taken anything in.
    begun = (learner.step >= every).astype(jnp.float32)
    return strength * begun * reduced(parts, learned.each(outputs.logits, batch)[1], batch)

  def init(key, learner) -> Any:
    del key
    return start_average(learner)

  return Method(
    init=init,
    terms={"consistency": consistency},
    after_step=after_step,
    scrub=forget_average,
    predict=predict_average(model),
  )


register(
  "lifecycle",
  Entry(
    lifecycle,
    {"probability": Option(0.1, 0, 1), "duration": Option(5, 1), "period": Option(0, 0)},
    Access(needs=()),
    "Yang 2025",
  ),
)
register(
  "fomo",
  Entry(
    fomo,
    {
      "fraction": Option(0.035, 0, 1),
      "decay": Option(0.5, 0, 1),
      "strength": Option(1.0, 0),
      "temperature": Option(1.0, 1e-6),
      "period": Option(0, 0),
      "warmup": Option(0, 0),
      "patterns": Option(""),
    },
    Access(needs=("each", "divergence")),
    "Ramkumar et al. 2024",
  ),
)
