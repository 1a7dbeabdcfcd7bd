"""CWR*: each class's output weights are learned for the task alone, and put beside the old ones behind it; AR1."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import regularizers
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.opt_state import edit_states
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.heads import classifier
from cljax.methods.penalties.pulls import consolidated
from cljax.methods.registry import Entry, Option, register
from cljax.regularizers.path import walked


class Consolidated(NamedTuple):
  """What :func:`cwr_star` keeps. Rows are counted once for each time that a step showed them."""

  weights: Any  # {name: leaf}: the classifier's consolidated weights, while a task is learned
  past: Any  # [C] float32: rows of each class in finished tasks
  now: Any  # [C] float32: in the current one
  model_state: Any  # at the task's start, where the extractor is frozen; else ()


def centred(weights, chosen):
  """``weights [..., C]`` minus one number: the mean of all weights of the classes ``chosen [C]`` bool."""
  count = jnp.maximum(chosen.sum(dtype=weights.dtype), 1) * (weights.size // weights.shape[-1])
  return weights - jnp.where(_beside(chosen, weights), weights, jnp.zeros_like(weights)).sum() / count


def _beside(of_classes, weights):
  """``[C]`` with as many axes as ``weights [..., C]``."""
  return of_classes.reshape((1,) * (weights.ndim - 1) + of_classes.shape)


def merged(before, weights, past, now):
  """``(c p + w) / (p + 1)``, ``p = sqrt(past / now)``, of classes with rows in this task (``now [C]`` above 0), w
  :func:`centred`; ``before``, to the bit, of others. A class without a past has w."""
  p = _beside(jnp.sqrt(past / jnp.maximum(now, 1.0)).astype(weights.dtype), weights)
  new = centred(weights, now > 0)
  mean = jnp.where(_beside(past > 0, weights), (before * p + new) / (p + 1), new)
  return jnp.where(_beside(now > 0, weights), mean, before)


def cwr_star(
  model, spec: Spec, *, strength, damping, extractor: str = "frozen", biases: str = "zero"
) -> Method:  # fmt: skip
  """CWR*: when a task ends, of each of its classes ``c <- (c p + w - mean w) / (p + 1)``, ``p = sqrt(past / now)``.

  w are the classifier's weights that the task learned (its mean is one number, over all weights of the task's classes),
  c the consolidated ones, past and now how many rows of the class earlier tasks and this one showed. A task begins with
  the weights c of those of its classes that were met before and 0 elsewhere; between tasks the classifier is c, so that
  what this task did to weights of other classes is undone to the bit.

  ``extractor``: what is below the classifier is 'frozen' from the second task on, BatchNorm's running statistics too
  (steps still normalise by their own rows), or 'free', or held by 'si' with ``strength`` and ``damping`` as in
  :func:`cljax.methods.penalties.pulls.si`, the classifier left out: that is AR1, without batch renormalisation and
  replay of activations. ``biases``: 'zero', for the published networks' classifiers have none; 'free': learned, and
  neither set back nor consolidated, as third-party code does, which leans to the last task. Raises UsageError for a
  classifier whose kernel has no axis of the stream's classes. Lomonaco et al., 2020; Maltoni and Lomonaco, 2019; spec
  D9.
  """
  leaves = tree.by_path(jax.eval_shape(model.init, jax.random.key(0))[0])
  head = classifier(model, spec)
  kernels = sorted(n for n in head if leaves[n].ndim >= 2 and leaves[n].shape[-1] == spec.num_classes)
  if not kernels:
    raise UsageError(
      f"method.name: 'cwr_star' needs a classifier with a kernel [D, {spec.num_classes}]; found "
      f"{', '.join(f'{n} {leaves[n].shape}' for n in sorted(head)) or 'none'}"
    )
  zeroed = sorted(head - set(kernels)) if biases == "zero" else []

  def with_head(params, weights):
    now = tree.by_path(params)
    return tree.edit_leaves(params, {**weights, **{n: jnp.zeros_like(now[n]) for n in zeroed}})

  def as_now(learner):
    """The learner whose copies are what it has: between tasks nothing older is kept, which a request would miss."""
    now, kept = tree.by_path(learner.params), tree.copy(learner.model_state) if extractor == "frozen" else ()
    state = learner.method_state._replace(weights={n: jnp.copy(now[n]) for n in kernels}, model_state=kept)
    return learner._replace(method_state=state)

  def init(key, learner):
    del key
    weights, none = tree.by_path(learner.params), jnp.zeros(spec.num_classes, jnp.float32)
    kept = tree.copy(learner.model_state) if extractor == "frozen" else ()
    return Consolidated({n: jnp.zeros_like(weights[n]) for n in kernels}, none, none, kept)

  def start_task(key, learner, task):
    del key
    state, own = learner.method_state, jnp.asarray(spec.classes_of_task)[task.visit.task]
    now = tree.by_path(learner.params)
    some = lambda which, w: jnp.where(_beside(which, w), w, jnp.zeros_like(w))
    weights = {n: some(state.past > 0, now[n]) for n in kernels}
    begin = {n: some(own, w) for n, w in weights.items()}
    state = as_now(learner).method_state._replace(weights=weights, now=jnp.zeros_like(state.now))
    return learner._replace(params=with_head(learner.params, begin), method_state=state)

  def after_step(key, learner, info):
    del key
    state, own = learner.method_state, slice(0, spec.batch_size)
    shown = jax.nn.one_hot(info.batch.y[own], spec.num_classes, dtype=jnp.float32) * info.batch.weight[own, None]
    learner = learner._replace(method_state=state._replace(now=state.now + shown.sum(0)))
    if extractor == "frozen":
      held = lambda before, now: jnp.where(info.batch.visit.met.any(), before, now)
      learner = learner._replace(model_state=jax.tree.map(held, state.model_state, learner.model_state))
    if extractor == "si":
      walk = lambda state: walked(state, info.gradient, info.updates)
      learner = learner._replace(opt_state=edit_states(learner.opt_state, regularizers.SiState, walk, "si"))
    return learner

  def end_task(key, learner, task):
    del key, task
    state, now = learner.method_state, tree.by_path(learner.params)
    weights = {n: merged(state.weights[n], now[n], state.past, state.now) for n in kernels}
    state = state._replace(past=state.past + state.now, now=jnp.zeros_like(state.now))
    learner = as_now(learner._replace(params=with_head(learner.params, weights), method_state=state))
    return consolidated(learner, "si") if extractor == "si" else learner

  def update(updates, state, params=None, *, visit, **extra):
    del params, extra

    def one(name, u):
      if name in head:
        return jnp.zeros_like(u) if name in zeroed else u
      return jnp.where(visit.met.any(), jnp.zeros_like(u), u) if extractor == "frozen" else u

    return tree.map_named(one, updates), state

  def scrub(learner, request):
    state = learner.method_state
    gone = lambda count: jnp.where(request.classes, 0.0, count)
    return learner._replace(method_state=state._replace(past=gone(state.past), now=gone(state.now)))

  penalty = None
  if extractor == "si":
    rest = tree.map_named(lambda n, x: n not in head, jax.eval_shape(model.init, jax.random.key(0))[0])
    penalty = optax.masked(regularizers.si(strength, damping, told=True), rest)
  hold = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
  return Method(
    init=init, start_task=start_task, after_step=after_step, end_task=end_task, penalty=penalty, finalize=hold,
    scrub=scrub, after_forget=lambda learner, before: as_now(learner),
  )  # fmt: skip


register(
  "cwr_star",
  Entry(
    cwr_star,
    {
      "strength": Option(0.1, 0, needs={"extractor": ("si",)}),
      "damping": Option(0.1, 1e-12, needs={"extractor": ("si",)}),
      "extractor": Option("frozen", choices=("frozen", "free", "si")),
      "biases": Option("zero", choices=("zero", "free")),
    },
    Access(task_boundaries=True),
    "Lomonaco et al. 2020",
  ),
)
