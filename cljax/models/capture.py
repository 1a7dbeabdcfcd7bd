"""What each layer of a Linen module saw: its input, and a probe added to its output whose gradient is the output's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from cljax.models.convolution import Convolution, unfold


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class LayerSpec:
  """How a layer's parameters act. ``leaves`` are the parameters' paths by their names inside the layer.

  ``local(params, x)`` is the layer alone. ``unfold(x) -> [B, P, d_in]``, where given, says that the output reshaped to
  ``[B, P, d_out]`` is ``unfold(x) @ kernel.reshape(d_in, d_out) + bias``. ``calls`` counts the calls seen.
  """

  leaves: dict[str, str]
  local: Callable
  unfold: Callable | None
  calls: int


class LayerCall(NamedTuple):
  """One call of a layer that owns ``params``: its input and output ``[B, ...]`` (None where it is not one array)."""

  spec: LayerSpec
  params: dict[str, Any]
  input: Any
  output: Any


def _unfolding(module) -> Callable | None:
  if type(module) is nn.Dense and module.dot_general is None and module.dot_general_cls is None:
    return lambda x: x.reshape(x.shape[0], -1, x.shape[-1])
  if type(module) is Convolution:
    return lambda x: unfold(x, module.kernel_size, module.strides, module.padding)
  if type(module) is nn.Conv and isinstance(module.kernel_size, tuple) and len(module.kernel_size) == 2:
    every = lambda v: (v, v) if isinstance(v, int) else tuple(v or (1, 1))
    dilated = every(module.kernel_dilation) != (1, 1) or every(module.input_dilation) != (1, 1)
    custom = (module.mask, module.conv_general_dilated, module.conv_general_dilated_cls) != (None, None, None)
    if module.feature_group_count == 1 and not dilated and not custom and module.padding in ("SAME", "VALID"):
      kernel_size, strides = module.kernel_size, every(module.strides)
      return lambda x: unfold(x, kernel_size, strides, module.padding)
  return None


def capture_layers(run: Callable, probe=None):
  """Runs a Linen forward pass ``run() -> logits``; returns ``(logits, {layer path: LayerCall})``.

  ``probe`` is ``{layer path: array like the layer's output}``, added to the outputs (None: nothing is added). Only
  modules that own parameters are recorded; a second call of one overwrites its record and raises ``spec.calls``.
  """
  calls: dict[str, LayerCall] = {}

  def interceptor(next_fun, args, kwargs, context):
    module = context.module
    y = next_fun(*args, **kwargs)
    if context.method_name != "__call__":
      return y
    params = module.variables.get("params", {})
    own = [n for n, v in params.items() if not hasattr(v, "items")]
    if not own:
      return y
    path = "/".join(module.path)
    arrays = jax.tree.leaves((args, kwargs))
    single = len(args) == 1 and sum(hasattr(a, "shape") for a in arrays) == 1 and hasattr(args[0], "shape")
    count = calls[path].spec.calls + 1 if path in calls else 1
    if not single or not hasattr(y, "shape") or len(own) != len(params):
      count = 99  # not a layer that can be taken by itself
    bare, variables = module.unbind()
    rest = {n: c for n, c in variables.items() if n != "params"}
    local = lambda p, x: bare.apply({"params": p, **rest}, x, **kwargs)
    leaves = {n: "/".join((*module.path, n)) for n in own}
    spec = LayerSpec(leaves, local, _unfolding(bare), count)
    x = args[0] if single else None
    if probe is not None and path in probe:
      y = y + probe[path]
    calls[path] = LayerCall(spec, {n: params[n] for n in own}, x, y if hasattr(y, "shape") else None)
    return y

  with nn.intercept_methods(interceptor):
    logits = run()
  return logits, calls
