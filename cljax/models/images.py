"""Image networks of the zoo: a small CNN, the reduced ResNet-18, a small ViT. Images are NHWC or NHW."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cljax.core.types import Model, Outputs, UsageError
from cljax.models.convolution import Convolution
from cljax.models.initial import flat_init, relu_gain
from cljax.models.linen import from_linen
from cljax.models.prompts import Places, prefix_of, put_in_front, what_is_read
from cljax.models.zoo import activation_of, chain_units


def _image(input_shape) -> tuple[int, int, int]:
  if len(input_shape) not in (2, 3):
    raise UsageError(f"input_shape: got {tuple(input_shape)}; an image model needs (height, width[, channels])")
  return (*input_shape, 1) if len(input_shape) == 2 else tuple(input_shape)


def _nhwc(x):
  return x[..., None] if x.ndim == 3 else x


class CNN(nn.Module):
  num_classes: int
  widths: tuple[int, ...]
  activation: str | Callable
  dropout: float

  @nn.compact
  def __call__(self, x, train=False):
    act, x, hidden = activation_of(self.activation), _nhwc(x), []
    for i, width in enumerate(self.widths):
      x = act(Convolution(width, strides=(1, 1) if i == 0 else (2, 2), name=f"conv_{i}")(x))
      hidden.append(x)
    x = x.max((1, 2))
    if self.dropout:
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return Outputs(nn.Dense(self.num_classes, name="head")(x), x, tuple(hidden))


def cnn(
  input_shape: Sequence[int], num_classes: int, widths: Sequence[int] = (32, 64, 96),
  activation: str | Callable = "relu", dropout: float = 0.0,
) -> Model:  # fmt: skip
  """3x3 convolutions (stride 1, then 2), maximum over positions, head; about 75k parameters at the default widths.

  Hidden activations are ``[B, H, W, width]``; a unit is a channel.
  """
  activation_of(activation)
  _image(input_shape)
  module = CNN(num_classes, tuple(widths), activation, dropout)
  units = chain_units(*(f"conv_{i}" for i in range(len(tuple(widths)))), "head")
  again = lambda activation: cnn(input_shape, num_classes, widths, activation, dropout)
  init = functools.partial(flat_init, gain=relu_gain)
  return from_linen(module, input_shape, init=init, units=units, with_activation=again)


class ResidualBlock(nn.Module):
  width: int
  stride: int
  activation: str | Callable = "relu"

  @nn.compact
  def __call__(self, x, train=False):
    act = activation_of(self.activation)
    norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
    conv = functools.partial(Convolution, self.width, padding=((1, 1), (1, 1)), use_bias=False)
    strides = (self.stride, self.stride)
    y = act(norm(name="norm_0")(conv(strides=strides, name="conv_0")(x)))
    y = norm(name="norm_1")(conv(name="conv_1")(y))
    if self.stride != 1 or x.shape[-1] != self.width:
      project = Convolution(self.width, (1, 1), strides, "VALID", use_bias=False, name="project")
      x = norm(name="norm_project")(project(x))
    return act(x + y)


class ResNet18(nn.Module):
  num_classes: int
  width: int
  activation: str | Callable = "relu"

  @nn.compact
  def __call__(self, x, train=False):
    act, x, hidden = activation_of(self.activation), _nhwc(x), []
    x = Convolution(self.width, padding=((1, 1), (1, 1)), use_bias=False, name="conv")(x)
    x = act(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
    for stage in range(4):
      for block in range(2):
        stride = 2 if stage > 0 and block == 0 else 1
        name = f"block_{stage}_{block}"
        x = ResidualBlock(self.width * 2**stage, stride, self.activation, name=name)(x, train)
      hidden.append(x)
    x = x.mean((1, 2))
    return Outputs(nn.Dense(self.num_classes, name="head")(x), x, tuple(hidden))


def resnet18(
  input_shape: Sequence[int], num_classes: int, width: int = 20, activation: str | Callable = "relu"
) -> Model:
  """The reduced ResNet-18 of the replay literature (Lopez-Paz & Ranzato 2017), with BatchNorm.

  First width 20: 1.1M parameters. 3x3 stem without pooling, four stages of two blocks (widths 1, 2, 4, 8 times
  ``width``), mean over positions, head.
  """
  _image(input_shape)
  activation_of(activation)
  again = lambda activation: resnet18(input_shape, num_classes, width, activation)
  init = functools.partial(flat_init, gain=relu_gain)
  return from_linen(ResNet18(num_classes, width, activation), input_shape, init=init, with_activation=again)


class ClassToken(nn.Module):
  count: int = 1  # a second one is DeiT's distillation token

  @nn.compact
  def __call__(self, x):
    token = self.param("token", nn.initializers.zeros, (self.count, x.shape[-1]))
    return jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], *token.shape)), x], 1)


class Position(nn.Module):
  @nn.compact
  def __call__(self, x):
    return x + self.param("position", nn.initializers.normal(0.02), x.shape[1:])[None]


class Attention(nn.Module):
  heads: int

  @nn.compact
  def __call__(self, x, prefix=None):
    """``prefix``: (keys, values), each ``[B, L, D]``, in front of those of ``x [B, N, D]``."""
    b, n, d = x.shape
    q, k, v = jnp.moveaxis(nn.Dense(3 * d, name="qkv")(x).reshape(b, n, 3, self.heads, d // self.heads), 2, 0)
    if prefix is not None:
      split = lambda a: a.astype(x.dtype).reshape(b, -1, self.heads, d // self.heads)
      k, v = (jnp.concatenate([split(a), own], 1) for a, own in zip(prefix, (k, v), strict=True))
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(d / self.heads))
    return nn.Dense(d, name="out")(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, n, d))


class ViT(nn.Module):
  num_classes: int
  patch: int
  width: int
  depth: int
  heads: int
  mlp_ratio: int
  dropout: float
  activation: str | Callable = "gelu"
  mlp_width: int = 0  # where it is no multiple of the width
  epsilon: float = 1e-6
  tokens: int = 1
  distilled: bool = False  # the mean with a second head on the second token
  clip: bool = False  # CLIP's: no bias of patches, a norm behind the positions, a projection in the head's place

  @nn.compact
  def __call__(self, x, train=False, prompts=None):
    act, x, p, hidden = activation_of(self.activation), _nhwc(x), self.patch, []
    b, h, w, c = x.shape
    x = x.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, p * p * c)
    x = ClassToken(self.tokens, name="class_token")(nn.Dense(self.width, not self.clip, name="patches")(x))
    x, ahead = put_in_front(prompts, Position(name="position")(x))
    drop = nn.Dropout(self.dropout, deterministic=not train)
    norm = functools.partial(nn.LayerNorm, epsilon=self.epsilon)
    x = norm(name="norm_ahead")(x) if self.clip else x
    for i in range(self.depth):
      y = Attention(self.heads, name=f"attention_{i}")(norm(name=f"norm_{i}_0")(x), prefix_of(prompts, i))
      x = x + drop(y)
      inner = self.mlp_width or self.mlp_ratio * self.width
      y = act(nn.Dense(inner, name=f"mlp_{i}_in")(norm(name=f"norm_{i}_1")(x)))
      x = x + drop(nn.Dense(self.width, name=f"mlp_{i}_out")(y))
      hidden.append(x)
    x = norm(name="norm")(x)
    features = what_is_read(prompts, x, ahead)
    logits = nn.Dense(self.num_classes, not self.clip, name="projection" if self.clip else "head")(features)
    if self.distilled:
      logits = (logits + nn.Dense(self.num_classes, name="head_distilled")(x[:, ahead + 1])) / 2
    return Outputs(logits, features, tuple(hidden))


def vit(
  input_shape: Sequence[int],
  num_classes: int,
  patch: int = 4,
  width: int = 64,
  depth: int = 4,
  heads: int = 4,
  mlp_ratio: int = 2,
  dropout: float = 0.0,
  activation: str | Callable = "gelu",
) -> Model:
  """A pre-norm vision transformer with a class token and learned positions (Dosovitskiy et al. 2021).

  ``patch`` must divide height and width, ``heads`` must divide ``width``; hidden activations are ``[B, tokens,
  width]``. Takes prompts (:mod:`cljax.models.prompts`).
  """
  height, across, _ = _image(input_shape)
  if height % patch or across % patch:
    raise UsageError(f"patch: got {patch}, which does not divide the image size {height}x{across}")
  if width % heads:
    raise UsageError(f"heads: got {heads}, which does not divide width {width}")
  activation_of(activation)
  module = ViT(num_classes, patch, width, depth, heads, mlp_ratio, dropout, activation)
  again = lambda activation: vit(input_shape, num_classes, patch, width, depth, heads, mlp_ratio, dropout, activation)
  model = from_linen(module, input_shape, init=flat_init, with_activation=again)
  return model._replace(prompts=Places(width, depth))
