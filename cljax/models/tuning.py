"""Tuning of few parameters: models that train a small part, or small parts beside a frozen network's.

Each takes a :class:`~cljax.core.types.Model` and gives one, on :func:`cljax.models.reparameterise`: the network's own
first parameters (such as pre-trained ones) are in ``model_state["frozen"]``, ``{path: leaf}``, without gradient,
momentum or decay. ``params`` are nested dicts under the network's own names: leaves that ``trained`` finds as they are
(so that a classifier keeps its name), and beside the paths of others what each tuning says. Right behind ``init`` the
network is the one that was given, to the bit. ``Model.plain(params, model_state)`` gives the network's own parameters
and state, where the tuning can be folded into them.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cljax.core import layers as layer_names
from cljax.core import layout, tree
from cljax.core.types import Model, UsageError
from cljax.models.reparameterise import reparameterise

HEAD = r"(^|/)head(/|$)"  # the classifier of the zoo's models
KERNELS = r"(^|/)kernel$"
NORMED = r"(^|/)(kernel|scale)$"


def nested(flat: dict[str, Any]) -> dict:
  """``{"a/b": leaf}`` as ``{"a": {"b": leaf}}``."""
  out: dict[str, Any] = {}
  for name, leaf in flat.items():
    at = out
    *above, last = name.split("/")
    for part in above:
      at = at.setdefault(part, {})
    at[last] = leaf
  return out


def finder(argument: str, pattern: str) -> Callable[[str], bool]:
  """``name -> bool``: whether the regular expression finds itself in it; UsageError where it is none."""
  if not isinstance(pattern, str):
    raise UsageError(f"{argument}: got {pattern!r}; expected a regular expression of the names of parameters")
  try:
    found = re.compile(pattern)
  except re.error as e:
    raise UsageError(f"{argument}: got {pattern!r}; expected a regular expression ({e})") from None
  return lambda name: bool(found.search(name))


def _some(argument: str, pattern: str, what: str, found: list[str], names) -> list[str]:
  if not found:
    raise UsageError(f"{argument}: {pattern!r} finds no {what} among {', '.join(names)}")
  return found


def in_full(leaves: dict[str, Any], trained: str, label: str = "tuning_") -> list[str]:
  """The names that ``trained`` finds; '' finds none. UsageError for another pattern that finds none."""
  if not trained:
    return []
  finds = finder(f"{label}trained", trained)
  return _some(f"{label}trained", trained, "leaf", [n for n in leaves if finds(n)], leaves)


def chosen(
  leaves: dict[str, Any], pattern: str, trained: str, default: str = KERNELS, axes=(2, 4), label: str = "tuning_"
) -> list[str]:  # fmt: skip
  """Frozen leaves of so many axes that ``pattern`` finds ('': those that ``default`` does); UsageError for none, which
  begins with ``label`` and ``layers`` or ``trained``."""
  pattern = pattern or default
  finds, full = finder(f"{label}layers", pattern), set(in_full(leaves, trained, label))
  found = [n for n, a in leaves.items() if finds(n) and n not in full and jnp.ndim(a) in axes]
  what = f"frozen leaf of {' or '.join(map(str, axes))} axes"
  return _some(f"{label}layers", pattern, what, found, [n for n in leaves if n not in full])


def _positive(rank) -> None:
  if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
    raise UsageError(f"tuning_rank: got {rank!r}; expected an integer of at least 1")


def beside(model: Model, start: Callable, change: Callable, trained: str, label: str = "tuning_") -> Model:
  """The model whose frozen leaves are changed by what is trained beside them.

  ``start(key, leaves) -> {path: trained leaf}`` beside those that ``trained`` finds, of the network's ``{path: leaf}``;
  ``change(adapter, leaves) -> leaves`` with ``{path: leaf}`` of both.
  """

  @functools.cache
  def structure():
    return jax.eval_shape(model.init, jax.random.key(0))[0]

  def init(key, params):
    leaves = tree.by_path(params)
    full = in_full(leaves, trained, label)
    adapter = {n: leaves[n] for n in full} | start(key, leaves)
    return nested(adapter), {n: a for n, a in leaves.items() if n not in adapter}

  def materialize(adapter, frozen):
    like, own = structure(), tree.by_path(adapter)
    names = tree.paths(like)
    leaves = change(own, {n: frozen[n] if n in frozen else own[n] for n in names})
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[n] for n in names])

  def refuse(key):  # once, where the model is made, and not within a run
    params, state = model.init(key)
    return init(key, params), state

  jax.eval_shape(refuse, jax.random.key(0))
  return reparameterise(model, materialize, init)._replace(check_rows=model.check_rows)


def low_rank(key, kernel, rank: int):
  """``(A [d_in, rank], B [rank, d_out])`` of a kernel ``[..., d_in, d_out]``: A uniform within ``1 / sqrt(d_in)``,
  which is Hu et al.'s start, B zero."""
  inputs, outputs = layout.fan_in(kernel.shape), layout.fan_out(kernel.shape)
  a = jax.random.uniform(key, (inputs, rank), jnp.float32, -(inputs**-0.5), inputs**-0.5)
  return a.astype(kernel.dtype), jnp.zeros((rank, outputs), kernel.dtype)


def lora(
  model: Model, rank: int = 8, *, scale: float = 1.0, layers: str = "", trained: str = HEAD, label: str = "tuning_"
) -> Model:  # fmt: skip
  """LoRA: ``W + scale A B``, A ``[d_in, rank]`` as :func:`low_rank` draws it, B ``[rank, d_out]`` zero at first.

  Of every frozen leaf of two or four axes that the regular expression ``layers`` finds ('': those called ``kernel``); a
  convolution's ``[h, w, in, out]`` is ``[h w in, out]``. ``params`` hold ``PATH/lora_a`` and ``PATH/lora_b`` beside the
  leaves that ``trained`` finds. ``scale`` is the paper's ``alpha / rank``. Hu et al., 2022. Raises UsageError for
  patterns that find nothing, which it names with ``label`` in front, and a rank below 1.
  """
  _positive(rank)

  def start(key, leaves):
    made = {}
    for n in chosen(leaves, layers, trained, KERNELS, label=label):
      made[f"{n}/lora_a"], made[f"{n}/lora_b"] = low_rank(tree.fold(key, n), leaves[n], rank)
    return made

  def change(own, leaves):
    out = dict(leaves)
    for name in own:
      if name.endswith("/lora_a"):
        n = name.removesuffix("/lora_a")
        out[n] = leaves[n] + layout.unmatrix(scale * (own[name] @ own[f"{n}/lora_b"]), leaves[n])
    return out

  return beside(model, start, change, trained, label)


def _only(model: Model, what: str, pick: Callable, layers: str, trained: str) -> Model:
  """The model of which leaves that ``pick(name, leaves)`` and ``layers`` take are trained, and those of ``trained``."""

  def start(key, leaves):
    del key
    finds = finder("tuning_layers", layers)
    found = [n for n in leaves if pick(n, leaves) and finds(n)]
    return {n: leaves[n] for n in _some("tuning_layers", layers, what, found, leaves)}

  return beside(model, start, lambda own, leaves: {**leaves, **{n: own[n] for n in own}}, trained)


def bitfit(model: Model, *, layers: str = "", trained: str = HEAD) -> Model:
  """BitFit: only leaves called ``bias`` that ``layers`` finds ('': all) are trained, and those that ``trained`` finds.
  Ben Zaken et al., 2022. Raises UsageError where there is none."""
  return _only(model, "bias", lambda n, _: n.split("/")[-1] == "bias", layers, trained)


def lnfit(model: Model, *, layers: str = "", trained: str = HEAD) -> Model:
  """LNFit: only the scales and biases of norm layers (those with a leaf called ``scale``) are trained, and what
  ``trained`` finds. Raises UsageError for a network without such layers."""
  norm = lambda n, leaves: "/".join((*n.split("/")[:-1], "scale")) in leaves
  return _only(model, "leaf of a norm layer", norm, layers, trained)


def ssf(model: Model, *, layers: str = "", trained: str = HEAD) -> Model:
  """SSF: a layer's output y becomes ``gamma y + beta``, folded: ``W' = W gamma``, ``b' = b gamma + beta``.

  Of kernels and of norm layers' scales ('': all that are frozen), whose outputs are their last axis. ``params`` hold
  ``PATH/ssf_scale``, ones at first, and where the layer has a frozen bias ``PATH/ssf_shift``, zeros; a layer without a
  bias is scaled alone. Lian et al., 2022. Raises UsageError for patterns that find nothing.
  """

  def start(key, leaves):
    del key
    made, full = {}, in_full(leaves, trained)
    for n in chosen(leaves, layers, trained, NORMED, axes=(1, 2, 4)):
      size = layout.fan_out(leaves[n].shape)
      made[f"{n}/ssf_scale"] = jnp.ones(size, leaves[n].dtype)
      bias = layer_names.bias_of(n, leaves)
      if bias is not None and bias not in full:
        made[f"{n}/ssf_shift"] = jnp.zeros(size, leaves[bias].dtype)
    return made

  def change(own, leaves):
    out = dict(leaves)
    for name, gamma in own.items():
      if name.endswith("/ssf_scale"):
        n = name.removesuffix("/ssf_scale")
        out[n], bias = leaves[n] * gamma, layer_names.bias_of(n, leaves)
        if bias is not None:
          out[bias] = leaves[bias] * gamma + own.get(f"{n}/ssf_shift", 0)
    return out

  return beside(model, start, change, trained)


def unfolded(params, model_state):
  """``Model.plain`` where there is none."""
  del params, model_state
  raise UsageError("tuning: an adapter is no part of the network's own parameters; lora and ssf can be folded in")


def bottleneck(values: dict[str, Any], h):
  """``relu(h D + d) U + u`` of ``{"down", "down_bias", "up", "up_bias"}``, over the last axis."""
  row = lambda b: b.reshape((1,) * (h.ndim - 1) + b.shape)
  return jax.nn.relu(h @ values["down"] + row(values["down_bias"])) @ values["up"] + row(values["up_bias"])


def bottleneck_start(key, inputs: int, outputs: int, rank: int, dtype=jnp.float32) -> dict[str, Any]:
  """The leaves of :func:`bottleneck`: D uniform within ``1 / sqrt(inputs)``, all else zero."""
  down = jax.random.uniform(key, (inputs, rank), jnp.float32, -(inputs**-0.5), inputs**-0.5).astype(dtype)
  zeros = lambda *shape: jnp.zeros(shape, dtype)
  return {"down": down, "down_bias": zeros(rank), "up": zeros(rank, outputs), "up_bias": zeros(outputs)}


def behind_layers(run: Callable, change: dict[str, Callable], what: str):
  """``run()`` in which the output y of the Linen layer of each path is ``change[path](x, y)``, x the layer's input.
  UsageError, about ``what``, where a path is not the one of a Linen layer that is called."""
  met = set()

  def interceptor(next_fun, args, kwargs, context):
    y = next_fun(*args, **kwargs)
    path = "/".join(context.module.path)
    if context.method_name != "__call__" or path not in change:
      return y
    met.add(path)
    return change[path](args[0], y)

  with nn.intercept_methods(interceptor):
    out = run()
  if met != set(change):
    lost = ", ".join(sorted(set(change) - met))
    raise UsageError(f"{what} stands behind Linen layers; the model calls none of the path {lost}")
  return out


def with_bottlenecks(run: Callable, values: dict[str, dict], parallel: bool):
  """``run()`` with :func:`bottleneck` added to the outputs of the Linen layers of these paths: of the layer's output
  (serial), or of its input. UsageError where a path is not the one of a Linen layer that is called."""
  one = lambda own: lambda x, y: y + bottleneck(own, x if parallel else y)
  return behind_layers(run, {path: one(own) for path, own in values.items()}, "tuning: an adapter")


def adapter(
  model: Model, rank: int = 8, *, parallel: bool = False, layers: str = "", trained: str = HEAD
) -> Model:  # fmt: skip
  """Bottleneck adapters: ``y + relu(h D + d) U + u``, y a layer's output, h it too (serial), or its input (parallel).

  D ``[width, rank]``; U, u and d are zero at first. Behind each layer of a frozen kernel that ``layers`` finds ('':
  those called ``kernel``): of two axes, or serial of four (there over channels). Layers of a Linen model alone. Leaves
  ``PATH/adapter/{down, down_bias, up, up_bias}``. ``Model.plain`` raises UsageError: they cannot be folded. Houlsby et
  al., 2019; He et al., 2022. Raises UsageError for other models, patterns that find nothing and a rank below 1.
  """
  _positive(rank)
  mark = "/adapter/"
  layer_of = lambda kernel: kernel.rpartition("/")[0]

  def start(key, leaves):
    made: dict = {}
    for n in chosen(leaves, layers, trained, KERNELS, axes=(2,) if parallel else (2, 4)):
      shape = leaves[n].shape
      own = bottleneck_start(tree.fold(key, n), shape[0 if parallel else -1], shape[-1], rank, leaves[n].dtype)
      made |= {f"{layer_of(n)}{mark}{k}": v for k, v in own.items()}
    return made

  plain = beside(model, start, lambda own, leaves: leaves, trained)

  def intercepted(run):
    def call(params, *args, **told):
      values: dict[str, dict] = {}
      for name, leaf in tree.by_path(params).items():
        layer, found, part = name.rpartition(mark)
        if found:
          values.setdefault(layer, {})[part] = leaf
      return with_bottlenecks(lambda: run(params, *args, **told), values, parallel)

    return call

  capture = None if plain.capture is None else intercepted(plain.capture)
  return plain._replace(apply=intercepted(plain.apply), capture=capture, plain=unfolded)


def parallel_adapter(model: Model, rank: int = 8, *, layers: str = "", trained: str = HEAD) -> Model:
  """:func:`adapter` with ``parallel=True``."""
  return adapter(model, rank, parallel=True, layers=layers, trained=trained)


TUNINGS: dict[str, Callable[..., Model]] = {
  "lora": lora, "bitfit": bitfit, "lnfit": lnfit, "ssf": ssf, "adapter": adapter, "parallel_adapter": parallel_adapter,
}  # fmt: skip
OPTIONS: dict[str, Any] = {"tuning": "", "tuning_rank": 8, "tuning_layers": "", "tuning_trained": HEAD}


def tuned(model: Model, tuning: str, tuning_rank: int, tuning_layers: str, tuning_trained: str) -> Model:
  """The model under a tuning by name, '' for none; UsageError for another name, and for options that it does not
  read."""
  if tuning and tuning not in TUNINGS:
    raise UsageError(f"tuning: got {tuning!r}; allowed: {', '.join(TUNINGS)}, or '' for none")
  make = TUNINGS[tuning] if tuning else None
  reads = inspect.signature(make).parameters if make else {}
  given = {"rank": tuning_rank, "layers": tuning_layers, "trained": tuning_trained}
  for name, value in given.items():
    if name not in reads and value != OPTIONS[f"tuning_{name}"]:
      readers = [t for t, f in TUNINGS.items() if name in inspect.signature(f).parameters]
      raise UsageError(f"tuning_{name}: got {value!r}, which is read with tuning={', '.join(readers)} alone")
  return make(model, **{n: v for n, v in given.items() if n in reads}) if make else model
