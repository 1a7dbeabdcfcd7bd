"""Two tasks of which the second is a random orthogonal transform of the first (Goldfarb et al., ICLR 2024)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.types import Array, Scalar
from cljax.theory import regression


def rotation_forgetting(turned: Scalar | np.ndarray, slack: Scalar | np.ndarray) -> Scalar | np.ndarray:
  """Expected worst-case forgetting of two tasks under a random orthogonal transform, in the limit of large dimension.

  ``F = a {2 + b (a^3 - 6 a^2 + 11 a - 8) + b^2 (-5 a^3 + 22 a^2 - 30 a + 12) + b^3 (5 a^3 - 18 a^2 + 20 a - 6)}`` for
  tasks of rank d whose singular values and teacher have norm 1, with ``a = m / p`` the share of dimensions that are
  turned (``turned``: 0 for the same task; the paper's DOTS) and ``b = 1 - d / p`` the over-parameterisation
  (``slack``), numbers or arrays in [0, 1] that broadcast. Exact up to O(1/p); at b = 0 it is ``2 a`` for every p, and
  at b -> 1 it is ``a^2 (1 - a)^2``, so tasks of middling similarity are forgotten most. The paper's formula is from
  memory, re-derived by free probability.
  """
  a, b = turned, slack
  first = a**3 - 6 * a**2 + 11 * a - 8
  second = -5 * a**3 + 22 * a**2 - 30 * a + 12
  third = 5 * a**3 - 18 * a**2 + 20 * a - 6
  return a * (2 + b * first + b**2 * second + b**3 * third)


def rotation_draw(key: Array, size: int, rank: int | Array, turned: int | Array) -> Array:
  """Forgetting of one drawn pair of tasks in dimension ``size``, averaged over all unit teachers: a scalar.

  ``X_1`` has ``rank`` orthonormal rows, ``X_2 = X_1 O`` with O of :func:`regression.partial_rotation` in ``turned``
  dimensions, and ``y = X_1 w*`` for both; both are learned in turn by :func:`regression.learn` from 0, and
  ``F = |X_1 w_2 - y|^2 / |P w*|^2`` with P on the rows of ``X_1``. ``rank`` (at least 1) and ``turned`` may be traced.
  ``X_1`` may be taken as unit vectors, because the distribution of O knows no basis.
  """
  present = jnp.arange(size) < rank
  first = jnp.eye(size) * present[:, None]
  second = regression.matmul(first, regression.partial_rotation(key, size, turned))
  # One column a teacher: the unit vectors, whose mean is that over all directions.
  step = lambda weights, x: (regression.learn(weights, x, first, present), None)
  weights, _ = jax.lax.scan(step, jnp.zeros((size, size)), jnp.stack([first, second]))
  return jnp.sum((regression.matmul(first, weights) - first) ** 2) / rank
