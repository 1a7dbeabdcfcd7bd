"""LwF-MC: a sigmoid for each class, of which the old ones are held to the old network's; features too, by request."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads
from cljax.objectives.rows import of_terms_alone


def held(logits, said, y, new, old, strength):
  """``[B]``: ``(sum over new c of BCE(z_c, [y = c]) + strength sum over old c of (BCE(z_c, s(z'_c)) - its least))``
  over the number of classes of both; logits z and the old network's z' ``[B, C]``, new and old ``[B, C]`` bool."""
  target = jax.nn.sigmoid(said)
  labels = losses.binary_cross_entropy(logits, jax.nn.one_hot(y, logits.shape[-1]), new)
  away = losses.binary_cross_entropy(logits, target, old) - losses.binary_cross_entropy(said, target, old)
  return (labels + strength * away) / jnp.maximum(jnp.sum(new | old, -1), 1)


def lwf_mc(model, spec: Spec, *, strength, features) -> Method:
  """LwF-MC: mean over classes of ``BCE(z_c, [y = c])`` of the task's and ``strength (BCE(z_c, s(z'_c)) - least)`` of
  old ones, plus ``features |f - f'|^2``.

  z' and f' are what the network said at the end of the last task, in eval mode, of the same rows; s is the sigmoid, f
  the features before the classifier, their square summed and averaged over rows. Old classes are those of the tasks met
  that the current one has not: its labels say nothing of them, so that nothing pushes them down but their own targets.
  It is iCaRL without exemplars and with the network's own answers, and the prediction (``strength``) and the feature
  distillation (``features``) of the study of rehearsal-free learning, whose best had ``l2_previous`` or ``ewc`` beside
  it (:func:`cljax.compose`). ``strength`` 0 and ``features`` 0 are sigmoids alone. Their defaults are UNVERIFIED.
  Raises UsageError for a model without features. Rebuffi et al., 2017; Smith et al., 2023; spec 7.4 and B6.
  """
  heads.width_of(model, spec, "lwf_mc")
  table = jnp.asarray(spec.classes_of_task)

  def teacher(learner):
    return Teacher(tree.copy(learner.params), tree.copy(learner.model_state))

  def term(key, params, learner, batch, outputs):
    del params
    told = {"task": model.task_for(batch.task), "mask": None}
    said, _ = model.apply(*learner.method_state, batch.x, train=False, key=key, **told)
    new = table[batch.visit.task]
    old = jnp.broadcast_to((table & batch.visit.met[:, None]).any(0) & ~new, outputs.logits.shape)
    new = jnp.broadcast_to(new, old.shape) if batch.class_mask is None else new & batch.class_mask
    each = held(outputs.logits, said.logits, batch.y, new, old, strength)
    square = jnp.sum(jnp.square(heads.flat(outputs.features) - heads.flat(said.features)), -1)
    each = each + jnp.where(batch.visit.met.any(), features * square, 0.0)
    return losses.reduce(each, batch.weight)

  def after_forget(learner, before):
    state = learner.method_state
    return learner._replace(method_state=state._replace(params=tree.follow(state.params, before, learner.params)))

  return Method(
    init=lambda key, learner: teacher(learner),
    prepare=lambda key, learner, batch: (learner, of_terms_alone(batch)),
    terms={"sigmoids": term},
    end_task=lambda key, learner, task: learner._replace(method_state=teacher(learner)),
    after_forget=after_forget,
  )


register(
  "lwf_mc",
  Entry(
    lwf_mc,
    {"strength": Option(1.0, 0), "features": Option(0.0, 0)},
    Access(task_boundaries=True, needs=("classes", "plain_inputs")),
    "Rebuffi et al. 2017",
  ),
)
