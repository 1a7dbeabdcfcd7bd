"""Which classes compete when a prediction is judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cljax.core.types import Learn


def judged_classes(stream, learned: Sequence[int], trains_on: str = "current") -> np.ndarray:
  """``[T, C]`` bool: the classes among which a row of each task is judged once the tasks ``learned`` were trained.

  Where the stream tells the task at test, its own classes. Else the union of the classes trained so far, so that
  outputs never trained do not compete; for a task that was not met yet (also one that no event learns, such as the
  whole test set of 'scole'), and before the first event, all classes. What events come later makes no difference. A
  deletion does not shrink the union.
  """
  own = stream.classes_of_task
  if stream.task_id_given:
    return own
  if not len(learned):
    return np.ones_like(own)
  trained = {e.task for e in stream.events if isinstance(e, Learn)} if trains_on == "all" else set(learned)
  met = np.isin(np.arange(stream.num_tasks), list(trained))
  return np.where(met[:, None], own[sorted(trained)].any(0), True)
