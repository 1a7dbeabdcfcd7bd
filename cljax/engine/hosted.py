"""Evaluators where the loop calls them: after an event, on the host, for each member."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from cljax.core.types import UsageError
from cljax.engine import programs as prog
from cljax.engine.loop import Hooks, State, Stopped
from cljax.engine.prediction import asked, judged_at
from cljax.engine.setup import CompiledRun
from cljax.evaluators import Evaluator, Predict, checked, parted
from cljax.streams.fates import reached_tests


def with_evaluators(setup: CompiledRun, chosen: Sequence[Evaluator]) -> CompiledRun:
  """The setup with ``evaluators(state, hooks) -> {"evaluations": {name: {metric: [S][T]}}}``, and where there are any
  ``{"texts": {name: {what: [S][T] lists}}}``; as it is where no evaluators are chosen.

  Members that diverged have NaN and are not asked. What it gives is part of the state's row, so a checkpoint holds it
  and a run that resumes does not measure it anew. Raises UsageError with the name of an evaluator that fails or returns
  what it may not; Stopped, with all saved, where that is asked for between two of them.
  """
  if not chosen:
    return setup
  method, tasks = setup.parts.method, setup.stream.num_tasks
  logits = asked(setup.stream, setup.parts_of, method)
  outputs = asked(setup.stream, setup.parts_of, method, setup.model)

  def evaluators(state: State, hooks: Hooks) -> dict:
    with setup.clock.timed("eval"):
      learner, values = (prog.fetch(t, setup.members) for t in (state.learner, setup.hyper))
      alive = np.asarray(prog.fetch(state.alive, setup.members))
      bound = [of(judged_at(setup.stream, setup.trains_on, vars(state)), values, learner) for of in (logits, outputs)]
      first = state.accuracy[0]["evaluations"] if state.accuracy else {}
      at = state.event if state.ended else state.event - 1
      _drop_reached(state.accuracy, setup, at + 1)
      found: dict[str, list] = {e.name: [] for e in chosen}
      texts: dict[str, dict[str, list]] = {}
      for member in range(len(setup.population)):
        predict = Predict(*(_of_member(b, member) for b in bound))
        own = setup.parts.evaluated(jax.tree.map(lambda a, m=member: a[m], learner))
        for evaluator in chosen if alive[member] else ():
          if hooks.waiting():
            hooks.save(state)
            raise Stopped(f"stopped at event {state.event}, after {state.step} of its steps")
          stream = setup.streams[member] if setup.streams else setup.stream
          answer, shown = parted(evaluator, _asked(evaluator, own, predict, stream, at), tasks)
          before = first[evaluator.name] if first else found[evaluator.name][0] if found[evaluator.name] else None
          found[evaluator.name].append(checked(evaluator, answer, tasks, before))
          for what, of_tasks in shown.items():
            every: list[list] = [[[] for _ in range(tasks)] for _ in alive]
            texts.setdefault(evaluator.name, {}).setdefault(what, every)[member] = of_tasks
    nothing = np.full(tasks, np.nan)
    out: dict = {}
    for name, answers in found.items():
      each = iter(answers)
      rows = [next(each) if living else {} for living in alive]
      metrics = first[name] if first else answers[0]
      out[name] = {m: [row.get(m, nothing).tolist() for row in rows] for m in metrics}
    return {"evaluations": out, **({"texts": texts} if texts else {})}

  return setup._replace(evaluators=evaluators)


def _drop_reached(rows: Sequence[dict], setup: CompiledRun, upto: int) -> None:
  """What was shown of test rows that the requests before event ``upto`` name is no longer kept."""
  for member in range(len(setup.population)) if any("texts" in row for row in rows) else ():
    stream = setup.streams[member] if setup.streams else setup.stream
    gone = reached_tests(stream, upto)
    named = [set(np.asarray(mine)[out].tolist()) for mine, out in zip(stream.test, gone, strict=True)]
    for of_tasks in (what[member] for row in rows for by in row.get("texts", {}).values() for what in by.values()):
      of_tasks[:] = [[e for e in entries if e["row"] not in out] for entries, out in zip(of_tasks, named, strict=True)]


def _of_member(predict: Callable, member: int) -> Callable:
  return lambda x, task=None: predict(x, member, task)


def _asked(evaluator: Evaluator, learner, predict: Predict, stream, at: int):
  when = f"after event {at}" if at >= 0 else "before the first event"
  try:
    return evaluator.fn(learner, predict, stream, at)
  except UsageError as error:
    raise UsageError(f"evaluators: {evaluator.name!r}: {error}") from error
  except Exception as error:
    text = " ".join((str(error).strip().splitlines() or [""])[0].split())
    raise UsageError(f"evaluators: {evaluator.name!r} raised {type(error).__name__} {when}: {text}") from error
