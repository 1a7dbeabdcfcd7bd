"""A task that is learned among its own classes alone, by a classifier that all tasks share."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.types import Batch, Spec


def closed(spec: Spec, batch: Batch) -> Batch:
  """The batch in which a row's softmax has its task's classes alone."""
  mask = jnp.asarray(spec.classes_of_task)[batch.task]
  return batch._replace(class_mask=mask if batch.class_mask is None else mask & batch.class_mask)


def labels(spec: Spec, batch: Batch):
  """``[C]`` bool: those that the rows have."""
  return (jax.nn.one_hot(batch.y, spec.num_classes, dtype=bool) & (batch.weight > 0)[:, None]).any(0)


def outputs(spec: Spec, task, like):
  """Bool, like a leaf ``[..., C]`` of the classifier: the outputs of the task's classes."""
  return jnp.broadcast_to(jnp.asarray(spec.classes_of_task)[task], like.shape)


def among(seen, logits):
  """The logits, -inf at labels that no row has had; as they are where none was."""
  return jnp.where((seen | ~seen.any())[None], logits, -jnp.inf)


def paced(spec: Spec, classifier: str, share: Callable = lambda name: 1.0) -> optax.GradientTransformationExtraArgs:
  """``u <- share(name) u``, behind the optimizer: a rate for each group of leaves, momentum and decay included. In the
  leaves of ``classifier`` the outputs of other tasks' classes stand."""

  def update(updates, state, params=None, *, visit, **extra):
    del params, extra

    def one(name, u):
      u = u * jnp.asarray(share(name), u.dtype)
      return jnp.where(outputs(spec, visit.task, u), u, jnp.zeros_like(u)) if name.startswith(f"{classifier}/") else u

    return tree.map_named(one, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
