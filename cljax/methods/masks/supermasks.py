"""Methods that learn a mask for each task over frozen weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from cljax import models
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec
from cljax.methods.registry import Entry, Option, register


def hold_other_tasks() -> optax.GradientTransformationExtraArgs:
  """``u[t] <- 0`` for all tasks but ``task=``: momentum and weight decay must not move finished masks."""

  def update(updates, state, params=None, *, task, **extra):
    del params, extra

    def only(u):
      return jnp.where((jnp.arange(u.shape[0]) == task).reshape((-1,) + (1,) * (u.ndim - 1)), u, 0.0)

    return jax.tree.map(only, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def supsup(model, spec: Spec, *, sparsity, inference: str = "row") -> Method:
  """SupSup: frozen random weights, one learned mask for each task; the task is inferred at test.

  Training: edge-popup on the current task's scores. Prediction: with ``alpha = 1/T`` over the learned masks (before the
  first: all), the task is ``argmin_t dH/dalpha_t``, H the output entropy (one-shot; the paper's objective for unknown
  tasks). ``inference`` 'row' infers for each row; 'batch' sums over the batch, as the paper does, and so assumes that a
  batch comes from one task. Spec B8; Wortsman et al., 2020. Deviation: the entropy of the full softmax is used, no
  superfluous neurons.
  """
  net = models.masked(model, spec.num_tasks, sparsity)

  def predict(key, learner, x, task):
    del task
    learned = learner.method_state
    known = learned | ~learned.any()
    alphas = known.astype(jnp.float32) / known.sum(dtype=jnp.float32)

    def entropy(alphas):
      out = models.mixture_apply(model, learner.params, learner.model_state, x, alphas, sparsity)
      return jnp.sum(-jax.nn.softmax(out.logits) * jax.nn.log_softmax(out.logits), axis=-1)

    slope = jax.jacfwd(entropy)(alphas)  # [B, T]
    if inference == "batch":
      slope = jnp.broadcast_to(slope.sum(0), slope.shape)
    chosen = jnp.argmin(jnp.where(known, slope, jnp.inf), axis=-1)
    every = jax.lax.map(
      lambda t: net.apply(learner.params, learner.model_state, x, train=False, key=key, task=t)[0].logits,
      jnp.arange(spec.num_tasks),
    )
    return jnp.take_along_axis(every, chosen[None, :, None], axis=0)[0]

  def start_task(key, learner, task):
    """First scores by how many tasks were met, not by the task's number."""
    del key
    drawn = jax.random.fold_in(fold(learner.key, "scores"), task.visit.others)
    fresh = models.masked(model, 1, sparsity).init(drawn)[0]
    place = lambda s, f: s.at[task.id].set(jnp.where(task.visit.first, f[0].astype(s.dtype), s[task.id]))
    return learner._replace(params=jax.tree.map(place, learner.params, fresh))

  return Method(
    model=net,
    start_task=start_task,
    init=lambda key, learner: jnp.zeros(spec.num_tasks, bool),
    finalize=hold_other_tasks(),
    end_task=lambda key, learner, task: learner._replace(method_state=learner.method_state.at[task.id].set(True)),
    predict=predict,
  )


register(
  "supsup",
  Entry(
    supsup,
    {"sparsity": Option(0.5, 0, 0.999), "inference": Option("row", choices=("row", "batch"))},
    Access(task_boundaries=True),
    "Wortsman et al. 2020",
  ),
)
