"""What each kernel multiplies: layer inputs as matrices, for subspace methods."""

from __future__ import annotations

from cljax.core.types import Array, Model, Params, Tree, UsageError


def layer_inputs(
  model: Model, params: Params, model_state: Tree, x: Tree, task: Array | None = None
) -> dict[str, Array]:
  """``{kernel path: R [n, d_in]}`` at eval mode: the rows that a dense or convolution kernel multiplies.

  ``R @ kernel.reshape(d_in, d_out)`` (plus bias) is the layer's output, flattened to ``[n, d_out]``: ``n`` is the batch
  for dense layers, batch times tokens for tokens, batch times positions for convolutions, whose rows are unfolded
  patches in the element order of the kernel. Layers of other kinds (grouped convolutions, norms) are left out.
  ``task [B]``: of the rows, where the model reads it. The transpose of GPM's ``R_l`` (Saha 2021). UsageError where the
  model has no ``capture``, or calls a layer twice.
  """
  if model.capture is None:
    raise UsageError("model: has no capture, so its layer inputs cannot be read; use from_linen or a zoo model")
  found, told = {}, {} if task is None else {"task": task}
  for name, call in model.capture(params, model_state, x, None, **told)[1].items():
    if call.spec.unfold is None or "kernel" not in call.spec.leaves:
      continue
    if call.spec.calls != 1:
      raise UsageError(f"model: layer {name!r} is called more than once, so its input is not one matrix")
    rows = call.spec.unfold(call.input)
    found[call.spec.leaves["kernel"]] = rows.reshape(-1, rows.shape[-1])
  return found
