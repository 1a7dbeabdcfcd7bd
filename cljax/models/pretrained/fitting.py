"""Rows of any size as a network of a folder takes them."""

from __future__ import annotations

import functools
from typing import Protocol

import jax
import jax.numpy as jnp

from cljax.core.types import Model, UsageError
from cljax.models import images
from cljax.models.pretrained import folder as folders
from cljax.models.pretrained import vit

SIZES, NORMALISE = ("refuse", "resize", "positions"), ("folder", "none")


def choice(name: str, value, allowed) -> None:
  """UsageError for an option that is none of those allowed."""
  if value not in allowed:
    raise UsageError(f"model.{name}: got {value!r:.80}; allowed: {', '.join(allowed)}")


def own_classes(held: folders.Folder, name: str, num_classes: int) -> None:
  """UsageError where the folder has no classifier of that name ('': of none), or one of another number of classes."""
  weight = held.tensors.get(f"{name}.weight")
  if weight is None:
    raise held.refuse("holds no classifier; model.head=new makes one", "*.safetensors")
  if weight.shape[0] != num_classes:
    raise UsageError(
      f"num_classes: got {num_classes}; the classifier of {held.path} has {weight.shape[0]}; model.head=new"
    )


def image_of(held: folders.Folder, form: vit.Form, input_shape, size: str) -> tuple[int, int]:
  """The size of the images that the network is given; UsageError for rows that do not fit."""
  height, across, channels = images._image(input_shape)
  if channels not in (1, form.channels):
    raise UsageError(f"input_shape: rows have {channels} channels; this network takes 1 or {form.channels}")
  if (height, across) != form.image and size == "refuse":
    raise UsageError(
      f"input_shape: rows are {height}x{across}, the images of {held.path} {form.image[0]}x{form.image[1]}; "
      "model.size=resize resizes the rows, model.size=positions interpolates the positions"
    )
  if size != "positions":
    return form.image
  if height % form.patch or across % form.patch:
    raise UsageError(f"input_shape: rows are {height}x{across}, which patches of {form.patch} do not divide")
  return height, across


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


class Channels(Protocol):
  """What rows are prepared by: the sizes of a network, whichever."""

  @property
  def channels(self) -> int: ...


def on_rows(model: Model, held: folders.Folder, form: Channels, image: tuple[int, int], normalise: str) -> Model:
  """The model on rows that are prepared for it: channels, size, and ``normalise`` 'folder', mean and deviation."""
  by = None if normalise == "none" else folders.normalisation(held, form.channels)
  prepare = functools.partial(_eaten, image=image, channels=form.channels, by=by)
  inner = model.capture
  assert inner is not None

  def apply(params, model_state, x, **told):
    return model.apply(params, model_state, prepare(x), **told)

  def capture(params, model_state, x, probe, **told):
    return inner(params, model_state, prepare(x), probe, **told)

  return model._replace(apply=apply, capture=capture)
