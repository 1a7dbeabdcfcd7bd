"""Methods that predict by class statistics."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import estimators
from cljax.core.method import Method
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.registry import Entry, register


class Prototypes(NamedTuple):
  means: Any  # [C, D] mean feature of each class, at the end of the task that showed it
  counts: Any  # [C] rows behind each mean


def ncm(model, spec: Spec) -> Method:
  """Nearest class mean: predicts ``argmin_c |f(x) - mu_c|`` over the classes seen; the network trains as usual.

  Means are taken when a task ends and not refreshed: they lag behind features that drift. A class that another task has
  too is averaged by counts; a task that comes back renews its share of its classes' means. Before the first task the
  model's own logits are used. Mensink et al., 2013; iCaRL's rule with all rows.
  """

  def features(learner, x, task):
    told = {"task": model.task_for(task), "mask": None}
    out, _ = model.apply(learner.params, learner.model_state, x, train=False, key=learner.key, **told)
    if out.features is None:
      raise UsageError("method.name: 'ncm' needs a model that returns features (Outputs.features is None)")
    return out

  def init(key, learner):
    del key
    x = jax.ShapeDtypeStruct((1, *spec.input_shape), spec.input_dtype)
    width = jax.eval_shape(lambda x: features(learner, x, jnp.zeros(1, jnp.int32)), x).features.shape[-1]
    return Prototypes(jnp.zeros((spec.num_classes, width), jnp.float32), jnp.zeros(spec.num_classes, jnp.float32))

  def end_task(key, learner, task):
    del key
    old = learner.method_state
    of = lambda x: features(learner, x, task.id).features
    means, counts = estimators.class_means(of, task.rows, spec.num_classes)
    total = old.counts + jnp.where(task.visit.first, counts, 0.0)
    part = counts / jnp.maximum(jnp.maximum(total, counts), 1.0)
    mixed = old.means + part[:, None] * (means - old.means)
    return learner._replace(method_state=Prototypes(mixed, total))

  def predict(key, learner, x, task):
    del key
    out, state = features(learner, x, task), learner.method_state
    distance = jnp.sum(jnp.square(out.features[:, None] - state.means[None]), axis=-1)
    nearest = jnp.where((state.counts > 0)[None], -distance, -jnp.inf)
    return jnp.where((state.counts > 0).any(), nearest, out.logits.astype(nearest.dtype))

  def scrub(learner, request):
    state = learner.method_state
    gone = request.classes
    counts = jnp.where(gone, 0.0, state.counts)
    return learner._replace(method_state=Prototypes(jnp.where(gone[:, None], 0.0, state.means), counts))

  return Method(init=init, end_task=end_task, predict=predict, scrub=scrub)


register("ncm", Entry(ncm, {}, Access(task_boundaries=True, boundary_data=True), "Mensink et al. 2013"))
