"""Orthogonal weights modification as a method: every step's layer inputs go into the projector before the step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from cljax import projectors
from cljax.core import layers, tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.heads import AUTO, hold_others, projected
from cljax.methods.projection.gradients import ON_UPDATE, layer_rows, standing, with_held
from cljax.methods.registry import Entry, Option, register
from cljax.projectors._kernels import kernels


def mean_inputs(model, spec: Spec, learner, batch):
  """``{kernel path: [n, d_in]}``: the batch's mean of what each kernel multiplies; of a convolution the mean patch at
  each of n places, of text the mean at each position. Rows of weight 0 are none."""
  size, total = batch.weight.shape[0], jnp.maximum(batch.weight.sum(), 1e-30)
  mean = lambda rows: rows.reshape(size, -1, rows.shape[-1]).sum(0) / total
  return {path: mean(rows) for path, rows in layer_rows(model, spec, learner, batch).items()}


def hold_loose(model, skipped) -> optax.GradientTransformationExtraArgs | None:
  """``u <- 0`` after the first task for vectors that are no kernel's bias (those of norms): they would move the inputs
  of all layers above. None where there are none."""
  leaves = tree.by_path(jax.eval_shape(model.init, jax.random.key(0))[0])
  own = {layers.bias_of(n, leaves) for n in kernels(leaves, None)}
  loose = {n for n, a in leaves.items() if a.ndim < 2 and n not in own and not (skipped and skipped(n))}
  if not loose:
    return None

  def update(updates, state, params=None, *, visit, **extra):
    del params, extra
    began = visit.met.any()
    return tree.map_named(lambda n, u: jnp.where(began, jnp.zeros_like(u), u) if n in loose else u, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def owm(model, spec: Spec, *, alpha, decay, skip: str = AUTO, on: str = "update") -> Method:
  """OWM: updates of kernels through ``P = (I + sum_j r_j r_j^T / alpha_j)^-1``, r_j each batch's mean layer inputs.

  P takes each batch before its step, in the first task as in all others, and is never set back: ``P <- P - P r r^T P /
  (alpha + r^T P r)``. ``alpha_j = alpha * decay ** progress``, progress from 0 to 1 within the task (within the stream
  under ``optimizer.schedule_over=stream``): with 1, the released shuffled MNIST, all batches weigh alike; the released
  convolutional code has 1e-5 to .1, so that a task's last inputs, which it still needs itself, are the best protected.
  A convolution takes the mean patch of every place (the release: of every second one). A bias goes with its kernel, as
  the weight of an input of 1; the released networks have none. Only means are protected, most with small batches.

  It projects what the optimizer made of the gradient, weight decay included; ``on='gradient'`` is the published order
  (in front of SGD with momentum, behind clipping to 10). ``skip`` as for ``gpm``. After the first task, norm parameters
  and what multiplies no captured input are held. Needs a model with ``capture``; costs one more forward pass a step
  where the compiler cannot share it. Spec S11.3; Zeng et al., 2019.
  """
  skipped, hold = projected(model, spec, skip)
  projector = with_held(with_held(projectors.owm(alpha, decay, skipped), hold), hold_loose(model, skipped))

  def observe(key, learner, batch):
    del key
    return {"layer_inputs": mean_inputs(model, spec, learner, batch)}

  return Method(observe=observe, **standing(projector, hold_others(model, spec, skip), on))


register(
  "owm",
  Entry(
    owm,
    {
      "alpha": Option(1.0, 0, above=True),
      "decay": Option(1.0, 0, 1, above=True),
      "skip": Option(AUTO),
      **ON_UPDATE,
    },
    Access(task_boundaries=True, needs=("plain_inputs",)),
    "Zeng et al. 2019",
  ),
)
