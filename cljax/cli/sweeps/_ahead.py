"""Units are made ready while those before them train: data on the device, programs compiled, in other threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax

from cljax import Member, UsageError, engine
from cljax.cli import _build, _config, _environment
from cljax.cli.sweeps._plan import Unit

MOST = 2  # units that wait, ready, with their data on the device
MOST_BYTES = 2**26  # of training inputs, above which a unit is made ready only when its turn comes


class Ready(NamedTuple):
  """What it takes to run a unit."""

  built: _build.Built
  population: list[Member]
  prepared: engine.Prepared | None


Take = Callable[[Unit], Ready]


def ready(unit: Unit, cache: dict, prepare: bool) -> Ready:
  """Builds a unit from its ``unit.json``. Raises UsageError where its data is not that of the sweep."""
  content = unit.content
  built = _build.build(_config.from_identity(content["identity"], content["more"]), cache)
  if built.identity["data"]["digest"] != content["identity"]["data"]["digest"]:
    raise UsageError(f"data: {built.identity['data']['name']} is not the data of this sweep; its digest differs")
  built = built._replace(identity=content["identity"])  # as its checkpoints have it
  population = [Member(m["seed"], m["hyper"]) for m in content["members"]]
  small = sum(getattr(a, "nbytes", MOST_BYTES + 1) for a in jax.tree.leaves(built.stream.dataset.train.x)) <= MOST_BYTES
  return Ready(built, population, _build.prepare(built, population) if prepare and small else None)


class Ahead:
  """Makes units ready in their order; ``take(unit)`` waits for one. For one process that runs all units itself."""

  def __init__(self, units: Sequence[Unit], cache: dict):
    self._left, self._cache = deque(units), cache
    self._waiting: dict[str, Future] = {}
    self._builder = ThreadPoolExecutor(1, "build")  # one: they share the cache of data
    self._compilers = ThreadPoolExecutor(_environment.processors(), "compile")
    self._more()

  def _more(self) -> None:
    while self._left and len(self._waiting) < MOST:
      unit = self._left.popleft()
      self._waiting[unit.name] = self._builder.submit(self._ready, unit)

  def _ready(self, unit: Unit) -> Ready:
    made = ready(unit, self._cache, prepare=True)
    if made.prepared is not None:
      made.prepared.precompile(self._compilers.submit)
    return made

  def take(self, unit: Unit) -> Ready:
    """A unit's parts, once; from then on the next one is made ready. Raises what making it raised."""
    found = self._waiting.pop(unit.name, None)
    if found is None:  # not among the next, or taken before
      self._left = deque(u for u in self._left if u.name != unit.name)
      found = self._builder.submit(self._ready, unit)
    self._more()
    return found.result()

  def close(self) -> None:
    """Gives up what has not begun."""
    for pool in (self._builder, self._compilers):
      pool.shutdown(wait=False, cancel_futures=True)


def none(cache: dict) -> Take:
  """As ``Ahead.take``, of nothing made ready before: where several processes share the units."""
  return lambda unit: ready(unit, cache, prepare=False)
