"""Ranking: what was chosen is to stand above what was not."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from cljax import losses
from cljax.core import tree
from cljax.core.checks import check_look_up
from cljax.core.types import UsageError
from cljax.objectives.objective import Objective, Score
from cljax.objectives.registry import Whole, offered
from cljax.objectives.rows import first, keys, places, shown, tiled


@offered(items=Whole(0, 2), negatives=Whole(1, 1))
def ranking(model, spec, *, items: int, negatives: int) -> Objective:
  """BPR: the mean over ``negatives`` items j of ``-log sigmoid(s_ui - s_uj)`` (Rendle et al. 2009).

  Inputs are ``[B, 2]`` int, (user u, item i) that were seen together; the model gives the score of a pair, ``[B]`` or
  ``[B, 1]``. j is drawn uniformly from the other ``items - 1`` items, by the step's key; in scores by the row's id, so
  that evaluations agree. That j is none of u's other items is not seen to. Targets are not looked at. Scores:
  pair_accuracy, how often i stands above j (a tie counts one half; its mean is the AUC), and bpr (lower).
  There is no ``each``: a pair has a loss beside drawn ones only. Raises UsageError without ``items``, which has to be
  given, for more of them than the model has a place for, and for inputs of another form.
  """
  del spec
  if getattr(model, "check_rows", None) is not None:
    try:
      model.check_rows(np.array([[0, items - 1]], np.int32))
    except UsageError as error:
      raise UsageError(f"objective.items: got {items}, whose last the model has no place for ({error})") from error

  def check_rows(prediction, x, y):
    del prediction, y
    check_look_up("objective.items", x[:, 1], items, "items")

  def drawn(key, numbers, x):
    """``[1 + negatives, B, 2]``: the rows, and behind them the rows with other items."""
    if getattr(x, "shape", ())[1:] != (2,) or not jnp.issubdtype(x.dtype, jnp.integer):
      raise UsageError(f"x: a row has shape {getattr(x, 'shape', ())[1:]}; ranking expects two integers, user and item")
    one = lambda key: jax.random.randint(key, (negatives,), 0, items - 1)
    other = jax.vmap(one)(keys(tree.fold(key, "negatives"), numbers)).astype(x.dtype)
    other = other + (other >= x[:, 1:]).astype(x.dtype)
    item = jnp.concatenate([x[:, 1:], other], 1).T
    return jnp.stack([jnp.broadcast_to(x[:, 0], item.shape), item], -1)

  def pairs(prediction, batch):
    """``(s_ui [B, negatives], s_uj [B, negatives])``."""
    if math.prod(prediction.shape[1:]) != 1:
      raise UsageError(f"model: gives {prediction.shape[1:]} for a row; ranking expects one score")
    score = prediction.reshape(1 + negatives, batch.weight.shape[0]).T
    return jnp.broadcast_to(score[:, :1], score[:, 1:].shape), score[:, 1:]

  def loss(key, apply, params, batch):
    batch = shown(batch)
    outputs, model_state = apply(key, params, tiled(batch, drawn(key, places(batch), batch.x)))
    each = jnp.mean(losses.bpr(*pairs(outputs.logits, batch)), 1)
    return each, None, first(batch, outputs), model_state

  def scored(of, better):
    def score(key, predict, batch):
      batch = shown(batch)
      high, low = pairs(predict(tiled(batch, drawn(key, batch.id, batch.x))), batch)
      return jnp.mean(of(high, low), 1), jnp.ones(batch.weight.shape)

    return Score(score, better=better)

  above = lambda high, low: (high > low) + 0.5 * (high == low)
  scores = {"pair_accuracy": scored(above, "higher"), "bpr": scored(losses.bpr, "lower")}
  return Objective("ranking", loss, scores, "pair_accuracy", check_rows=check_rows)
