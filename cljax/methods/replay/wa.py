"""WA: exemplars, distillation, and after each task the new classes' weights scaled to the norm of the old ones'."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec, UsageError
from cljax.methods import heads
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets


def aligned(kernel, old, new):
  """``(kernel, gamma)``: columns of the classes ``new [C]`` times ``gamma = mean |w_old| / mean |w_new|``, so that the
  mean norms are one; kernel ``[..., C]``. Gamma is 1 where either side is empty or 0."""
  norms = jnp.sqrt(jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=tuple(range(kernel.ndim - 1))))
  mean = lambda which: jnp.sum(jnp.where(which, norms, 0.0)) / jnp.maximum(jnp.sum(which, dtype=jnp.float32), 1.0)
  theirs, own = mean(old), mean(new)
  gamma = jnp.where((theirs > 0) & (own > 0), theirs / jnp.where(own > 0, own, 1.0), 1.0)
  where = new.reshape(*(1,) * (kernel.ndim - 1), -1)
  return jnp.where(where, kernel * gamma.astype(kernel.dtype), kernel), gamma


def wa(model, spec: Spec, *, capacity: int, temperature, replay_batch: int = 0, align: bool = True) -> Method:
  """Weight aligning: ``(1 - lam) CE + lam T^2 KL(teacher/T || f/T over old classes)``, then ``W_new *= gamma``.

  ``lam = n_old / (n_old + n_new)``; ``gamma = mean |w_old| / mean |w_new|`` over classes, once, at the end of each task
  that has old classes; biases stay. Both means are over the union of the task's rows and the exemplars, as for
  :func:`cljax.methods.replay.icarl.icarl`, whose lists these are. The teacher is the aligned model. Old classes are
  those met before that the current task has not: where there are none this is replay of exemplars. The order of the new
  classes among themselves stays but for biases. ``align`` False leaves the weights.

  Deviations: the paper's clipping of weights at 0 is left out (UNVERIFIED); the factor T^2, which PyCIL lacks. Raises
  UsageError for a capacity below the number of lists, a model without features, one that has no weights of two axes
  for its classes, and one with heads of each task. Spec B3; Zhao et al., 2020.
  """
  names = heads.classifier(model, spec)
  kernels = [
    n
    for n, a in tree.by_path(jax.eval_shape(model.init, jax.random.key(0))[0]).items()
    if n in names and a.ndim == 2 and a.shape[-1] == spec.num_classes
  ]
  if len(kernels) != 1 or model.by_task:
    raise UsageError("method.name: 'wa' needs one classifier of shape [features, classes]; this model has another")
  memory = sets.make_exemplars(spec, capacity)
  size = min(replay_batch or spec.batch_size, capacity)

  def sides(visit):
    """Old and new classes, and lam."""
    old, new = sets.old_and_new(spec, visit)
    count = lambda which: jnp.sum(which, dtype=jnp.float32)
    return old, new, count(old) / (count(old) + count(new))

  def prepare(key, learner, batch):
    state, (_, _, lam) = learner.method_state, sides(batch.visit)
    batch = sets.union(fold(key, "exemplars"), spec, memory, state.memory, batch, state.rows, size)
    extra = {**batch.extra, "share": sets.shares(batch)}
    return learner, batch._replace(scale=batch.scale * (1 - lam), extra=extra)

  def term(key, params, learner, batch, outputs):
    del params
    (old, _, lam), share = sides(batch.visit), batch.extra["share"]
    own = slice(0, share.shape[0])
    said = sets.taught(model, learner, batch, key)[own]
    each = losses.distillation(outputs.logits[own], said, temperature, old)
    return lam * jnp.sum(share * jnp.where(share != 0, each, 0.0))

  def end_task(key, learner, task):
    del key
    if align:
      old, new, _ = sides(task.visit)
      one = lambda name, w: aligned(w, old, new)[0] if name == kernels[0] else w
      learner = learner._replace(params=tree.map_named(one, learner.params))
    return sets.task_ended(model, spec, memory, learner, task)

  return Method(prepare=prepare, terms={"distillation": term}, end_task=end_task, **sets.hooks(spec, memory))


register(
  "wa",
  Entry(
    wa,
    {
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "temperature": Option(2.0, 1e-6),
      "align": Option(True),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Zhao et al. 2020",
  ),
)
