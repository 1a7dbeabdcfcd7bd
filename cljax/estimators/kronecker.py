"""The Fisher information of each layer as a Kronecker product: correlations of inputs and of output gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core import layers, tree
from cljax.core.dtypes import wide
from cljax.core.types import Model, Params, Rows, Tree, UsageError
from cljax.estimators.fisher import _check_learned, _contrasts, _cotangents, _masked, _toward
from cljax.estimators.per_sample import _capture, check_batch_size, sum_over_batches, thinned

KRONECKER_KINDS = ("exact", "sampled", "empirical")


class Factors(NamedTuple):
  """A layer's Fisher information as ``inputs [d, d] (x) outputs [c, c]``: ``tr(D^T inputs D outputs)`` of a change
  ``D [d, c]`` of kernel and bias, the bias as the last row where there is one."""

  inputs: Any
  outputs: Any


def _readable(call) -> bool:
  return call.spec.unfold is not None and "kernel" in call.spec.leaves and set(call.spec.leaves) <= {"kernel", "bias"}


def kronecker_factors(
  model: Model, params: Params, model_state: Tree, rows: Rows, *, kind: str = "exact", key: Any = None,
  batch_size: int = 64, samples: int | None = None, learned: Any = None,
) -> dict[str, Factors]:  # fmt: skip
  """``{kernel path: (A, G)}``, ``A = E sum_p a_p a_p^T`` and ``G = E mean_p g_p g_p^T``: K-FAC, at eval mode.

  ``a_p`` is what the kernel multiplies at place p (a dense layer has one, a convolution one for each patch, text one
  for each position), with a 1 behind it where the layer has a bias; ``g_p`` the gradient of ``-log p(y | x)`` by the
  layer's output there. Expectations are weighted means over rows, so ``n A (x) G`` is a task's precision. That is
  exact for one row of one place, an approximation otherwise: it takes the two as independent.

  ``kind`` says over what ``y`` runs, as of :func:`fisher_diagonal`: ``exact`` over the model's own labels, by one
  backward pass for each (of the classes all but one); ``sampled`` one ``y ~ p(. | x)`` a row, drawn with ``key``;
  ``empirical`` the row's own label, whose G vanishes as training fits it. All rows are in both factors. ``samples``,
  ``batch_size``, ``learned``, ``class_mask`` and rows of weight 0 as of :func:`fisher_diagonal`; no row gives zeros.
  Layers of other kinds (norms, embeddings, grouped convolutions) are left out. Martens and Grosse 2015; Grosse and
  Martens 2016; spec S11.1. Raises UsageError: an unknown kind, ``sampled`` without ``key``, a model without ``capture``
  or whose layers are none of these, a layer that is called twice, an objective that has nothing for the kind.
  """
  if kind not in KRONECKER_KINDS:
    raise UsageError(f"kind: got {kind!r}; allowed: {', '.join(KRONECKER_KINDS)}")
  if kind == "sampled" and key is None:
    raise UsageError("key: kind='sampled' draws labels and needs a key; got None")
  if model.capture is None:
    raise UsageError("model: has no capture, so its layers' factors cannot be read; use from_linen or a zoo model")
  check_batch_size(batch_size)
  if learned is not None:
    _check_learned(learned, kind)
  rows = thinned(rows, samples, key)
  if learned is not None and learned.inputs is not None:
    read = rows.batch
    rows = rows._replace(batch=lambda start, size: learned.inputs(read(start, size)))

  def cotangents(logits, batch, first):
    if learned is not None:
      w, cotangent = _cotangents(learned, kind, key, logits, batch, first)
    else:
      p = jax.nn.softmax(_masked(logits, batch))
      if kind == "exact":
        w, cotangent = _contrasts(p)
      else:
        y = batch.y
        if kind == "sampled":
          keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(p.shape[0]))
          y = jax.vmap(jax.random.categorical)(keys, jnp.log(p))
        w, cotangent = jnp.ones((1, p.shape[0]), p.dtype), _toward(y, p, batch)[None]
    there = lambda v: (batch.weight > 0).reshape(1, -1, *(1,) * (v.ndim - 2))
    return w * batch.weight.astype(w.dtype)[None], jax.tree.map(lambda v: jnp.where(there(v), v, 0.0), cotangent)

  def told(batch):
    return {"task": batch.task} if model.by_task else {}

  def captured(batch, probe):
    logits, calls = _capture(model, params, model_state, batch.x, probe, **told(batch))
    return logits, {n: c for n, c in calls.items() if _readable(c)}

  def one(batch, i):
    abstract = jax.eval_shape(lambda: captured(batch, None)[1])
    for n, c in abstract.items():
      if c.spec.calls != 1:
        raise UsageError(f"model: layer {n!r} is called more than once, so its input is not one matrix")
    probe = {n: jnp.zeros(c.output.shape, c.output.dtype) for n, c in abstract.items()}
    predictions, vjp, calls = jax.vjp(lambda q: captured(batch, q), probe, has_aux=True)
    widened = jax.tree.map(lambda v: v.astype(wide(v.dtype)), predictions)
    size = batch.weight.shape[0]

    def correlations(places, weight):  # [B, P, d], [B]
      return jnp.einsum("bpi,b,bpj->ij", places, weight.astype(places.dtype), places, precision="highest")

    def of_outputs(sums, weight_and_cotangent):
      weight, cotangent = weight_and_cotangent
      slopes = vjp(jax.tree.map(lambda c, v: c.astype(v.dtype), cotangent, predictions))[0]
      for n, d in slopes.items():
        d = d.astype(wide(d.dtype)).reshape(size, -1, d.shape[-1])
        sums = {**sums, n: sums[n] + correlations(d, weight) / d.shape[1]}
      return sums, None

    zero = {n: jnp.zeros((c.output.shape[-1],) * 2, wide(c.output.dtype)) for n, c in calls.items()}
    outputs = jax.lax.scan(of_outputs, zero, cotangents(widened, batch, i * batch_size))[0]
    out = {}
    for n, c in calls.items():
      a = layers.with_one(c.spec.unfold(c.input).astype(wide(c.input.dtype)), "bias" in c.spec.leaves)
      out[c.spec.leaves["kernel"]] = Factors(correlations(a, batch.weight), outputs[n])
    return out, batch.weight.sum()

  like = jax.eval_shape(lambda: one(rows.batch(0, batch_size), 0))
  if not like[0]:
    raise UsageError("model: no layer is a dense one or a plain convolution, so none has factors")
  total, weight = sum_over_batches(rows, batch_size, like, one)
  return tree.scale(1.0 / jnp.where(weight > 0, weight, 1.0), total)
