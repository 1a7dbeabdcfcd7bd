"""A run whose Forget events are answered by several methods, each by one of its own: the others beside the run's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax

from cljax import methods
from cljax.core.method import Method
from cljax.core.types import Forget, UsageError
from cljax.engine.loop import Hooks, State, execute
from cljax.engine.program_arguments import init_arguments
from cljax.engine.setup import CompiledRun

# A method that answers requests and has none of these needs nothing but the trained model.
_IN_TRAINING = (
  "model", "start_task", "prepare", "terms", "gradient", "references", "observe", "penalty", "transform", "pull",
  "finalize", "after_step", "end_task", "predict",
)  # fmt: skip


def check_unprepared(name: str, options: Mapping, setup: CompiledRun) -> None:
  """Raises UsageError unless the method answers requests to a model that was trained without it."""
  entry = methods.lookup(name)
  answering = sorted(n for n, e in methods.METHODS.items() if e.access.forgets)
  if not entry.access.forgets:
    raise UsageError(f"method: {name!r} does not answer requests to forget; those that do: {', '.join(answering)}")
  made = methods.make(name, setup.model, setup.spec, **options)
  used = [f for f in _IN_TRAINING if getattr(made, f) is not None and getattr(made, f) != Method._field_defaults[f]]
  if made.access.trains_on != "current":
    used.append(f"trains on {made.access.trains_on!r}")
  learner = jax.eval_shape(setup.parts.init, jax.random.key(0))
  if jax.tree.leaves(jax.eval_shape(made.init, jax.random.key(0), learner)):
    used.append("a state of its own")
  if used:
    raise UsageError(
      f"method: {name!r} prepares itself while the model is trained ({', '.join(used)}), so it can not answer for a "
      "model that was trained without it; give forget.name before training, or --method=retrain"
    )


def fitted(tree, setup: CompiledRun):
  """A learner of one composition as another has it: a composed method keeps its parts' states by name, so where the
  parts that were added hold no arrays the tree alone differs. UsageError where they do."""
  wanted = setup.programs.init.shape(*init_arguments(setup))
  shapes = lambda t: [(a.shape, a.dtype) for a in jax.tree.leaves(t)]
  if shapes(tree) != shapes(wanted):
    raise UsageError("answers: the method keeps arrays that the run's learner does not have; give it as forget")
  return jax.tree.unflatten(jax.tree.structure(wanted), jax.tree.leaves(tree))


def run(setup: CompiledRun, others: Mapping[int, Callable], state: State, hooks: Hooks, deleted_by: Callable) -> State:
  """As ``loop.execute``; Forget event ``e`` of ``others`` is answered by ``others[e]() -> Setup``, which is made then.

  ``deleted_by(event, setup)`` gives the ``deleted`` hook of an event. What is saved has the run's own tree.
  """
  events = setup.stream.events
  for event in [*sorted(others), len(events)]:
    if state.event > event:
      continue
    if state.event < event or event == len(events):
      state = execute(setup, state, hooks, event)
    if event == len(events):
      break
    assert isinstance(events[event], Forget)
    other = others[event]()
    own = lambda held: hooks.save(dataclasses.replace(held, learner=fitted(held.learner, setup)))
    state.learner = fitted(state.learner, other)
    before = dict(other.clock.seconds)
    state = execute(other, state, hooks._replace(save=own, deleted=deleted_by(event, other)), event + 1)
    state.learner = fitted(state.learner, setup)
    for key, seconds in other.clock.seconds.items():
      setup.clock.seconds[key] += seconds - before[key]
  return state
