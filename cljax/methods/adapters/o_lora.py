"""O-LoRA: a low-rank pair for each task, held orthogonal to those of finished tasks."""

from __future__ import annotations

import jax.numpy as jnp

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Spec
from cljax.methods.adapters.pairs import ACCESS, PAIRS, A, B, names_of, opened, own_alone, stacked, uniform
from cljax.methods.registry import Entry, Option, register


def overlap(a, task, old, penalty: str):
  """``sum_(k old) sum |A_k^T A_task|`` over entries, or of their squares; A ``[T, d_in, rank]``, old ``[T]`` bool."""
  others = jnp.where(old[:, None, None], a, 0.0)
  products = jnp.einsum("tir,is->trs", others, a[task])
  return jnp.sum(jnp.abs(products) if penalty == "absolute" else jnp.square(products))


def length(a):
  """``|a|_2`` of all entries, 0 with slope 0 where it is 0, as B is at first."""
  square = jnp.sum(jnp.square(a))
  return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def o_lora(
  model, spec: Spec, *, strength, norm_strength, trained: str, rank: int = 8, layers: str = "",
  penalty: str = "absolute",
) -> Method:  # fmt: skip
  """O-LoRA: ``loss + strength sum_l sum_(k<t) sum |A_k^T A_t| + norm_strength sum_l (|A_t|_2 + |B_t|_2)``.

  Layer l's kernel is ``W + sum_k A_k B_k``: W frozen, the pairs of other tasks too, A_t drawn uniformly within ``1 /
  sqrt(d_in)`` and B_t zero when task t is first met. ``penalty='absolute'`` is the sum over entries above, which
  depends on the bases of the row spaces and not on these alone; 'square' sums squares, which do not. The first task has
  no old pairs. A task that comes back trains its own pair against all others. ``layers`` and ``trained`` (in full: the
  classifier) as of :func:`cljax.methods.adapters.pairs.stacked`. Keeps ``T rank (d_in + d_out)`` numbers a layer, among
  the parameters; requests are answered by ``forget.name``. Deviations: kernels of any layers, where the paper has the
  queries and values of a language model; the classifier, which all tasks share, is trained in full. Raises UsageError
  for patterns that find nothing. Spec F10; Wang et al., 2023.
  """
  network = stacked(model, spec, rank, layers, trained)

  def pairs(params, batch):
    own = tree.by_path(params)
    return [(own[n + A], own[n + B]) for n in names_of(own)], batch.visit.task

  def orthogonal(key, params, learner, batch, outputs):
    del key, learner, outputs
    found, task = pairs(params, batch)
    others = jnp.arange(spec.num_tasks) != task  # A of those not met is 0
    return strength * sum(overlap(a, task, others, penalty) for a, _ in found)

  def small(key, params, learner, batch, outputs):
    del key, learner, outputs
    found, task = pairs(params, batch)
    return norm_strength * sum(length(a[task]) + length(b[task]) for a, b in found)

  def start_task(key, learner, task):
    del key
    return opened(learner, task.visit, uniform)

  return Method(
    network, start_task=start_task, terms={"orthogonal": orthogonal, "norm": small}, transform=own_alone(),
    finalize=own_alone(),
  )  # fmt: skip


register(
  "o_lora",
  Entry(
    o_lora,
    {
      "strength": Option(0.5, 0),
      "norm_strength": Option(0.0, 0),
      **PAIRS,
      "penalty": Option("absolute", choices=("absolute", "square")),
    },
    ACCESS,
    "Wang et al. 2023",
  ),
)
