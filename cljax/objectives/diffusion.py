"""Diffusion: noise that was added to an input is to be told from it (DDPM, Ho et al. 2020), and sampling by that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core import tree
from cljax.core.types import Array, Scalar, Tree, UsageError
from cljax.objectives.objective import Objective, Score
from cljax.objectives.registry import Number, Text, Whole, offered
from cljax.objectives.rows import along, eaten, first, keys, places, shown, stored

SCHEDULES = ("linear", "cosine")


def variances(schedule: str, steps: int) -> np.ndarray:
  """``beta [steps]``, float64: the variance of the noise that each step adds, at most 0.999.

  'linear': from 1e-4 to 0.02 over 1000 steps, in proportion over others (Ho et al. 2020); 'cosine':
  ``1 - a_t / a_{t-1}``, ``a = cos^2(pi/2 (t/T + s) / (1 + s))``, s = 0.008 (Nichol and Dhariwal 2021). UsageError for
  another name, and for no steps.
  """
  if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
    raise UsageError(f"steps: got {steps!r}; expected an integer of at least 1")
  if schedule == "linear":
    return np.minimum(np.linspace(1e-4, 0.02, steps) * 1000 / steps, 0.999)
  if schedule == "cosine":
    left = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - left[1:] / left[:-1], 0.999)
  raise UsageError(f"schedule: got {schedule!r}; allowed: {', '.join(SCHEDULES)}")


def nothing(condition):
  """The condition that stands for none: -1 of integers (an embedding's last row), 0 of real numbers."""
  none = lambda a: jnp.full_like(a, -1 if jnp.issubdtype(a.dtype, jnp.integer) else 0)
  return jax.tree.map(none, condition)


@offered(schedule=Text("linear", SCHEDULES), steps=Whole(1000, 1), drop=Number(0.0, high=1.0))
def denoising(model, spec, *, schedule: str, steps: int, drop) -> Objective:
  """``mean_d (e - z(sqrt(a_t) x + sqrt(1 - a_t) e, t))^2``, t uniform, e standard normal, a_t the product of 1 - beta.

  Inputs are real, ``[B, ...]``, or a dict of them, ``x``, and of a ``condition``. The model is applied on a dict, ``x``
  with the noise, ``time [B]`` int32 from 0 to steps - 1 and the condition where there is one, and gives e's shape.
  beta is :func:`variances` of ``schedule`` and ``steps``; a condition is dropped with probability ``drop`` in training
  (:func:`nothing` stands for it; Ho and Salimans 2022). Targets are not looked at. t and e follow the step's key; in
  the score, ``denoising`` (the same error, lower), the row's id, so that evaluations agree.
  ``each`` is of one t and e a row, those of its id, with which ``inputs`` shows the row to the model. Raises UsageError
  for inputs that are no real numbers, and predictions of another shape.
  """
  del model
  left = np.cumprod(1 - variances(schedule, steps))
  signal, spread = jnp.asarray(np.sqrt(left), jnp.float32), jnp.asarray(np.sqrt(1 - left), jnp.float32)

  def noise(key, numbers, shape):
    """``e [B, *shape]``."""
    draw = lambda k: jax.random.normal(k, shape, jnp.float32)
    return jax.vmap(draw)(keys(tree.fold(key, "noise"), numbers))

  def noised(key, numbers, batch):
    """``(the batch with the model's input, e)``."""
    whole = eaten(batch.x, spec.scale)
    x = whole["x"] if isinstance(whole, dict) else whole
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise UsageError(f"x: denoising expects real numbers; got {x.dtype}")
    time = jax.vmap(lambda k: jax.random.randint(k, (), 0, steps))(keys(tree.fold(key, "time"), numbers))
    e = noise(key, numbers, x.shape[1:])
    given = {"x": along(signal[time], x) * x + along(spread[time], x) * e, "time": time}
    if isinstance(whole, dict) and "condition" in whole:
      given["condition"] = whole["condition"]
    return batch._replace(x=stored(given, spec.scale)), e

  def error(prediction, e):
    if getattr(prediction, "shape", None) != e.shape:
      raise UsageError(f"model: gives {getattr(prediction, 'shape', type(prediction))}; denoising expects {e.shape}")
    return jnp.mean(jnp.square(prediction.astype(jnp.float32) - e).reshape(e.shape[0], -1), -1)

  def loss(key, apply, params, batch):
    key, number = tree.fold(key, "denoising"), places(batch)
    given, e = noised(key, number, shown(batch))
    if "condition" in given.x:
      gone = jax.vmap(lambda k: jax.random.bernoulli(k, drop))(keys(tree.fold(key, "drop"), number))
      condition = given.x["condition"]
      without = jax.tree.map(lambda a, b: jnp.where(along(gone, a), b, a), condition, nothing(condition))
      given = given._replace(x={**given.x, "condition": without})
    outputs, model_state = apply(key, params, given)
    return error(outputs.logits, e), None, first(batch, outputs), model_state

  def score(key, predict, batch):
    given, e = noised(key, batch.id, shown(batch))
    return error(predict(given), e), jnp.ones(batch.weight.shape)

  own = lambda: tree.fold(jax.random.key(0), "row")

  def inputs(batch):
    return noised(own(), batch.id, shown(batch))[0]

  def each(prediction, batch):
    return error(prediction, noise(own(), batch.id, batch.x["x"].shape[1:])), None

  scores = {"denoising": Score(score, better="lower")}
  return Objective("denoising", loss, scores, "denoising", each=each, inputs=inputs)


def ddpm_sample(
  key: Array, predict: Callable[[dict[str, Any]], Array], shape: tuple[int, ...], *, schedule: str = "linear",
  steps: int = 1000, condition: Tree = None, guidance: Scalar | None = None,
) -> Array:  # fmt: skip
  """``x_{t-1} = (x_t - beta_t / sqrt(1 - a_t) e) / sqrt(1 - beta_t) + sqrt(beta_t) z`` from x_T standard normal.

  Returns ``shape = (n, ...)`` float32; the last step adds no noise. ``predict(inputs) -> e`` takes the dict that
  :func:`denoising` applies a model on, with x as the model eats it (a run's ``predict`` takes x as stored: x / scale).
  ``condition``: of n rows. ``guidance`` w, with a condition: ``(1 + w) e(condition) - w e(none)`` (Ho and Salimans
  2022). Ancestral sampling of Ho et al. 2020, variance beta_t. UsageError for an unknown schedule, and for guidance
  without a condition.
  """
  beta = variances(schedule, steps)
  if guidance is not None and condition is None:
    raise UsageError("guidance: is given without a condition; expected one")
  more = {} if condition is None else {"condition": condition}
  rates, pulls = jnp.asarray(1 / np.sqrt(1 - beta), jnp.float32), beta / np.sqrt(1 - np.cumprod(1 - beta))
  pulls, spread = jnp.asarray(pulls, jnp.float32), jnp.asarray(np.sqrt(beta) * (np.arange(steps) > 0), jnp.float32)

  def step(x, t):
    inputs = {"x": x, "time": jnp.full(shape[0], t, jnp.int32), **more}
    e = predict(inputs)
    if guidance is not None:
      e = (1 + guidance) * e - guidance * predict({**inputs, "condition": nothing(condition)})
    z = jax.random.normal(jax.random.fold_in(key, t), shape, jnp.float32)
    return rates[t] * (x - pulls[t] * e) + spread[t] * z, None

  start = jax.random.normal(tree.fold(key, "start"), shape, jnp.float32)
  return jax.lax.scan(step, start, jnp.arange(steps - 1, -1, -1))[0]
