"""What a folder is, by the file that says whose it is."""

from __future__ import annotations

from etils import epath

from cljax.core.types import UsageError

KINDS = {
  "config.json": "a run of launch.train", "sweep.json": "a sweep",
  "unlearn.request.json": "a comparison of launch.unlearn",
}  # fmt: skip
_PART = "unit.json"
_GO_ON = {
  "config.json": "launch.train goes on with it and cljax.load reads it",
  "sweep.json": "launch.sweep goes on with it and cljax.load reads its runs",
  "unlearn.request.json": "launch.unlearn goes on with it",
  _PART: "launch.sweep goes on with the sweep and cljax.load reads its runs",
}


def check_own(workdir) -> None:
  """UsageError where ``workdir`` is a launcher's: its runs are told apart by other keys than those of cljax.run."""
  for file, what in {**KINDS, _PART: "a part of a sweep"}.items():
    if (epath.Path(workdir) / file).exists():
      raise UsageError(f"workdir: {workdir} holds {what}; {_GO_ON[file]}; give cljax.run another folder")
