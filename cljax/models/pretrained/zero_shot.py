"""A classifier that compares images with what is said of the classes: CLIP with a prompt of each."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cljax.core import words
from cljax.core.types import Model, Outputs, UsageError
from cljax.models.linen import from_linen
from cljax.models.pretrained import clip, fitting
from cljax.models.pretrained import folder as folders

BLOCK = 64  # prompts that are embedded at once
TEXTS = ("frozen", "trained")
TEMPLATE = "a photo of a {}."


class ZeroShot(nn.Module):
  """``logits = e^s unit(image) unit(text)^T``; the texts' embeddings, or the tokens that they are of, are no params."""

  forms: clip.Forms
  texts: str
  count: int

  @nn.compact
  def __call__(self, x, train=False):
    embedded = clip.image_tower(self.forms, "image")(x, train)
    said = self.said(train)
    features = clip.unit(embedded.logits)
    return Outputs(features @ said.T, features, embedded.hidden)

  def said(self, train):
    """``[C, P]``: what the classes' prompts become, times the scale."""
    scale = jnp.exp(self.variable("prompts", "scale", jnp.zeros, ()).value)
    if self.texts == "frozen":
      return scale * self.variable("prompts", "embedded", jnp.zeros, (self.count, self.forms.space)).value
    token = self.variable("prompts", "token", jnp.zeros, (self.count, 1), jnp.int32).value
    places = self.variable("prompts", "place", jnp.zeros, (self.count,), jnp.int32).value
    return scale * clip.read_at(clip.text_tower(self.forms, "text")(token, train).logits, places)


def listed(names: str | Sequence[str]) -> list[str]:
  """Names of classes, of a string those between its commas; UsageError for what is none, empty or there twice."""
  found = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
  if not all(isinstance(n, str) and n for n in found) or not found:
    raise UsageError(f"model.names: got {names!r:.80}; expected a name of each class, or these between commas")
  twice = sorted({n for n in found if found.count(n) > 1})
  if twice:
    raise UsageError(f"model.names: {twice[0]!r} is the name of several classes; their answers would be one")
  return found


def clip_classifier(
  folder: str, input_shape: Sequence[int], names: str | Sequence[str], *, template: str = TEMPLATE,
  texts: str = "frozen", size: str = "refuse", normalise: str = "folder",
) -> Model:  # fmt: skip
  """CLIP as a classifier without training: ``z_c = e^s cos(i(x), t(prompt_c))``, prompt_c the ``template`` of name c.

  A folder of Hugging Face's CLIPModel: ``config.json`` with ``text_config`` and ``vision_config``, ``*.safetensors``,
  ``tokenizer.json``. ``names``: of the classes in the order of their labels, ``[C]``, or one string with commas between
  them; ``template`` has a ``{}`` for the name. Rows, ``size`` and ``normalise`` as for
  :func:`cljax.models.pretrained`. Logits ``[B, C]`` are ``logits_per_image`` of the reference; features ``[B, P]`` are
  images' embeddings of norm 1. All begins as in the folder, whatever the key. ``texts`` 'frozen': the tower of images
  is trained, prompts are embedded once (``model_state["prompts"]``); 'trained': both towers are, and prompts are
  embedded in each step. The scale s stands. ``Model.texts`` gives what images are compared with.

  Needs ``cljax[pretrained]``. Raises UsageError, one line, for a folder that lacks a file, for a configuration or
  tensors that are missing, broken or unknown, by their names, for images of another size or number of channels, for
  names that are empty or there twice, a template without a place for them, and prompts of more tokens than the network
  has places. Radford et al. 2021; Thengane et al. 2022.
  """
  for name, value, allowed in (("texts", texts, TEXTS), ("size", size, fitting.SIZES),
                               ("normalise", normalise, fitting.NORMALISE)):  # fmt: skip
    fitting.choice(name, value, allowed)
  classes = listed(names)
  if not isinstance(template, str) or "{}" not in template:
    raise UsageError(f"model.template: got {template!r:.80}; expected a text with {{}} in the place of a class's name")
  held = folders.load(folder)
  forms = clip.forms_of(held)
  image = fitting.image_of(held, forms.image, input_shape, size)
  found = clip.params_of(held, forms)
  encode = words.read(Path(held.path)).encode
  prompts = [template.replace("{}", name) for name in classes]
  token = clip.tokens_of(forms.text, held.path, prompts, lambda text: encode(text).ids)
  place = clip.places_of(forms.text, token)
  if image != forms.image.image:
    found["image"]["position"]["position"] = np.asarray(
      fitting.interpolated(found["image"]["position"]["position"], forms.image, image)
    )
  kept: dict = {"scale": found.pop("scale")}
  if texts == "frozen":
    text, embed = found.pop("text"), jax.jit(functools.partial(_embedded, forms))
    blocks = [slice(i, i + BLOCK) for i in range(0, len(token), BLOCK)]
    kept["embedded"] = np.concatenate([embed(text, token[at], place[at]) for at in blocks])
  else:
    kept |= {"token": token, "place": place.astype(np.int32)}

  def init(shapes, key):
    del shapes, key
    return {"params": jax.tree.map(jnp.asarray, found), "prompts": jax.tree.map(jnp.asarray, kept)}

  module = ZeroShot(forms, texts, len(classes))
  model = from_linen(module, (*image, forms.image.channels), init=init)

  def said(params, model_state):
    at = model_state["prompts"]
    embedded = at["embedded"] if texts == "frozen" else _embedded(forms, params["text"], at["token"], at["place"])
    return jnp.exp(at["scale"]) * embedded

  return fitting.on_rows(model._replace(texts=said), held, forms.image, image, normalise)


def _embedded(forms: clip.Forms, params, token, place):
  """``[C, P]`` of norm 1."""
  out: Any = clip.text_tower(forms).apply({"params": params}, token)
  return clip.read_at(out.logits, place)
