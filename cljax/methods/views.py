"""Second views of pictures, as contrastive methods have them: cut, mirrored, of other colours."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.tree import fold
from cljax.core.types import Spec, UsageError
from cljax.methods.registry import Option
from cljax.objectives.rows import eaten, stored

VIEW = {
  "least_area": Option(0.2, 0, 1),
  "jitter": Option(0.4, 0, 1),
  "grey": Option(0.2, 0, 1),
  "flip": Option(True),
}
# Of methods that may do without second views.
SEEN_TWICE: dict[str, tuple] = {"views": (True,)}
VIEWS = {"views": Option(True), **{name: option._replace(needs=SEEN_TWICE) for name, option in VIEW.items()}}
RATIO = (0.75, 4 / 3)  # of a cut's sides, before it is limited to the picture
JITTERED, HUE = 0.8, 0.25  # how often colours are changed; the hue's share of the strength
LUMA = (0.299, 0.587, 0.114)
YIQ = np.array([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)], np.float32)


def cut_out(key, x, least):
  """``[H, W, C]``: a part of the picture, its area U(least, 1) of the whole, its sides' ratio log-uniform in RATIO,
  stretched to the picture's size (bilinear)."""
  height, width = x.shape[:2]
  area, ratio, row, column = jax.random.uniform(key, (4,))
  area = least + (1.0 - least) * area
  low, high = (jnp.log(jnp.float32(r)) for r in RATIO)
  ratio = jnp.exp(low + (high - low) * ratio)
  size = jnp.minimum(jnp.sqrt(area * jnp.stack([1 / ratio, ratio])), 1.0)  # of the height and of the width
  first = (1.0 - size) * jnp.stack([row, column]) * jnp.array([height, width], jnp.float32)
  scale = 1.0 / size
  return jax.image.scale_and_translate(x, x.shape, (0, 1), scale, -first * scale, "linear", antialias=False)


def recoloured(key, x, strength):
  """Brightness, then contrast by factors U(1 - strength, 1 + strength); of three channels saturation by another, and
  the hue turned by up to ``HUE strength`` of a circle (in YIQ)."""
  factors = 1.0 + strength * jax.random.uniform(fold(key, "factors"), (3,), minval=-1.0, maxval=1.0)
  x = x * factors[0]
  x = jnp.mean(grey(x)) + factors[1] * (x - jnp.mean(grey(x)))
  if x.shape[-1] != 3:
    return x
  x = grey(x) + factors[2] * (x - grey(x))
  turn = 2 * jnp.pi * HUE * strength * jax.random.uniform(fold(key, "hue"), (), minval=-1.0, maxval=1.0)
  c, s = jnp.cos(turn), jnp.sin(turn)
  spin = jnp.zeros((3, 3)).at[0, 0].set(1.0).at[1:, 1:].set(jnp.stack([jnp.stack([c, -s]), jnp.stack([s, c])]))
  return x @ (jnp.asarray(np.linalg.inv(YIQ), jnp.float32) @ spin @ jnp.asarray(YIQ)).T


def grey(x):
  """``[H, W, 1]``: the luminance of three channels, the mean of others."""
  if x.shape[-1] != 3:
    return jnp.mean(x, axis=-1, keepdims=True)
  return jnp.sum(x * jnp.array(LUMA, jnp.float32)[None, None], axis=-1, keepdims=True)


def second_view(key, x, least, jitter, grey_share, flip: bool):
  """A view of each picture ``x [B, H, W, C]`` float32: :func:`cut_out`, mirrored half of the time (``flip``),
  :func:`recoloured` four times in five, grey ``grey_share`` of the time. Values are not cut to a range."""

  def one(key, x):
    x = cut_out(fold(key, "cut"), x, least)
    coins = jax.random.uniform(fold(key, "coins"), (3,))
    x = jnp.where((coins[0] < 0.5) & flip, x[:, ::-1], x)
    x = jnp.where(coins[1] < JITTERED, recoloured(fold(key, "colour"), x, jitter), x)
    return jnp.where((coins[2] < grey_share) & (x.shape[-1] == 3), grey(x), x)

  return jax.vmap(one)(jax.random.split(key, x.shape[0]), x)


def refuse_other_inputs(spec: Spec, owner: str, without: str = "") -> None:
  """UsageError, named by ``owner``, for inputs that are no pictures ``[H, W, C]``; ``without`` says how to do without
  second views."""
  if len(spec.shown.shape if hasattr(spec.shown, "shape") else ()) != 3:
    raise UsageError(f"method.name: {owner!r} makes second views of pictures; expected inputs [H, W, C]{without}")


def shown_again(key, spec: Spec, x, least_area, jitter, grey, flip: bool):
  """Second views of inputs as a model is given them, in the form in which it is given them."""
  x = eaten(x, spec.scale).astype(jnp.float32)
  return stored(
    second_view(fold(key, "view"), x, least=least_area, jitter=jitter, grey_share=grey, flip=flip), spec.scale
  )


def outputs_again(key, model, params, model_state, batch, x):
  """The model's Outputs in train mode on other inputs ``x`` of the batch's rows; what BatchNorm counts of these is left
  where it is."""
  told = {"task": model.task_for(batch.task), "mask": (batch.weight > 0).astype(jnp.float32)}
  return model.apply(params, model_state, x, train=True, key=fold(key, "model"), **told)[0]


def second_pass(key, model, spec: Spec, params, learner, batch, **how):
  """What the model says of a second view of each row of a step; ``how`` as in :func:`second_view`."""
  return outputs_again(key, model, params, learner.model_state, batch, shown_again(key, spec, batch.x, **how))
