"""LwM: where the last task's network looked is held, beside what it said."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cljax.core.method import Method
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.distillation.outputs import lwf
from cljax.methods.registry import Entry, Option, register
from cljax.models.heads import unit
from cljax.objectives.objective import reduced


def looked_at(model, spec: Spec) -> tuple[str, tuple, Any]:
  """The path of the layer that is looked at, the shape of a row's output of it, and its dtype: of the last with places
  ``[H, W, C]``, or, where there is none, of the last before the outputs. UsageError for a model without captured
  layers."""
  if model.capture is None:
    raise UsageError("method.name: 'lwm' needs a model whose layers are captured (Model.capture is None)")
  row = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), spec.shown)
  told = {"task": jnp.zeros(1, jnp.int32)} if model.by_task else {}
  found: list[tuple[str, tuple, Any]] = []

  def look(params, state, x):
    logits, calls = model.capture(params, state, x, None, **told)
    outputs = {path: c.output for path, c in calls.items() if hasattr(c.output, "shape")}
    found.extend((path, y.shape[1:], y.dtype) for path, y in outputs.items())
    return logits

  shape = jax.eval_shape(look, *jax.eval_shape(model.init, jax.random.key(0)), row).shape[1:]
  last = max((i for i, f in enumerate(found) if f[1] == shape), default=len(found))  # a hidden one may be as wide
  maps = [f for f in found if len(f[1]) == 3] or found[:last]
  if not maps:
    raise UsageError("method.name: 'lwm' needs a model with a layer before its outputs")
  return maps[-1]


def attention(model, params, model_state, x, classes, layer, task=None):
  """``[B, P]`` of norm 1: ``relu(sum_k a_k A_k)``, A ``[P, K]`` a layer's output at its places before the activation,
  ``a_k`` the mean over places of the slope of the logit of ``classes [B]`` in it (Grad-CAM). Of a dense layer the
  numbers are the places, of one channel; 0 where the sum is nowhere above 0."""
  path, shape, dtype = layer
  told = {"task": task} if model.by_task else {}

  def score(probe):
    logits, calls = model.capture(params, model_state, x, {path: probe}, **told)
    mine = jnp.take_along_axis(logits.astype(jnp.float32), classes[:, None], axis=-1)
    return jnp.sum(mine), calls[path].output

  zeros = jnp.zeros((classes.shape[0], *shape), dtype)
  slope, maps = jax.grad(score, has_aux=True)(zeros)
  places = lambda a: a.astype(jnp.float32).reshape(a.shape[0], -1, shape[-1] if len(shape) > 1 else 1)
  heat = jnp.sum(jnp.mean(places(slope), axis=1, keepdims=True) * places(maps), axis=-1)
  return unit(jax.nn.relu(heat))


def lwm(model, spec: Spec, *, strength, temperature, attention_strength) -> Method:
  """Learning without memorizing: ``lwf + attention_strength mean sum_places |Q(f) - Q(teacher)|``.

  Q is :func:`attention` for the class that the teacher finds the likeliest among those met before, the same for both
  networks; on the current rows; nothing is stored but the teacher. The gradient goes through the slopes in Q: a step
  takes a second derivative. Options else as in :func:`cljax.methods.distillation.lwf`.

  Deviations: maps are taken before the activation of the last layer that has places, in eval mode; networks without
  such a layer have a map over units. Raises UsageError for a model without captured layers. Spec B6; Dhar et al., 2019.
  """
  layer, base = looked_at(model, spec), lwf(model, spec, strength=strength, temperature=temperature)
  of_task = jnp.asarray(spec.classes_of_task)

  def term(key, params, learner, batch, outputs):
    del outputs
    teacher, task = learner.method_state, model.task_for(batch.task)
    said, _ = model.apply(teacher.params, teacher.model_state, batch.x, train=False, key=key, task=task, mask=None)
    met = (of_task & batch.visit.met[:, None]).any(0)
    classes = jnp.argmax(jnp.where(met[None], said.logits.astype(jnp.float32), -jnp.inf), axis=-1)
    look = lambda p, s: attention(model, p, s, batch.x, classes, layer, task)
    theirs = jax.lax.stop_gradient(look(teacher.params, teacher.model_state))
    gap = jnp.sum(jnp.abs(look(params, learner.model_state) - theirs), axis=-1)
    return attention_strength * jnp.where(met.any(), reduced(gap, None, batch), 0.0)

  return base._replace(terms={**base.terms, "attention": term})


register(
  "lwm",
  Entry(
    lwm,
    {"strength": Option(1.0, 0), "temperature": Option(2.0, 1e-6), "attention_strength": Option(1.0, 0)},
    Access(task_boundaries=True, needs=("classes", "each", "divergence", "plain_inputs")),
    "Dhar et al. 2019",
  ),
)
