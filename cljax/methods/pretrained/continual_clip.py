"""Continual CLIP: nothing is trained; a task that comes opens the prompts of its classes."""

from __future__ import annotations

import jax.numpy as jnp

from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.pretrained import local
from cljax.methods.prototypes.frozen import holding
from cljax.methods.registry import Entry, register


def continual_clip(model, spec: Spec) -> Method:
  """Continual CLIP: ``argmax_c z_c(x)`` of the network as ``model.init`` gives it, over the labels that rows have had.

  Meant for :func:`cljax.models.clip_classifier`, whose logits ``[B, C]`` compare an image with a prompt of each class;
  of another model they are its own classifier's, pre-trained or drawn. No parameter moves, whatever the optimizer: an
  answer about a row changes by the labels that join alone. Answers: -inf at other labels; before the first row, the
  model's logits. Keeps ``[C]`` bools. A request that takes a class whole takes its prompt away.

  Deviation: a class is open from its first row on, and not from the start of its task, so that one whose rows are all
  deleted is none. Spec B27; Thengane et al. 2022, whose figures are not checked here.
  """

  def prepare(key, learner, batch):
    del key
    return learner._replace(method_state=learner.method_state | local.labels(spec, batch)), batch

  def predict(key, learner, x, task):
    told = {"task": model.task_for(task), "mask": None}
    out, _ = model.apply(learner.params, learner.model_state, x, train=False, key=key, **told)
    return local.among(learner.method_state, out.logits)

  def scrub(learner, request):
    return learner._replace(method_state=learner.method_state & ~request.classes)

  return Method(
    init=lambda key, learner: jnp.zeros(spec.num_classes, bool), prepare=prepare, predict=predict, scrub=scrub,
    **holding("frozen"),
  )  # fmt: skip


register(
  "continual_clip",
  Entry(continual_clip, {}, Access(needs=("classes", "plain_inputs")), "Thengane et al. 2022"),
)
