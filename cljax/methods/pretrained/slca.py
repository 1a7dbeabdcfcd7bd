"""SLCA: the network learns slowly, the classifier at once; and then on features drawn of all classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.pretrained import gaussians, local
from cljax.methods.prototypes.frozen import outputs_of
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads

LEAST = 1e-7  # beside each norm of logits


class Slow(NamedTuple):
  """What :func:`slca` keeps."""

  gaussians: gaussians.Gaussians
  seen: Any  # [C] bool: labels that rows have had


def shrunk(state: gaussians.Gaussians, now):
  """The state with means ``(0.9 + 0.1 order_c / now) mu_c``, order_c the place of the class's task among ``now``
  tasks."""
  share = 0.9 + 0.1 * state.order.astype(jnp.float32) / jnp.maximum(now, 1).astype(jnp.float32)
  return state._replace(means=share[:, None] * state.means)


def levelled(logits, classes_of_task, temperature):
  """``z / (temperature mean_t |z_t|)``, z_t the logits of the t-th task's classes, over tasks that have one; logits
  ``[B, C]``, classes_of_task ``[T, C]`` bool, the classes that there are."""
  squares = jnp.matmul(jnp.square(logits), classes_of_task.T.astype(logits.dtype), precision="highest")
  some = squares > 0
  norms = jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1.0)), 0.0) + LEAST
  of = classes_of_task.any(-1).astype(logits.dtype)
  mean = (norms * of[None]).sum(-1, keepdims=True) / jnp.maximum(of.sum(), 1.0)
  return logits / (mean * temperature)


def slca(
  model, spec: Spec, *, slow, learning_rate, temperature, passes: int = 5, samples: int = 256
) -> Method:  # fmt: skip
  """SLCA: ``CE`` over the task's classes, the network at ``slow`` times the classifier's rate; then the classifier
  alone by ``CE(z / (temperature mean_t |z_t|))`` on ``f ~ N((0.9 + 0.1 t_c / t) mu_c, S_c + 1e-4 I)``.

  ``z = W f + b`` stands in place of the model's own classifier and begins at 0; z_t are the logits of a task's classes.
  A step's update, momentum and decay of the optimizer included, is multiplied by ``slow`` but for W and b, of which
  other tasks' outputs stand. When a task ends its classes' means mu_c ``[D]`` and covariances S_c ``[D, D]`` are
  measured, on rows as they are and in eval mode; from the second task on the classifier then learns for ``passes``,
  each with ``samples`` draws of every class so far (:func:`cljax.methods.pretrained.gaussians.aligned`). t_c is the
  place of the class's task among t tasks met: the released code divides a class's number by the size of the current
  task, which names other tasks where sizes differ. Answers: -inf for labels that no row has had.

  Keeps ``[C, D, D]`` numbers. A request clears the Gaussians of classes that go whole; those of others, measured under
  parameters that are gone, keep their rows' part until their task ends anew, and ``forget.name`` answers for the
  parameters. A task that comes back measures its classes anew, as the newest. Deviation: none of the schedules, which
  are the recipe's. Raises UsageError for a model without features. Spec F3; Zhang et al., 2023.
  """
  network = heads.linear_classifier(model, spec, "slca")
  width = heads.width_of(model, spec, "slca")
  table = jnp.asarray(spec.classes_of_task)

  def init(key, learner):
    del key, learner
    return Slow(gaussians.none(spec.num_classes, width), jnp.zeros(spec.num_classes, bool))

  def prepare(key, learner, batch):
    del key
    state = learner.method_state
    learner = learner._replace(method_state=state._replace(seen=state.seen | local.labels(spec, batch)))
    return learner, local.closed(spec, batch)

  def end_task(key, learner, task):
    state, visit = learner.method_state, task.visit
    look = lambda b: outputs_of(network, learner.params, learner.model_state, b.x, b.task, learner.key)[0]
    found = gaussians.measured(state.gaussians, look, task.rows, visit)
    learner = learner._replace(method_state=state._replace(gaussians=found))

    def loss(head, f, y, there):
      of_task = table & visit.seen[:, None] & there[None]
      return jnp.mean(losses.cross_entropy(levelled(heads.linear(head, f), of_task, temperature), y, there))

    def level(head):
      now = visit.seen.sum(dtype=jnp.int32)
      return gaussians.aligned(
        tree.fold(key, "align"), head, shrunk(found, now), loss, learning_rate=learning_rate, passes=passes,
        samples=samples,
      )  # fmt: skip

    head = jax.lax.cond(visit.seen.sum() > 1, level, lambda head: head, learner.params["linear"])
    return learner._replace(params={**learner.params, "linear": head})

  def predict(key, learner, x, task):
    told = {"task": network.task_for(task), "mask": None}
    out, _ = network.apply(learner.params, learner.model_state, x, train=False, key=key, **told)
    return local.among(learner.method_state.seen, out.logits)

  def scrub(learner, request):
    state = learner.method_state
    kept = Slow(gaussians.cleared(state.gaussians, request.classes), state.seen & ~request.classes)
    return learner._replace(method_state=kept)

  return Method(
    network, init=init, prepare=prepare, end_task=end_task, predict=predict, scrub=scrub,
    finalize=local.paced(spec, "linear", lambda name: 1.0 if name.startswith("linear/") else slow),
  )  # fmt: skip


register(
  "slca",
  Entry(
    slca,
    {
      "slow": Option(0.01, 0),
      "learning_rate": Option(0.01, 0),
      "temperature": Option(0.1, 0, above=True),
      "passes": Option(5, 0),
      "samples": Option(256, 1),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Zhang et al. 2023",
  ),
)
