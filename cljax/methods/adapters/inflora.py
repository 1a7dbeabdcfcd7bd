"""InfLoRA: low-rank changes whose rows are chosen before a task, off the layer inputs of finished ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from cljax.core import layers as matrices
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.estimators.per_sample import sum_over_batches
from cljax.methods.adapters.pairs import PAIRS, A, names_of, opened, own_alone, stacked
from cljax.methods.projection.gradients import layer_rows
from cljax.methods.registry import Entry, Option, register
from cljax.projectors.gpm import append, remove_span

ROWS = 64  # passed over at once
START = 3.0**-0.5


class Spans(NamedTuple):
  """What :func:`inflora` keeps: of each kernel the span of finished tasks' inputs."""

  bases: dict[str, Any]  # {kernel: [d_in, d_in]}: orthonormal columns, then zeros
  ranks: dict[str, Any]  # {kernel: int32}

  @property
  def reveals(self) -> str:
    """Why edits are refused beside it."""
    return "bases of the spaces that the rows span"


def second_moments(network, spec: Spec, learner, rows, names) -> dict[str, Any]:
  """``{kernel: X^T X [d_in, d_in]}`` over what each kernel multiplies on all ``rows``, of trace 1."""
  sizes = {n: tree.leaf(learner.params, n + A).shape[1] for n in names}

  def of_batch(batch, start):
    del start
    inputs = layer_rows(network, spec, learner, batch)
    return {n: matrices.product(inputs[n].T, inputs[n]).astype(jnp.float32) for n in names}

  like = {n: jnp.zeros((size, size), jnp.float32) for n, size in sizes.items()}
  sums = sum_over_batches(rows, ROWS, like, of_batch)
  return {n: c / jnp.maximum(jnp.trace(c), jnp.finfo(jnp.float32).tiny) for n, c in sums.items()}


def principal(basis, moment):
  """``(energies [d], directions [d, d])`` of ``P S P``, P off the span of ``basis``, S ``[d, d]`` of what is to be
  kept, by falling energy; 0 at the level of rounding."""
  rest = remove_span(basis, remove_span(basis, moment).T)
  values, vectors = jnp.linalg.eigh((rest + rest.T) / 2)
  values, vectors = values[::-1], vectors[:, ::-1]
  some = values > jnp.finfo(values.dtype).eps * len(moment) * jnp.trace(moment)
  return jnp.where(some, values, 0.0), jnp.where(some[None], vectors, 0.0)


def rows_of_pair(basis, moment, rank: int):
  """``A [d, rank]``: the ``rank`` first directions of :func:`principal` by 1 / sqrt(3), zero where there are fewer."""
  directions = remove_span(basis, principal(basis, moment)[1][:, :rank])
  return START * jnp.pad(directions, ((0, 0), (0, rank - directions.shape[1])))


def extended(basis, rank, moment, threshold, short):
  """``(basis, rank)`` with the fewest directions by which ``threshold`` of the trace of S lies in the span; one fewer
  where ``short``."""
  energies, directions = principal(basis, moment)
  left = jnp.cumsum(energies[::-1])[::-1]  # what lies outside before each direction is taken
  left = jnp.where(short, left - energies, left)
  wanted = (left > (1 - threshold) * jnp.trace(moment)) & (energies > 0)
  basis, rank, _ = append(basis, rank, directions * wanted[None].astype(directions.dtype), wanted.sum())
  return basis, rank


def inflora(
  model, spec: Spec, *, threshold, last_threshold, trained: str, rank: int = 10, layers: str = "",
  energy: str = "inputs",
) -> Method:  # fmt: skip
  """InfLoRA: kernels ``W + sum_t A_t B_t``, of which B_t alone is trained, from 0; ``A_t = top(P S_t P) / sqrt(3)``.

  ``top`` are the ``rank`` leading eigenvectors, ``S_t = X^T X`` of the task's layer inputs X ``[n, d_in]`` under the
  network as the task begins, P the projection off the span M of finished tasks' inputs: so the rows by which a task may
  change a layer lie across old inputs and along its own. When a task ends M takes the fewest directions of its inputs
  by which a share ``threshold + (last_threshold - threshold) t / T`` of the trace of S lies in M, t being the other
  tasks met before and T all. A task that comes back trains its own B_t under its first A_t.

  ``energy='released'``: S is squared, in A_t and in the shares, which are then of fourth powers of singular values of
  the inputs, and the first task keeps one direction fewer: what the released code does. ``trained`` leaves (the
  classifier) are trained in full and are outside the promise; the paper's loss is ``stream.active=task``. Keeps ``d_in
  (d_in + 1)`` numbers a layer beside ``T rank (d_in + d_out)`` among the parameters; requests are answered by
  ``forget.name``, and M stays as it is. Deviations: any kernels, where the paper has keys and values; M is kept as it
  is, and not the smaller of it and its complement (DualGPM), which is the same projection and here no less memory.
  Raises UsageError for patterns that find nothing and for a model without ``capture``. Spec F8; Liang and Li, 2024.
  """
  network = stacked(model, spec, rank, layers, trained)
  released = energy == "released"

  def moments(learner, task):
    found = second_moments(network, spec, learner, task.rows, names_of(tree.by_path(learner.params)))
    return {n: matrices.product(c, c) for n, c in found.items()} if released else found

  def init(key, learner):
    del key
    own = tree.by_path(learner.params)
    sizes = {n: own[n + A].shape[1] for n in names_of(own)}
    bases = {n: jnp.zeros((size, size), jnp.float32) for n, size in sizes.items()}
    return Spans(bases, {n: jnp.zeros((), jnp.int32) for n in sizes})

  def start_task(key, learner, task):
    del key
    found, bases = moments(learner, task), learner.method_state.bases
    return opened(learner, task.visit, lambda key, n, a: rows_of_pair(bases[n], found[n], rank))

  def end_task(key, learner, task):
    del key
    found, state, others = moments(learner, task), learner.method_state, task.visit.others
    level = threshold + (last_threshold - threshold) * others.astype(jnp.float32) / spec.num_tasks
    short = (others == 0) & released
    made = {n: extended(state.bases[n], state.ranks[n], found[n], level, short) for n in found}
    spans = Spans({n: m[0] for n, m in made.items()}, {n: m[1] for n, m in made.items()})
    return learner._replace(method_state=spans)

  held = own_alone(lambda name: name.endswith(A))
  return Method(network, init, start_task=start_task, end_task=end_task, transform=held, finalize=held)


register(
  "inflora",
  Entry(
    inflora,
    {
      "threshold": Option(0.95, 0, 1),
      "last_threshold": Option(1.0, 0, 1),
      **PAIRS,
      "rank": Option(10, 1),
      "energy": Option("inputs", choices=("inputs", "released")),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("plain_inputs",)),
    "Liang and Li 2024",
  ),
)
