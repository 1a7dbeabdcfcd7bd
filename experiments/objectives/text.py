"""Text in sequence: a two-layer transformer reads three domains of the standard library's own text, one after another.

``python -m experiments.objectives.text --workdir=DIR [--seeds=2]``: writes the rows to ``DIR/text.npz``, trains each
method by the command ``launch.sweep`` (this file is its configuration), then finetune on the stream with a request,
and writes the reports of ``launch.report``. Run it again to go on where it was stopped.

The domains: the reference manual that ``pydoc`` shows (English), the library's Python source, and the names of
Unicode's characters. A row holds whole lines up to 65 characters (a longer line is cut), so that rows are of uneven
length: they are padded once, and what pads has weight 0. A line that stood before is left out; of each 100 rows the
last 20, one block, are for tests. Characters other than printable ASCII and the line's end are left out.
"""

from __future__ import annotations

import pathlib
import sys
import sysconfig
import unicodedata
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from experiments.objectives import _shared

FILE = "text.npz"
LENGTH = 64  # of a row's inputs: its targets are those one place further
ROWS = 400  # of each domain
SOURCES = ("argparse", "ast", "configparser", "dataclasses", "difflib", "inspect", "tarfile", "typing", "zipfile")
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
METHODS = ("finetune", "ewc", "er", "gpm", "lwf", "joint")
FORGET = "3:ids=0-49"


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.data = ConfigDict({"name": f"npz:{FILE}"})
  config.stream = ConfigDict({"kind": "group", "tasks": 3, "validation": 0.1})
  config.model = ConfigDict({"name": "transformer", "width": 64, "depth": 2, "heads": 4})
  config.objective = ConfigDict({"name": "sequence"})
  config.optimizer = ConfigDict({"name": "adam", "learning_rate": 0.003})
  config.train = ConfigDict({"batch_size": 16, "epochs": 4})
  config.eval = ConfigDict({"block": 64})
  config.method_defaults = ConfigDict({
    "er": {"capacity": 100},
    "ewc": {"strength": 3.0, "fisher": "empirical"},
    "lwf": {"strength": 1.0},
    "graddiff": {"forget_weight": 0.1, "learning_rate": 0.05, "steps": 30},
  })  # fmt: skip
  return config


def get_hyper(h):
  return _shared.each(h, allowed()[0])


def allowed() -> tuple[list[str], list[str]]:
  return _shared.allowed("sequence", METHODS, traced=("gpm",))


def _source(library: pathlib.Path, name: str) -> pathlib.Path:
  """A module's file, which some versions of Python have as a package."""
  file = library / f"{name}.py"
  return file if file.exists() else library / name / "__init__.py"


def domains() -> dict[str, str]:
  """The three texts."""
  from pydoc_data import topics

  library = pathlib.Path(sysconfig.get_paths()["stdlib"])
  named = (unicodedata.name(chr(c), "") for c in range(0x250, 0x3000))
  return {
    "manual": "\n".join(topics.topics[k] for k in sorted(topics.topics)),
    "source": "\n".join(_source(library, name).read_text(encoding="utf-8") for name in SOURCES),
    "names": "\n".join(n for n in named if n),
  }


def rows_of(text: str, count: int = ROWS) -> list[np.ndarray]:
  """``count`` rows of tokens, evenly from the whole text."""
  place = {c: i for i, c in enumerate(ALPHABET)}
  lines = dict.fromkeys(line.rstrip() for line in text.splitlines() if line.strip())
  rows: list[list[int]] = [[]]
  for line in lines:
    tokens = [place[c] for c in (line + "\n") if c in place][: LENGTH + 1]
    if len(rows[-1]) + len(tokens) > LENGTH + 1:
      rows.append([])
    rows[-1] += tokens
  whole = [np.array(r, np.int32) for r in rows if len(r) > 1]
  return [whole[i] for i in np.linspace(0, len(whole) - 1, count).astype(int)]


def write_rows(folder: pathlib.Path) -> pathlib.Path:
  """``text.npz`` with tokens one behind the other, their lengths, and the domain of each row."""
  path = folder / FILE
  if path.exists():
    return path
  folder.mkdir(parents=True, exist_ok=True)
  every = [rows_of(text) for text in domains().values()]
  held = np.arange(ROWS) % 100 >= 80
  of = lambda mask: [[r for r, there in zip(rows, mask, strict=True) if there] for rows in every]
  parts = {"train": of(~held), "test": of(held)}
  arrays: dict[str, Any] = {}
  for split, found in parts.items():
    rows = [r for domain in found for r in domain]
    for side, cut in (("x", slice(0, -1)), ("y", slice(1, None))):
      arrays[f"{side}_{split}/token"] = np.concatenate([r[cut] for r in rows])
      arrays[f"{side}_{split}/token.lengths"] = np.array([len(r) - 1 for r in rows])
    arrays[f"group_{split}"] = np.repeat(np.arange(len(found)), [len(d) for d in found])
  np.savez(path, **arrays)
  return path


def run(workdir: str, seeds: str, more=()) -> int:
  return _shared.run(__file__, "sequence", allowed()[1], FORGET, workdir, seeds, more, write_rows)


if __name__ == "__main__":  # as a configuration it has no flags of its own
  _WORKDIR = flags.DEFINE_string("workdir", None, "folder for the rows, the runs and the reports", required=True)
  _SEEDS = flags.DEFINE_string("seeds", "2", "a number of seeds or a list")
  app.run(lambda argv: sys.exit(run(_WORKDIR.value, _SEEDS.value, argv[1:])))
