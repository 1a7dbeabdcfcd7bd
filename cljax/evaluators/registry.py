"""The form of an evaluator, the table of names, and what an evaluator may return."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cljax.core import names as taken
from cljax.core.types import UsageError

_WORD = re.compile(r"[A-Za-z0-9_@.+-]+")  # so that NAME/METRIC and lists of names can be told apart
BETTER = ("higher", "lower")


class Predict(NamedTuple):
  """What an evaluator asks of one learner, as it was judged when it was called; shapes as the run's model has them.

  ``predict(x, task=None) -> logits [B, C]`` of stored inputs, shown as ``task`` shows them, -inf for classes that do
  not compete; ``predict.outputs(x, task=None) -> Outputs`` of the model itself (the method's, where it has one), with
  ``features``. Either is compiled once for each shape of ``x``. UsageError without ``task`` where the answer depends on
  it.
  """

  logits: Callable
  outputs: Callable

  def __call__(self, x, task: int | None = None):
    return self.logits(x, task)


class Texts(NamedTuple):
  """What an evaluator shows beside its numbers: of each task a list of ``{name: text}``, each with the ``row`` of the
  test rows that it is made of, so that it goes when a request names that row."""

  of_tasks: Sequence[Sequence[Mapping[str, Any]]]


class Evaluator(NamedTuple):
  """A function on the host, called before the first event and after each one, for each member of a run.

  ``fn(learner, predict, stream, event) -> {metric: number or [T]}``: ``learner`` is one member's, with the parameters
  to judge by; ``predict`` a :class:`Predict`; ``event`` the number of the event that was just done, -1 before the first
  (``stream.events[: event + 1]`` are those that are done). A number is of the whole state and stands under every task;
  ``[T]`` has one a task; :class:`Texts` are kept and shown as they are, beside one number at least. NaN says that there
  is no value. The metrics are the same each time it is called; members that diverged are not asked and have NaN. It
  must depend on its arguments alone: what was measured is kept with the run and is not measured again when it resumes.
  ``better {metric: 'higher' or 'lower'}``: which way is better, for those metrics where one is.
  """

  name: str
  fn: Callable
  better: Mapping[str, str] = {}


EVALUATORS: dict[str, Evaluator] = {}
taken.TABLES["evaluators"] = EVALUATORS


def register(evaluator: Evaluator) -> Evaluator:
  """Adds an evaluator under its name, so that it can be named; UsageError for a wrong one, or a name that is taken."""
  sound = _sound(evaluator)
  if sound.name in EVALUATORS:
    raise UsageError(f"evaluators: {sound.name!r} is registered already")
  taken.check_free("evaluators", sound.name)
  EVALUATORS[sound.name] = sound
  return sound


def names() -> tuple[str, ...]:
  """All names, sorted."""
  return tuple(sorted(EVALUATORS))


def lookup(name: str) -> Evaluator:
  """The evaluator of a name; UsageError names what is allowed."""
  if name not in EVALUATORS:
    near = difflib.get_close_matches(str(name), EVALUATORS, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(f"evaluators: unknown {name!r}; allowed: {', '.join(names())}{hint}")
  return EVALUATORS[name]


def given(evaluators: str | Evaluator | Sequence[str | Evaluator]) -> tuple[Evaluator, ...]:
  """What a user names or gives (one, or several), as evaluators; UsageError where it is neither, or a name is twice."""
  one = isinstance(evaluators, str | Evaluator)
  if not one and not isinstance(evaluators, list | tuple):
    raise UsageError(f"evaluators: got {type(evaluators).__name__}; expected names or Evaluators, several as a tuple")
  several: list[Any] = [evaluators] if one else list(evaluators)
  found = tuple(lookup(e) if isinstance(e, str) else _sound(e) for e in several)
  called = [e.name for e in found]
  twice = next((n for i, n in enumerate(called) if n in called[:i]), "")
  if twice:
    raise UsageError(f"evaluators: {twice!r} stands twice")
  return found


def _sound(evaluator) -> Evaluator:
  if not isinstance(evaluator, Evaluator):
    raise UsageError(f"evaluators: got {evaluator!r:.80}; expected a name ({', '.join(names())}) or a cljax.Evaluator")
  name, fn, better = evaluator
  if not isinstance(name, str) or not _WORD.fullmatch(name):
    raise UsageError(f"evaluators: got the name {name!r:.80}; expected letters, digits and any of _@.+-")
  if not callable(fn):
    raise UsageError(
      f"evaluators: {name!r} has fn {fn!r:.80}; expected a function (learner, predict, stream, event) -> "
      "{metric: number or [T]}"
    )
  wrong = not isinstance(better, Mapping) or any(way not in BETTER for way in better.values())
  if wrong or not all(isinstance(m, str) and _WORD.fullmatch(m) for m in better):
    raise UsageError(f"evaluators: {name!r} has better={better!r:.80}; expected {{metric: 'higher' or 'lower'}}")
  return evaluator


def parted(evaluator: Evaluator, found: Any, num_tasks: int) -> tuple[Any, dict[str, list]]:
  """What an evaluator returned, its texts by themselves as ``{name: [T][{name: text}]}``; UsageError where they are
  wrong."""
  if not isinstance(found, Mapping):
    return found, {}
  texts = {name: value.of_tasks for name, value in found.items() if isinstance(value, Texts)}
  sound = lambda entry: (
    isinstance(entry, Mapping)
    and isinstance(entry.get("row"), int)
    and all(isinstance(k, str) and isinstance(v, str) for k, v in entry.items() if k != "row")
  )
  for name, of_tasks in texts.items():
    if len(of_tasks) != num_tasks or not all(sound(entry) for entries in of_tasks for entry in entries):
      raise UsageError(
        f"evaluators: {evaluator.name!r}: {name} is {of_tasks!r:.80}; expected {num_tasks} lists, one a task, of "
        "{'row': number, name: text}"
      )
  plain = {name: [[dict(entry) for entry in entries] for entries in of_tasks] for name, of_tasks in texts.items()}
  return {name: value for name, value in found.items() if name not in texts}, plain


def checked(
  evaluator: Evaluator, found: Any, num_tasks: int, before: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
  """What an evaluator returned, as ``{metric: [T] float64}``, a number repeated; UsageError where it is wrong.

  ``before``: the metrics that it returned when it was called first.
  """
  own = f"evaluators: {evaluator.name!r}"
  if not isinstance(found, Mapping) or not found:
    what = "an empty dict" if isinstance(found, Mapping) else type(found).__name__
    raise UsageError(f"{own} returned {what}; expected {{metric: number or [{num_tasks}]}}")
  for metric in found:
    if not isinstance(metric, str) or not _WORD.fullmatch(metric):
      raise UsageError(f"{own} returned a metric {metric!r:.80}; expected letters, digits and any of _@.+-")
  told = ", ".join(sorted(found))
  if before is not None and set(found) != set(before):
    raise UsageError(f"{own} returned the metrics {told}; expected as at first: {', '.join(sorted(before))}")
  missing = sorted(set(evaluator.better) - set(found))
  if missing:
    raise UsageError(f"{own} returned no {missing[0]!r}, of which it says what is better; it returned {told}")
  return {metric: _values(f"{own}: {metric}", value, num_tasks) for metric, value in found.items()}


def _values(what: str, value, num_tasks: int) -> np.ndarray:
  try:
    array = np.asarray(value)
  except (TypeError, ValueError):  # lists of uneven length
    array = np.asarray(None)
  if array.dtype.kind not in "biufV":  # V: bfloat16 and its like
    raise UsageError(f"{what} is {value!r:.80}; expected a number or [{num_tasks}] of them")
  if array.shape not in ((), (num_tasks,)):
    raise UsageError(f"{what} has shape {array.shape}; expected a number or [{num_tasks}], one a task")
  return np.array(np.broadcast_to(array.astype(np.float64), (num_tasks,)))
