"""Models of other seeds that never saw what a run deleted: what the numbers of a request are compared with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import cljax
from cljax import Forget, Member, methods
from cljax.cli import _build


def measure(built: _build.Built, seeds: Sequence[int], count: int, stop: Callable[[], bool]) -> dict[str, Any]:
  """``{seeds, schedule, forget, retain}``: the main score of ``count`` models, trained on the same stream and retrained
  for each of its requests, on the rows of the last one and on the others. Their seeds are the first that are not in
  ``seeds``; they are retrained by the schedule of ``retrain`` where the last request was answered by it.
  """
  others = list(itertools.islice((s for s in itertools.count() if s not in seeds), count))
  asked = [e for e, event in enumerate(built.stream.events) if isinstance(event, Forget)]
  own = built.arguments["forget"], built.arguments["forget_hyper"]
  name, options = built.arguments.get("answers", {}).get(asked[-1], own)
  alike = methods.check_options("retrain", options if name == "retrain" else {})
  arguments = {**built.arguments, "forget": "", "forget_hyper": {}, "answers": {e: ("retrain", alike) for e in asked}}
  population = [Member(s) for s in others]
  result = cljax.run(built.stream, built.model, population=population, stop=stop, **arguments)
  last = result.forgotten[-1]
  return {"seeds": others, **alike, "forget": last["forget"], "retain": last["retain"]}
