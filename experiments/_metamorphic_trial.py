"""What a law of :mod:`experiments.metamorphic` is given: a combination, its run, and how two results are compared."""

from __future__ import annotations

import contextlib
import tempfile
from typing import Any

import jax
import numpy as np

import cljax
from cljax import engine
from experiments import _metamorphic_draw as draws
from experiments import _metamorphic_streams as told

TOLERANCE = 3e-4  # of parameters, relative to 1 + their greatest: about 40 float32 steps in another order
GROWTH = 100.0  # how many times further than a rounding error of the first parameters two results may lie apart


class RefusedError(Exception):
  """The variant was refused with a UsageError where that is allowed; its text."""


class Trial:
  """One combination under one law; counts the runs it makes.

  After ``start()``, ``base`` is its result, ``made`` the Prepared that made it, ``messages`` what it reported.
  """

  made: engine.Prepared
  base: cljax.RunResult

  def __init__(self, combination: draws.Combination, composed: bool = False, factory=None):
    self.combination, self.runs = combination, 0
    self.messages: list[dict] = []
    self.how: dict[str, Any] = {"factory": factory} if factory else {}
    if composed:
      self.how["parts"] = draws.labelled(combination)

  def start(self) -> None:
    self.stream = draws.built_stream(self.combination)
    self.model = draws.model_of(self.combination, self.stream)
    self.made = self.prepare()
    self.base = self.run(self.made, report=self.messages.append)

  def prepare(self, stream=None, model=None, **more) -> engine.Prepared:
    """The combination's :class:`engine.Prepared`, less what is given."""
    given = {**self.how, **more}
    return draws.prepared(self.combination, stream or self.stream, model or self.model, **given)

  def run(self, made: engine.Prepared, *args, **more) -> cljax.RunResult:
    self.runs += 1
    return made.run(*args, **more)

  def variant(self, stream=None, model=None, **more) -> cljax.RunResult:
    return self.run(self.prepare(stream, model, **more))

  def events(self, kind: str) -> list[int]:
    return [i for i, e in enumerate(self.base.events) if e["kind"] == kind]

  @contextlib.contextmanager
  def refusable(self):
    """Where the law allows a refusal."""
    try:
      yield
    except cljax.UsageError as error:
      raise RefusedError(str(error)) from error

  def sensitivity(self) -> tuple[float, float]:
    """How far parameters and accuracies of the base run move where its first parameters were rounded otherwise: a
    threshold, a rank or a draw by value can turn a rounding error into any difference, which is then no violation."""
    runs = [self.variant(model=told.perturbed(self.model, 1e-6, salt)) for salt in (1, 2, 3)]
    far = [apart(r.learner.params, self.base.learner.params) for r in runs]
    return max(far), max(_cells(r, self.base) for r in runs)

  def same(self, other: cljax.RunResult, **how) -> str | None:
    return same(other, self.base, **how)

  def close(self, other: cljax.RunResult, params=None, base: cljax.RunResult | None = None) -> str | None:
    """None where the results are equal to rounding; ``params``: ``other``'s, brought into the base's order."""
    base = base or self.base
    far = apart(other.learner.params if params is None else params, base.learner.params)
    cells = _cells(other, base)
    if far <= TOLERANCE and cells <= _one_row(self.stream):
      return None
    moved, turned = self.sensitivity()
    if far <= max(TOLERANCE, GROWTH * moved) and cells <= max(_one_row(self.stream), 3 * turned):
      return None
    return f"parameters {far:.2g} apart, accuracies {cells:.2g}; rounding alone moves them by {moved:.2g}, {turned:.2g}"


def _cells(a: cljax.RunResult, b: cljax.RunResult) -> float:
  return float(np.abs(a.accuracy - b.accuracy).max(initial=0))


def _one_row(stream) -> float:
  """One prediction of the smallest task: a tie may fall either way."""
  return 1.01 / min(len(rows) for rows in stream.test)


def apart(a, b) -> float:
  """The greatest difference of two trees, relative to 1 + the greatest entry."""
  a, b = (jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), t) for t in (a, b))
  pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
  if any(x.shape != y.shape for x, y in pairs):
    return np.inf
  far = max((float(np.abs(x - y).max(initial=0)) for x, y in pairs), default=0.0)
  size = max((float(np.abs(y).max(initial=0)) for _, y in pairs), default=0.0)
  return far / (1 + size) if np.isfinite(far) else np.inf


def same(a: cljax.RunResult, b: cljax.RunResult, tasks=None, members=None, rows=None, params: bool = True):
  """None where two results are equal to the bit; else what differs.

  ``tasks``: the column of ``a`` for each task of ``b``; ``members``: the member of ``b`` for each of ``a``; ``rows``:
  how many rows of the matrix are compared (default: all, and what was forgotten).
  """
  who = list(range(len(b.accuracy))) if members is None else list(members)
  if params and a.params_sha256 != [b.params_sha256[i] for i in who]:
    chosen = jax.tree.map(lambda leaf: np.asarray(leaf)[who], b.learner.params)
    return f"parameters differ, by up to {apart(a.learner.params, chosen):.2g}"
  columns = slice(None) if tasks is None else tasks
  for name in ("accuracy", "task_accuracy", "validation"):
    x, y = getattr(a, name), getattr(b, name)
    if (x is None) != (y is None):
      return f"{name} is there in one of them only"
    if x is None:
      continue
    x, y = x[:, :rows][:, :, columns], y[who][:, :rows]
    if x.shape != y.shape or not np.array_equal(x, y, equal_nan=True):  # of no validation rows there is no accuracy
      return f"{name} differs, by up to {np.abs(x - y).max():.2g}" if x.shape == y.shape else f"{name}: {x.shape}"
  if rows is None:
    told = [{**f, **{k: [f[k][i] for i in who] for k in ("forget", "retain")}} for f in b.forgotten]
    if repr(a.forgotten) != repr(told):
      return f"forgotten says {a.forgotten}, not {told}"
  return None


def workdir():
  return tempfile.TemporaryDirectory(prefix="metamorphic-")
