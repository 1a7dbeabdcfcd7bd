"""ZSCL: a network that learns keeps what the first one made of other rows, stays near, and ends as a mean."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax import losses, regularizers
from cljax.core import tree
from cljax.core.dtypes import wide
from cljax.core.method import Method
from cljax.core.types import Access, Batch, Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads


class Apart(NamedTuple):
  """What :func:`zscl` keeps."""

  first: Any  # (params, model_state): the network as it began
  last: Any  # params as the last task left them; 0 between tasks
  mean: Any  # of these and the snapshots
  steps: Any  # int32: of this visit so far
  count: Any  # int32: snapshots so far


def unit(features):
  """``[B, D]`` float32 of norm 1; zeros stay, with a slope of 0."""
  f = heads.flat(features)
  square = jnp.sum(jnp.square(f), axis=-1, keepdims=True)
  return jnp.where(square > 0, f * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def held(path: str, spec: Spec) -> np.ndarray:
  """The rows of a file ``.npy``; UsageError where there is none, or rows are others than those that the model sees."""
  try:
    rows = np.load(path)
  except (OSError, ValueError) as e:
    raise UsageError(
      f"method.reference: got {path!r}; expected a file .npy of rows ({str(e).splitlines()[0]})"
    ) from None
  shape = getattr(spec.shown, "shape", None)
  if rows.ndim < 1 or len(rows) < 1 or rows.shape[1:] != shape:
    raise UsageError(f"method.reference: {path} holds {list(rows.shape)}; expected rows of {shape}")
  return rows


def zscl(
  model, spec: Spec, *, images, texts, consolidation, temperature, scale, every: int = 100, reference: str = ""
) -> Method:  # fmt: skip
  """ZSCL: ``CE + images D(S) + texts D(S^T) + consolidation |theta - theta_last|^2``, the last task's mean theta_last.

  ``S = u(x) R^T`` on reference rows x, u ``[B, D]`` their features of norm 1, R what the network that the run began
  with compares them with: its texts (``Model.texts``, as :func:`cljax.models.clip_classifier` has them, scale
  included), or of a model without, ``scale`` times its own u of the same rows, each row's own left out.
  ``D(S) = mean_i T^2 KL(softmax(S0_i / T) || softmax(S_i / T))``, S0 that of the first network: over texts, and of S^T
  over rows. ``reference``: a file ``.npy`` of rows ``[N, ...]`` as the model sees them, of which each step draws a
  batch's number; '': the step's own rows, augmented. After a visit's first step and every ``every``-th one behind it
  the mean takes a snapshot: ``mean <- (n mean + theta) / (n + 1)``, n counting from 1, begun at theta_last; when the
  task ends theta becomes it. ``every`` 0: no mean.

  Keeps three networks, and between tasks one: the first, of which no row of the stream is a part. Deviations: prompts
  of the classes in place of captions; KL in place of the cross-entropy, whose slope is the same; within a task theta
  answers, where the authors' evaluate the mean; label smoothing (their 0.2) and schedules are left to the recipe. A
  port has weights of 5 and no consolidation. Raises UsageError for a model without features and for a file that holds
  no such rows. Spec B22; Zheng et al. 2023.
  """
  heads.width_of(model, spec, "zscl")
  apart = held(reference, spec) if reference else None

  def init(key, learner):
    del key
    none = tree.zeros_like(learner.params)
    first = tree.copy((learner.params, learner.model_state))
    return Apart(first, none, none, jnp.int32(0), jnp.int32(0))

  def start_task(key, learner, task):
    del key, task
    last, mean = tree.copy(learner.params), tree.copy(learner.params)
    state = learner.method_state._replace(last=last, mean=mean, steps=jnp.int32(0), count=jnp.int32(0))
    return learner._replace(method_state=state)

  def seen(key, params, learner, batch: Batch, outputs):
    """``(S, S0, [B, M] bool: what is compared, [B] bool: rows that are there)``."""
    told = {"task": model.task_for(batch.task), "mask": None}
    first, x, there = learner.method_state.first, batch.x, batch.weight > 0
    if apart is not None:
      at = jax.random.randint(tree.fold(key, "reference"), batch.y.shape[:1], 0, len(apart))
      x, there = jnp.asarray(apart, spec.shown.dtype)[at], jnp.ones_like(there)
      outputs, _ = model.apply(params, learner.model_state, x, train=False, key=key, **told)
    old, _ = model.apply(*first, x, train=False, key=key, **told)
    now, then = unit(outputs.features), unit(old.features)
    if model.texts is not None:
      against = model.texts(*first).astype(then.dtype)
      mask = jnp.broadcast_to(there[:, None], (len(then), len(against)))
    else:
      against = jnp.asarray(scale).astype(then.dtype) * then
      mask = there[:, None] & there[None] & ~jnp.eye(len(then), dtype=bool)
    like = lambda f: jnp.matmul(f, against.T, precision="highest")
    return like(now), like(then), mask, there

  def distil(key, params, learner, batch, outputs):
    now, then, mask, there = seen(key, params, learner, batch, outputs)
    of_rows = losses.reduce(losses.distillation(now, then, temperature, mask), there)
    each = losses.distillation(now.T, then.T, temperature, mask.T)
    of_texts = losses.reduce(each, jnp.ones_like(each) if model.texts is not None else there)
    return images * of_rows + texts * of_texts

  def near(key, params, learner, batch, outputs):
    del key, batch, outputs
    return regularizers.l2_penalty(params, learner.method_state.last, consolidation)

  def after_step(key, learner, info):
    del key, info
    state = learner.method_state
    now = state.steps % every == 0
    count = jnp.where(now, state.count + 1, state.count)

    def one(m, p):
      n = count.astype(wide(m.dtype))
      return jnp.where(now, ((n * m.astype(n.dtype) + p.astype(n.dtype)) / (n + 1)).astype(m.dtype), m)

    mean = jax.tree.map(one, state.mean, learner.params)
    return learner._replace(method_state=state._replace(mean=mean, steps=state.steps + 1, count=count))

  def end_task(key, learner, task):
    del key, task
    state = learner.method_state
    none = tree.zeros_like(learner.params)
    params = jax.tree.map(lambda p, m: jnp.where(state.count > 0, m, p), learner.params, state.mean)
    kept = state._replace(last=none, mean=none, steps=jnp.int32(0), count=jnp.int32(0))
    return learner._replace(params=params, method_state=kept)

  method = Method(
    init=init, start_task=start_task, end_task=end_task,
    terms={"distillation": distil, "consolidation": near},
  )  # fmt: skip
  return method._replace(after_step=after_step) if every else method


register(
  "zscl",
  Entry(
    zscl,
    {
      "images": Option(1.0, 0),
      "texts": Option(1.0, 0),
      "consolidation": Option(1.0, 0),
      "temperature": Option(2.0, 0, above=True),
      "scale": Option(100.0, 0, above=True),
      "every": Option(100, 0),
      "reference": Option(""),
    },
    Access(task_boundaries=True, needs=("classes", "plain_inputs")),
    "Zheng et al. 2023",
  ),
)
