"""Forgetting at every depth of a network, not at its last layer alone."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from cljax import losses
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import ApplyFn, Array, Outputs, Params, Scalar, UsageError
from cljax.unlearning._common import drawn, key_of, minimize, outputs_of


def pooled(h):
  """``[B, ..., D]`` averaged over all axes but the first and the last."""
  return jnp.mean(h, tuple(range(1, h.ndim - 1))) if h.ndim > 2 else h


def stages_of(out: Outputs):
  """``(hidden stages, final)``, pooled: what is supervised by heads of their own, and what the model's head reads."""
  final = out.features if out.features is not None else out.logits
  return [pooled(h) for h in out.hidden if h is not out.features], pooled(final)


def erase_at_the_core(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  forget_weight: Scalar = 1.0,
  stage_weight: Scalar = 1.0,
  temperature: Scalar = 1.0,
  variant: str = "against_retain",
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
) -> Params:
  """Erase at the Core: ``sum_s w_s [forget_weight C(h_s of forget rows) + CE(head_s(h_s of retain rows))]``.

  ``apply_fn(params, batch)`` gives Outputs with hidden activations, of which each is a stage, averaged over all axes
  but rows and channels; the last stage is the features under the model's own head, of weight 1, the others weigh
  ``stage_weight``, with 0 plain contrastive unlearning. Linear heads of the stages start at 0, are trained along, and
  are discarded. C is :func:`cljax.losses.contrast` against retain rows; ``variant='within_forget'`` is the released
  code's, among forget rows alone, identically 0 where a single class is forgotten.

  Only the structure was read: weights, temperature, heads, optimizer (Adam at 1e-3) and which contrastive loss are
  UNVERIFIED. Spec B4; arXiv 2602.05375. Raises UsageError where there are no hidden activations, or for another
  variant.
  """
  if variant not in ("against_retain", "within_forget"):
    raise UsageError(f"variant: got {variant!r}; allowed: against_retain, within_forget")
  forget, retain = as_rows("forget", forget), as_rows("retain", retain)
  key = key_of(key, "erase_at_the_core")
  (example,) = drawn(key, 1, retain=retain)
  out = outputs_of(apply_fn, params, example)
  if not out.hidden:
    raise UsageError("apply_fn: gives no hidden activations; return cljax.Outputs(logits, features, hidden)")
  width = out.logits.shape[-1]
  heads = [(jnp.zeros((h.shape[-1], width), jnp.float32), jnp.zeros(width, jnp.float32)) for h in stages_of(out)[0]]

  def objective(key, both, step):
    del step
    params, heads = both
    to_forget, to_keep = drawn(key, batch, forget=forget, retain=retain)
    gone, kept = (outputs_of(apply_fn, params, rows) for rows in (to_forget, to_keep))

    def forgetting(h, other):
      if variant == "within_forget":
        each = losses.contrast_within(h, to_forget.y, to_forget.weight, temperature)
      else:
        each = losses.contrast(h, to_forget.y, other, to_keep.y, to_forget.weight, to_keep.weight, temperature)
      return losses.reduce(each, to_forget.weight)

    def keeping(logits):
      return losses.reduce(losses.cross_entropy(logits, to_keep.y, to_keep.class_mask), to_keep.weight)

    (inner_gone, gone_final), (inner_kept, kept_final) = stages_of(gone), stages_of(kept)
    total = forget_weight * forgetting(gone_final, kept_final) + keeping(kept.logits)
    for h, other, (kernel, bias) in zip(inner_gone, inner_kept, heads, strict=True):
      total += stage_weight * (
        forget_weight * forgetting(h, other) + keeping(other.astype(kernel.dtype) @ kernel + bias[None])
      )
    return total

  optimizer = optimizer or optax.adam(1e-3)
  return minimize(key, objective, (params, heads), steps=steps, optimizer=optimizer, forget=forget)[0]
