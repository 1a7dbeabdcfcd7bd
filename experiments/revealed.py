"""What survives a deletion in the state of every method, by planting rows and searching every array: a table.

``python -m experiments.revealed`` measures what ``experiments/results/revealed.tsv`` lacks (``--only=er,ogd`` these
anew), and writes that file and the table of ``docs/deletion.md`` between its marks.

Two bright rows of noise are learned in the first of two tasks and forgotten after the second by ``ssd`` (or by the
method's own answer); two others, as bright, are never learned. The search is that of ``experiments/_revealed.py``.
Parameters are not searched: what an edit leaves in them is what the evidence of a request measures.
"""

from __future__ import annotations

import pathlib

from absl import app, flags

from cljax import methods
from experiments import _page_table, _revealed
from experiments._proof_records import ROOT, records

FILE = pathlib.Path(ROOT) / "experiments" / "results" / "revealed.tsv"
PAGE = pathlib.Path(ROOT) / "docs" / "deletion.md"
FIELDS = ("method", "survives", "cosine", "cosine_control", "span", "span_control", "where")


def survives(found) -> str:
  """A verdict in words, of what :func:`experiments._revealed.measured` gives."""
  if found is None:
    return "nothing: it keeps no array"
  row, control = found["planted"], found["control"]
  if row.copy:
    return "a copy of the row"
  if row.id and not control.id:
    return "the row's id"
  if row.cosine >= 0.9 and control.cosine < 0.7:
    return f"a reconstruction at cosine {row.cosine:.2f}"
  if row.span >= 0.98 and row.span - control.span > 0.05:
    return f"its direction, {100 * row.span:.1f} % within a basis"
  return "statistics of many rows" if row.cosine or control.cosine else "statistics, none of a row's size"


def line(name: str) -> dict[str, str]:
  found = _revealed.measured(name, records.arguments(name))
  out = {"method": name, "survives": survives(found)}
  if methods.METHODS[name].access.stores_data and out["survives"].startswith("statistics"):
    out["survives"] = "other rows: the memory is scrubbed"
  for key in ("cosine", "span"):
    for suffix, who in (("", "planted"), ("_control", "control")):
      out[key + suffix] = "" if found is None else f"{getattr(found[who], key):.3f}"
  return out | {"where": "" if found is None else found["planted"].where[1]}


def table(rows: dict[str, dict[str, str]]) -> str:
  """The table of the docs, of methods that keep arrays; the others in one line."""
  kept = [r for _, r in sorted(rows.items()) if r["cosine"]]
  head = "| method | survives | cosine (control) | within a span (control) |\n| --- | --- | --- | --- |\n"
  pair = lambda r, key: f"{r[key]} ({r[key + '_control']})"
  body = "".join(f"| `{r['method']}` | {r['survives']} | {pair(r, 'cosine')} | {pair(r, 'span')} |\n" for r in kept)
  rest = ", ".join(f"`{name}`" for name, r in sorted(rows.items()) if not r["cosine"])
  return f"{head}{body}\nNo array beside the parameters and the optimizer's: {rest}.\n"


def main(argv) -> None:
  del argv
  show = lambda rows: _page_table.show(PAGE, "revealed", table(rows))
  _page_table.measured(FILE, FIELDS, sorted(methods.METHODS), line, flags.FLAGS.only, show)


if __name__ == "__main__":
  flags.DEFINE_list("only", [], "methods to measure anew")
  app.run(main)
