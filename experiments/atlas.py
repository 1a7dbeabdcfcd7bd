"""The atlas: continual-learning methods on one code, tuned by one protocol with one budget, over several streams.

``python -m experiments.atlas`` (``--methods=all`` for every method that learns, ``--streams=digits_class,...``) runs
``launch.tune`` for each method on each stream (``experiments/atlas_streams.py``): searched on a stream of other classes
or other pixels, reported on its own. Restartable: what has finished is not run again, and a killed search resumes.
Writes ``atlas.json``, ``atlas.md`` and three pictures into ``--out``: score against bytes kept, score against the cost
of a step, and mean ranks with their critical difference. A method that a stream does not fit stands there with the
reason. Forget methods are compared by ``launch.unlearn``, beside retrained models, and are not in it.
"""

from __future__ import annotations

import contextlib
import io
import pathlib
import time

from absl import app, flags
from etils import epath

from experiments import _atlas_tables
from experiments.atlas_streams import SEARCH, STREAMS

# What users and reviewers ask for first.
ASKED = "finetune,joint,ewc,si,lwf,er,derpp,agem,gpm,icarl,gdumb,er_ace"
CONFIG = pathlib.Path(__file__).with_name("atlas_streams.py")


def learning() -> list[str]:
  """Every method of the registry that learns and whose point is not to forget."""
  from cljax import methods

  return sorted(name for name, entry in methods.METHODS.items() if not entry.exactness)


def one(stream: str, method: str, workdir: epath.Path) -> dict:
  """A cell: what a search found, or why there is none. A search that ended is done once for each budget; what was
  refused, or failed in part, is tried again, for the data may be there by now."""
  from cljax import UsageError
  from cljax.cli import tune
  from cljax.io import files, interrupts

  budget = [flags.FLAGS.configurations, flags.FLAGS.search_seeds, flags.FLAGS.seeds]
  done = workdir / stream / method / "cell.json"
  spent = 0.0
  if done.exists():
    cell = files.loads(done.read_bytes())
    if cell["budget"] == budget and cell.get("code") == 0:
      return cell
    spent = cell["seconds"] if cell["budget"] == budget else 0.0
  start, told = time.monotonic(), io.StringIO()
  cell = {"stream": stream, "method": method, "budget": budget, "reason": ""}
  given = [
    "tune", f"--config={CONFIG}:{stream}", f"--methods={method}", f"--configurations={budget[0]}",
    f"--search_seeds={budget[1]}", f"--seeds={budget[2]}", f"--search={SEARCH[stream]}",
    f"--workdir={workdir / stream / method}",
  ]  # fmt: skip
  try:
    with contextlib.redirect_stdout(told), interrupts.Stop() as stop:
      code = tune.run(given, stop)
  except UsageError as error:
    cell["reason"] = str(error).splitlines()[0]
  else:
    found = files.loads((workdir / stream / method / "tune.json").read_bytes())
    cell |= {"found": found["methods"][0], "protocol": found["protocol"]["name"], "code": code}
    cell["step"] = _atlas_tables.step_seconds(workdir / stream / method / "report")
  cell["seconds"] = round(spent + time.monotonic() - start, 1)
  done.parent.mkdir(parents=True, exist_ok=True)
  files.write_text(done, files.dumps(cell, indent=1) + "\n")
  return cell


def main(argv) -> None:
  from cljax import UsageError, methods

  del argv
  chosen = learning() if flags.FLAGS.methods == ["all"] else flags.FLAGS.methods
  try:
    for name in chosen:
      methods.lookup(name)
  except UsageError as error:
    raise app.UsageError(str(error)) from error
  unknown = [s for s in flags.FLAGS.streams if s not in STREAMS]
  if unknown:
    raise app.UsageError(f"streams: got {unknown[0]!r}; allowed: {', '.join(STREAMS)}")
  workdir, cells = epath.Path(flags.FLAGS.workdir).expanduser(), []
  for stream in flags.FLAGS.streams:
    for method in chosen:
      cell = one(stream, method, workdir)
      cells.append(cell)
      print(f"{stream}  {method}  {cell['reason'] or _atlas_tables.scored(cell)}  {cell['seconds']} s", flush=True)
  _atlas_tables.write(cells, epath.Path(flags.FLAGS.out))


def declared() -> None:
  """Its flags: a module that is only imported has none."""
  flags.DEFINE_list("methods", ASKED.split(","), "names, or all: every method that learns and forgets nothing")
  flags.DEFINE_list("streams", list(STREAMS), f"of {', '.join(STREAMS)}")
  flags.DEFINE_integer("configurations", 8, "of each method on each stream", lower_bound=1)
  flags.DEFINE_integer("search_seeds", 2, "of the search", lower_bound=1)
  flags.DEFINE_integer("seeds", 5, "that are reported", lower_bound=2)
  flags.DEFINE_string("workdir", "runs/atlas", "of the searches")
  flags.DEFINE_string("out", "experiments/results/atlas", "of tables and pictures")


if __name__ == "__main__":
  declared()
  app.run(main)
