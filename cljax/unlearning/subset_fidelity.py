"""Forgetting without gradients: zero the units that carry a layer's response to the rows to forget."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cljax.core import tree
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import Array, Batch, LossFn, Params, Scalar, UsageError
from cljax.estimators.per_sample import sum_over_batches
from cljax.unlearning._strength import searched


def fidelity_sums(inputs: Array, kernel: Array, weight: Array) -> tuple[Array, Array, Array]:
  """``(sum w <Y, A_i>, sum w |A_i|^2, sum w |Y|^2)``: ``[units]`` twice and a scalar; ``Y = sum_i A_i``.

  ``inputs [n, d_in]`` are the rows that ``kernel [..., units, d_out]`` multiplies (its leading axes are a patch's
  positions), ``A_i`` is what unit i adds to the output, ``weight [n]``.
  """
  units = kernel.shape[-2]
  matrix = kernel.reshape(-1, units, kernel.shape[-1])
  r = inputs.reshape(inputs.shape[0], -1, units)
  y = jnp.einsum("nsu,suo->no", r, matrix)
  with_output = jnp.einsum("n,nsu,nsu->u", weight, r, jnp.einsum("no,suo->nsu", y, matrix))
  second, gram = jnp.einsum("n,nsu,ntu->stu", weight, r, r), jnp.einsum("suo,tuo->stu", matrix, matrix)
  return with_output, (second * gram).sum((0, 1)), jnp.sum(weight[:, None] * jnp.square(y))


def fidelity(sums: tuple[Array, Array, Array]) -> Array:
  """Singleton fidelity ``s_i = <Y, A_i>^2 / (E|A_i|^2 E|Y|^2)``, ``[units]`` in [0, 1], of :func:`fidelity_sums`.

  It is ``1 - E|Y - d_i A_i|^2 / E|Y|^2`` at the best ``d_i``; 0 for a silent unit.
  """
  with_output, own, whole = sums
  energy = own * whole
  return jnp.where(energy > 0, jnp.square(with_output) / jnp.where(energy > 0, energy, 1.0), 0.0)


def modhifi_u(
  inputs_fn: Callable[[Params, Batch], Mapping[str, Array]], params: Params, *, forget: RowsLike,
  retain: RowsLike | None = None, key: Array | None = None, kernels: str = "", share: Scalar = 0.05,
  contrast: Scalar = 0.0, search: int = 0, loss_fn: LossFn | None = None, classes: ArrayLike | None = None,
  batch: int = 64,
) -> Params:  # fmt: skip
  """ModHiFi-U: in each layer, zeroes the ``share`` of input units of highest :func:`fidelity` on the forget rows.

  ``inputs_fn(params, batch) -> {kernel path: [n, d_in]}`` gives what each kernel multiplies, as
  ``cljax.estimators.layer_inputs`` does (n a multiple of the batch); ``kernels`` is a regular expression over these
  paths. A unit is zeroed where it is read: ``kernel[..., i, :] = 0``; ``round(share units)`` of them in each layer, no
  other bit changes. No gradients, and in the paper no retain rows: units that other classes share go too.

  With ``retain`` rows units are ranked by the fidelity on forget rows less ``contrast`` times that on retain rows. With
  ``search``, ``loss_fn(params, batch) -> [B]`` and the ``classes [K]`` bool that go whole, ``share`` is where it is
  looked for: the least of so many tried by doubling and halving at which the rows to forget are known no better than by
  who never saw them (:mod:`cljax.unlearning._strength`). A run has both; ``contrast=0, search=0`` is the paper's. A
  unit goes as a whole: **in a narrow network each is shared by several classes, and what forgets one breaks others**
  (retain accuracy falls by 18 points in 64 units, by 8 in 512). Spec D4; arXiv 2511.19566.
  Read in summary only: how the paper chooses the share and compares layers is unverified. Raises UsageError where no
  kernel matches.
  """
  del key
  forget = as_rows("forget", forget)
  leaves = tree.by_path(params)

  def part(some, start):
    del start
    sums = {}
    for name, inputs in inputs_fn(params, some).items():
      if re.search(kernels, name):
        weight = jnp.repeat(some.weight, inputs.shape[0] // some.weight.shape[0])
        sums[name] = fidelity_sums(inputs.astype(weight.dtype), leaves[name].astype(weight.dtype), weight)
    return sums

  like = jax.eval_shape(lambda: part(forget.batch(0, batch), 0))
  if not like:
    raise UsageError(f"kernels: {kernels!r} matches no layer whose inputs are known")
  found = {name: fidelity(sums) for name, sums in sum_over_batches(forget, batch, like, part).items()}
  ranked = found
  if retain is not None:
    retain = as_rows("retain", retain)
    others = {name: fidelity(sums) for name, sums in sum_over_batches(retain, batch, like, part).items()}
    ranked = {name: found[name] - contrast * others[name] for name in found}

  def without(share):
    def edit(path, leaf):
      score = ranked.get(path)
      if score is None:
        return leaf
      rank = jnp.argsort(jnp.argsort(-score))
      gone = (rank.astype(jnp.float32) < jnp.round(share * score.shape[0])) & (found[path] > 0)
      return jnp.where(gone.reshape(*(1,) * (leaf.ndim - 2), -1, 1), jnp.zeros_like(leaf), leaf)

    return tree.map_named(edit, params)

  given = {"forget": forget, "retain": forget if retain is None else retain, "search": search, "batch": batch}  # type: dict
  return searched(without, loss_fn, params, share, classes=classes if loss_fn else None, **given)
