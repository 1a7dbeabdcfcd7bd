"""Methods that are a penalty on the parameters: an optax transform, and what its anchor is at the end of a task."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cljax import estimators, regularizers
from cljax.core.calls import since_0_2
from cljax.core.method import Method
from cljax.core.opt_state import edit_states
from cljax.core.tree import fold
from cljax.core.types import Access, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.regularizers.path import walked

_BOUNDARY = Access(task_boundaries=True)
_PASS = Access(task_boundaries=True, boundary_data=True)
REVERSED = ("reversed", "reversed_batched")
FISHER = {
  "fisher": Option("auto", choices=("auto", "exact", "sampled", "empirical", "batched", *REVERSED)),
  "fisher_batch_size": Option(64, 1),
}
CLIP = {"fisher_clip": Option(0.0, 0)}
MERGE = {"merge": Option("sum", choices=("sum", "average"))}
DECOUPLED = {"decoupled": Option(False)}


def quadratic(regularizer: Callable, *args, decoupled: bool) -> dict[str, Any]:
  """Where a quadratic penalty stands, as fields of a Method: on the gradient, or behind the optimizer at its rate."""
  if decoupled:
    return {"pull": regularizer(*args, decoupled=True, learning_rate="given")}
  return {"penalty": regularizer(*args)}


def consolidated(learner, name, importance=None):
  """The learner with the method's own regularizer, its ``penalty`` or ``pull``, anchored at its parameters."""
  state = learner.opt_state
  where = "pull" if regularizers.find(state.pull) else "penalty"
  ended = regularizers.consolidate(getattr(state, where), learner.params, importance=importance, name=name)
  return learner._replace(opt_state=state._replace(**{where: ended}))


def kind_of(spec, kind: str, option: str = "fisher") -> str:
  """The kind of Fisher that 'auto' means for the objective; UsageError where it has nothing for the one that is named.

  'auto': exact where the objective has a factor (classification, regression), else sampled, else empirical.
  """
  learned = spec.objective
  if kind == "auto":
    return estimators.default_kind(learned)
  if kind in REVERSED:
    if not learned.classes:
      raise UsageError(f"method.{option}: got {kind!r}, which needs classes; the objective {learned.name!r} has none")
    return kind
  field = {"exact": "factor", "sampled": "sample"}.get(kind, "each")
  if getattr(learned, field) is None:
    raise UsageError(f"method.{option}: got {kind!r}, which needs {field}; the objective {learned.name!r} has none")
  return kind


@since_0_2("spec stands behind model")
def fisher(key, model, spec, learner, rows, kind, batch_size):
  """The Fisher of the learner's own objective; of classification by the estimators' own form."""
  return estimators.fisher_diagonal(
    model, learner.params, learner.model_state, rows, kind=kind, key=fold(key, "fisher"), batch_size=batch_size,
    learned=None if spec.objective.classes else spec.objective,
  )  # fmt: skip


def ewc(
  model, spec, *, strength, decoupled: bool = False, fisher: str = "auto", fisher_batch_size: int = 64, fisher_clip=0.0
) -> Method:
  """EWC: ``strength/2 sum_k F_k (theta - theta_k)^2`` over finished tasks k; spec 1.1. Kirkpatrick et al., 2017.

  Its gradient makes SGD diverge where ``rate * strength * sum_k F_k > 2``. With ``decoupled`` the pull acts on what the
  optimizer made of the loss, before projectors of updates: ``theta <- (theta' + a theta*) / (1 + a)`` with ``theta'``
  the parameters after the optimizer's update, ``a = rate * strength * sum_k F_k`` and ``theta*`` the mean of the
  ``theta_k`` weighted by their ``F_k``. That lies between ``theta'`` and ``theta*`` for any strength. ``rate`` is the
  step's learning rate, schedule included, as in AdamW: momentum does not carry the pull and adaptive optimizers do not
  rescale it, so a strength tuned under Adam means another pull here. Needs an optimizer by name, or one made by
  ``optax.inject_hyperparams``.

  ``fisher='reversed'`` weighs by ``(d C(-z, y) / d theta)^2``, the loss under reversed logits (EWC-DR; Liu and Chang,
  2026; spec S11.4): of rows that are fitted, where the Fisher information vanishes, it does not. Of two classes it is
  the other label's loss. ``fisher_clip`` above 0 cuts each importance off there, as the release does at 1e-4; most are
  then equal, and strengths are not those of an uncut one. The release also averages over tasks: :func:`online_ewc`.
  """
  end_task = _fisher_end(model, spec, "ewc", fisher, fisher_batch_size, fisher_clip)
  return Method(end_task=end_task, **quadratic(regularizers.ewc, strength, decoupled=decoupled))


def online_ewc(
  model, spec, *, strength, decay, decoupled: bool = False, fisher: str = "auto", fisher_batch_size: int = 64,
  fisher_clip=0.0, merge: str = "sum",
) -> Method:  # fmt: skip
  """Online EWC: ``strength/2 sum decay F (theta - theta*)^2``, one anchor, one running Fisher; spec 1.2.

  ``F <- decay F + F_t`` at the end of a task. ``decoupled``, ``fisher`` and ``fisher_clip`` as of :func:`ewc`.
  ``merge='average'``: ``F <- a decay F + (1 - a) F_t``, a the share of the classes seen so far that are known from
  earlier tasks (of tasks that share their classes: of the tasks met). With ``fisher='reversed_batched'``,
  ``fisher_clip=1e-4`` and ``stream.active=task`` it is EWC-DR as released, but at eval mode. Schwarz et al., 2018.
  """
  stands = quadratic(regularizers.online_ewc, strength, decay, decoupled=decoupled)
  end_task = _fisher_end(model, spec, "online_ewc", fisher, fisher_batch_size, fisher_clip, merge == "average")
  return Method(end_task=end_task, **stands)


def known_share(spec, visit):
  """``a``: of the classes seen so far the share that tasks before this one have shown; of the tasks, where they share
  their classes or have none."""
  table = jnp.asarray(spec.classes_of_task)
  if not spec.objective.classes or bool((spec.classes_of_task.sum(0) > 1).any()):
    table = jnp.eye(spec.num_tasks, dtype=bool)
  count = lambda tasks: (tasks[:, None] & table).any(0).sum().astype(jnp.float32)
  before = visit.seen & (jnp.arange(spec.num_tasks) != visit.task)
  return count(before) / count(visit.seen)


def _fisher_end(model, spec, name, kind, batch_size, clip, average: bool = False):
  kind = kind_of(spec, kind)

  def end_task(key, learner, task):
    importance = fisher(key, model, spec, learner, task.rows, kind, batch_size)
    importance = jax.tree.map(lambda f: jnp.where(clip > 0, jnp.minimum(f, clip), f), importance)
    if average:
      old = known_share(spec, task.visit)
      importance = jax.tree.map(lambda f: (1 - old) * f, importance)
      fade = lambda s: s._replace(importance=jax.tree.map(lambda f: old * f, s.importance))
      opt_state = edit_states(learner.opt_state, regularizers.OnlineEwcState, fade, name)
      learner = learner._replace(opt_state=opt_state)
    return consolidated(learner, name, importance)

  return end_task


def si(model, spec, *, strength, damping, decoupled: bool = False) -> Method:
  """Synaptic Intelligence: ``strength sum Omega (theta - theta*)^2``, Omega the path integral over squared movement.

  The path is that of the loss's gradient, in a hybrid with other penalties too, and of the updates as they were made.
  ``decoupled`` as of :func:`ewc`, with ``a = 2 rate * strength * max(Omega, 0)``. Spec 1.3; Zenke 2017.
  """
  del model, spec

  def end_task(key, learner, task):
    del key, task
    return consolidated(learner, "si")

  def after_step(key, learner, info):
    del key
    walk = lambda state: walked(state, info.gradient, info.updates)
    return learner._replace(opt_state=edit_states(learner.opt_state, regularizers.SiState, walk, "si"))

  told = functools.partial(regularizers.si, told=True)
  return Method(end_task=end_task, after_step=after_step, **quadratic(told, strength, damping, decoupled=decoupled))


def mas(model, spec, *, strength, decoupled: bool = False) -> Method:
  """Memory Aware Synapses: importance ``mean_x |d |f(x)|^2 / d theta|``, no labels; spec 1.4. Aljundi et al., 2018.

  ``decoupled`` as of :func:`ewc`, with ``a = 2 rate * strength * Omega``.
  """
  del spec

  def end_task(key, learner, task):
    del key
    importance = estimators.mas_importance(model, learner.params, learner.model_state, task.rows)
    return consolidated(learner, "mas", importance)

  return Method(end_task=end_task, **quadratic(regularizers.mas, strength, decoupled=decoupled))


register(
  "ewc",
  Entry(
    ewc,
    {"strength": Option(10.0, 0), **DECOUPLED, **FISHER, **CLIP},
    _PASS._replace(needs=("each",)),
    "Kirkpatrick et al. 2017",
  ),
)
register(
  "online_ewc",
  Entry(
    online_ewc,
    {"strength": Option(10.0, 0), "decay": Option(1.0, 0, 1), **DECOUPLED, **FISHER, **CLIP, **MERGE},
    _PASS._replace(needs=("each",)),
    "Schwarz et al. 2018",
  ),
)
register(
  "si",
  Entry(
    si,
    {"strength": Option(0.1, 0), "damping": Option(0.1, 1e-12), **DECOUPLED},
    _BOUNDARY._replace(needs=()),
    "Zenke et al. 2017",
  ),
)
register(
  "mas",
  Entry(
    mas, {"strength": Option(0.03, 0), **DECOUPLED}, _PASS._replace(needs=("plain_inputs",)), "Aljundi et al. 2018"
  ),
)
