"""CLIP's two towers in Hugging Face's layout: a transformer of images and one of texts, into one space."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.types import UsageError
from cljax.models import images
from cljax.models.pretrained import leaves, vit
from cljax.models.pretrained.folder import Folder
from cljax.models.transformer import Transformer

UNUSED = re.compile(r"(text|vision)_model\.embeddings\.position_ids")
# What a published configuration leaves out.
IMAGE = {
  "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "patch_size": 32, "num_channels": 3, "hidden_size": 768,
  "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
}  # fmt: skip
TEXT = {
  "vocab_size": 49408, "max_position_embeddings": 77, "hidden_size": 512, "num_hidden_layers": 12,
  "num_attention_heads": 8, "intermediate_size": 2048, "eos_token_id": 49407,
}  # fmt: skip
LARGEST = 2  # the eos_token_id of old configurations, which means: the token of the largest id


class TextForm(NamedTuple):
  """The sizes of the tower of texts."""

  vocabulary: int
  length: int
  width: int
  depth: int
  heads: int
  inner: int
  epsilon: float
  activation: str
  end: int  # the token at which a text is read


class Forms(NamedTuple):
  """The sizes of both towers, and of the space that they share."""

  image: vit.Form
  text: TextForm
  space: int


def forms_of(folder: Folder) -> Forms:
  """The sizes that the configuration gives; UsageError for what is no CLIP."""
  kind = folder.config.get("model_type")
  if kind != "clip":
    raise folder.refuse(f"model_type: got {kind!r:.80}; expected clip, with text_config and vision_config")
  image, text = folder.part("vision_config"), folder.part("text_config")
  n = {key: text.number(key, default) for key, default in TEXT.items()}
  vit.check_heads(text, n["num_attention_heads"], n["hidden_size"])
  words = TextForm(
    n["vocab_size"], n["max_position_embeddings"], n["hidden_size"], n["num_hidden_layers"], n["num_attention_heads"],
    n["intermediate_size"], vit.epsilon_of(text, 1e-5), vit.activation_of(text, "quick_gelu"), n["eos_token_id"],
  )  # fmt: skip
  return Forms(vit.read(image, "clip", IMAGE, 1, True), words, folder.number("projection_dim", 512))


def image_tower(forms: Forms, name: str | None = None) -> images.ViT:
  """``x [B, H, W, C]`` to ``Outputs`` whose logits are the embedding ``[B, P]``."""
  form = forms.image
  return images.ViT(
    forms.space, form.patch, form.width, form.depth, form.heads, 0, 0.0, vit.ACTIVATIONS[form.activation], form.inner,
    form.epsilon, clip=True, name=name,
  )  # fmt: skip


def text_tower(forms: Forms, name: str | None = None) -> Transformer:
  """``tokens [B, L]`` to ``Outputs`` whose logits are an embedding of each place ``[B, L, P]``."""
  form = forms.text
  return Transformer(
    form.vocabulary, form.length, form.width, form.depth, form.heads, 0, 0.0, vit.ACTIVATIONS[form.activation],
    form.inner, form.epsilon, forms.space, name=name,
  )  # fmt: skip


def leaves_of(forms: Forms) -> dict[str, leaves.Leaf]:
  """Each leaf of both towers by its path, ``image/...`` and ``text/...``; the scale is ``scale``."""
  own = lambda a: np.asarray(a)
  at = "vision_model.embeddings."
  found = {
    "scale": leaves.Leaf(("logit_scale",), own),
    "image/class_token/token": leaves.Leaf((f"{at}class_embedding",), lambda a: a[None]),
    "image/position/position": leaves.Leaf((f"{at}position_embedding.weight",), own),
    "image/patches/kernel": leaves.Leaf((f"{at}patch_embedding.weight",), leaves.patches),
    "image/projection/kernel": leaves.Leaf(("visual_projection.weight",), leaves.turned),
    "text/tokens/embedding": leaves.Leaf(("text_model.embeddings.token_embedding.weight",), own),
    "text/places/position": leaves.Leaf(("text_model.embeddings.position_embedding.weight",), own),
    "text/projection/kernel": leaves.Leaf(("text_projection.weight",), leaves.turned),
  }
  found |= leaves.norm("image/norm_ahead", "vision_model.pre_layrnorm")  # so it is spelled
  found |= leaves.norm("image/norm", "vision_model.post_layernorm")
  found |= leaves.norm("text/norm", "text_model.final_layer_norm")
  for tower, model, depth in (("image", "vision", forms.image.depth), ("text", "text", forms.text.depth)):
    for i in range(depth):
      layer = f"{model}_model.encoder.layers.{i}."
      for j in (0, 1):
        found |= leaves.norm(f"{tower}/norm_{i}_{j}", f"{layer}layer_norm{j + 1}")
      parts = tuple(f"{layer}self_attn.{n}_proj" for n in "qkv")
      found |= leaves.layer(f"{tower}/attention_{i}/qkv", parts, make=leaves.joined)
      found |= leaves.layer(f"{tower}/attention_{i}/out", f"{layer}self_attn.out_proj")
      found |= leaves.layer(f"{tower}/mlp_{i}_in", f"{layer}mlp.fc1") | leaves.layer(
        f"{tower}/mlp_{i}_out", f"{layer}mlp.fc2"
      )
  return found


def params_of(folder: Folder, forms: Forms) -> dict:
  """``{"image", "text", "scale"}``, float32. UsageError that names tensors which are missing, unknown, or of another
  shape."""
  form, key = forms.image, jax.random.key(0)
  shape = lambda module, x: jax.eval_shape(module.init, key, x)["params"]
  shapes = {
    "image": shape(image_tower(forms), jnp.zeros((1, *form.image, form.channels))),
    "text": shape(text_tower(forms), jnp.zeros((1, 1), jnp.int32)),
    "scale": jax.ShapeDtypeStruct((), jnp.float32),
  }
  return leaves.filled(folder, leaves_of(forms), shapes, "clip", "config.json", UNUSED)


def places_of(form: TextForm, token: np.ndarray) -> np.ndarray:
  """``[B]``: where texts ``[B, L]`` are read: at their first end token. UsageError where one has none."""
  ends = token == token.max(-1, keepdims=True) if form.end == LARGEST else token == form.end
  if not ends.any(-1).all():
    raise UsageError(f"token: row {int(np.argmin(ends.any(-1)))} has no end token, {form.end}")
  return ends.argmax(-1)


def tokens_of(form: TextForm, path: str, texts: Sequence[str], encode) -> np.ndarray:
  """``[N, L]`` int32 tokens of texts, with their begin and end, 0 behind them; ``encode`` is the folder's tokenizer's.

  L is the length of the longest. UsageError for texts that are too long, for a tokenizer that ends them otherwise, and
  for tokens that the network has no embedding of.
  """
  found = [encode(text) for text in texts]
  for text, ids in zip(texts, found, strict=True):
    if len(ids) > form.length:
      raise UsageError(f"model.names: {text!r:.80} is {len(ids)} tokens; this network has {form.length} places")
    if not ids or max(ids) >= form.vocabulary:
      raise UsageError(f"model.folder: {path}: tokenizer.json gives {text!r:.80} the tokens {ids!r:.80}; the network "
                       f"has {form.vocabulary}")  # fmt: skip
    if ids[-1] != (max(ids) if form.end == LARGEST else form.end):
      raise UsageError(f"model.folder: {path}: tokenizer.json ends {text!r:.80} by {ids[-1]}; config.json's "
                       f"eos_token_id is {form.end}")  # fmt: skip
  length = max(map(len, found))
  return np.asarray([[*ids, *(0,) * (length - len(ids))] for ids in found], np.int32)


def unit(a):
  """Rows of norm 1."""
  return a / jnp.linalg.norm(a, axis=-1, keepdims=True)


def read_at(embedded, places):
  """``[B, P]`` of ``[B, L, P]``: each row at its place, of norm 1."""
  return unit(embedded[jnp.arange(len(places)), places])
