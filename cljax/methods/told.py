"""The task of a row at test: told by the stream, or inferred by the entropy of what each task's part answers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.options import Option
from cljax.core.types import Model, Spec

TOLD = {"inference": Option("told", choices=("told", "entropy"))}


def task_at_test(network: Model, spec: Spec, inference: str) -> dict[str, Any]:
  """Fields of a Method whose ``network`` is of :func:`cljax.models.isolated.per_task`.

  'told': none, for the network reads the task, and streams that do not tell it are refused. 'entropy': a ``predict``
  that takes for each row the met task t whose part has the smallest entropy ``H(softmax(z_t))`` over t's classes; its
  logits, -inf for other classes. A row costs a pass for each task.
  """
  if inference == "told":
    return {}
  own = jnp.asarray(spec.classes_of_task)

  def predict(key, learner, x, task):
    del task
    met = learner.model_state.slots >= 0
    known = met | ~met.any()

    def answer(t):
      out, _ = network.apply(learner.params, learner.model_state, x, train=False, key=key, task=t, mask=None)
      return out.logits

    every = jax.lax.map(answer, jnp.arange(spec.num_tasks, dtype=jnp.int32))
    log_p = losses.masked_log_softmax(every, jnp.broadcast_to(own[:, None], every.shape))
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)  # log_p is 0 at other classes
    chosen = jnp.argmin(jnp.where(known[:, None], entropy, jnp.inf), axis=0)
    logits = jnp.take_along_axis(every, chosen[None, :, None], axis=0)[0]
    return jnp.where(own[chosen], logits, -jnp.inf)

  return {"predict": predict, "infers_task": True}
