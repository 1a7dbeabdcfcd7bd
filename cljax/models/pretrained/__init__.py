"""Networks whose weights are read from a folder. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cljax.core.types import Model
from cljax.models import images
from cljax.models.initial import flat_init
from cljax.models.linen import from_linen
from cljax.models.pretrained import fitting, resnet, vit
from cljax.models.pretrained import folder as folders
from cljax.models.prompts import Places

HEADS = ("new", "own")


def pretrained(
  folder: str, input_shape: Sequence[int], num_classes: int, *, head: str = "new", size: str = "refuse",
  normalise: str = "folder",
) -> Model:  # fmt: skip
  """A vision transformer or residual network from a folder with ``config.json`` and ``*.safetensors``, as published.

  Hugging Face's ViT, DeiT (with or without its teacher's head) and ResNet, timm's plain ViT and DeiT, and timm's and
  torchvision's ResNet (``*.npz`` with its names will do; ``config.json`` then says ``{"architecture": "resnet50"}``).
  Residual networks take rows of any size, have no prompts, and their norms' running statistics go on with training.
  Rows are ``[B, H, W]`` or ``[B, H, W, C]`` in [0, 1]; grey ones are repeated over the network's channels. They are
  normalised by the mean and deviation of ``preprocessor_config.json`` (timm: of ``config.json``), with ``normalise``
  'none' not at all. ``size``, where rows are of another size than the network's images: 'refuse', 'resize' (the rows,
  bilinear), or 'positions' (the network's positions are interpolated, cubic, and its tokens are as many as the rows'
  patches). ``head`` 'new': a classifier that is drawn by the key; 'own': the folder's, for as many classes as it has
  (DeiT's two: their mean). All else begins as in the folder, whatever the key. Takes prompts
  (:mod:`cljax.models.prompts`); the features are the class token behind the last norm, a pooler is not read. Queries,
  keys and values that have no biases begin with 0.

  Needs ``cljax[pretrained]``. Raises UsageError, one line that names the file, for a folder, a configuration or tensors
  that are missing, broken or unknown, for images of another size or number of channels, and for options that are none.
  Dosovitskiy et al. 2021; Touvron et al. 2021; He et al. 2016.
  """
  fitting.choice("head", head, HEADS)
  fitting.choice("size", size, fitting.SIZES)
  fitting.choice("normalise", normalise, fitting.NORMALISE)
  held = folders.load(folder)
  if resnet.is_one(held):
    return resnet.build(held, input_shape, num_classes, head, size, normalise)
  form = vit.form_of(held)
  image = fitting.image_of(held, form, input_shape, size)
  distilled = False
  if head == "own":
    first, second = vit.classifiers(held, form)
    fitting.own_classes(held, first, num_classes)
    distilled = bool(second)
  module = lambda: images.ViT(
    num_classes, form.patch, form.width, form.depth, form.heads, 0, 0.0, vit.ACTIVATIONS[form.activation], form.inner,
    form.epsilon, form.tokens, distilled,
  )  # fmt: skip
  shapes = lambda image: jax.eval_shape(module().init, jax.random.key(0), jnp.zeros((1, *image, form.channels)))
  wanted = shapes(form.image)["params"]
  found = vit.params_of(held, form, wanted, head == "own")
  if image != form.image:
    found["position"]["position"] = fitting.interpolated(found["position"]["position"], form, image)

  def init(shapes, key):
    new = {k: v for k, v in shapes["params"].items() if k not in found}
    return {"params": {**jax.tree.map(jnp.asarray, found), **flat_init(new, key)}}

  model = from_linen(module(), (*image, form.channels), init=init)
  places = Places(form.width, form.depth)
  return fitting.on_rows(model._replace(prompts=places), held, form, image, normalise)
