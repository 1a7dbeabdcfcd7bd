"""What a run leaves in its workdir: checkpoints, the ledger of deletions; and how it goes on from them."""

from __future__ import annotations

from collections.abc import Callable

import jax

from cljax import methods
from cljax.core import tree
from cljax.core.types import Forget
from cljax.engine import mesh as meshes
from cljax.engine import programs as prog
from cljax.engine.loop import State, all_alive, init_arguments
from cljax.engine.setup import Setup
from cljax.io import checkpoint, ledger

_copied = jax.jit(tree.copy)
SAVED = ("event", "step", "ended", "total", "accuracy", "forgotten", "curves")


def recorder(built: Setup, workdir, method: str) -> Callable:
  """``deleted`` of the loop's hooks: a record of each Forget event in the workdir's ledger."""
  if not workdir:
    return lambda *_: None
  entry = methods.METHODS.get(method)

  def deleted(at: int, rows, before, after, evidence) -> None:
    params = [prog.fetch(p, built.members) for p in (before, after)]
    if not meshes.leads(built.members.mesh):
      return
    ledger.record(
      workdir, at, built.stream.events[at], built.stream.dataset.train, rows, method=method,
      exactness=entry.exactness if entry else "", seeds=[m.seed for m in built.population],
      parameters_changed=ledger.changes(*params), evidence=evidence, versions=checkpoint.versions(),
    )  # fmt: skip

  return deleted


def last_deletion(built: Setup, upto: int) -> int:
  """The number of the last Forget event before ``upto``; -1 where there is none."""
  return max((i for i, e in enumerate(built.stream.events[:upto]) if isinstance(e, Forget)), default=-1)


def purge(built: Setup, writer, workdir, upto: int) -> None:
  """Drops the checkpoints of states that had not yet forgotten what the last Forget event before ``upto`` names."""
  last = last_deletion(built, upto)
  gone = []
  for number in checkpoint.numbers(writer.directory) if last >= 0 else ():
    try:
      before = checkpoint.read_meta(writer.directory, number)["position"]["event"] <= last
    except checkpoint.DamagedError:
      before = True  # what cannot be read may hold anything
    if before:
      writer.drop(number)
      gone.append(number)
  if gone and meshes.leads(built.members.mesh):
    ledger.update(workdir, last, checkpoints_purged=gone)


def saver(built: Setup, writer, config, workdir):
  """``save(state)``: the next number; of the checkpoints inside a task only the newest two stay."""
  if writer is None:
    return lambda state: None
  inside: list[int] = []

  def save(state: State) -> None:
    writer.wait()  # for the one before, which was written while this event ran
    existing = checkpoint.numbers(writer.directory)
    number = int(meshes.first(existing[-1] + 1 if existing else 1, built.members.mesh))
    arrays = prog.gather({"learner": state.learner, "alive": state.alive}, built.members)
    meta = {"config": config, "position": {k: getattr(state, k) for k in SAVED}, "seconds": built.clock.seconds}
    alone = not meshes.several(built.members.mesh)
    if alone and built.members.size == built.members.padded:
      arrays = _copied(arrays)  # else they may be those that the next chunk is donated
    # Of several processes none runs ahead of the others' files.
    writer.save(number, arrays, meta, wait=not alone)
    if state.step:
      inside.append(number)
    while len(inside) > 2:
      writer.drop(inside.pop(0))
    if built.options.checkpoint_purge_before_deletion and last_deletion(built, state.event) == state.event - 1 >= 0:
      purge(built, writer, workdir, state.event)

  return save


def resume(built: Setup, writer, config, report) -> State | None:
  """The state of the newest checkpoint; None where there is none."""

  def like():
    padded = {"learner": built.programs.init.shape(*init_arguments(built)), "alive": all_alive(built)}
    return jax.eval_shape(lambda tree: prog.unpad(tree, built.members), padded)

  found = checkpoint.restore(writer.directory, like, config)
  if found is None:
    return None
  position = found.meta["position"]
  for note in found.notes:
    report({"kind": "note", "text": note})
  report({"kind": "resumed", "event": position["event"], "step": position["step"], "total": position["total"]})
  for key, value in found.meta.get("seconds", {}).items():
    built.clock.seconds[key] += value
  arrays = prog.spread(found.state, built.members)
  return State(arrays["learner"], arrays["alive"], **{k: position[k] for k in SAVED})
