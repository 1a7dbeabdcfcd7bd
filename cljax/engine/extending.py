"""Going on with a run under a longer stream: what a learner may keep, what grows with it, and what can not.

A learner is taken over where both its arrays and the functions that it is trained by are the same for both streams, but
for the axis of tasks. What is written is compared, not guessed: the operations of every hook under either stream. Of
arrays that have a place for each task, the old places are kept and the new ones are those of a fresh learner.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core import tree
from cljax.core.types import Learn, UsageError
from cljax.engine import presentations
from cljax.engine import programs as prog
from cljax.engine.loop import (
  Hooks,
  State,
  all_alive,
  begin,
  evaluate,
  initial_learner,
)
from cljax.engine.program_arguments import init_arguments, where_in_stream
from cljax.engine.saving import SAVED
from cljax.engine.setup import CompiledRun
from cljax.io import checkpoint

_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.])")


def earlier(stream, held: Mapping[str, Any]):
  """The given stream as it was in the stage ``held`` of a run's history: its first events and tasks."""
  events, tasks = len(held["events"]), len(held["tasks"])
  first = lambda parts: parts[:tasks]
  tables = jax.tree.map(first, stream.view.tables)
  return stream._replace(
    events=stream.events[:events], train=first(stream.train), validation=first(stream.validation),
    test=first(stream.test), labels=first(stream.labels), view=stream.view._replace(tables=tables),
  )  # fmt: skip


def check(old: CompiledRun, new: CompiledRun, again: Callable[[Any], CompiledRun]) -> None:
  """Raises UsageError, with the reason, where a learner of ``old`` can not go on under ``new``'s longer stream.

  ``again(stream)``: ``old`` on another stream. What room it would have needed from its beginning is so found out.
  """
  learns = any(isinstance(e, Learn) for e in new.stream.events[len(old.stream.events) :])
  if learns and new.trains_on == "all":
    raise UsageError("extend: the method trains on the rows of every task from its first step on, so it can not go on "
                     "with tasks that come later; train it anew")  # fmt: skip
  if learns and new.recipe.schedule_over == "stream":
    raise UsageError("extend: optimizer.schedule_over='stream' spreads the learning rate over all steps, so its length "
                     "must be known ahead; use 'task'")  # fmt: skip
  made = _made_for(old, new)
  if not made:
    return
  sizes = {
    "reserve_tasks": ("room", old.spec.num_tasks, new.spec.num_tasks, "tasks, which become"),
    "reserve_rows": ("row_room", old.spec.task_rows, new.spec.task_rows, "rows in its largest task, which grow to"),
  }
  grow = [name for name, (_, a, b, _) in sizes.items() if a != b]
  for names in ([n] for n in grow) if len(grow) == 1 else (grow[:1], grow[1:], grow):
    roomy = old.stream._replace(**{sizes[n][0]: sizes[n][2] for n in names})
    if names and not _made_for(again(roomy), new):
      why = " and ".join(f"{a} {words} {b}" for _, a, b, words in (sizes[n] for n in names))
      begin = " and ".join(f"stream.{n}={sizes[n][2]}" for n in names)
      raise UsageError(f"extend: {made} is made for {why}; train it anew with {begin}, and it can be extended")
  raise UsageError(f"extend: {made} is another under the longer stream, whatever room is reserved; train it anew")


def _made_for(old: CompiledRun, new: CompiledRun) -> str:
  """What of ``old``'s learner is not as ``new`` would have it; '' where it can go on."""
  found = _other_leaf(old, new)
  if found:
    return found
  tasks = (old.spec.num_tasks, new.spec.num_tasks)
  both = [_traced(s, new) for s in (old, new)]
  for hook, (text, consts) in both[0].items():
    other, others = both[1][hook]
    if not _alike(text, other, tasks) or not _same_consts(consts, others, old):
      return f"{hook} of this method"
  return ""


def _abstract(setup: CompiledRun):
  return jax.eval_shape(setup.parts.init, jax.random.key(0))


def _other_leaf(old: CompiledRun, new: CompiledRun) -> str:
  """An array of the learner that the longer stream makes otherwise than by places for its tasks; '' for none."""
  a, b = _abstract(old), _abstract(new)
  if tree.paths(a) != tree.paths(b):
    lost = sorted(set(tree.paths(a)) ^ set(tree.paths(b)))
    return f"the learner, with {lost[0]}," if lost else "the order of the learner's arrays"
  tasks = (old.spec.num_tasks, new.spec.num_tasks)
  for path, x, y in zip(tree.paths(a), jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    rest = x.dtype == y.dtype and x.shape[1:] == y.shape[1:] and len(x.shape) == len(y.shape) > 0
    if x.shape != y.shape and not (rest and _grows(x.shape[0], y.shape[0], tasks)):
      return f"{path}, {x.dtype}{list(x.shape)} and then {y.dtype}{list(y.shape)},"
  return ""


def _grows(a: int, b: int, tasks: tuple[int, int]) -> bool:
  """Whether ``a`` and ``b`` are the same number of places for each task."""
  return a % tasks[0] == 0 and b % tasks[1] == 0 and a // tasks[0] == b // tasks[1]


def _traced(setup: CompiledRun, new: CompiledRun) -> dict[str, tuple[str, list]]:
  """``{hook: (operations, constants)}`` of one learner, on rows and tables of ``new``'s sizes."""
  abstract = lambda t: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), t)
  learner, data, where = _abstract(setup), abstract(new.train), abstract(where_in_stream(setup, 0, 0, 1))
  ints, flag = jax.ShapeDtypeStruct((setup.spec.batch_size,), jnp.int32), jax.ShapeDtypeStruct((), bool)
  rows, count = (jax.ShapeDtypeStruct((new.spec.task_rows,), jnp.int32),) * 2, jax.ShapeDtypeStruct((), jnp.int32)
  parts, out = setup.parts, {}

  def trace(hook: str, *arguments) -> None:
    closed = jax.make_jaxpr(getattr(parts, hook))(*arguments)
    out[hook] = re.sub(r"0x[0-9a-f]+", "", str(closed.jaxpr)), list(closed.consts)

  trace("step", learner, data, where, flag, ints, ints, ints)
  for hook in ("start_task", "end_task"):
    if getattr(parts, hook) is not None:
      trace(hook, learner, flag, data, where, *rows, count)
  x = setup.inputs
  if not isinstance(x, dict):
    x = jax.ShapeDtypeStruct((2, *setup.spec.input_shape), setup.spec.input_dtype)
  trace("predict", learner, x, count)
  return out


def _alike(a: str, b: str, tasks: tuple[int, int]) -> bool:
  """Whether two printed programs are the same but for whole numbers that count places for each task."""
  if _NUMBER.sub("#", a) != _NUMBER.sub("#", b):
    return False
  for x, y in zip(_NUMBER.findall(a), _NUMBER.findall(b), strict=True):
    whole = x.isdigit() and y.isdigit()
    # The last place of an axis is one less than their number.
    if x != y and not (whole and (_grows(int(x), int(y), tasks) or (int(x) + 1, int(y) + 1) == tasks)):
      return False
  return True


def _same_consts(a: list, b: list, old: CompiledRun) -> bool:
  """Whether the constants of two programs agree, of those with a line for each task on the tasks that there were."""
  met, size = old.stream.num_tasks, old.spec.num_tasks
  for x, y in zip(a, b, strict=True):
    keys = jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.prng_key)
    x, y = (np.asarray(jax.random.key_data(v) if keys else v) for v in (x, y))
    if x.dtype != y.dtype or x.shape[1:] != y.shape[1:] or len(x.shape) != len(y.shape):
      return False
    if x.shape == y.shape and np.array_equal(x, y):
      continue
    if not x.ndim or len(x) != size or not np.array_equal(x[:met], y[:met]):
      return False
  return True


def _grown(arrays, fresh, before, tasks: int):
  """``{"learner", "alive"}`` of the shorter stream's run in the places of the longer one's, its other places from
  ``fresh``.

  ``before``: a fresh learner of the shorter stream; UsageError where the longer one's does not begin with it, for then
  a run that had all the tasks from the start would have begun elsewhere.
  """

  def one(path, old, new, start):
    if old.shape == new.shape:
      return old
    if not np.array_equal(np.asarray(start), np.asarray(new[:, : old.shape[1]])):
      raise UsageError(f"extend: {path} of a fresh learner depends on the number of tasks; train it anew with "
                       f"stream.reserve_tasks={tasks}, and it can be extended")  # fmt: skip
    return np.concatenate([np.asarray(old), np.asarray(new)[:, old.shape[1] :]], axis=1)

  paths = tree.paths(fresh["learner"])
  leaves = [jax.tree.leaves(t["learner"]) for t in (arrays, fresh, before)]
  grown = [one(p, *each) for p, *each in zip(paths, *leaves, strict=True)]
  return {"learner": jax.tree.unflatten(jax.tree.structure(fresh["learner"]), grown), "alive": arrays["alive"]}


class Growing:
  """Reads checkpoints of an earlier stage, of setup ``old``, as states of ``new``."""

  def __init__(self, old: CompiledRun, new: CompiledRun):
    self.old, self.new = old, new
    self._fresh: Any = None

  def arrays(self, directory, number: int, meta: dict):
    old = self.old
    padded = {"learner": old.programs.init.shape(*init_arguments(old)), "alive": all_alive(old)}
    like = jax.eval_shape(lambda t: prog.unpad(t, old.members), padded)
    return self.grown(checkpoint.read_state(directory, number, meta, like))

  def grown(self, arrays):
    """``arrays``, of the population without padding, on the devices of ``new``."""
    shapes = [[a.shape for a in jax.tree.leaves(jax.eval_shape(s.parts.init, jax.random.key(0)))]
              for s in (self.old, self.new)]  # fmt: skip
    if shapes[0] != shapes[1]:
      if self._fresh is None:
        fetch = lambda s: {"learner": prog.fetch(initial_learner(s), s.members)}
        self._fresh = fetch(self.new), fetch(self.old)
      fresh, before = self._fresh
      arrays = _grown(arrays, fresh, before, self.new.spec.num_tasks)
    return prog.shard_members(arrays, self.new.members)


def restore(old: CompiledRun, new: CompiledRun, directory, number: int, meta: dict, hooks: Hooks) -> State:
  """The state in a checkpoint of ``old``'s run, as one of ``new``; what there is of the new tasks' scores before is
  measured on the checkpoints that are left. Raises DamagedError."""
  growing = Growing(old, new)
  arrays, position = growing.arrays(directory, number, meta), meta["position"]
  state = State(arrays["learner"], arrays["alive"], **{k: position[k] for k in SAVED})
  state.presented = presentations.widened(presentations.read(directory, number, meta), new.stream)

  def at(row: int) -> State | None:
    """The run as it stood when row ``row`` was measured, where that is still to be had."""
    if row == 0:
      return begin(new)
    for other in reversed(checkpoint.numbers(directory)):
      try:
        found = checkpoint.read_meta(directory, other)
        there = found["position"]
        if (there["event"], there["step"], there["ended"]) == (row, 0, False) and len(there["accuracy"]) == row + 1:
          kept = growing.arrays(directory, other, found)
          return State(kept["learner"], kept["alive"], event=row)
      except (checkpoint.DamagedError, UsageError):
        continue
    return None

  return widened(state, old, new, at, hooks)


def widened(state: State, old: CompiledRun, new: CompiledRun, at: Callable[[int], State | None], hooks: Hooks) -> State:
  """The state with a column for each of ``new``'s tasks; ``at(row)`` gives the state to measure a row on, or None."""
  had, tasks = old.stream.num_tasks, new.stream.num_tasks
  if had == tasks:
    return state
  silent = new._replace(evaluators=None)
  nothing = [None] * (tasks - had)

  def column(before: list, found: list | None) -> list:
    more = [nothing] * len(before) if found is None else [row[had:] for row in found]
    return [list(a) + list(b) for a, b in zip(before, more, strict=True)]

  def row(before: dict, found: dict | None) -> dict[str, Any]:
    out: dict[str, Any] = {k: column(v, None if found is None else found[k]) for k, v in before.items()
           if k in ("test", "task", "validation") and (found is None or k in found)}  # fmt: skip
    if "scores" in before:
      out["scores"] = {n: row(v, None if found is None else found["scores"][n]) for n, v in before["scores"].items()}
    if "evaluations" in before:
      out["evaluations"] = {
        n: {m: column(v, None) for m, v in said.items()} for n, said in before["evaluations"].items()
      }
    if "texts" in before:
      empty: list[list] = [[] for _ in nothing]
      out["texts"] = {
        n: {w: [[*of, *empty] for of in members] for w, members in by.items()} for n, by in before["texts"].items()
      }
    return out

  rows = []
  for number, before in enumerate(state.accuracy):
    there = at(number)
    found = None if there is None else evaluate(silent, there, hooks)
    # Nothing was learned yet at row 0, and what is said then may depend on how many tasks there are.
    whole = {k: v for k, v in (found or {}).items() if k in before} if number == 0 else {}
    rows.append(row(before, found) | whole)
  state.accuracy = rows
  state.curves = [{**c, "accuracy": column(c["accuracy"], None)} for c in state.curves]
  return state


__all__ = ["Growing", "check", "earlier", "restore", "widened"]
