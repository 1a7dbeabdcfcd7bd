"""CLNP: each task owns the neurons that it uses; what is left learns the next."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import edits, losses
from cljax.core import rows as picking
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.registry import Entry, Option, register


def mean_activation(hidden, weight):
  """``[n]``: mean of ``hidden [B, ..., n]`` over rows and positions; rows of weight 0 are absent."""
  per_row = hidden.reshape(hidden.shape[0], -1, hidden.shape[-1]).mean(1)
  return (weight[:, None] * per_row).sum(0) / jnp.maximum(weight.sum(), 1)


def clnp(model, spec: Spec, *, strength, margin, thresholds: int = 100, samples: int = 125) -> Method:
  """Continual Learning via Neural Pruning: ``CE + strength |W|_1``; a finished task's neurons are frozen.

  At the end of a task the neurons whose mean activation is above a threshold become its own: the highest of
  ``thresholds`` at which the accuracy on ``samples`` of its training rows falls by at most ``margin`` (the paper takes
  held-out rows). Edges from free to owned neurons are cut, so what the task's classes answer never changes again.
  Tasks must not share classes; the model's units must form a chain (mlp, cnn). Free neurons keep their weights for the
  next task. Spec 8.9; Golkar, Kagan and Cho, 2019.
  """
  if spec.objective.classes and (spec.classes_of_task.sum(0) > 1).any():
    raise UsageError("method.name: clnp gives each class to one task, but this stream's tasks share classes")
  own_classes = jnp.asarray(spec.classes_of_task)

  def sparsity(key, params, learner, batch, outputs):
    del key, learner, batch, outputs
    return strength * sum(jnp.abs(p).sum() for p in jax.tree.leaves(params) if p.ndim > 1)

  def end_task(key, learner, task):
    batch = picking.sample(fold(key, "rows"), task.rows, samples, by_class=True)
    classes = own_classes[task.id]
    state = edits.clnp_state(learner.opt_state)
    told = {"task": model.task_for(batch.task), "mask": None}
    apply = lambda params: model.apply(params, learner.model_state, batch.x, train=False, key=key, **told)
    outputs, _ = apply(learner.params)
    activity = [mean_activation(outputs.hidden[u.hidden], batch.weight) for u in model.units]
    kept = lambda threshold: tuple(a > threshold for a in activity)

    def accuracy(threshold):
      params, _ = edits.clnp_end_task(learner.params, state, model.units, kept(threshold), classes)
      logits = jnp.where(classes, apply(params)[0].logits, -jnp.inf)
      return losses.reduce((jnp.argmax(logits, -1) == batch.y).astype(jnp.float32), batch.weight)

    highest = jnp.max(jnp.stack([a.max() for a in activity]))
    threshold = edits.clnp_threshold(accuracy, jnp.linspace(0.0, highest, thresholds), margin)
    params, opt_state = edits.clnp_consolidate(learner.params, learner.opt_state, model.units, kept(threshold), classes)
    return learner._replace(params=params, opt_state=opt_state)

  return Method(terms={"sparsity": sparsity}, finalize=edits.clnp(model.units), end_task=end_task)


register(
  "clnp",
  Entry(
    clnp,
    {
      "strength": Option(1e-5, 0),
      "margin": Option(0.05, 0, 1),
      "thresholds": Option(100, 1),
      "samples": Option(125, 1),
    },
    Access(task_boundaries=True, boundary_data=True),
    "Golkar et al. 2019",
  ),
)
