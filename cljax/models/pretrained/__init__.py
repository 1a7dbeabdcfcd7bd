"""Networks whose weights are read from a folder. Nothing is downloaded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cljax.core.types import Model, UsageError
from cljax.models import images
from cljax.models.initial import flat_init
from cljax.models.linen import from_linen
from cljax.models.pretrained import folder as folders
from cljax.models.pretrained import vit
from cljax.models.prompts import Places

HEADS, SIZES, NORMALISE = ("new", "own"), ("refuse", "resize", "positions"), ("folder", "none")


def _choice(name: str, value, allowed) -> None:
  if value not in allowed:
    raise UsageError(f"model.{name}: got {value!r:.80}; allowed: {', '.join(allowed)}")


def pretrained(
  folder: str, input_shape: Sequence[int], num_classes: int, *, head: str = "new", size: str = "refuse",
  normalise: str = "folder",
) -> Model:  # fmt: skip
  """A vision transformer from a folder with ``config.json`` and ``*.safetensors``, as published.

  Hugging Face's ViT and DeiT (with or without its teacher's head) and timm's plain ViT and DeiT. Rows are ``[B, H, W]``
  or ``[B, H, W, C]`` in [0, 1]; grey ones are repeated over the network's channels. They are normalised by the mean and
  deviation of ``preprocessor_config.json`` (timm: of ``config.json``), with ``normalise`` 'none' not at all. ``size``,
  where rows are of another size than the network's images: 'refuse', 'resize' (the rows, bilinear), or 'positions' (the
  network's positions are interpolated, cubic, and its tokens are as many as the rows' patches). ``head`` 'new': a
  classifier that is drawn by the key; 'own': the folder's, for as many classes as it has (DeiT's two: their mean).
  All else begins as in the folder, whatever the key. Takes prompts (:mod:`cljax.models.prompts`); the features are the
  class token behind the last norm, a pooler is not read. Queries, keys and values that have no biases begin with 0.

  Needs ``cljax[pretrained]``. Raises UsageError, one line that names the file, for a folder, a configuration or tensors
  that are missing, broken or unknown, for images of another size or number of channels, and for options that are none.
  Dosovitskiy et al. 2021; Touvron et al. 2021.
  """
  for name, value, allowed in (("head", head, HEADS), ("size", size, SIZES), ("normalise", normalise, NORMALISE)):
    _choice(name, value, allowed)
  held = folders.load(folder)
  form = vit.form_of(held)
  height, across, channels = images._image(input_shape)
  if channels not in (1, form.channels):
    raise UsageError(f"input_shape: rows have {channels} channels; this network takes 1 or {form.channels}")
  image = form.image
  if (height, across) != image and size == "refuse":
    raise UsageError(
      f"input_shape: rows are {height}x{across}, the images of {held.path} {image[0]}x{image[1]}; model.size=resize "
      "resizes the rows, model.size=positions interpolates the positions"
    )
  if size == "positions":
    if height % form.patch or across % form.patch:
      raise UsageError(f"input_shape: rows are {height}x{across}, which patches of {form.patch} do not divide")
    image = (height, across)
  classes, distilled = num_classes, False
  if head == "own":
    first, second = vit.classifiers(held, form)
    if not first:
      raise held.refuse("holds no classifier; model.head=new makes one", "*.safetensors")
    classes, distilled = held.tensors[f"{first}.weight"].shape[0], bool(second)
    if classes != num_classes:
      raise UsageError(f"num_classes: got {num_classes}; the classifier of {held.path} has {classes}; model.head=new")
  module = lambda: images.ViT(
    classes, form.patch, form.width, form.depth, form.heads, 0, 0.0, vit.ACTIVATIONS[form.activation], form.inner,
    form.epsilon, form.tokens, distilled,
  )  # fmt: skip
  shapes = lambda image: jax.eval_shape(module().init, jax.random.key(0), jnp.zeros((1, *image, form.channels)))
  wanted = shapes(form.image)["params"]
  found = vit.params_of(held, form, wanted, head == "own")
  if image != form.image:
    found["position"]["position"] = interpolated(found["position"]["position"], form, image)

  def init(shapes, key):
    new = {k: v for k, v in shapes["params"].items() if k not in found}
    return {"params": {**jax.tree.map(jnp.asarray, found), **flat_init(new, key)}}

  model = from_linen(module(), (*image, form.channels), init=init)
  prepare = functools.partial(
    _eaten, image=image, channels=form.channels,
    by=None if normalise == "none" else folders.normalisation(held, form.channels),
  )  # fmt: skip
  return _on(model._replace(prompts=Places(form.width, form.depth)), prepare)


def interpolated(position, form: vit.Form, image: tuple[int, int]):
  """``[tokens + n, D]``: the positions of the patches, cubically at those of ``image``; the tokens' own as they are."""
  grid = [s // form.patch for s in form.image], [s // form.patch for s in image]
  tokens, patches = position[: form.tokens], position[form.tokens :].reshape(*grid[0], -1)
  new = jax.image.resize(jnp.asarray(patches), (*grid[1], patches.shape[-1]), "cubic", antialias=False)
  return jnp.concatenate([jnp.asarray(tokens), new.reshape(-1, patches.shape[-1])])


def _eaten(x, *, image, channels: int, by):
  """Rows as the network takes them."""
  x = images._nhwc(x)
  if x.shape[-1] != channels:
    x = jnp.broadcast_to(x, (*x.shape[:-1], channels))
  if x.shape[1:3] != image:
    x = jax.image.resize(x, (x.shape[0], *image, channels), "bilinear")
  if by is None:
    return x
  mean, std = (jnp.asarray(a, x.dtype)[None, None, None] for a in by)
  return (x - mean) / std


def _on(model: Model, prepare: Callable) -> Model:
  """The model on rows that ``prepare`` has prepared."""
  inner = model.capture
  assert inner is not None

  def apply(params, model_state, x, **told):
    return model.apply(params, model_state, prepare(x), **told)

  def capture(params, model_state, x, probe, **told):
    return inner(params, model_state, prepare(x), probe, **told)

  return model._replace(apply=apply, capture=capture)
