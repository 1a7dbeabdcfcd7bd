"""Members with streams of their own (``streams.per_seed``) in one program: what differs enters as arguments.

A reserved part of the hyper-parameters, ``hyper[OWN]``, holds for each member its label table and the tables of its
views, and where a program needs them the rows of a boundary, the blocks of an evaluation, where the member stands and
how many steps it takes. All else is as for a shared stream, for members number their outputs alike. A step beyond a
member's own is no step at all: it waits until the others have ended the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.types import Learn, UsageError
from cljax.engine import programs as prog
from cljax.engine import schedule
from cljax.engine.own_arguments import OWN


def arguments(streams: Sequence[Any]) -> dict[str, Any]:
  """What hyper-parameters hold of ``streams``, one for each member, in every program; nothing of none."""
  if not streams:
    return {}
  stack = lambda *a: np.stack(a)
  views = jax.tree.map(stack, *(s.view.tables for s in streams))
  return {OWN: {"labels": np.stack([s.labels for s in streams]).astype(np.int32), "tables": views}}


class Event(NamedTuple):
  """A Learn event of every member: its schedule ``plans`` (none of a shared stream) and the programs' hyper-parameters
  at its boundaries."""

  plans: tuple
  hyper: Any

  def steps(self, shared: int) -> int:
    """Steps until all members have ended it."""
    return max((p.steps for p in self.plans), default=shared)

  def counts(self, done: int, count: int, members: int, limits: Sequence[int] = ()) -> list[int]:
    """Of the next ``count`` steps, how many each member takes, where it takes at most ``limits`` in all."""
    most = limits or [p.steps for p in self.plans]
    return [min(max(steps - done, 0), count) for steps in most] or [count] * members


def plan(setup, stream, at: int) -> schedule.Schedule:
  """The schedule of the Learn event ``at`` in a member's stream."""
  learned = [e.task for e in stream.events[:at] if isinstance(e, Learn)]
  return schedule.schedule(stream, learned, at, stream.events[at].task, setup.trains_on, setup.recipe)


def event(setup, at: int, taken: Sequence[Sequence[int]] = ()) -> Event:
  """The Learn event ``at`` of a run; ``taken``: the steps that members took in those before, where they may be fewer
  than planned."""
  if not setup.streams:
    return Event((), setup.hyper)
  plans, starts, totals, rows, task = [], [], [], [], setup.stream.events[at].task
  known: dict[int, tuple] = {}  # members of one seed share a stream
  for m, stream in enumerate(setup.streams):
    if id(stream) not in known:
      each = [plan(setup, stream, e).steps for e in range(len(stream.events))]
      known[id(stream)] = plan(setup, stream, at), sum(each[:at]), sum(each)
    mine, start, total = known[id(stream)]
    plans.append(mine)
    starts.append(sum(steps[m] for steps in taken) if taken else start)
    totals.append(total)
    rows.append(np.asarray(stream.train[task]))
  whole = lambda values: np.asarray(values, np.int32)
  padded = lambda parts: whole([np.pad(p, (0, setup.spec.task_rows - len(p))) for p in parts])
  where = whole(starts), whole([p.steps for p in plans]), whole(totals)
  of_task = padded([np.full(len(r), task) for r in rows])
  return Event(tuple(plans), _with(setup, where=where, rows=(padded(rows), of_task, whole(list(map(len, rows))))))


def total_steps(streams: Sequence[Any], trains_on: str, recipe) -> int:
  """Steps until all members have ended all events."""
  streams = list({id(s): s for s in streams}.values())
  events, total = streams[0].events, 0
  for at, one in enumerate(events):
    learned = [e.task for e in events[:at]]
    total += max(schedule.schedule(s, learned, at, one.task, trains_on, recipe).steps for s in streams)
  return total


def chunk(setup, here: Event, counts: Sequence[int]):
  """The hyper-parameters of a chunk in which each member takes ``counts`` steps."""
  if not setup.streams:
    return setup.hyper
  count = prog.shard_members(np.asarray(counts, np.int32), setup.members)
  return {**here.hyper, OWN: {**here.hyper[OWN], "count": count}}


def chunk_rows(setup, here: Event, shared, gone, done: int, counts: Sequence[int], capacity: int) -> list:
  """``(index, task, offered)`` of each member's next steps; ``shared``: the schedule of all, of a shared stream."""
  out = []
  for i, (member, count) in enumerate(zip(setup.population, counts, strict=True)):
    mine = here.plans[i] if here.plans else shared
    absent = np.zeros(len(mine.pairs.index), bool) if here.plans else gone
    out.append(schedule.rows(mine, member.seed, done, count, capacity, absent))
  return out


def run_chunk(setup, hyper, rows, where, learner, alive, count: int):
  """What the program gives for ``count`` steps on each member's ``rows``, on the device or read for it."""
  count = prog.replicate(jnp.asarray(count, jnp.int32), setup.members)
  if setup.options.feed == "device":
    packed = prog.shard_members(tuple(np.stack(part) for part in zip(*rows, strict=True)), setup.members)
    return setup.programs.chunk(hyper, (learner, alive), packed, (setup.train, where, count))
  split, labels = setup.stream.dataset.train, setup.stream.labels if setup.parts.objective.classes else None
  batches = [schedule.read(split, labels, *r) for r in rows]
  stacked = jax.tree.map(lambda *members: np.stack(members), *batches)
  views = prog.replicate(setup.stream.view.tables, setup.members)
  return setup.programs.feed(
    setup.hyper, (learner, alive), prog.shard_members(stacked, setup.members), (views, where, count)
  )


def with_blocks(setup, blocks):
  """The hyper-parameters of an evaluation of ``blocks``."""
  if not isinstance(blocks, OwnBlocks):
    return setup.hyper
  return {**setup.hyper, OWN: {**setup.hyper[OWN], "blocks": blocks.given}}


def _with(setup, **more):
  own = {**setup.hyper[OWN], **prog.shard_members(more, setup.members)}
  return {**setup.hyper, OWN: own}


class OwnBlocks(NamedTuple):
  """Evaluation rows of members that are tested on others: the blocks of each, all of one shape; ``given``: of all, as
  the program takes them."""

  each: tuple
  given: tuple
  arguments: tuple = ()  # of all members: none

  def by_slot(self, sums) -> np.ndarray:
    """As ``Blocks.by_slot``, of members with blocks of their own."""
    sums = np.asarray(sums)
    return np.concatenate([mine.by_slot(sums[i : i + 1]) for i, mine in enumerate(self.each)])


def blocks(slots: Sequence[list], block: int, least: int = 0) -> OwnBlocks:
  """Cuts the slots of each member into blocks, as many of each."""
  each = [prog.blocks(mine, block, least) for mine in slots]
  most = max(len(b.task) for b in each)
  each = [prog.blocks(mine, block, most) for mine in slots]
  given = tuple(np.stack([np.asarray(b.arguments[k]) for b in each]) for k in range(4))
  return OwnBlocks(tuple(each), given)


def on_device(blocks, members):
  """Blocks that are used again and again, on the device."""
  if not isinstance(blocks, OwnBlocks):
    return prog.on_device(blocks, members)
  return blocks._replace(given=prog.shard_members(blocks.given, members))


def of_slots(blocks, slots: Sequence[int], members):
  """The blocks of some slots, in the shape of all, so that no program is compiled for them."""

  def one(blocks):
    mine = np.flatnonzero(np.isin(np.asarray(blocks.slot), slots))
    take = np.pad(mine, (0, len(blocks.task) - len(mine)))
    index, weight, task = (np.asarray(a)[take] for a in blocks.arguments[:3])
    return prog.Blocks(index, weight, task, np.asarray(blocks.slot)[mine], blocks.totals, np.int32(len(mine)))

  if not isinstance(blocks, OwnBlocks):
    return on_device(one(blocks), members)
  each = tuple(map(one, blocks.each))
  given = tuple(np.stack([b.arguments[k] for b in each]) for k in range(4))
  return on_device(OwnBlocks(each, given), members)


def check(streams: Sequence[Any], options, axes) -> None:
  """Raises UsageError for what members with streams of their own can not have."""
  if not streams:
    return
  apart = len({id(s) for s in streams}) > 1
  told = f"got {{}} with {'stream.per_seed and several seeds' if apart else 'train.patience'}; {{}}"
  if options.feed != "device":
    raise UsageError(f"train.feed: {told.format(repr(options.feed), 'expected device: rows are gathered there')}")
  if axes:
    raise UsageError(f"mesh: {told.format(dict(axes), 'which lays out steps that all members take')}")
  if options.presentations and apart:
    raise UsageError(f"train.presentations: {told.format(True, 'which counts the rows of one stream')}")


def last_loss(loss: np.ndarray, counts: Sequence[int], living) -> float:
  """The mean over living members of the last of a chunk's losses ``[S, K]``, of those that took a step; NaN of none."""
  last = np.asarray([loss[i, n - 1] for i, n in enumerate(counts) if n and living[i]], np.float32)
  return float(last.mean()) if len(last) else float("nan")
