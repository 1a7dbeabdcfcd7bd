"""Contrastive objectives: two views of a row, drawn in the loss, are to have one representation."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.objectives.objective import Objective, Score
from cljax.objectives.registry import Function, Number, Text, offered
from cljax.objectives.rows import along, counted, eaten, first, keys, places, shown, stored, tiled


@offered(
  loss=Text("nt_xent", ("nt_xent", "supcon", "barlow_twins")),
  temperature=Number(0.5, above=True),
  off_diagonal=Number(0.005),
  noise=Number(0.1),
  drop=Number(0.1, high=1.0),
  views=Function(),
)
def contrastive(
  model, spec, *, loss: str, temperature, off_diagonal, noise, drop, views: Callable | None = None
) -> Objective:
  """Two views of each row: :func:`cljax.losses.nt_xent`, ``supcon`` or ``barlow_twins`` of predictions ``[B, D]``.

  A view is ``m (x + noise e)``, e standard normal, m 0 with probability ``drop`` for each number; or ``views(key, x)``
  of one row, yours. x is what a model eats, float32. 'supcon' takes classes from targets ``[B]`` (below 0: none), the
  others look at no target. ``temperature`` is of the first two, ``off_diagonal`` of the third. Scores, both lower: the
  loss, and alignment, the mean ``|u - v|^2`` of unit vectors (Wang and Isola 2020). Their noise follows the row ids, so
  that evaluations agree; negatives are the rows of one evaluation block (``Options.eval_block``).
  There is no ``each``: a row has a loss among others only. Raises UsageError for inputs that are no real numbers
  without ``views``, and for supcon without classes.
  """
  del model

  def blurred(key, x):
    kept = jax.random.bernoulli(tree.fold(key, "drop"), 1 - drop, x.shape)
    return jnp.where(kept, x + noise * jax.random.normal(tree.fold(key, "noise"), x.shape, x.dtype), 0.0)

  view = views or blurred

  def two(key, numbers, batch):
    scale = spec.scale
    x = eaten(batch.x, scale)
    if views is None and not all(jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves(x)):
      raise UsageError("objective.views: got none for inputs that are no numbers; expected a function (key, x) -> x")
    draw = lambda name: stored(jax.vmap(view)(keys(tree.fold(key, name), numbers), x), scale)
    return tiled(batch, jax.tree.map(lambda *v: jnp.stack(v), draw("first"), draw("second")))

  def split(prediction, batch):
    size = batch.weight.shape[0]
    z = prediction.reshape(2 * size, -1)
    return z[:size], z[size:]

  def of_rows(prediction, batch):
    a, b = split(prediction, batch)
    weight = counted(batch)
    if loss == "nt_xent":
      return losses.nt_xent(a, b, weight, temperature)
    if loss == "supcon":
      if not hasattr(batch.y, "dtype") or batch.y.ndim != 1 or not jnp.issubdtype(batch.y.dtype, jnp.integer):
        raise UsageError("objective.loss: 'supcon' needs a class number a row; the targets are none")
      return losses.supcon(a, b, batch.y, weight, temperature)
    return jnp.broadcast_to(losses.barlow_twins(a, b, weight, off_diagonal), batch.weight.shape)

  def trained(key, apply, params, batch):
    batch = shown(batch)
    outputs, model_state = apply(key, params, two(tree.fold(key, "views"), places(batch), batch))
    return of_rows(outputs.logits, batch), None, first(batch, outputs), model_state

  def scored(of):
    def score(key, predict, batch):
      batch = shown(batch)
      return of(predict(two(key, batch.id, batch)), batch), jnp.ones(batch.weight.shape)

    return Score(score, better="lower")

  def distance(prediction, batch):
    a, b = (jnp.where(along(batch.weight > 0, z), z, 0.0) for z in split(prediction, batch))
    unit = lambda z: z * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(z), -1, keepdims=True), 1e-16))
    return jnp.sum(jnp.square(unit(a) - unit(b)), -1)

  scores = {"contrastive": scored(of_rows), "alignment": scored(distance)}
  return Objective("contrastive", trained, scores, "contrastive")
