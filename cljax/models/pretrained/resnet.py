"""Residual networks in the layouts of Hugging Face (ResNet) and of torchvision and timm."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cljax.core.types import Model, Outputs, UsageError
from cljax.models import images
from cljax.models.convolution import Convolution
from cljax.models.initial import flat_init
from cljax.models.linen import from_linen
from cljax.models.pretrained import fitting, leaves, vit
from cljax.models.pretrained.folder import Folder

UNUSED = re.compile(r".*\.num_batches_tracked")
BLOCKS = {"basic": 2, "bottleneck": 3}  # convolutions of a block
SIDE = 224  # to which rows are resized where the folder names no size


class Form(NamedTuple):
  """The sizes of a network."""

  kind: str  # 'resnet' or 'timm'
  channels: int
  stem: int
  widths: tuple[int, ...]
  depths: tuple[int, ...]
  block: str
  halves_first: bool  # the first stage halves the picture, too
  halves_early: bool  # a bottleneck does so in its first convolution
  activation: str

  def stride(self, stage: int) -> int:
    return 2 if stage or self.halves_first else 1


class Bottleneck(nn.Module):
  width: int
  stride: int
  activation: Callable
  halves_early: bool

  @nn.compact
  def __call__(self, x, train=False):
    norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
    inner, stride = self.width // 4, self.stride
    first, second = (stride, 1) if self.halves_early else (1, stride)
    y = x
    for i, (width, size, step) in enumerate(((inner, 1, first), (inner, 3, second), (self.width, 1, 1))):
      pad = ((size // 2, size // 2),) * 2
      y = Convolution(width, (size, size), (step, step), pad, use_bias=False, name=f"conv_{i}")(y)
      y = norm(name=f"norm_{i}")(y)
      y = self.activation(y) if i < 2 else y
    if stride != 1 or x.shape[-1] != self.width:
      project = Convolution(self.width, (1, 1), (stride, stride), "VALID", use_bias=False, name="project")
      x = norm(name="norm_project")(project(x))
    return self.activation(x + y)


class ResNet(nn.Module):
  num_classes: int
  form: Form

  @nn.compact
  def __call__(self, x, train=False):
    form, act, hidden = self.form, vit.ACTIVATIONS[self.form.activation], []
    x = Convolution(form.stem, (7, 7), (2, 2), ((3, 3), (3, 3)), use_bias=False, name="conv")(x)
    x = act(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for s, (width, depth) in enumerate(zip(form.widths, form.depths, strict=True)):
      for i in range(depth):
        stride, name = 1 if i else form.stride(s), f"block_{s}_{i}"
        if form.block == "basic":
          block: nn.Module = images.ResidualBlock(width, stride, act, name=name)
        else:
          block = Bottleneck(width, stride, act, form.halves_early, name=name)
        x = block(x, train)
      hidden.append(x)
    x = x.mean((1, 2))
    return Outputs(nn.Dense(self.num_classes, name="head")(x), x, tuple(hidden))


def is_one(folder: Folder) -> bool:
  """Whether the folder's configuration says that it is a residual network."""
  return folder.config.get("model_type") == "resnet" or str(folder.config.get("architecture", "")).startswith("resnet")


def form_of(folder: Folder) -> Form:
  """The sizes that the configuration gives (of timm's: the tensors); UsageError for one that is not known."""
  if "architecture" in folder.config:
    return _timm(folder)
  block = folder.config.get("layer_type", "bottleneck")
  if block not in BLOCKS:
    raise folder.refuse(f"layer_type: got {block!r:.80}; those that are known: {', '.join(BLOCKS)}")
  widths = _counts(folder, "hidden_sizes", [256, 512, 1024, 2048])
  depths = _counts(folder, "depths", [3, 4, 6, 3])
  if len(widths) != len(depths):
    raise folder.refuse(f"depths: got {len(depths)} stages; hidden_sizes has {len(widths)}")
  if block == "bottleneck" and any(w % 4 for w in widths):
    raise folder.refuse(f"hidden_sizes: got {list(widths)}; expected multiples of 4, since bottlenecks are a quarter")
  said = lambda key: bool(folder.config.get(key, False))
  return Form(
    "resnet", folder.number("num_channels", 3), folder.number("embedding_size", 64), widths, depths, block,
    said("downsample_in_first_stage"), said("downsample_in_bottleneck"), vit.activation_of(folder, "relu"),
  )  # fmt: skip


def _counts(folder: Folder, key: str, default: list[int]) -> tuple[int, ...]:
  found = folder.config.get(key, default)
  good = isinstance(found, list) and found
  if not good or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in found):
    raise folder.refuse(f"{key}: got {found!r:.80}; expected a list of integers of at least 1")
  return tuple(found)


def _timm(folder: Folder) -> Form:
  """Of torchvision's and timm's networks sizes lie in the tensors; the stride is in the bottleneck's middle."""
  name, tensors = folder.config["architecture"], folder.tensors
  if not re.fullmatch(r"resnet(18|34|50|101|152)", str(name)):
    raise folder.refuse(
      f"architecture: got {name!r:.80}; timm's residual networks that are read: resnet18 to resnet152"
    )
  if "conv1.weight" not in tensors:
    raise folder.refuse("missing tensors: conv1.weight", "*.safetensors")
  found = [re.match(r"layer(\d+)\.(\d+)\.conv(\d)\.weight", n) for n in tensors]
  at = [tuple(int(g) for g in m.groups()) for m in found if m]
  stages = max((s for s, _, _ in at), default=0)
  depths = tuple(1 + max((i for s, i, _ in at if s == stage), default=-1) for stage in range(1, stages + 1))
  last = max((c for _, _, c in at), default=0)
  names = [f"layer{s}.0.conv{last}.weight" for s in range(1, stages + 1)]
  if last not in BLOCKS.values() or 0 in depths or any(n not in tensors for n in names):
    raise folder.refuse("missing tensors: layer1.0.conv2.weight and its like", "*.safetensors")
  stem, channels = tensors["conv1.weight"].shape[:2]
  block = {c: b for b, c in BLOCKS.items()}[last]
  return Form("timm", channels, stem, tuple(tensors[n].shape[0] for n in names), depths, block, False, False, "relu")


def _kernel(w):
  """``[c_out, c_in, kh, kw]`` as ``[kh, kw, c_in, c_out]``."""
  return w.transpose(2, 3, 1, 0)


def _pair(path: str, conv: str, norm: str, path_norm: str) -> dict[str, leaves.Leaf]:
  """A convolution and the norm behind it: parameters and running statistics."""
  found = {f"params/{path}/kernel": leaves.Leaf((f"{conv}.weight",), _kernel)}
  found |= {f"params/{n}": leaf for n, leaf in leaves.norm(path_norm, norm).items()}
  running = (("mean", "running_mean"), ("var", "running_var"))
  return found | {f"batch_stats/{path_norm}/{n}": leaves.Leaf((f"{norm}.{t}",), leaves.vectors) for n, t in running}


def leaves_of(form: Form, prefix: str, head: str) -> dict[str, leaves.Leaf]:
  """Each leaf of the network by its path. ``head``: the name of the classifier, '' for none."""
  timm = form.kind == "timm"
  stem = ("conv1", "bn1") if timm else tuple(f"{prefix}embedder.embedder.{n}" for n in ("convolution", "normalization"))
  found = _pair("conv", stem[0], stem[1], "norm")
  came = form.stem
  for s, (width, depth) in enumerate(zip(form.widths, form.depths, strict=True)):
    for i in range(depth):
      at, b = f"layer{s + 1}.{i}." if timm else f"{prefix}encoder.stages.{s}.layers.{i}.", f"block_{s}_{i}"
      for c in range(BLOCKS[form.block]):
        names = [f"conv{c + 1}", f"bn{c + 1}"] if timm else [f"layer.{c}.{n}" for n in ("convolution", "normalization")]
        found |= _pair(f"{b}/conv_{c}", at + names[0], at + names[1], f"{b}/norm_{c}")
      if not i and (came != width or form.stride(s) != 1):
        names = (
          ["downsample.0", "downsample.1"] if timm else [f"shortcut.{n}" for n in ("convolution", "normalization")]
        )
        found |= _pair(f"{b}/project", at + names[0], at + names[1], f"{b}/norm_project")
    came = width
  if head:
    found |= {f"params/{n}": leaf for n, leaf in leaves.layer("head", head).items()}
  return found


def _image_of(folder: Folder, form: Form, input_shape: Sequence[int], size: str) -> tuple[int, int]:
  """The size of the pictures that the network is given: any, since its last layer is a mean over positions."""
  height, across, channels = images._image(input_shape)
  if channels not in (1, form.channels):
    raise UsageError(f"input_shape: rows have {channels} channels; this network takes 1 or {form.channels}")
  if size == "positions":
    raise UsageError(
      "model.size: got 'positions'; a residual network has none; allowed: refuse (rows as they are), resize"
    )
  if size == "refuse":
    return height, across
  said = folder.config.get("image_size", SIDE)
  if isinstance(said, bool) or not isinstance(said, int) or said < 1:
    raise folder.refuse(f"image_size: got {said!r:.80}; expected an integer of at least 1")
  return said, said


def build(held: Folder, input_shape: Sequence[int], num_classes: int, head: str, size: str, normalise: str) -> Model:
  """The folder's residual network on rows: see :func:`cljax.models.pretrained`."""
  form = form_of(held)
  image = _image_of(held, form, input_shape, size)
  name = "fc" if form.kind == "timm" else "classifier.1"
  if head == "own":
    fitting.own_classes(held, name, num_classes)
  module = ResNet(num_classes, form)
  shapes: Any = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *image, form.channels)))
  prefix = "resnet." if form.kind == "resnet" and any(n.startswith("resnet.") for n in held.tensors) else ""
  sizes = "its own layers" if form.kind == "timm" else "config.json"
  own = leaves_of(form, prefix, name if head == "own" else "")
  found = leaves.filled(held, own, shapes, "a residual network", sizes, UNUSED, (f"{name}.weight", f"{name}.bias"))

  def init(shapes, key):
    new = {k: v for k, v in shapes["params"].items() if k not in found["params"]}
    kept = jax.tree.map(jnp.asarray, found)
    return {"params": {**kept["params"], **flat_init(new, key)}, "batch_stats": kept["batch_stats"]}

  model = from_linen(module, (*image, form.channels), init=init)
  return fitting.on_rows(model, held, form, image, normalise)
