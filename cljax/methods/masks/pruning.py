"""CLNP: each task owns the neurons that it uses; what is left learns the next."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import edits, losses
from cljax.core import rows as picking
from cljax.core.method import Method
from cljax.core.tree import fold, leaf
from cljax.core.types import Access, Batch, Spec, UsageError, Withheld
from cljax.methods.registry import Entry, Option, register


def mean_activity(hidden, weight):
  """``[n]``: mean of ``|hidden|``, ``[B, ..., n]``, over rows and positions; rows of weight 0 are absent."""
  per_row = jnp.abs(hidden).reshape(hidden.shape[0], -1, hidden.shape[-1]).mean(1)
  return (weight[:, None] * per_row).sum(0) / jnp.maximum(weight.sum(), 1)


def falls_out(key, ids, share):
  """Which of the rows ``ids [B]`` are held out, bool: ``share`` of all ids, each the same every time it is asked."""
  draw = lambda i: jax.random.uniform(jax.random.fold_in(key, i))
  return jax.vmap(draw)(jnp.maximum(ids, 0)) < share


def without(batch: Batch, gone) -> Batch:
  """The batch without the rows ``gone [B]``, as far as the method sees what they hold."""
  zero = lambda a: jnp.where(gone.reshape(-1, *(1,) * (a.ndim - 1)), jnp.zeros((), a.dtype), a)
  x = batch.x if isinstance(batch.x, Withheld) else jax.tree.map(zero, batch.x)
  ids = jnp.where(gone, -1, batch.id)
  return batch._replace(x=x, y=zero(batch.y), weight=zero(batch.weight), fresh=zero(batch.fresh), id=ids)


def clnp(model, spec: Spec, *, strength, margin, held_out, thresholds: int = 100, samples: int = 125) -> Method:
  """Continual Learning via Neural Pruning: ``CE + strength |W|_1``; a finished task's neurons are frozen.

  At the end of a task the neurons whose mean activity ``E|h|`` over ``samples`` of its rows is above a threshold become
  its own (a tanh unit of negative mean works too; for rectifiers ``E|h| = E h``, as published): the highest of
  ``thresholds`` at which the accuracy on held-out rows falls by at most ``margin``. ``held_out`` of a task's
  rows, the same by their ids at each visit, are not trained on, and up to ``samples`` of them say what the accuracy is;
  where none fell out, and at share 0, rows that were trained on do. Edges from free to owned neurons are cut, so what
  the task's classes answer never changes again. Tasks must not share classes; the model's units must form a chain (mlp,
  cnn). Free neurons keep their weights for the next task. What is free and what was used again stands in the method's
  state, an :class:`cljax.edits.ClnpUnits`, and the evaluator ``clnp_units`` shows it. In a hybrid write it first, or
  others store what it holds out. Spec 8.9; Golkar, Kagan and Cho, 2019.
  """
  if spec.objective.classes and (spec.classes_of_task.sum(0) > 1).any():
    raise UsageError("method.name: clnp gives each class to one task, but this stream's tasks share classes")
  own_classes = jnp.asarray(spec.classes_of_task)
  chosen = lambda learner, ids: falls_out(fold(learner.key, "clnp/held_out"), ids, held_out)

  def init(key, learner):
    del key
    sizes = jnp.asarray([leaf(learner.params, u.in_kernel).shape[-1] for u in model.units], jnp.int32)
    return edits.ClnpUnits(sizes, jnp.zeros_like(sizes), jnp.zeros_like(sizes))

  def prepare(key, learner, batch):
    del key
    return learner, without(batch, chosen(learner, batch.id))

  def sparsity(key, params, learner, batch, outputs):
    del key, learner, batch, outputs
    return strength * sum(jnp.abs(p).sum() for p in jax.tree.leaves(params) if p.ndim > 1)

  def end_task(key, learner, task):
    def sampled(name, keep):
      masked = lambda batch: batch._replace(weight=jnp.where(keep(chosen(learner, batch.id)), batch.weight, 0.0))
      rows = task.rows._replace(batch=lambda start, size: masked(task.rows.batch(start, size)))
      return picking.sample(fold(key, name), rows, samples, by_class=True)

    trained, held = sampled("rows", jnp.logical_not), sampled("held_out", lambda out: out)
    some = (held.weight > 0).any()
    judged = jax.tree.map(lambda h, t: jnp.where(some, h, t), held, trained)
    classes = own_classes[task.id]
    state = edits.clnp_state(learner.opt_state)

    def apply(params, batch):
      told = {"task": model.task_for(batch.task), "mask": None}
      return model.apply(params, learner.model_state, batch.x, train=False, key=key, **told)[0]

    outputs = apply(learner.params, trained)
    activity = [mean_activity(outputs.hidden[u.hidden], trained.weight) for u in model.units]
    kept = lambda threshold: tuple(a > threshold for a in activity)

    def accuracy(threshold):
      params, _ = edits.clnp_end_task(learner.params, state, model.units, kept(threshold), classes)
      logits = jnp.where(classes, apply(params, judged).logits, -jnp.inf)
      return losses.reduce((jnp.argmax(logits, -1) == judged.y).astype(jnp.float32), judged.weight)

    highest = jnp.max(jnp.stack([a.max() for a in activity]))
    threshold = edits.clnp_threshold(accuracy, jnp.linspace(0.0, highest, thresholds), margin)
    used = kept(threshold)
    params, opt_state = edits.clnp_consolidate(learner.params, learner.opt_state, model.units, used, classes)
    return learner._replace(params=params, opt_state=opt_state, method_state=edits.clnp_units(state, used))

  return Method(
    init=init, prepare=prepare, terms={"sparsity": sparsity}, finalize=edits.clnp(model.units), end_task=end_task
  )


register(
  "clnp",
  Entry(
    clnp,
    {
      "strength": Option(1e-5, 0),
      "margin": Option(0.05, 0, 1),
      "held_out": Option(0.1, 0, 1, below=True),
      "thresholds": Option(100, 1),
      "samples": Option(125, 1),
    },
    Access(row_ids=True, task_boundaries=True, boundary_data=True),
    "Golkar et al. 2019",
  ),
)
