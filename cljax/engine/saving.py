"""What a run leaves in its workdir: checkpoints, the ledger of deletions; and how it goes on from them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from etils import epath

from cljax import methods
from cljax.core import tree
from cljax.core.types import CljaxError, Forget, Learn
from cljax.engine import mesh as meshes
from cljax.engine import presentations
from cljax.engine import programs as prog
from cljax.engine.loop import Replay, State, all_alive
from cljax.engine.program_arguments import init_arguments
from cljax.engine.setup import CompiledRun
from cljax.io import checkpoint, history, ledger

copied = jax.jit(tree.copy)
SAVED = ("event", "step", "ended", "total", "accuracy", "forgotten", "curves")


def recorder(built: CompiledRun, workdir, method: str) -> Callable:
  """``deleted`` of the loop's hooks: a record of each Forget event in the workdir's ledger."""
  if not workdir:
    return lambda *_, **more: None
  entry = methods.METHODS.get(method)

  def deleted(at: int, rows, before, after, evidence, **more) -> None:
    params = [prog.fetch(p, built.members) for p in (before, after)]
    if not meshes.is_main_process(built.members.mesh):
      return
    more["keep_ids"] = built.options.checkpoint_keep_ids
    ledger.record(
      workdir, at, built.stream.events[at], built.stream.dataset.train, rows, method=method,
      exactness=entry.exactness if entry else "", seeds=[m.seed for m in built.population], status=ledger.REQUESTED,
      parameters_changed=ledger.changes(*params), evidence=evidence, versions=checkpoint.versions(), **more,
    )  # fmt: skip

  return deleted


def last_deletion(built: CompiledRun, upto: int) -> int:
  """The number of the last Forget event before ``upto``; -1 where there is none."""
  return max((i for i, e in enumerate(built.stream.events[:upto]) if isinstance(e, Forget)), default=-1)


def _before(directory, last: int) -> tuple[list[str], bool]:
  """``(names, after)``: what lies in a directory of checkpoints and is not known to be a whole state from after event
  ``last``, and whether there is such a state."""
  names = checkpoint.others(directory)
  kept = 0
  for number in checkpoint.numbers(directory):
    try:
      after = checkpoint.read_meta(directory, number)["position"]["event"] > last
    except checkpoint.DamagedError:
      after = False  # what cannot be read may hold anything
    kept += after
    names += [] if after else [str(number)]
  return names, kept > 0


def purge(built: CompiledRun, writer, workdir, upto: int) -> list[int | str]:
  """Deletes what may hold what the last Forget event before ``upto`` names: checkpoints of states from before it, and
  folders of which nothing is known; returns what they were called.

  The ledger lists them before the first goes, and says ``done`` when none is left. A purge that was cut short anywhere
  is so taken up by the next. Raises CljaxError where something cannot be deleted.
  """
  last = last_deletion(built, upto)
  if last < 0 or not meshes.is_main_process(built.members.mesh):
    return []
  writer.wait()
  targets, after = _before(writer.directory, last)
  if not after:  # nothing is committed that could take their place
    return []
  told = next((line for line in ledger.read(workdir) if line["event"] == last), {})
  listed = [*told.get("checkpoints_to_purge", ()), *told.get("checkpoints_purged", ())]
  gone = sorted({*listed, *map(checkpoint.named, targets)}, key=lambda n: (isinstance(n, str), n))
  if targets:
    ledger.update(workdir, last, checkpoints_to_purge=gone)
  for name in targets:
    writer.discard(name)
  left, _ = _before(writer.directory, last)
  if left:
    raise CljaxError(f"workdir: cannot delete {writer.directory / left[0]}, which may hold deleted rows")
  if gone != told.get("checkpoints_purged", []):
    ledger.update(workdir, last, checkpoints_to_purge=[], checkpoints_purged=gone)
  ledger.done(workdir, last + 1)
  return gone


def settle(built: CompiledRun, writer, workdir, upto: int) -> None:
  """What follows when a state from after the Forget events before ``upto`` is committed: the purge, where the options
  ask for one, and the ledger's word that they are done."""
  if built.options.checkpoint_purge_before_deletion:
    purge(built, writer, workdir, upto)
  elif meshes.is_main_process(built.members.mesh) and ledger.pending(workdir, upto):
    writer.wait()
    before, after = _before(writer.directory, last_deletion(built, upto))
    if after:
      ledger.done(workdir, upto, checkpoints_kept=[checkpoint.named(n) for n in before])


def _position(state: State) -> dict:
  """What a checkpoint's meta says of a state; of a replay ``[event, steps done in it, its first step]``."""
  replay = state.replay
  watched = {"patience": [state.watch, state.taken]} if state.watch or state.taken else {}
  return (
    {k: getattr(state, k) for k in SAVED}
    | watched
    | ({"replay": [replay.at, replay.done, replay.start]} if replay else {})
  )


def _place(position) -> tuple:
  """Where a state stands: its event, and how far it has come inside it."""
  replay = position.get("replay")
  return position["event"], position["step"], position["ended"], tuple(replay) if replay else ()


_BOUNDARY = (0, False, ())  # the rest of the place of a state between events


def saver(built: CompiledRun, writer, config, workdir):
  """``save(state)``: the next number; of the checkpoints inside an event only the newest two stay, and none is made
  where the newest stands already."""
  if writer is None:
    return lambda state: None
  inside: list[int] = []  # those inside an event
  newest: list[tuple | None] = []  # the place of the newest

  def look(existing) -> None:
    """What an earlier start left."""
    place = None
    for number in existing[-3:]:
      try:
        meta = checkpoint.read_meta(writer.directory, number)
        place = _place(meta["position"])
        inside.extend([number] if place[1:] != _BOUNDARY else [])
        if checkpoint.differences(meta["config"], config):
          place = None  # of a run that had another stream or other options
      except checkpoint.DamagedError:
        place = None
    newest.append(place)

  def save(state: State) -> None:
    writer.wait()  # for the one before, which was written while this event ran
    existing = checkpoint.numbers(writer.directory)
    if not newest:
      look(existing)
    place = _place(_position(state))
    if meshes.anywhere(newest[0] != place, built.members.mesh):
      number = int(meshes.first(existing[-1] + 1 if existing else 1, built.members.mesh))
      write(number, state)
      newest[0] = place
      if place[1:] != _BOUNDARY:
        inside.append(number)
    while len(inside) > 2:
      writer.drop(inside.pop(0))
    if not state.step and last_deletion(built, state.event) == state.event - 1 >= 0:
      settle(built, writer, workdir, state.event)

  def write(number: int, state: State) -> None:
    counts = lambda of: {} if of.presented is None else {"presented": of.presented}
    gathered = lambda of: prog.gather({"learner": of.learner, "alive": of.alive}, built.members) | counts(of)
    arrays = gathered(state)
    more = {"replay": gathered(state.replay)} if state.replay else {}
    meta = {"config": config, "position": _position(state), "seconds": built.clock.seconds}
    alone = not meshes.is_multi_process(built.members.mesh)
    if alone and built.members.size == built.members.padded:
      arrays, more = copied((arrays, more))  # else they may be those that the next chunk is donated
    # Of several processes none runs ahead of the others' files.
    writer.save(number, arrays, meta, wait=not alone, more=more)

  return save


def clear(built: CompiledRun, writer) -> None:
  """Deletes what saves, deletions and purges that were cut short have left."""
  if meshes.is_main_process(built.members.mesh):
    for name in filter(checkpoint.cut_short, checkpoint.others(writer.directory)):
      writer.discard(name)


def give_back(built: CompiledRun, writer, workdir) -> None:
  """Leaves the folder free where a run diverged in its first event: there is nothing in it to go on from."""
  writer.wait()
  numbers = checkpoint.numbers(writer.directory)
  if meshes.is_main_process(built.members.mesh) and not any(
    checkpoint.read_meta(writer.directory, n)["position"]["event"] for n in numbers
  ):
    for number in numbers:
      writer.discard(str(number))
    (epath.Path(workdir) / history.FILE).unlink(missing_ok=True)


def taken_up(built: CompiledRun, writer, upto: int) -> None:
  """Makes the ledger and the folder agree with the checkpoint that a run goes on from, which stands at event
  ``upto``."""
  workdir = writer.directory.parent
  if meshes.is_main_process(built.members.mesh):
    ledger.reopen(workdir, upto)
  settle(built, writer, workdir, upto)


def resume(built: CompiledRun, writer, config, report) -> State | None:
  """The state of the newest checkpoint; None where there is none. What saves, deletions and purges that were cut short
  have left behind is cleared away."""
  clear(built, writer)

  def like():
    padded = {"learner": built.programs.init.shape(*init_arguments(built)), "alive": all_alive(built)}
    abstract = jax.eval_shape(lambda tree: prog.unpad(tree, built.members), padded)
    nothing = presentations.fresh(built)
    return abstract if nothing is None else abstract | {"presented": jax.eval_shape(lambda: nothing)}

  events = built.stream.events
  trains = lambda at: bool(at["step"] or at.get("replay")) or any(isinstance(e, Learn) for e in events[at["event"] :])
  found = checkpoint.restore(writer.directory, like, config, trains)
  if found is None:
    return None
  position = found.meta["position"]
  taken_up(built, writer, position["event"])
  for note in found.notes:
    report({"kind": "note", "text": note})
  report({"kind": "resumed", "event": position["event"], "step": position["step"], "total": position["total"]})
  for key, value in found.meta.get("seconds", {}).items():
    built.clock.seconds[key] += value

  def parts(held):
    """The learners on their devices, and the counts, which the host has."""
    counts = held.pop("presented", None)
    return prog.shard_members(held, built.members), counts and presentations.Presented(*map(np.array, counts))

  arrays, presented = parts(dict(found.state))
  replay = None
  if "replay" in found.more:
    (again, counts), (at, done, start) = parts(dict(found.more["replay"])), position["replay"]
    replay = Replay(again["learner"], again["alive"], start, at, done, counts)
  done_so_far = {k: position[k] for k in SAVED}
  done_so_far |= dict(zip(("watch", "taken"), position.get("patience", ()), strict=False))
  return State(arrays["learner"], arrays["alive"], **done_so_far, replay=replay, presented=presented)
