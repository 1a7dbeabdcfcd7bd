"""Decoders from Hugging Face's folders: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.extras import needed
from cljax.core.types import Model, UsageError
from cljax.models.decoder.build import model_of
from cljax.models.decoder.shape import Shape, checked

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")
DTYPES = ("float32", "bfloat16")
SHOWN = 5  # tensors that an error names


def read_config(folder: Path) -> dict[str, Any]:
  """``config.json`` of a folder; UsageError where there is none or it is no JSON object."""
  path = folder / "config.json"
  if not path.is_file():
    converts = "; python -m cljax.data.prepare FILE.gguf makes a folder of one" if folder.suffix == ".gguf" else ""
    raise UsageError(f"folder: {folder} has no config.json; expected a Hugging Face folder{converts}")
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, OSError) as error:
    raise UsageError(f"folder: {path} cannot be read ({' '.join(str(error).split())[:120]})") from None
  if not isinstance(found, dict):
    raise UsageError(f"folder: {path} holds {type(found).__name__}; expected an object")
  return found


class _Fields:
  """A config's fields, each asked for by name: what is missing or not done here is refused with the file's name."""

  def __init__(self, config: Mapping[str, Any], path: str):
    self.config, self.path = config, path

  def get(self, name: str, default: Any = None) -> Any:
    value = self.config.get(name, default)
    value = default if value is None else value
    if value is None:
      raise UsageError(f"{self.path}: lacks {name}")
    return value

  def number(self, name: str, default: Any = None, kind: type = int) -> Any:
    value = self.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and value != int(value)):
      raise UsageError(f"{self.path}: {name} is {value!r}; expected a number")
    return kind(value)

  def refuse(self, name: str, *allowed: Any) -> None:
    """UsageError unless the field is absent or one of ``allowed``."""
    value = self.config.get(name)
    if value is not None and value not in allowed:
      raise UsageError(f"{self.path}: {name} is {value!r}; implemented: {', '.join(map(str, allowed))}")


def _rope_base(f: _Fields) -> float:
  """The base under the old key or the new one; every other way of turning than the plain one is refused by name."""
  told = f.config.get("rope_parameters") or {}
  for name in ("rope_scaling", "rope_parameters"):
    rope = f.config.get(name) or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
    if kind != "default":
      raise UsageError(f"{f.path}: {name} has rope_type {kind!r}; implemented: default")
  for source in (told, f.config):
    _Fields(source, f.path).refuse("partial_rotary_factor", 1.0)
  for source in (told, f.config):
    if source.get("rope_theta") is not None:
      return _Fields(source, f.path).number("rope_theta", kind=float)
  raise UsageError(f"{f.path}: lacks rope_theta, which no default can stand for")


def shape_of(config: Mapping[str, Any], path: str = "config.json") -> Shape:
  """The :class:`Shape` that a ``config.json`` means; UsageError for an architecture, or a way to compute, that is not
  implemented."""
  f = _Fields(config, path)
  kind = config.get("model_type")
  if kind not in ARCHITECTURES:
    told = config.get("architectures")
    shown = f"{kind!r}" + (f" ({', '.join(map(str, told))})" if isinstance(told, list) and told else "")
    raise UsageError(f"{path}: model_type is {shown}; implemented: {', '.join(ARCHITECTURES)}")
  if kind == "gpt2":
    f.refuse("activation_function", "gelu_new", "gelu_pytorch_tanh", "gelu")
    f.refuse("scale_attn_weights", True)
    f.refuse("scale_attn_by_inverse_layer_idx", False)
    width, heads = f.number("n_embd"), f.number("n_head")
    inner = f.number("n_inner", 4 * width)
    exact = config.get("activation_function") == "gelu"
    return _checked(path, Shape(
      f.number("n_positions"), f.number("vocab_size"), width, f.number("n_layer"), heads, heads, width // max(heads, 1),
      inner, epsilon=f.number("layer_norm_epsilon", 1e-5, float), tied=f.get("tie_word_embeddings", True),
      layout="gpt2",
      attention_bias=True, output_bias=True, mlp_bias=True, gelu="exact" if exact else "tanh",
    ))  # fmt: skip
  f.refuse("hidden_act", "silu", "swish")
  f.refuse("use_sliding_window", False)
  f.refuse("layer_types", ["full_attention"] * f.number("num_hidden_layers"))
  width, heads = f.number("hidden_size"), f.number("num_attention_heads")
  kv = f.number("num_key_value_heads", heads if kind == "llama" else None)
  each = f.number("head_dim", 128 if kind == "qwen3" else width // max(heads, 1))
  biased = bool(f.get("attention_bias", kind == "qwen2"))
  return _checked(path, Shape(
    f.number("max_position_embeddings"), f.number("vocab_size"), width, f.number("num_hidden_layers"), heads, kv, each,
    f.number("intermediate_size"), _rope_base(f), f.number("rms_norm_eps", kind=float),
    f.get("tie_word_embeddings", False), "llama", biased or kind == "qwen2", biased and kind != "qwen2",
    bool(f.get("mlp_bias", False)), kind == "qwen3",
  ))  # fmt: skip


def folder_shape(folder: str | os.PathLike) -> Shape:
  """The :class:`Shape` of a folder's ``config.json``."""
  folder = Path(folder).expanduser()
  return shape_of(read_config(folder), str(folder / "config.json"))


def _checked(path: str, shape: Shape) -> Shape:
  try:
    return checked(shape)
  except UsageError as error:
    raise UsageError(f"{path}: {error}") from None


def names(shape: Shape) -> dict[str, tuple[str, bool]]:
  """Of each leaf of the parameters, its name in the file and whether it lies there transposed."""
  found: dict[str, tuple[str, bool]] = {}
  if shape.layout == "gpt2":
    found |= {"wte/embedding": ("wte.weight", False), "wpe/position": ("wpe.weight", False)}
    layers, norms = ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj"), ("ln_1", "ln_2")
    for i in range(shape.depth):
      for name in layers:
        file = f"h.{i}.{name.replace('/', '.')}"
        found |= {f"h_{i}/{name}/kernel": (f"{file}.weight", False), f"h_{i}/{name}/bias": (f"{file}.bias", False)}
      for name in norms:
        found |= {f"h_{i}/{name}/{a}": (f"h.{i}.{name}.{b}", False) for a, b in (("scale", "weight"), ("bias", "bias"))}
    found |= {"ln_f/scale": ("ln_f.weight", False), "ln_f/bias": ("ln_f.bias", False)}
  else:
    found["embed_tokens/embedding"] = ("model.embed_tokens.weight", False)
    biases = {"self_attn": shape.attention_bias, "mlp": shape.mlp_bias}
    for i in range(shape.depth):
      for part, each in (("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
                         ("mlp", ("gate_proj", "up_proj", "down_proj"))):  # fmt: skip
        for name in each:
          file = f"model.layers.{i}.{part}.{name}"
          found[f"layers_{i}/{part}/{name}/kernel"] = (f"{file}.weight", True)
          if shape.output_bias if name == "o_proj" else biases[part]:
            found[f"layers_{i}/{part}/{name}/bias"] = (f"{file}.bias", False)
      inner = ("self_attn/q_norm", "self_attn/k_norm") if shape.query_norm else ()
      for name in ("input_layernorm", "post_attention_layernorm", *inner):
        found[f"layers_{i}/{name}/scale"] = (f"model.layers.{i}.{name.replace('/', '.')}.weight", False)
    found["norm/scale"] = ("model.norm.weight", False)
  if not shape.tied:
    found["lm_head/kernel"] = ("lm_head.weight", True)
  return found


def _files(folder: Path) -> list[Path]:
  whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
  if whole.is_file():
    return [whole]
  if not index.is_file():
    raise UsageError(f"folder: {folder} has no model.safetensors; expected a Hugging Face folder")
  try:
    parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
  except (ValueError, KeyError, AttributeError, OSError):
    raise UsageError(f"folder: {index} cannot be read; expected 'weight_map', a file for each tensor") from None
  lacking = [p for p in parts if not (folder / p).is_file()]
  if lacking:
    raise UsageError(f"folder: {folder} lacks {', '.join(lacking[:SHOWN])}, which its index names")
  return [folder / p for p in parts]


def _told(tensors: list[str]) -> str:
  more = f" and {len(tensors) - SHOWN} more" if len(tensors) > SHOWN else ""
  return ", ".join(tensors[:SHOWN]) + more


def _plain(name: str, shape: Shape) -> str:
  """A tensor's name without the prefix that GPT-2's files have or have not."""
  return name.removeprefix("transformer.") if shape.layout == "gpt2" else name


def _buffer(name: str, shape: Shape) -> bool:
  """Whether a tensor is no weight: GPT-2's triangles, Llama's table of speeds."""
  ends = (".attn.bias", ".attn.masked_bias") if shape.layout == "gpt2" else (".rotary_emb.inv_freq",)
  return name.endswith(ends)


def read_weights(folder: Path, shape: Shape, dtype: str = "float32") -> dict[str, Any]:
  """The parameters as nested dicts of NumPy arrays; UsageError, with names, for tensors that are missing, extra or of
  another shape."""
  with needed("pretrained_decoder"):
    from safetensors import SafetensorError, safe_open
  wanted = {file: (leaf, turned) for leaf, (file, turned) in names(shape).items()}
  sizes = dict(_sizes(shape))
  flat: dict[str, np.ndarray] = {}
  extra, head = [], None
  for path in _files(folder):
    try:
      with safe_open(path, framework="flax", device="cpu") as tensors:
        for key in tensors.keys():  # noqa: SIM118
          name = _plain(key, shape)
          if name not in wanted:
            if shape.tied and name == "lm_head.weight":
              head = np.asarray(tensors.get_tensor(key))
            elif not _buffer(name, shape):
              extra.append(key)
            continue
          leaf, turned = wanted[name]
          a = np.asarray(tensors.get_tensor(key))
          a = a.T if turned and a.ndim == 2 else a
          if a.shape != sizes[leaf]:
            expected = sizes[leaf][::-1] if turned else sizes[leaf]
            raise UsageError(f"{path}: {key} is {list(a.T.shape if turned else a.shape)}; expected {list(expected)}")
          flat[leaf] = np.ascontiguousarray(a, dtype=jnp.dtype(dtype))
    except (SafetensorError, OSError) as error:
      raise UsageError(f"folder: {path} cannot be read ({' '.join(str(error).split())[:120]})") from None
  missing = [file for file, (leaf, _) in wanted.items() if leaf not in flat]
  if missing:
    raise UsageError(f"folder: {folder} lacks the tensors {_told(missing)}")
  if extra:
    raise UsageError(f"folder: {folder} has tensors that the model of its config.json does not: {_told(extra)}")
  embedding = flat["wte/embedding" if shape.layout == "gpt2" else "embed_tokens/embedding"]
  if head is not None and (head.shape != embedding.shape or (head.astype(embedding.dtype) != embedding).any()):
    raise UsageError(
      f"folder: {folder} has lm_head.weight, which is not the embedding; config.json says that it is tied"
    )
  return _nested(flat)


def _sizes(shape: Shape):
  shapes = jax.eval_shape(model_of(shape).init, jax.random.key(0))[0]
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
    yield "/".join(k.key for k in path), leaf.shape


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
  made: dict[str, Any] = {}
  for path, leaf in flat.items():
    *parents, last = path.split("/")
    at = made
    for name in parents:
      at = at.setdefault(name, {})
    at[last] = leaf
  return made


def pretrained_decoder(folder: str | os.PathLike, dtype: str = "float32", remat: bool = False) -> Model:
  """A decoder with the weights of a Hugging Face folder: ``config.json``, ``model.safetensors`` in one part or more.

  Architectures: Llama (SmolLM, SmolLM2 and others of its layout), Qwen 2 and 3, GPT-2; what of them a config asks and
  is not done here (a scaled rotation, a sliding window, another activation) is refused by name. ``init`` gives the
  weights, whatever its key, as ``dtype``, 'float32' or 'bfloat16'. ``remat`` and inputs as for
  :func:`cljax.models.decoder`. :func:`cljax.data.tokenizer` reads the folder's tokens. Needs ``cljax[pretrained]``.
  Raises UsageError for a folder that lacks a file, an unknown architecture, and tensors that are missing, extra or of
  another shape, by their names.
  """
  if dtype not in DTYPES:
    raise UsageError(f"dtype: got {dtype!r}; allowed: {', '.join(DTYPES)}")
  folder = Path(folder).expanduser()
  shape = folder_shape(folder)
  params = read_weights(folder, shape, dtype)
  model = model_of(shape, remat)
  return model._replace(init=lambda key: (jax.tree.map(jnp.asarray, params), {}))
