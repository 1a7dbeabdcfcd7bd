"""A low-rank pair for each task beside frozen kernels: where it lies, how it begins, and who may move it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cljax.core import layout, tree
from cljax.core.types import Access, Model, Spec
from cljax.methods.registry import Option
from cljax.models import tuning

A, B, SCALE = "/lora_a", "/lora_b", "/lora_scale"
PAIRS = {"rank": Option(8, 1), "layers": Option(""), "trained": Option(tuning.HEAD)}
ACCESS = Access(task_boundaries=True, needs=())


def stacked(
  model: Model, spec: Spec, rank: int, layers: str, trained: str, scaled: bool = False
) -> Model:  # fmt: skip
  """The network with kernels ``W + sum_t A_t B_t``, A ``[T, d_in, rank]`` and B ``[T, rank, d_out]`` zero at first.

  Of the frozen kernels that the regular expression ``layers`` finds ('': those called ``kernel``), a convolution's as
  ``[h w in, out]``; the leaves that ``trained`` finds are trained as they are, all others stand (BatchNorm's statistics
  move). ``scaled``: ``W + sum_t s_t A_t B_t``, the scales ``[T]`` of each kernel zero at first. UsageError for patterns
  that find nothing.
  """

  def start(key, leaves):
    del key
    made = {}
    for n in tuning.chosen(leaves, layers, trained, label="method."):
      inputs, outputs, kind = layout.fan_in(leaves[n].shape), layout.fan_out(leaves[n].shape), leaves[n].dtype
      made[n + A] = jnp.zeros((spec.num_tasks, inputs, rank), kind)
      made[n + B] = jnp.zeros((spec.num_tasks, rank, outputs), kind)
      if scaled:
        made[n + SCALE] = jnp.zeros(spec.num_tasks, kind)
    return made

  def changed(own, leaves):
    out = dict(leaves)
    for n in names_of(own):
      b = own[n + B] * own[n + SCALE][:, None, None] if scaled else own[n + B]
      out[n] = leaves[n] + layout.unmatrix(together(own[n + A], b), leaves[n])
    return out

  return tuning.beside(model, start, changed, trained, "method.")


def together(a, b):
  """``sum_t A_t B_t [d_in, d_out]``, added in the order of t: a run with room for more tasks has the same bits."""
  add = lambda total, pair: (total + pair[0] @ pair[1], None)
  return jax.lax.scan(add, jnp.zeros((a.shape[1], b.shape[2]), a.dtype), (a, b))[0]


def names_of(own: dict) -> list[str]:
  """The kernels that have pairs, of ``{path: trained leaf}``."""
  return [n.removesuffix(A) for n in own if n.endswith(A)]


def of_task(name: str) -> bool:
  """Whether a leaf has a leading axis of tasks."""
  return name.endswith((A, B))


def own_alone(still: Callable[[str], bool] = lambda name: False) -> optax.GradientTransformationExtraArgs:
  """``u[t] <- 0`` for all tasks but the current one, of leaves :func:`of_task`; and all of those ``still`` names.

  In front of the optimizer it keeps other pairs' slopes out of its moments, behind it momentum and decay off them.
  """

  def update(updates, state, params=None, *, visit, **extra):
    del params, extra

    def one(name, u):
      if still(name):
        return jnp.zeros_like(u)
      if not of_task(name):
        return u
      return jnp.where((jnp.arange(u.shape[0]) == visit.task)[:, None, None], u, jnp.zeros_like(u))

    return tree.map_named(one, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def opened(learner, visit, make: Callable):
  """The learner in whose pairs of the current task A is ``make(key, name, A [d_in, rank])``, where the task is met for
  the first time; the draws depend on how many tasks were met, not on the task's number."""
  key, own = jax.random.fold_in(tree.fold(learner.key, "pairs"), visit.others), tree.by_path(learner.params)
  edits = {}
  for n in names_of(own):
    a = own[n + A]
    new = make(tree.fold(key, n), n, a[visit.task]).astype(a.dtype)
    edits[n + A] = a.at[visit.task].set(jnp.where(visit.first, new, a[visit.task]))
  return learner._replace(params=tree.edit_leaves(learner.params, edits))


def uniform(key, name, a):
  """A start of A: uniform within ``1 / sqrt(d_in)``, as :func:`cljax.models.tuning.low_rank` has it."""
  del name
  bound = a.shape[0] ** -0.5
  return jax.random.uniform(key, a.shape, jnp.float32, -bound, bound)
