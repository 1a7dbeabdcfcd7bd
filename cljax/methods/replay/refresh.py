"""Refresh learning: a plug-in over any method that unlearns the batch a little before each step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import optimizers
from cljax.core import tree
from cljax.core.method import Method, _keep, _keep_batch, union_access
from cljax.core.tree import fold
from cljax.core.types import Access, Batch, Model, Scalar, Spec, UsageError
from cljax.methods import registry
from cljax.methods.penalties.pulls import FISHER, kind_of
from cljax.methods.penalties.pulls import fisher as fisher_of
from cljax.methods.registry import Entry, Option, register
from cljax.objectives.objective import reduced

BASES = ("derpp", "er", "ewc", "online_ewc", "finetune")


class RefreshState(NamedTuple):
  """The wrapped method's own state, the accumulated Fisher, and the labels that the released form unlearns."""

  inner: Any
  fisher: Any
  labels: Any  # (y [B], weight [B], class mask [B, C] or None) of the step's own rows; () in the theory's form


class PenaltyState(NamedTuple):
  """The state of the wrapped method's penalty; its type is how the gradient hook finds it, wherever it is nested."""

  inner: Any


class Refreshed(NamedTuple):
  """What ``after_step`` gets as outputs: those of the model, and by how much the parameters were moved before."""

  logits: Any
  features: Any
  hidden: Any
  moved: Any


def refresh(
  method: Method, model: Model, spec: Spec, *, step_size: Scalar, damping: Scalar = 1e-3, noise: Scalar = 1.0,
  decay: Scalar = 1e-5, steps: int = 1, form: str = "theory", inner_rate: Scalar = 0.01, fisher: str = "auto",
  fisher_batch_size: int = 64,
) -> Method:  # fmt: skip
  """``theta <- theta + step_size F^-1 grad L + noise N(0, 2 step_size F^-1)``, ``steps`` times, then ``method``'s step.

  ``F^-1 = 1 / (F + damping)``, F accumulated at the end of each task, ``F <- decay F + F_t``; L is the whole loss of
  the step, terms and penalty included. ``step_size=0`` is ``method`` to the bit, noise and all draws its own. ``form``
  'released' unlearns the published code's way: only the task loss of the step's own rows, ascent direction
  rescaled per tensor to the size of the weights, preconditioner ``1 / (1 + damping F)``; see
  :func:`cljax.optimizers.refresh`. ``noise`` 1 is the theory's temperature (covariance UNVERIFIED).

  Deviations: the penalty's part of the relearning gradient is taken at the parameters before the ascent; the released
  code weighs each row's squared gradient in F by p(y|x), here the kind ``fisher`` says. Raises UsageError where
  ``method`` owns the gradient, for the two cannot both. Spec 3.2; Wang et al., 2024.
  """
  released = form == "released"
  if method.gradient is not None:
    raise UsageError("refresh: the method owns its gradient; wrap one that leaves it to backpropagation")
  network, scrub, predict = method.model or model, method.scrub, method.predict
  follows = method.after_forget

  def inside(learner):
    return learner._replace(method_state=learner.method_state.inner)

  def back(learner, new):
    return new._replace(method_state=learner.method_state._replace(inner=new.method_state))

  def lifted(hook):
    return lambda key, learner, *rest: back(learner, hook(key, inside(learner), *rest))

  def init(key, learner):
    mask = spec.class_mask(jnp.zeros(spec.batch_size, jnp.int32), jnp.zeros(spec.num_tasks, bool))
    weight = jnp.zeros(spec.batch_size, jnp.float32)
    y = jax.tree.map(lambda a: jnp.zeros((spec.batch_size, *a.shape), a.dtype), spec.target)
    labels = (y, weight, mask) if released else ()
    return RefreshState(method.init(key, learner), tree.zeros_like(learner.params, jnp.float32), labels)

  def prepare(key, learner, batch):
    if released:
      own = lambda a: None if a is None else a[: spec.batch_size]  # another part may have appended rows
      y = jax.tree.map(lambda a, like: a[: spec.batch_size].astype(like.dtype), batch.y, spec.target)
      labels = (y, own(batch.weight), own(batch.class_mask))
      learner = learner._replace(method_state=learner.method_state._replace(labels=labels))
    if method.prepare is not _keep_batch:
      inner, batch = method.prepare(key, inside(learner), batch)
      learner = back(learner, inner)
    return learner, batch

  def whole_loss(loss_fn, learner):
    """The loss with a term whose gradient is the penalty's, for penalties are known by their gradients alone."""
    if method.penalty is None:
      return loss_fn
    is_mine = lambda s: isinstance(s, PenaltyState)
    state = next(s for s in jax.tree.leaves(learner.opt_state, is_leaf=is_mine) if is_mine(s)).inner

    def loss(params):
      value, aux = loss_fn(params)
      zeros = tree.zeros_like(params)
      pull, _ = optax.with_extra_args_support(method.penalty).update(zeros, state, jax.lax.stop_gradient(params))
      return value + tree.dot(jax.lax.stop_gradient(pull), params), aux

    return loss

  def own_loss(loss_fn, learner):
    y, weight, mask = learner.method_state.labels

    def loss(params):
      _, aux = loss_fn(params)
      own = jax.tree.map(lambda a: a[: spec.batch_size], aux[0].logits)
      rows = Batch(None, y, weight, None, None, mask)
      each, inside = spec.objective.each(own, rows)
      return reduced(each, inside, rows), aux

    return loss

  def gradient(key, loss_fn, learner):
    unlearned = own_loss(loss_fn, learner) if released else whole_loss(loss_fn, learner)
    params = optimizers.refresh(
      fold(key, "refresh"), unlearned, learner.params, learner.method_state.fisher, step_size=step_size, steps=steps,
      damping=damping, noise=noise, released=released, inner_rate=inner_rate,
    )  # fmt: skip
    (loss, (out, model_state)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    moved = jax.tree.map(jnp.subtract, params, learner.params)
    return (loss, (Refreshed(out.logits, out.features, out.hidden, moved), model_state)), grads

  def after_step(key, learner, info):
    params = jax.tree.map(lambda p, m: jnp.where(m != 0, p + m, p), learner.params, info.outputs.moved)
    learner = learner._replace(params=params)
    return lifted(method.after_step)(key, learner, info) if method.after_step is not _keep else learner

  def end_task(key, learner, task):
    new = fisher_of(key, network, spec, learner, task.rows, kind_of(spec, fisher), fisher_batch_size)
    kept = jax.tree.map(lambda old, f: decay * old + f.astype(old.dtype), learner.method_state.fisher, new)
    learner = lifted(method.end_task)(key, learner, task) if method.end_task is not _keep else learner
    return learner._replace(method_state=learner.method_state._replace(fisher=kept))

  def term(fn):
    return lambda key, params, learner, batch, outputs: fn(key, params, inside(learner), batch, outputs)

  def reference(ref):
    loss = ref.loss and (lambda key, params, learner, batch: ref.loss(key, params, inside(learner), batch))
    return ref._replace(batch=lambda key, learner: ref.batch(key, inside(learner)), loss=loss)

  def marked(penalty):
    penalty = optax.with_extra_args_support(penalty)

    def update(updates, state, params=None, **extra):
      updates, inner = penalty.update(updates, state.inner, params, **extra)
      return updates, PenaltyState(inner)

    return optax.GradientTransformationExtraArgs(lambda params: PenaltyState(penalty.init(params)), update)

  return method._replace(
    init=init,
    start_task=lifted(method.start_task) if method.start_task is not _keep else _keep,
    prepare=prepare if released or method.prepare is not _keep_batch else _keep_batch,
    terms={name: term(fn) for name, fn in method.terms.items()},
    gradient=gradient,
    references={name: reference(ref) for name, ref in method.references.items()},
    penalty=method.penalty and marked(method.penalty),
    after_step=after_step,
    end_task=end_task,
    forget=method.forget and lifted(method.forget),
    scrub=scrub and (lambda learner, request: back(learner, scrub(inside(learner), request))),
    after_forget=follows and (lambda learner, before: back(learner, follows(inside(learner), before))),
    predict=predict and (lambda key, learner, x, task: predict(key, inside(learner), x, task)),
    access=union_access([method.access, Access(task_boundaries=True, boundary_data=True)]),
  )


def _registered(
  model, spec: Spec, *, step_size, damping, noise, decay, inner_rate, base: str = "derpp", steps: int = 1,
  form: str = "theory", fisher: str = "auto", fisher_batch_size: int = 64,
) -> Method:  # fmt: skip
  """:func:`refresh` over the registered method ``base`` at its own defaults.

  ``noise`` defaults to 0.01: at the theory's 1, a weight whose Fisher is 0 moves ``sqrt(2 step_size / damping)`` = 0.14
  a step, which no network survives.
  """
  method = registry.make(base, model, spec)
  method = method._replace(scrub=method.scrub or (lambda learner, request: learner))
  return refresh(
    method, model, spec, step_size=step_size, damping=damping, noise=noise, decay=decay, steps=steps, form=form,
    inner_rate=inner_rate, fisher=fisher, fisher_batch_size=fisher_batch_size,
  )  # fmt: skip


register(
  "refresh",
  Entry(
    _registered,
    {
      "base": Option("derpp", choices=BASES),
      "step_size": Option(1e-5, 0),
      "damping": Option(1e-3, 1e-12),
      "noise": Option(0.01, 0),
      "decay": Option(1e-5, 0, 1),
      "inner_rate": Option(0.01, 0, needs={"form": ("released",)}),
      "steps": Option(1, 0),
      "form": Option("theory", choices=("theory", "released")),
      **FISHER,
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("each",)),
    "Wang et al. 2024",
  ),
)
