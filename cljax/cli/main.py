"""The command ``cljax``: ``cljax train --config=FILE ...``, and likewise the other commands."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from cljax.cli import _environment

COMMANDS = {
  "train": "trains one method over one stream",
  "forget": "deletes rows from a trained run, or lists what was deleted",
  "sweep": "trains many configurations and seeds, here or on a cluster",
  "tune": "searches hyper-parameters on validation rows, with one budget for all methods",
  "report": "a page, tables and pictures of sweeps",
  "efficiency": "accuracy relative to joint, memory and updates of runs side by side",
  "analyze": "what a run forgot, when, by which layers",
  "merge": "merges trained networks, and looks at the path between two",
  "unlearn": "compares forget methods with retrained models",
  "parity": "published settings, run and set beside what was published",
  "methods": "the table of methods, or the card of one",
  "cache": "lists and clears compiled programs",
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command that ``argv[1]`` names with the rest as its arguments, and returns its exit code."""
  program, *rest = sys.argv if argv is None else argv
  name = rest[0] if rest else ""
  if name in ("", "help", "-h", "--help"):
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {command:{width}}  {what}" for command, what in COMMANDS.items())
    print(f"cljax COMMAND [--help] [arguments]\n\n{listed}")
    return 0
  if name not in COMMANDS:
    print(f"error: command: got {name!r}; allowed: {', '.join(COMMANDS)}", file=sys.stderr)
    return 2
  _environment.prepare("__main__")
  return importlib.import_module(f"cljax.cli.{name}").main([f"{program} {name}", *rest[1:]])
