"""One objective for regularisation and replay: a Bregman divergence of outputs and one of parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from cljax import losses, optimizers, regularizers
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.penalties import pulls as penalties
from cljax.methods.penalties import variational
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import buffers as replay
from cljax.objectives.objective import reduced

# Options under which the objective is a method that has a name.
CASES: dict[str, dict[str, Any]] = {
  "cpr": {"output": "uniform", "parameter": "fisher", "alpha": 0.5, "beta": 10.0},
  "der": {"output": "logits", "parameter": "none", "alpha": 0.5, "beta": 0.0},
  "er": {"output": "labels", "parameter": "none", "alpha": 1.0, "beta": 0.0},
  "ewc": {"output": "none", "parameter": "fisher", "alpha": 0.0, "beta": 10.0},
  "vcl": {"output": "none", "parameter": "gaussian", "alpha": 0.0, "beta": 1.0},
  "natural_gradient_vcl": {"output": "none", "parameter": "gaussian", "alpha": 0.0, "beta": 1.0, "natural": True},
}


class Unified(NamedTuple):
  memory: Any  # a Replay, or () where the output target is not stored
  old: Any  # EWC's anchor and importance, the old posterior, or ()
  rows: Any = ()  # of the current task, where there is an old posterior


def output_divergence(output: str, logits, target, class_mask=None):
  """``D_Phi`` of one output and its target, per row ``[B]``.

  ``logits``: ``Phi = |x|^2 / C`` of the logits and stored ones (DER; the mean over logits, as the registry has it);
  ``labels``: ``Phi`` the negative entropy, ``D(one-hot, p) = KL(one-hot || p)``, the cross-entropy (ER: here the
  target comes first); ``uniform``: ``D(p, u) = log C - H(p)`` over the classes of the mask (CPR; target unused).
  """
  if output == "logits":
    return losses.bregman(lambda x: losses.squared_norm(x) / x.shape[-1], logits, target)
  if output == "labels":
    return losses.cross_entropy(logits, target, class_mask)
  mask = jnp.broadcast_to(True if class_mask is None else class_mask, logits.shape)
  p = jnp.where(mask, jnp.exp(losses.masked_log_softmax(logits, mask)), 0.0)
  return losses.bregman(losses.negative_entropy, p, mask / jnp.maximum(mask.sum(-1, keepdims=True), 1))


def parameter_divergence(parameter: str, params, old):
  """``D_Psi`` of the parameters and what the last task left.

  ``fisher``: ``Psi = 1/2 theta' F theta`` (EWC; several finished tasks are one anchor and one importance, exactly);
  ``gaussian``: ``Psi`` the log-partition, ``D(eta_old, eta) = KL(q || q_old)`` (VCL: here the old parameters first).
  """
  if parameter == "fisher":
    return regularizers.bregman_penalty(regularizers.fisher_potential(old.importance), params, old.anchor)
  natural = optimizers.natural_parameters
  return regularizers.bregman_penalty(regularizers.gaussian_log_partition, natural(old), natural(params))


def unified(
  model, spec: Spec, *, alpha, beta, deviation, prior_deviation, output: str = "logits", parameter: str = "fisher",
  natural: bool = False, capacity: int = 200, policy: str = "reservoir", replay_batch: int = 0,
  insert: str = "every_pass", fisher: str = "auto", fisher_batch_size: int = 64,
) -> Method:  # fmt: skip
  """The unified objective: ``mean CE + alpha mean D_Phi(f(x), z) + beta D_Psi(theta, theta_old)``.

  ``output`` and ``parameter`` name the divergences (:func:`output_divergence`, :func:`parameter_divergence`; 'none' for
  neither). ``logits`` and ``labels`` are of rows drawn from a memory, ``uniform`` of the current rows; with
  ``gaussian`` the network is a mean-field Gaussian and ``D_Psi`` is divided by the rows of the current task. ``CASES``
  has the options that make it EWC, CPR, DER, ER, VCL and natural-gradient VCL. Options that a case does not use are
  ignored; ``insert`` is that of ``derpp``. Which divergence belongs to VCL is UNVERIFIED. Spec 3.1; Wang et al., 2024.
  """
  stored = output in ("logits", "labels")
  if output == "uniform" and not spec.objective.classes:
    raise UsageError(f"method.output: got 'uniform', which needs classes; {spec.objective.name!r} has none")
  memory = replay.make_memory(spec, capacity, policy)
  size = min(replay_batch or spec.batch_size, capacity)
  more = {"logits": replay.example_prediction(model, spec)} if output == "logits" else {}

  def init(key, learner):
    del key
    old: Any = ()
    rows: Any = jnp.float32(spec.task_rows) if parameter == "gaussian" else ()
    if parameter == "fisher":
      old = regularizers.ewc(1.0).init(learner.params)
    elif parameter == "gaussian":
      old = variational.standard_prior(learner.params, prior_deviation)
    return Unified(replay.start(memory, spec, replay.example_row(spec, **more)) if stored else (), old, rows)

  def prepare(key, learner, batch):
    state = learner.method_state
    filled = replay.insert_pending(key, memory, state.memory)
    rows, weight = memory.sample(tree.fold(key, output), filled.memory, size)
    again = replay.drawn(spec, rows, weight, batch.visit)
    if output == "logits":
      batch = batch._replace(extra={**batch.extra, "logits": (rows["logits"], again, replay.places(batch, size))})
    batch = replay.append(batch, again, scale=alpha if output == "labels" else 0.0)
    return learner._replace(method_state=state._replace(memory=filled)), batch

  def output_term(key, params, learner, batch, outputs):
    del key, params, learner
    if output == "uniform":
      per_row = output_divergence(output, outputs.logits, None, batch.class_mask)
      return alpha * reduced(per_row, None, batch)
    target, rows, at = batch.extra["logits"]
    if not spec.objective.classes:
      return alpha * replay.stored_gap(spec, outputs, (target, rows, at))
    return alpha * losses.reduce(output_divergence(output, replay.at_places(outputs.logits, at), target), rows.weight)

  def parameter_term(key, params, learner, batch, outputs):
    del key, batch, outputs
    state = learner.method_state
    divergence = beta * parameter_divergence(parameter, params, state.old)
    return divergence / state.rows if parameter == "gaussian" else divergence

  def after_step(key, learner, info):
    del key
    kept = {"logits": replay.predictions_of(spec, info)} if output == "logits" else {}
    state, rows = learner.method_state, replay.rows_of(spec, info.batch, **kept)
    pending = state.memory._replace(pending=rows, weight=replay.offered(spec, info.batch, insert))
    return learner._replace(method_state=state._replace(memory=pending))

  def end_task(key, learner, task):
    state = learner.method_state
    if parameter == "gaussian":
      old = tree.copy(learner.params)
    else:
      kind = penalties.kind_of(spec, fisher)
      importance = penalties.fisher(key, model, spec, learner, task.rows, kind, fisher_batch_size)
      old = regularizers.consolidate(state.old, learner.params, importance=importance)
    return learner._replace(method_state=state._replace(old=old))

  def scrub(learner, request):
    state = learner.method_state
    if not stored:
      return learner
    inner = replay.scrub_memory(memory)(learner._replace(method_state=state.memory), request)
    return inner._replace(method_state=state._replace(memory=inner.method_state))

  def after_forget(learner, before):
    state = learner.method_state
    return learner._replace(method_state=state._replace(old=tree.follow(state.old, before, learner.params)))

  terms = {"output": output_term} if output in ("logits", "uniform") else {}
  terms.update({"parameter": parameter_term} if parameter != "none" else {})
  # A hook is defined only where it acts: the engine leaves out what keeps its default.
  hooks: dict[str, Any] = {"prepare": prepare, "after_step": after_step} if stored else {}
  hooks.update({"end_task": end_task} if parameter != "none" else {})
  if parameter == "gaussian":
    hooks["model"] = variational.gaussian(model, deviation)
    hooks["start_task"] = lambda key, learner, task: variational.begun(learner, task, natural)
    hooks["transform"] = variational.natural_steps(spec.task_rows) if natural else None
    hooks["after_forget"] = after_forget
  return Method(init=init, terms=terms, scrub=scrub, **hooks)


register(
  "unified",
  Entry(
    unified,
    {
      "alpha": Option(0.5, 0),
      "beta": Option(10.0, 0),
      "output": Option("logits", choices=("none", "logits", "labels", "uniform")),
      "parameter": Option("fisher", choices=("none", "fisher", "gaussian")),
      "natural": Option(False, needs={"parameter": ("gaussian",)}),
      "deviation": variational.GAUSSIAN["deviation"]._replace(needs={"parameter": ("gaussian",)}),
      "prior_deviation": variational.GAUSSIAN["prior_deviation"]._replace(needs={"parameter": ("gaussian",)}),
      **replay.BUFFER,
      **replay.INSERT_OUTPUTS,
      **penalties.FISHER,
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("each",)),
    "Wang et al. 2024",
  ),
)
