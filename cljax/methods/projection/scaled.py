"""Kernels that each task sees scaled inside spans of earlier ones (TRGP's scaled weight projection; CUBER's)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cljax import models, projectors
from cljax.core import tree
from cljax.core.types import Model, Spec, UsageError
from cljax.projectors.gpm import extend_basis

SCALES, SPANS = "scales", "spans"


def seen_as(model: Model, spec: Spec, weight: Callable, begin: Callable, owner: str) -> Model:
  """The network whose kernels are ``weight(name, W [d_in, c_out], scales[name], model_state, task)`` for a task's rows.

  ``begin({name: leaf}) -> (scales, state)``: ``params`` are the model's, a dict, and ``scales``, trained, of which each
  has a leading axis of tasks; ``model_state`` is ``state`` beside ``inner``, the model's own. Reads the task of its
  rows. UsageError, which begins with ``owner``, where parameters are no dict.
  """

  def effective(params, state, task):
    weights = {n: v for n, v in params.items() if n != SCALES}
    named = tree.by_path(weights)
    made = {}
    for name, scales in params[SCALES].items():
      w = named[name]
      new = weight(name, w.reshape(-1, w.shape[-1]), scales, state, task)
      made[name] = new.reshape(w.shape).astype(w.dtype)
    return tree.edit_leaves(weights, made)

  def init(key):
    weights, inner = model.init(key)
    if not isinstance(weights, dict) or SCALES in weights:
      raise UsageError(f"{owner} needs a model whose parameters are a dict without {SCALES!r}; use the zoo's")
    scales, state = begin(tree.by_path(weights))
    return {**weights, SCALES: tree.copy(scales)}, {"inner": inner, **tree.copy(state)}

  told = lambda task: {"task": task} if model.by_task else {}

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    if task is None:
      raise UsageError("task: scaled kernels need the task of the rows; got None")
    weights = effective(params, model_state, task)
    given = {"train": train, "key": key, "mask": mask, "task": model.task_for(task)}
    out, inner = model.apply(weights, model_state["inner"], x, **given)
    return out, {**model_state, "inner": inner}

  def capture(params, model_state, x, probe, task=None):
    """Of rows of one task."""
    one = jnp.zeros((), jnp.int32) if task is None else jnp.ravel(jnp.asarray(task))[0]
    assert model.capture is not None
    return model.capture(effective(params, model_state, one), model_state["inner"], x, probe, **told(task))

  made = models.by_row(Model(init, apply), spec.num_tasks)
  return made._replace(capture=None if model.capture is None else capture)


def scaled_model(model: Model, spec: Spec, kernels: dict, max_rank: int) -> Model:
  """The network whose kernels are ``W - S_t S_t^T W + S_t Q_t S_t^T W`` for rows of task t (:func:`seen_as`).

  ``kernels {name: abstract kernel}`` are scaled. ``scales {name: [T, r, r]}`` is the trainable Q, the identity at
  first; ``model_state["spans"] {name: [T, d_in, r]}`` holds the orthonormal S, 0 at first (then W is W).
  """
  ranks = {n: min(max_rank, k.size // k.shape[-1]) for n, k in kernels.items()}

  def weight(name, w, scales, state, task):
    return projectors.scaled_projection(w, state[SPANS][name][task], scales[task])

  def begin(named):
    each = lambda a: jnp.broadcast_to(a, (spec.num_tasks, *a.shape))
    scales = {n: each(jnp.eye(r, dtype=named[n].dtype)) for n, r in ranks.items()}
    spans = {n: each(jnp.zeros((named[n].size // named[n].shape[-1], r), jnp.float32)) for n, r in ranks.items()}
    return scales, {SPANS: spans}

  return seen_as(model, spec, weight, begin, "method.scaled:")


def trusting(learner, visit):
  """A learner at the start of a task, whose S_t are bases of the old spans that its regimes call sufficient but not
  positive, after :func:`cljax.projectors.cuber_start_task`. A task that comes back keeps those it learned with."""
  is_state = lambda s: isinstance(s, projectors.CUBERState)
  state = next(s for s in jax.tree.leaves(learner.opt_state, is_leaf=is_state) if is_state(s))
  spans = dict(learner.model_state[SPANS])
  for name, kept in spans.items():
    k = state.kernels[name]
    trusted = (k.spans * (k.regime == 2)[:, None, None]).transpose(0, 2, 1).reshape(-1, kept.shape[1])
    basis, _, _ = extend_basis(jnp.zeros(kept.shape[1:], k.spans.dtype), jnp.zeros((), jnp.int32), trusted, 1.0)
    own = jnp.where(visit.first, basis.astype(kept.dtype), kept[visit.task])
    spans[name] = kept.at[visit.task].set(own)
  return learner._replace(model_state={**learner.model_state, SPANS: spans})
