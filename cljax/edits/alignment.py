"""Hidden units of one network in the order of another's: weight matching."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from cljax.core import tree
from cljax.core.types import Params, UsageError


def match_units(a: Params, b: Params, units: Sequence, sweeps: int = 100, seed: int = 0) -> list[np.ndarray]:
  """Permutations ``p_l`` of ``b``'s hidden units: unit ``i`` of ``a`` goes with unit ``p_l[i]`` of ``b``.

  Layer by layer in random order, by linear assignment (SciPy), what maximises ``sum of a * permuted b`` over a layer's
  incoming weights, bias and outgoing weights, the other layers held, until nothing changes. ``units``: those of a
  model (``Model.units``), whose layers' last axis is their units. A local optimum. Raises UsageError for no units.
  Ainsworth et al. 2023; spec S9.
  """
  from scipy.optimize import linear_sum_assignment

  if not units:
    raise UsageError("match_units: units is empty; expected those of a model with hidden units, such as an MLP")
  left, right = ({n: np.asarray(v, np.float64) for n, v in tree.by_path(p).items()} for p in (a, b))
  order = [np.arange(left[u.in_kernel].shape[-1]) for u in units]
  rng = np.random.default_rng(seed)
  for _ in range(sweeps):
    changed = False
    for l in rng.permutation(len(units)):
      now = _permuted(right, units, order, but=int(l))
      u = units[l]
      rows = lambda v: np.moveaxis(v, -1, 0).reshape(v.shape[-1], -1)
      gain = rows(left[u.in_kernel]) @ rows(now[u.in_kernel]).T + np.outer(left[u.in_bias], now[u.in_bias])
      for side, other in zip(
        _readers(left[u.out_kernel], order[l]), _readers(now[u.out_kernel], order[l]), strict=True
      ):
        gain += side @ other.T
      best = linear_sum_assignment(gain, maximize=True)[1]
      if gain[np.arange(len(best)), best].sum() > gain[np.arange(len(best)), order[l]].sum() + 1e-9:
        order[l], changed = best, True
    if not changed:
      break
  return order


def _readers(kernel: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
  """What reads each unit, ``[units, ...]``: rows of a dense kernel; of one that reads a flattened map, a block for each
  place of the map, the units being its last axis."""
  n = len(order)
  if kernel.ndim == 2:
    return [np.swapaxes(kernel.reshape(-1, n, kernel.shape[-1]), 0, 1).reshape(n, -1)]
  return [np.moveaxis(kernel, -2, 0).reshape(n, -1)]


def _permuted(leaves, units, order, but: int = -1) -> dict:
  out = dict(leaves)
  for l, (u, p) in enumerate(zip(units, order, strict=True)):
    if l == but:
      continue
    out[u.in_kernel] = out[u.in_kernel][..., p]
    out[u.in_bias] = out[u.in_bias][p]
    kernel = out[u.out_kernel]
    if kernel.ndim == 2:
      blocks = kernel.reshape(-1, len(p), kernel.shape[-1])[:, p]
      out[u.out_kernel] = blocks.reshape(kernel.shape)
    else:
      out[u.out_kernel] = kernel[..., p, :]
  return out


def permute_units(params: Params, units: Sequence, order: Sequence[np.ndarray]) -> Params:
  """The same function with its hidden units in another order: unit ``i`` is what was unit ``order[l][i]``.

  Outputs are the same to rounding, where nothing but the layers of ``units`` reads the units. Raises UsageError for
  another number of permutations.
  """
  if len(units) != len(order):
    raise UsageError(f"permute_units: order has {len(order)} permutations; expected {len(units)}, one for each layer")
  named = {n: np.asarray(v) for n, v in tree.by_path(params).items()}
  made = _permuted(named, units, [np.asarray(p) for p in order])
  return tree.map_named(lambda n, old: jnp.asarray(made[n], old.dtype), params)
