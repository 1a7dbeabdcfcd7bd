"""Rehearsal as a relaxation of the ideal continual learner: of each earlier task some rows are held, not all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cljax.core.types import Array, UsageError
from cljax.theory.linear import IdealState, ideal_learn


def rehearse(state: IdealState, x: Array, y: Array, stored: int, tolerance: float | None = None) -> IdealState:
  """``w_t = w_{t-1} + argmin |a|^2`` of those ``a`` that solve ``x (w_{t-1} + a) = y`` and change no stored output.

  ``x [n, p]``, ``y [n, c]``; the first ``stored`` rows (static) join the constraints of the tasks to come, ``L_i(w) <=
  0`` on samples in place of ``L_i`` itself. ``stored`` 0 is minimum-norm learning in turn
  (:func:`cljax.theory.learn`), all n the ideal learner, whose set lies inside this one. State and ``tolerance`` as for
  :func:`ideal_learn`. Peng, Giampouras & Vidal, ICML 2023: samples generalise at ``O(1 / sqrt(stored))``.
  """
  if not 0 <= stored <= len(x):
    raise UsageError(f"stored: got {stored}; expected 0 to {len(x)}, the number of rows")
  moved = ideal_learn(state, x, y, tolerance).weights
  held = ideal_learn(state, x[:stored], y[:stored], tolerance) if stored else state
  return IdealState(moved, held.basis, held.rank)


class RehearsalErrors(NamedTuple):
  """After each task, ``[T]``: ``distance = |w_t - w*|^2`` and ``first_loss``, the mean square error on the n rows of
  the first task; both for a start at distance 1."""

  distance: np.ndarray
  first_loss: np.ndarray


def rehearsal_errors(features: int, rows: int, stored: int, tasks: int) -> RehearsalErrors:
  """Expected errors of :func:`rehearse` on tasks of Gaussian inputs without noise, one teacher w*, exactly.

  With p features, n rows and m stored of them, task t moves ``e = w - w*`` inside the ``q = p - m (t-1)`` dimensions
  that the stored rows leave, by a random projection Q of rank ``k = q - n``: ``E|e_t|^2 = prod_s (1 - n / q_s)``. For a
  row x of the first task that is not stored, less what the stored rows span, ``u = E (x e)^2`` and ``v = E |e|^2
  |x|^2`` follow ``u' = (A + B) u + B v`` and ``v' = a v + 2 b u`` with ``E[Q M Q] = (A + B) M + B tr(M) I``:
  ``B = k (q - k) / (q (q - 1)(q + 2))``, ``A = (k^2 - 2 q B) / q^2``; and, of Q beside the projection R of rank
  ``r = q - m`` that what is then stored leaves, ``a q^2 + 2 b q = k r``, ``a q + b (q^2 + q) = k``. From ``u_1 = 0``,
  ``v_1 = (1 - n/p)(p - m)``; ``first_loss = (1 - m/n) u``. Our derivation: m = 0 gives that of learning in turn, m = n
  that of the ideal learner. Raises UsageError unless ``m (T-1) + n < p - 1`` (for more the last tasks solve all).
  """
  p, n, m = features, rows, stored
  if not 0 <= m <= n or n < 1 or tasks < 1 or m * (tasks - 1) + n >= p - 1:
    raise UsageError(f"stored, tasks: got {m} of {n} rows and {tasks} tasks in {p} features; expected 0 <= stored <= "
                     "rows and stored (tasks - 1) + rows < features - 1")  # fmt: skip
  distance, loss = [1 - n / p], [0.0]
  u, v = 0.0, (1 - n / p) * (p - m)
  for t in range(2, tasks + 1):
    q = p - m * (t - 1)
    k, r = q - n, q - m
    B = k * (q - k) / (q * (q - 1) * (q + 2))
    A = (k**2 - 2 * q * B) / q**2
    a, b = np.linalg.solve([[q**2, 2 * q], [q, q**2 + q]], [k * r, k])
    u, v = (A + B) * u + B * v, a * v + 2 * b * u
    distance.append(distance[-1] * (1 - n / q))
    loss.append((1 - m / n) * u)
  return RehearsalErrors(np.asarray(distance), np.asarray(loss))


__all__ = ["RehearsalErrors", "rehearsal_errors", "rehearse"]
