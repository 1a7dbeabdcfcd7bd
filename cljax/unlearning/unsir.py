"""Forgetting a class by noise that stands for it, without a look at its rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cljax.core import rows as picking
from cljax.core import tree
from cljax.core.dtypes import wide
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import Array, LossFn, Params, Scalar, UsageError
from cljax.unlearning._common import drawn, key_of, mean_loss, minimize


def learn_noise(loss_fn, params, template, *, key, mean, std, steps, penalty, learning_rate=0.1):
  """``x = mean + std n``, with n that maximises the loss of ``x`` at the template's labels, less the penalty on n."""
  dtype = jnp.result_type(std)
  noise = jax.random.normal(key, template.x.shape, dtype)
  per_row = tuple(range(1, noise.ndim))
  of = lambda noise: template._replace(x=(mean + std * noise).astype(template.x.dtype))

  def objective(key, noise, step):
    del key, step
    return penalty * jnp.mean(jnp.sum(jnp.square(noise), per_row)) - mean_loss(loss_fn, params, of(noise))

  return of(minimize(key, objective, noise, steps=steps, optimizer=optax.adam(learning_rate)))


def unsir(
  loss_fn: LossFn,
  params: Params,
  *,
  retain: RowsLike,
  classes: ArrayLike,
  key: Array | None = None,
  noise_rows: int = 32,
  noise_steps: int = 25,
  noise_penalty: Scalar = 0.1,
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
) -> Params:
  """UNSIR, for whole classes: learn noise that the model takes for anything but the class, impair on it, then repair.

  ``loss_fn(params, batch) -> [B]`` losses; ``classes [K]`` bool are those to forget, whole; their rows are never seen
  (zero-glance). (1) ``noise_rows`` inputs, labelled with the classes in turn, by ``noise_steps`` of Adam at 0.1 on
  ``-loss + noise_penalty mean sum n^2``; ``x = mean + std n`` with the mean and the standard deviation over all entries
  of up to 256 retain rows, so that scale and penalty do not depend on the units of x (the release has n for x). (2)
  ``steps`` on batches of retain rows and all the noise, as labelled; (3) ``steps`` on retain rows alone; Adam at 1e-3
  throughout, where the release has 1e-4. Where no class is named or no row is kept, parameters are unchanged. Integer
  inputs, such as raw images, are taken as float32, so the model must accept that: no tokens. Spec A12; Tarun et al.,
  TNNLS 2023. Raises UsageError for classes that are not ``[K]`` bool.
  """
  retain, classes = as_rows("retain", retain), jnp.asarray(classes)
  if classes.dtype != bool or classes.ndim != 1:
    raise UsageError(
      f"classes: got {classes.dtype}{list(classes.shape)}; expected bool [K], true where to be forgotten"
    )
  key = key_of(key, "unsir")
  real = lambda rows: rows._replace(x=rows.x.astype(wide(rows.x.dtype)))
  some = real(picking.sample(tree.fold(key, "statistics"), retain, max(256, noise_rows)))
  there = jnp.broadcast_to((some.weight > 0).reshape(-1, *(1,) * (some.x.ndim - 1)), some.x.shape)
  mean, std = jnp.mean(some.x, where=there), jnp.std(some.x, where=there)

  wanted = jnp.argsort(~classes, stable=True)[jnp.arange(noise_rows) % jnp.maximum(classes.sum(), 1)]

  def masked(rows):
    """The rows, with the classes to forget in every row's softmax."""
    return rows if rows.class_mask is None else rows._replace(class_mask=rows.class_mask | classes[None])

  template = masked(jax.tree.map(lambda a: a[:noise_rows], some))
  template = template._replace(y=wanted.astype(template.y.dtype), weight=jnp.ones(noise_rows, jnp.float32))
  noise = learn_noise(
    loss_fn, params, template, key=tree.fold(key, "noise"), mean=mean, std=std, steps=noise_steps, penalty=noise_penalty
  )

  def objective(key, params, step):
    (rows,) = drawn(key, batch, retain=retain)
    impair = noise._replace(weight=jnp.where(step < steps, noise.weight, 0.0))
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b.astype(a.dtype)]), masked(real(rows)), impair)
    return mean_loss(loss_fn, params, both)

  after = minimize(tree.fold(key, "steps"), objective, params, steps=2 * steps, optimizer=optimizer or optax.adam(1e-3))
  able = classes.any() & (retain.count > 0)
  return jax.tree.map(lambda a, b: jnp.where(able, a, b), after, params)
