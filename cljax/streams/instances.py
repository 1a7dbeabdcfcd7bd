"""Instance-incremental streams: every task is a random part of the rows of all classes."""

from __future__ import annotations

import numpy as np

from cljax.core.types import UsageError


def instance_rows(strata: np.ndarray, pool: np.ndarray, tasks: int, seed: int) -> list[np.ndarray]:
  """The rows of each task: those of each class (``strata [N]``) in random order, dealt one by one to the tasks in turn,
  the next class from where the last one ended.

  So tasks differ by at most one row of each class, and by at most one in all; every row of ``pool`` is in one task.
  Raises UsageError where there are fewer rows than tasks.
  """
  if tasks > len(pool):
    raise UsageError(f"stream.tasks: got {tasks}; {len(pool)} training rows make at most as many tasks")
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0x1257A]))
  own = np.asarray(strata)[pool]
  dealt = np.concatenate([rng.permutation(pool[own == c]) for c in np.unique(own)])
  return [np.sort(dealt[t::tasks]) for t in range(tasks)]
