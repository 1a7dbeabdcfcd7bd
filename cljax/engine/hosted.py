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
from cljax.evaluators import Evaluator, Predict, checked


def with_evaluators(setup: CompiledRun, chosen: Sequence[Evaluator]) -> CompiledRun:
  """The setup with ``evaluators(state, hooks) -> {name: {metric: [S][T]}}``; as it is where none are chosen.

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
      found: dict[str, list] = {e.name: [] for e in chosen}
      for member in range(len(setup.population)):
        predict = Predict(*(_of_member(b, member) for b in bound))
        own = setup.parts.evaluated(jax.tree.map(lambda a, m=member: a[m], learner))
        for evaluator in chosen if alive[member] else ():
          if hooks.waiting():
            hooks.save(state)
            raise Stopped(f"stopped at event {state.event}, after {state.step} of its steps")
          stream = setup.streams[member] if setup.streams else setup.stream
          answer = _asked(evaluator, own, predict, stream, at)
          before = first[evaluator.name] if first else found[evaluator.name][0] if found[evaluator.name] else None
          found[evaluator.name].append(checked(evaluator, answer, tasks, before))
    nothing = np.full(tasks, np.nan)
    out: dict = {}
    for name, answers in found.items():
      each = iter(answers)
      rows = [next(each) if living else {} for living in alive]
      metrics = first[name] if first else answers[0]
      out[name] = {m: [row.get(m, nothing).tolist() for row in rows] for m in metrics}
    return out

  return setup._replace(evaluators=evaluators)


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
