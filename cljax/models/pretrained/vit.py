"""Vision transformers in the layouts of Hugging Face (ViT, DeiT) and timm, as :class:`cljax.models.images.ViT`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax import traverse_util

from cljax.models.pretrained.folder import Folder

ACTIVATIONS: dict[str, Callable] = {
  "gelu": functools.partial(nn.gelu, approximate=False),
  "gelu_new": nn.gelu,
  "gelu_pytorch_tanh": nn.gelu,
  "relu": nn.relu,
}
UNUSED = re.compile(r"((vit|deit)\.)?(pooler\..*|embeddings\.mask_token|embeddings\.position_ids)")
PREFIXES = {"vit": "vit.", "deit": "deit.", "timm": ""}


class Form(NamedTuple):
  """The sizes of a network."""

  kind: str  # 'vit', 'deit' or 'timm'
  image: tuple[int, int]
  channels: int
  patch: int
  width: int
  depth: int
  heads: int
  inner: int
  epsilon: float
  activation: str
  tokens: int
  biased: bool  # queries, keys and values


class Leaf(NamedTuple):
  """A leaf of the network: the tensors it is made of, and how."""

  names: tuple[str, ...]
  make: Callable[..., Any]
  maybe: bool = False  # 0 where the layout has no such tensors


def form_of(folder: Folder) -> Form:
  """The sizes that the configuration gives; UsageError for what is no vision transformer, or one that is not known."""
  config = folder.config
  if "architecture" in config:
    return _timm(folder)
  kind = config.get("model_type")
  if kind not in ("vit", "deit"):
    raise folder.refuse(f"model_type: got {kind!r:.80}; those that are read: vit, deit, or timm's vit and deit")
  activation, epsilon = config.get("hidden_act", "gelu"), config.get("layer_norm_eps", 1e-12)
  if activation not in ACTIVATIONS:
    raise folder.refuse(f"hidden_act: got {activation!r:.80}; those that are known: {', '.join(ACTIVATIONS)}")
  if not isinstance(epsilon, float) or epsilon <= 0:
    raise folder.refuse(f"layer_norm_eps: got {epsilon!r:.80}; expected a number above 0")
  number = folder.number
  sizes = config.get("image_size", 224), number("patch_size", 16), number("hidden_size")
  image, patch, width = sizes[0] if isinstance(sizes[0], list) else [sizes[0]] * 2, sizes[1], sizes[2]
  if len(image) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 or s % patch for s in image):
    raise folder.refuse(f"image_size: got {sizes[0]!r:.80}; expected a multiple of the patch size {patch}")
  return _checked(
    folder,
    Form(
      kind, (image[0], image[1]), number("num_channels", 3), patch, width, number("num_hidden_layers"),
      number("num_attention_heads"), number("intermediate_size"), epsilon, activation, 2 if kind == "deit" else 1,
      bool(config.get("qkv_bias", True)),
    ),
  )  # fmt: skip


def _timm(folder: Folder) -> Form:
  """Sizes of timm's networks, which lie in their tensors and, of the heads, in their names: 64 wide each."""
  name, tensors = folder.config["architecture"], folder.tensors
  if not re.fullmatch(r"(vit|deit)_(tiny|small|base|large)(_distilled)?_patch\d+_\d+", str(name)):
    raise folder.refuse(
      f"architecture: got {name!r:.80}; timm's that are read: vit and deit, tiny to large, such as vit_base_patch16_224"
    )
  patch, place, inner = "patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"
  for lacking in {patch, place, inner} - set(tensors):
    raise folder.refuse(f"missing tensors: {lacking}", "*.safetensors")
  width, channels, size = tensors[patch].shape[:3]
  tokens = 2 if "dist_token" in tensors else 1
  side = round((tensors[place].shape[1] - tokens) ** 0.5)
  depth = 1 + max(int(m[1]) for m in (re.match(r"blocks\.(\d+)\.", n) for n in tensors) if m)
  return _checked(
    folder,
    Form(
      "timm", (side * size, side * size), channels, size, width, depth, width // 64, tensors[inner].shape[0], 1e-6,
      "gelu", tokens, "blocks.0.attn.qkv.bias" in tensors,
    ),
  )  # fmt: skip


def _checked(folder: Folder, form: Form) -> Form:
  if not form.heads or form.width % form.heads:
    raise folder.refuse(f"num_attention_heads: got {form.heads}, which does not divide the width {form.width}")
  return form


def _kernel(w):
  return w.T


def _joined(*parts):
  return np.concatenate([p.T for p in parts], axis=-1)


def _vectors(*parts):
  return np.concatenate(parts, axis=-1)


def _patches(w):
  """``[D, C, p, p]`` of a convolution as ``[p p C, D]``."""
  return w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0])


def _tokens(*parts):
  return np.concatenate([p[0] for p in parts])


def leaves_of(form: Form, prefix: str, head: str, distilled: str) -> dict[str, Leaf]:
  """Each leaf of the network by its path. ``head``, ``distilled``: the names of classifiers, '' for none."""
  found: dict[str, Leaf] = {}

  def layer(path: str, names, kernel: str = "kernel", make: Callable = _kernel, maybe: bool = False):
    names = (names,) if isinstance(names, str) else names
    found[f"{path}/{kernel}"] = Leaf(tuple(f"{n}.weight" for n in names), make)
    found[f"{path}/bias"] = Leaf(tuple(f"{n}.bias" for n in names), _vectors, maybe)

  norm = lambda path, name: layer(path, name, "scale", _vectors)
  timm, at = form.kind == "timm", prefix if form.kind == "timm" else f"{prefix}embeddings."
  tokens = ("cls_token", "dist_token" if timm else "distillation_token")[: form.tokens]
  found["class_token/token"] = Leaf(tuple(at + t for t in tokens), _tokens)
  found["position/position"] = Leaf((at + ("pos_embed" if timm else "position_embeddings"),), _tokens)
  layer("patches", at + ("patch_embed.proj" if timm else "patch_embeddings.projection"), make=_patches)
  norm("norm", prefix + ("norm" if timm else "layernorm"))
  for i in range(form.depth):
    if timm:
      b = f"{prefix}blocks.{i}."
      names: tuple[Any, ...] = tuple(b + n for n in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))
    else:
      b = f"{prefix}encoder.layer.{i}."
      qkv = tuple(f"{b}attention.attention.{n}" for n in ("query", "key", "value"))
      names = (
        b + "layernorm_before", b + "layernorm_after", qkv, b + "attention.output.dense", b + "intermediate.dense",
        b + "output.dense",
      )  # fmt: skip
    norm(f"norm_{i}_0", names[0])
    norm(f"norm_{i}_1", names[1])
    layer(f"attention_{i}/qkv", names[2], make=_joined, maybe=not form.biased)
    for path, name in zip((f"attention_{i}/out", f"mlp_{i}_in", f"mlp_{i}_out"), names[3:], strict=True):
      layer(path, name)
  for path, name in (("head", head), ("head_distilled", distilled)):
    if name:
      layer(path, name)
  return found


def classifiers(folder: Folder, form: Form) -> tuple[str, str]:
  """The names of the folder's own classifiers, '' for one that it has not."""
  pairs = {"timm": ("head", "head_dist"), "deit": ("cls_classifier", "distillation_classifier")}
  first, second = pairs.get(form.kind, ("classifier", ""))
  if form.kind == "deit" and f"{first}.weight" not in folder.tensors:
    first, second = "classifier", ""
  there = lambda name: name if f"{name}.weight" in folder.tensors else ""
  return there(first), there(second) if form.tokens == 2 and second else ""


def params_of(folder: Folder, form: Form, shapes: dict, own_head: bool) -> dict:
  """The parameters as the network has them, float32; ``shapes`` are those it should have. UsageError that names the
  tensors which are missing, unknown, or of another shape."""
  heads = classifiers(folder, form)
  prefix = PREFIXES[form.kind]
  prefix = prefix if any(n.startswith(prefix) for n in folder.tensors) else ""
  leaves = leaves_of(form, prefix, *(heads if own_head else ("", "")))
  tensors = folder.tensors
  missing = [n for leaf in leaves.values() if not leaf.maybe for n in leaf.names if n not in tensors]
  if missing:
    raise folder.refuse(f"missing tensors: {_some(missing)}", "*.safetensors")
  used = {n for leaf in leaves.values() for n in leaf.names} | {f"{h}.{p}" for h in heads for p in ("weight", "bias")}
  unknown = [n for n in tensors if n not in used and not UNUSED.fullmatch(n)]
  if unknown:
    raise folder.refuse(f"tensors that {form.kind} has not: {_some(unknown)}", "*.safetensors")
  wanted, found = traverse_util.flatten_dict(shapes, sep="/"), {}
  for path, leaf in leaves.items():
    absent = leaf.maybe and not all(n in tensors for n in leaf.names)
    shape = tuple(wanted[path].shape)
    try:
      made = np.zeros(shape, np.float32) if absent else leaf.make(*(tensors[n] for n in leaf.names))
    except ValueError:  # shapes that do not join
      made = np.zeros(0, np.float32)
    if made.shape != shape:
      given = ", ".join(f"{n} {list(tensors[n].shape)}" for n in leaf.names)
      raise folder.refuse(f"{given}: not of the sizes in {'the patches' if form.kind == 'timm' else 'config.json'}",
                          "*.safetensors")  # fmt: skip
    found[path] = np.ascontiguousarray(made, np.float32)
  return traverse_util.unflatten_dict(found, sep="/")


def _some(names) -> str:
  names = sorted(names)
  return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
