"""What methods share that walk through the rows of a batch themselves, one loss after the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.types import Batch, Spec
from cljax.objectives.objective import mean_loss

_OF_ROWS = ("x", "y", "weight", "id", "task", "class_mask", "fresh")


def rows_at(batch: Batch, at) -> Batch:
  """The rows of a batch at the places ``at [n]``, without its groups and what stands beside them."""
  cut = lambda a: None if a is None else jax.tree.map(lambda v: v[at], a)
  return batch._replace(**{f: cut(getattr(batch, f)) for f in _OF_ROWS}, group=None, scale=None, extra={})


def loss_of(model, spec: Spec, model_state, key, params, batch: Batch, train: bool):
  """The mean loss of rows as the model sees them; 0, with a slope of 0, where all have weight 0.

  What BatchNorm counts is left where it is. ``train=False`` for few rows: statistics of one row say nothing.
  """

  def apply(key, params, batch):
    mask = (batch.weight > 0).astype(jnp.float32)
    return model.apply(params, model_state, batch.x, train=train, key=key, task=model.task_for(batch.task), mask=mask)

  return mean_loss(spec.objective, key, apply, params, batch)


def no_gradient(key, loss_fn, learner):
  """``gradient`` of a method that makes its step itself: the loss of the batch, for the record, and no slope."""
  del key
  return loss_fn(learner.params), jax.tree.map(jnp.zeros_like, learner.params)
