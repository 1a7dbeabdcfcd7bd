"""Vision transformers in the layouts of Hugging Face (ViT, DeiT) and timm, as :class:`cljax.models.images.ViT`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from cljax.models.pretrained import leaves
from cljax.models.pretrained.folder import Folder

ACTIVATIONS: dict[str, Callable] = {
  "gelu": functools.partial(nn.gelu, approximate=False),
  "gelu_new": nn.gelu,
  "gelu_pytorch_tanh": nn.gelu,
  "relu": nn.relu,
  "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}
DEFAULTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "patch_size": 16, "num_channels": 3}
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


def form_of(folder: Folder) -> Form:
  """The sizes that the configuration gives; UsageError for what is no vision transformer, or one that is not known."""
  config = folder.config
  if "architecture" in config:
    return _timm(folder)
  kind = config.get("model_type")
  if kind not in ("vit", "deit"):
    raise folder.refuse(
      f"model_type: got {kind!r:.80}; those that are read: vit, deit, resnet, or timm's vit, deit and resnet"
    )
  return read(folder, kind, DEFAULTS, 2 if kind == "deit" else 1, bool(config.get("qkv_bias", True)))


def activation_of(folder: Folder, default: str) -> str:
  """The name of the activation; UsageError for one that is not known."""
  activation = folder.config.get("hidden_act", default)
  if activation not in ACTIVATIONS:
    raise folder.refuse(
      f"{folder.at}hidden_act: got {activation!r:.80}; those that are known: {', '.join(ACTIVATIONS)}"
    )
  return activation


def epsilon_of(folder: Folder, default: float) -> float:
  """What norms add to a variance; UsageError where it is no number above 0."""
  epsilon = folder.config.get("layer_norm_eps", default)
  if not isinstance(epsilon, float) or epsilon <= 0:
    raise folder.refuse(f"{folder.at}layer_norm_eps: got {epsilon!r:.80}; expected a number above 0")
  return epsilon


def read(folder: Folder, kind: str, defaults: Mapping[str, Any], tokens: int, biased: bool) -> Form:
  """The sizes of a transformer of images in Hugging Face's words; ``defaults`` are those of what may be left out."""
  number = lambda key: folder.number(key, defaults.get(key))
  activation, epsilon = activation_of(folder, defaults["hidden_act"]), epsilon_of(folder, defaults["layer_norm_eps"])
  size, patch, width = folder.config.get("image_size", 224), number("patch_size"), number("hidden_size")
  image = size if isinstance(size, list) else [size] * 2
  if len(image) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 or s % patch for s in image):
    raise folder.refuse(f"{folder.at}image_size: got {size!r:.80}; expected a multiple of the patch size {patch}")
  return _checked(
    folder,
    Form(
      kind, (image[0], image[1]), number("num_channels"), patch, width, number("num_hidden_layers"),
      number("num_attention_heads"), number("intermediate_size"), epsilon, activation, tokens, biased,
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


def check_heads(folder: Folder, heads: int, width: int) -> None:
  """UsageError where heads do not share the width."""
  if not heads or width % heads:
    raise folder.refuse(f"{folder.at}num_attention_heads: got {heads}, which does not divide the width {width}")


def _checked(folder: Folder, form: Form) -> Form:
  check_heads(folder, form.heads, form.width)
  return form


def leaves_of(form: Form, prefix: str, head: str, distilled: str) -> dict[str, leaves.Leaf]:
  """Each leaf of the network by its path. ``head``, ``distilled``: the names of classifiers, '' for none."""
  found: dict[str, leaves.Leaf] = {}

  timm, at = form.kind == "timm", prefix if form.kind == "timm" else f"{prefix}embeddings."
  tokens = ("cls_token", "dist_token" if timm else "distillation_token")[: form.tokens]
  found["class_token/token"] = leaves.Leaf(tuple(at + t for t in tokens), leaves.tokens)
  found["position/position"] = leaves.Leaf((at + ("pos_embed" if timm else "position_embeddings"),), leaves.tokens)
  patches = "patch_embed.proj" if timm else "patch_embeddings.projection"
  found |= leaves.layer("patches", at + patches, make=leaves.patches)
  found |= leaves.norm("norm", prefix + ("norm" if timm else "layernorm"))
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
    found |= leaves.norm(f"norm_{i}_0", names[0]) | leaves.norm(f"norm_{i}_1", names[1])
    found |= leaves.layer(f"attention_{i}/qkv", names[2], make=leaves.joined, maybe=not form.biased)
    for path, name in zip((f"attention_{i}/out", f"mlp_{i}_in", f"mlp_{i}_out"), names[3:], strict=True):
      found |= leaves.layer(path, name)
  for path, name in (("head", head), ("head_distilled", distilled)):
    if name:
      found |= leaves.layer(path, name)
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
  found = leaves_of(form, prefix, *(heads if own_head else ("", "")))
  sizes = "the patches" if form.kind == "timm" else "config.json"
  more = (f"{h}.{p}" for h in heads for p in ("weight", "bias"))
  return leaves.filled(folder, found, shapes, form.kind, sizes, UNUSED, more)
