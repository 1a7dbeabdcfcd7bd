"""U-LiRA: shadow models that learned half of a pool of the rows and unlearned it again, beside those that never did."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import cljax
from cljax import engine, streams
from cljax.cli import _workdir
from cljax.cli.unlearning._job import ORACLE_SEED, Job, prepared
from cljax.cli.unlearning._lens import Lens
from cljax.evaluation import evidence
from cljax.metrics import unlearning as metrics

POOL, GROUPS = 40, 4
# Which groups learned a row of each pattern: every row is learned by two of the four, and each pair of groups alike.
_PATTERNS = np.asarray([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]], bool)


class Shadows(NamedTuple):
  """The populations of the groups, trained once for all methods; ``members [GROUPS, P]``: who learned which row."""

  streams: list  # with the request to forget
  setups: list  # of the training before it
  trained: list
  members: np.ndarray
  rows: evidence.Sides
  seeds: list[list[int]]  # of each group; no two groups share one, or its noise would stand on both sides
  positions: np.ndarray


def train(job: Job, base, stream, gone, count: int, look: Lens) -> Shadows:
  """``count`` models in four groups. Each learns what is kept and its half of up to 40 of the rows to forget."""
  all_named = np.unique(np.concatenate([rows[mine] for rows, mine in zip(stream.train, gone, strict=True)]))
  pool = all_named[np.linspace(0, len(all_named) - 1, min(POOL, len(all_named))).astype(int)]
  if len(pool) < len(_PATTERNS):
    raise cljax.UsageError(f"shadows: the request names {len(pool)} rows; expected at least {len(_PATTERNS)}")
  split = stream.dataset.train
  members = _PATTERNS[np.arange(len(pool)) % len(_PATTERNS)].T
  size = max(2, count // GROUPS)
  seeds = [list(range(first, first + size)) for first in range(2 * ORACLE_SEED, 2 * ORACLE_SEED + GROUPS * size, size)]
  made: list = []
  setups: list = []
  trained: list = []
  for group in range(GROUPS):
    theirs = pool[members[group]]
    absent = [mine & ~np.isin(rows, theirs) for rows, mine in zip(stream.train, gone, strict=True)]
    own = evidence.without_rows(stream, absent)
    ids = tuple(int(i) for i in np.asarray(split.id)[pool[members[group]]])
    made.append(own._replace(events=(*own.events, cljax.Forget(ids=ids))))
    plain = prepared(base, own, seeds[group])
    setups.append(plain.setup)
    trained.append(plain.run(str(job.workdir / "shadows" / str(group)), stop=job.stop))
  asked = cljax.Forget(ids=tuple(int(i) for i in np.asarray(split.id)[pool]))
  rows = look.sides(stream, asked)
  named = streams.resolve_pairs(asked, stream)
  tasks = streams.learned_tasks(stream.events)  # as evidence.sides lists them
  order = np.concatenate([stream.train[t][named[t]] for t in tasks])
  return Shadows(made, setups, trained, members, rows, seeds, np.searchsorted(pool, order))


def scores(job: Job, shadows: Shadows, name: str, built, reuses: bool, look: Lens) -> dict[str, float]:
  """``u_lira`` (AUC), ``u_lira_accuracy`` (mean over rows) and ``u_lira_tpr`` of a method; of the trained shadows where
  ``name`` is empty. 0.5 is exact unlearning, within the noise of as many models."""
  margins: list[Any] = []
  for group, (stream, trained) in enumerate(zip(shadows.streams, shadows.trained, strict=True)):
    setup = shadows.setups[group]
    if name:
      made = prepared(built, stream, shadows.seeds[group])
      setup = made.setup
      folder = job.workdir / "methods" / _workdir.in_path(name) / "shadows" / str(group)
      trained = made.run(str(folder), stop=job.stop, start=engine.continued(made, trained) if reuses else None)
    margins.append(look.margins(look.answers(setup, trained.learner, shadows.rows), shadows.rows))
  return attacked(np.stack(margins), shadows.members[:, shadows.positions])


def attacked(margins: np.ndarray, members: np.ndarray) -> dict[str, float]:
  """``margins [GROUPS, S, P]`` of unlearned models and who had learned which row, ``members [GROUPS, P]``."""
  if not np.isfinite(margins).all():
    return {}
  order = np.argsort(~members, axis=0, kind="stable")  # for each row the two groups that learned it, then the others
  sorted_ = np.take_along_axis(margins, order[:, None], 0)
  half = len(sorted_) // 2
  # Model i of both sides is left out together: else the side that lost one would look further away.
  inside, outside = (part.reshape(-1, margins.shape[-1]) for part in (sorted_[:half], sorted_[half:]))
  found = metrics.attack(*metrics.u_lira(inside, outside))
  return {"u_lira": float(found.auc), "u_lira_accuracy": float(found.accuracy), "u_lira_tpr": float(found.tpr)}
