"""The replay family on split digits and on split MNIST seen once: ``python -m experiments.family --workdir=DIR``.

Two sweeps of ``launch.sweep --methods=finetune,joint,all:replay`` in ``DIR/digits`` and ``DIR/mnist``, three seeds,
each method at its defaults (200 rows where it stores any; ``experiments/split_digits.py`` gives er and derpp 100); what
has finished there is not run again. Then ``experiments/results/family/replay.tsv``, and the table of ``docs/replay.md``
between its marks: accuracy over all classes after the last task, forgetting, and bytes kept. Rows that were not run in
``DIR`` stay as they are; ``--only=ssil,ocm`` and ``--bench=digits`` run less, ``--collect`` nothing.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
from absl import app, flags

from cljax import methods
from cljax.cli import sweep
from cljax.io import tables
from experiments import _page_table

ROOT = pathlib.Path(__file__).parent.parent
FILE = ROOT / "experiments" / "results" / "family" / "replay.tsv"
PAGE = ROOT / "docs" / "replay.md"
CONFIGS = {"digits": "experiments/split_digits.py", "mnist": "experiments/split_mnist_online.py"}
BOUNDS = ("finetune", "joint")
FIELDS = ("method", *(f"{b}_{k}" for b in CONFIGS for k in ("acc", "error", "forgetting", "seconds")), "bytes")


def found(folder: pathlib.Path) -> dict[str, dict[str, str]]:
  """What a sweep's rows say of each method."""
  by_method: dict[str, list[dict]] = {}
  file = folder / "rows.jsonl"
  for line in file.read_text().splitlines() if file.exists() else ():
    row = json.loads(line)
    by_method.setdefault(row["method"], []).append(row)
  out = {}
  for name, rows in by_method.items():
    acc = np.asarray([100 * r["acc"] if r["alive"] else np.nan for r in rows])
    forgotten = np.asarray([100 * r["forgetting"] if r["alive"] else np.nan for r in rows])
    out[name] = {
      "acc": f"{acc.mean():.1f}", "error": f"{acc.std(ddof=1) / np.sqrt(len(acc)):.1f}" if len(acc) > 1 else "",
      "forgetting": f"{forgotten.mean():.1f}", "seconds": f"{sum(r['seconds'] for r in rows):.0f}",
      "bytes": str(rows[0]["state_bytes"]),
    }  # fmt: skip
  return out


def collected(workdir: pathlib.Path) -> _page_table.Rows:
  """The file's rows, and in their places what was run in ``workdir``."""
  benches = {name: found(workdir / name) for name in CONFIGS}
  rows: _page_table.Rows = _page_table.read(FILE) if FILE.exists() else {}
  for bench, lines in benches.items():
    for method, values in lines.items():
      row = rows.setdefault(method, dict.fromkeys(FIELDS, "") | {"method": method})
      row |= {f"{bench}_{k}": v for k, v in values.items() if k != "bytes"} | {"bytes": values["bytes"]}
  return rows


def table(rows: _page_table.Rows) -> str:
  """Bounds first, then by accuracy on MNIST, or digits where that was not run."""
  rank = lambda name: -float(rows[name]["mnist_acc"] or rows[name]["digits_acc"] or "nan")
  names = [n for n in BOUNDS if n in rows] + sorted((n for n in rows if n not in BOUNDS), key=rank)
  shown = lambda row, b: "" if not row[f"{b}_acc"] else f"{row[f'{b}_acc']} ± {row[f'{b}_error']}"
  body = [
    [f"`{n}`", shown(rows[n], "digits"), rows[n]["digits_forgetting"], shown(rows[n], "mnist"),
     rows[n]["mnist_forgetting"], f"{int(rows[n]['bytes']):,}"]
    for n in names
  ]  # fmt: skip
  head = ("method", "split digits, %", "forgetting", "split MNIST once, %", "forgetting", "bytes kept (MNIST)")
  return "\n".join(tables.markdown(head, body)) + "\n"


def main(argv) -> None:
  workdir = pathlib.Path(flags.FLAGS.workdir).expanduser()
  asked = ",".join(flags.FLAGS.only or [*BOUNDS, "all:replay"])
  for bench in flags.FLAGS.bench if not flags.FLAGS.collect else ():
    given = [f"--config={ROOT / CONFIGS[bench]}", f"--methods={asked}", "--seeds=3", f"--workdir={workdir / bench}"]
    sweep.main([argv[0], *given])
  rows = {n: r for n, r in collected(workdir).items() if n in methods.METHODS}
  FILE.parent.mkdir(parents=True, exist_ok=True)
  _page_table.write(FILE, FIELDS, rows)
  _page_table.show(PAGE, "family", table(rows))
  print(table(rows))


if __name__ == "__main__":
  flags.DEFINE_string("workdir", "runs/family", "Where the two sweeps lie.")
  flags.DEFINE_list("only", [], "Methods to run; else the bounds and the family.")
  flags.DEFINE_multi_enum("bench", list(CONFIGS), list(CONFIGS), "Which of the two.")
  flags.DEFINE_boolean("collect", False, "Run nothing.")
  app.run(main)
