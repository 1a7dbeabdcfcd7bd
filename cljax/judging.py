"""Which classes compete when a prediction is judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cljax.types import Learn


def judged_classes(stream, learned: Sequence[int], trains_on: str = "current") -> np.ndarray:
  """``[T, C]`` bool: the classes among which a row of each task is judged once the tasks ``learned`` were trained.

  Where the stream tells the task at test, its own classes. Else the union of the classes trained so far, so that
  outputs never trained do not compete; for a task that is still to come, and before the first event, all classes. A
  deletion does not shrink the union. A column that no event learns (the whole test set of 'scole') has the union too.
  """
  own = stream.classes_of_task
  if stream.task_id_given:
    return own
  if not len(learned):
    return np.ones_like(own)
  to_learn = {e.task for e in stream.events if isinstance(e, Learn)}
  trained = to_learn if trains_on == "all" else set(learned)
  to_come = np.isin(np.arange(stream.num_tasks), list(to_learn - trained))
  return np.where(to_come[:, None], True, own[sorted(trained)].any(0))
