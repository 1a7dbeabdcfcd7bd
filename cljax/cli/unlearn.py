"""Compares unlearning methods on one deletion request, beside retraining and its noise floor.

``python -m launch.unlearn --config=experiments/unlearn_digits.py --methods=ssd,scrub --request='class=3' --oracles=100
--seeds=5 --workdir=DIR``

Trains the original models and a bank of oracles that never saw the rows, lets each method answer, and writes
``unlearn.json``, ``unlearn.md`` and, for each method, a deletion ledger. ``--schedule`` says which retraining is meant,
by 'epochs' (passes over the rows that are left) or 'steps' (as many as there were); ``retrain`` among the methods then
means the same. ``--downstream`` adds k-NN on classes that no task learned, ``--tradeoff=5`` the area under utility over
forgetting at five checkpoints of a method's steps. A request with positions, such as
``'1:class=0; 2:ids=5-9'``, is a stream of requests between the tasks: each method goes through it as a whole.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from absl import flags as absl_flags
from etils import epath

from cljax import UsageError, methods, streams
from cljax.cli import _config, _environment, _shared, _values, _workdir
from cljax.cli.unlearning import _compare, _job, _stream, _table
from cljax.io import checkpoint, files, owner

TRAINED = ("original", "shadows")  # models that learned what is to be forgotten, and stay as they are
LEFT: tuple[str, ...] = ("unlearn.request.json", "unlearn.json", "unlearn.md", "oracles", "methods", *TRAINED)
LEFT += tuple(checkpoint.doomed(name) for name in TRAINED)


def _unlearning(argv: Sequence[str], stop: _shared.Stop) -> int:
  """The program, with errors as exceptions; returns the exit code."""
  flags = _shared.common_flags()
  retraining = list(methods.lookup("retrain").options["schedule"].choices or ())
  absl_flags.DEFINE_list("methods", [], "Methods to compare; all that answer requests by default.", flag_values=flags)
  absl_flags.DEFINE_list("method", [], "The same, for one.", flag_values=flags)
  absl_flags.DEFINE_string("request", "", "What to forget: 'class=3', 'ids=1-9', 'group=2&class=3'.", flag_values=flags)
  absl_flags.DEFINE_integer("oracles", 20, "Retrained models in the bank.", lower_bound=0, flag_values=flags)
  absl_flags.DEFINE_enum("schedule", "epochs", retraining, "What is repeated in retraining.", flag_values=flags)
  absl_flags.DEFINE_integer("shadows", 0, "Shadow models for U-LiRA; 0 for none.", lower_bound=0, flag_values=flags)
  absl_flags.DEFINE_string(
    "downstream", "", "Classes that features are probed on: 'rest' (those no task shows), or a data set's name.",
    flag_values=flags,
  )  # fmt: skip
  absl_flags.DEFINE_integer(
    "tradeoff", 0, "Checkpoints of each method's steps for its trade-off AUC; 0 for none.", lower_bound=0,
    flag_values=flags,
  )  # fmt: skip
  overrides = _shared.parse(argv, flags, __doc__ or "")
  if any(o.key == "forget.schedule" for o in overrides):
    raise UsageError("forget.schedule: give --schedule, by which all models that are compared with are retrained too")
  seeds = _values.parse_seeds(flags.seeds)
  file = _config.read_file(flags.config)
  names = [*flags.methods, *flags.method] or default_methods()
  if len(set(names)) != len(names):
    raise UsageError(f"methods: got {', '.join(names)}; expected each once")
  if not flags.request:
    raise UsageError("request: not given; expected what to forget, such as --request='class=3'")
  workdir = epath.Path(flags.workdir).expanduser()
  kept = {o.key: o.value for o in overrides if not o.key.startswith(("checkpoint.", "data.data_dir"))}
  asked = {
    "config": flags.config,
    "overrides": kept,
    "seeds": seeds,
    "request": flags.request,
    "oracles": flags.oracles,
  }
  asked |= {"shadows": flags.shadows} if flags.shadows else {}
  asked |= {"schedule": flags.schedule} if flags.schedule != "epochs" else {}
  more = {"downstream": flags.downstream, "tradeoff": flags.tradeoff}
  asked |= {key: value for key, value in more.items() if value}
  whole = re.match(r"\s*[0-9]+\s*:", flags.request) is not None  # class names may hold colons
  given = next((key for key, value in more.items() if value), "")
  if whole and given:
    raise UsageError(f"{given}: got {more[given]} for a stream of requests; expected a request such as 'class=3'")
  request = streams.parse_forget(flags.request) if whole else streams.parse_request(flags.request)
  say = lambda text: print(text, file=sys.stderr, flush=True)
  job = _job.Job(
    file, overrides, names, request, seeds, flags.oracles, flags.shadows, workdir, say, stop, flags.schedule,
    flags.downstream, flags.tradeoff,
  )  # fmt: skip
  purges = _job.purges(job)
  with owner.holding(os.fspath(workdir)):
    _workdir.claim(workdir, LEFT[0], asked, flags.overwrite, LEFT)
    _environment.quiet()
    _environment.use_compilation_cache(flags.compilation_cache)
    where = f"results: {workdir} (unlearn.md, unlearn.json); the same command shows them again"
    told = _workdir.read_json(workdir / "unlearn.json") or {}
    if purges and set(told.get("values", ())) >= set(names) and "table" in told:  # what it was made from is gone
      _purge(workdir, say)
      print(told["table"])
      print(where)
      return 0
    compared = (_stream if whole else _compare).compare(job)
    text = _table.render(compared, flags.request, stream=whole)
    command = "python -m launch.unlearn " + " ".join(a for a in argv[1:] if not a.startswith("--workdir"))
    result = {"command": command, **asked, **compared._asdict(), "versions": checkpoint.versions()}
    result["environment"], result["table"] = _environment.describe(), text
    _workdir.write_json(workdir / "unlearn.json", result)
    files.write_text(workdir / "unlearn.md", _table.markdown(compared, flags.request, command, stream=whole))
    if purges:
      _purge(workdir, say)
    print(text)
    print(where)
    return 0


def _purge(workdir: epath.Path, say) -> None:
  """Deletes the models that learned what was to be forgotten; those that forgot it have purged their own folders."""
  there = [n for n in TRAINED for name in (n, checkpoint.doomed(n)) if (workdir / name).exists()]
  for name in TRAINED:
    checkpoint.discard(workdir, name)
    checkpoint.discard(workdir, checkpoint.doomed(name))
  if there:
    say(f"purged: {', '.join(dict.fromkeys(there))}, which learned what was to be forgotten")


def default_methods() -> list[str]:
  """Every edit: methods that answer requests and take no part in training."""
  part = ("task_boundaries", "stores_data", "prefix", "boundary_data")
  plain = lambda a: a.forgets and not any(getattr(a, p) for p in part)
  return sorted(n for n, e in methods.METHODS.items() if plain(e.access))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(_unlearning, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
