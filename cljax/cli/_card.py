"""A method's card: formula, reference, what it may see, options with ranges, published settings and numbers, checks."""

from __future__ import annotations

import collections
import inspect
import textwrap
from collections.abc import Sequence

from cljax import methods
from cljax.cli import presets
from cljax.core.options import Option
from cljax.io import tables
from cljax.methods.papers import Paper, papers
from cljax.methods.table import cards

WIDTH = 120
# The names that sources have for a method of ours, beside its own.
PEERS = {
  "finetune": ("sgd", "naive"),
  "online_ewc": ("ewc_on", "online_ewc", "oewc"),
  "er": ("replay",),
  "joint": ("multitask",),
}


def allowed(option: Option) -> str:
  """What an option takes, in words."""
  if option.choices:
    return ", ".join(map(str, option.choices))
  kind = type(option.default).__name__ if option.default is not None else "a function"
  words = {"float": "numbers", "int": "integers", "bool": "true, false", "str": "text"}
  parts = [words.get(kind, kind)]
  if option.low is not None:
    parts.append(f"{'above' if option.above else 'from'} {option.low:g}")
  if option.high is not None:
    parts.append(f"to {option.high:g}")
  return " ".join(parts)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
  """Rows of words as lines with aligned columns."""
  return [f"  {line}" for line in tables.aligned(rows, None)]


def shown(number: presets.Published | None) -> str:
  """``72.4 ± 0.9 (10 runs)``, with ``n/a`` for what the source does not say."""
  if number is None:
    return ""
  spread = "" if number.deviation is None else f" ± {number.deviation:g}"
  return f"{number.mean:g}{spread}" + (f" ({number.runs} runs)" if number.runs else "")


def _option_rows(name: str) -> list[tuple[str, str, str, str]]:
  entry, mine = methods.lookup(name), presets.of_method(name)
  rows = [("option", "default", "allowed", "in presets")]
  for key, option in entry.options.items():
    found = collections.Counter(str(p.sections["method"].get(key)) for p in mine)
    told = ", ".join(v if len(found) == 1 else f"{v} (x{n})" for v, n in found.most_common())
    rows.append((key, str(option.default), allowed(option), told))
  return rows


def _options(name: str) -> list[str]:
  rows = _option_rows(name)
  return ["options:", *columns(rows)] if len(rows) > 1 else ["options: none"]


def _published(name: str) -> list[str]:
  lines, mine = [], presets.of_method(name)
  if mine:
    body = [(f"--config={presets.PREFIX}:{p.name}", shown(p.published) or "no value at hand", p.row["config_source"])
            for p in mine]  # fmt: skip
    lines += ["presets (published accuracy in %, ± standard deviation; where the setting stands):", *columns(body)]
    lines += [f"  differs: {text}" for text in dict.fromkeys(t for p in mine for t in p.differs)]
    sources = dict.fromkeys(p.published.source for p in mine if p.published)
    lines += [f"  values from: {text}" for text in sources]
  taken = {p.row["id"] for p in mine}
  others = [r for r in presets.rows() if r["method"] in (name, *PEERS.get(name, ())) and r["id"] not in taken]
  if others:
    listed = []
    for row in others:
      number = presets.published(row)
      value = f"{shown(number)} {number.metric}" if number else ""
      listed.append(
        (
          f"{row['benchmark']} {row['buffer']}".strip(),
          row["scenario"],
          row["backbone"],
          row["options"],
          value,
          row["config_source"],
        )
      )
    cut = lambda text, most: text if len(text) <= most else text[: most - 3] + "..."
    most = (22, 20, 28, 60, 60, 150)
    listed = [tuple(map(cut, r, most)) for r in listed]
    lines += ["", "published settings of other protocols, options as their sources call them:", *columns(listed)]
  return lines or ["published settings: none in the table"]


def _checks(name: str) -> list[str]:
  card = cards().get(name)
  if card is None:
    return []
  claims = [f"{claim}: {verdict}" for claim, verdict in card["claims"].items()]
  lines = [
    f"checked by: {card['compared']} comparisons with independent code, {card['laws']} laws",
    "claim: " + ("; ".join(claims) or f"none: {card['no_claim']}"),
    *(["parity: " + "; ".join(card["parity"])] if card["parity"] else []),
  ]
  return lines + [f"deviation: {text}" for text in card["deviations"]]


def _access(name: str) -> str:
  entry = methods.lookup(name)
  a = entry.access
  flags = (
    ("stores rows", a.stores_data), ("needs task boundaries", a.task_boundaries), ("reads task data", a.boundary_data),
    ("needs rows to forget", a.forget_data), ("needs rows to keep", a.retain_data), ("needs all past data", a.prefix),
    ("learns rows without labels", a.unlabelled),
  )  # fmt: skip
  trains = {"current": "the task", "seen": "all tasks seen", "all": "all tasks"}[a.trains_on]
  words = [word for word, flag in flags if flag] + [f"trains on {trains}"]
  if entry.exactness:
    words.append(f"forgets: {entry.exactness}")
  return ", ".join(words) + (f"; the objective must have {', '.join(a.needs)}" if a.needs else "")


def _papers(name: str) -> list[Paper]:
  return list(dict.fromkeys((*methods.lookup(name).papers, *papers(name))))


def _cited(name: str) -> list[str]:
  lines = []
  for paper in _papers(name):
    lines += ["", *filter(None, (paper.title, paper.link)), *paper.bibtex().splitlines()]
  return lines[1:]


def card(name: str, state_bytes: int) -> str:
  """The card of a method as plain text; ``state_bytes``: what it keeps between tasks. UsageError: no such method."""
  entry = methods.lookup(name)
  wrap = lambda text: textwrap.fill(text, WIDTH)
  blocks = [
    [f"{name}: {entry.reference}"],
    (inspect.getdoc(entry.factory) or "").splitlines(),
    _cited(name),
    [wrap(f"access: {_access(name)}"), f"keeps between tasks: {state_bytes:,} bytes (64-100-100-10, 5 tasks)"],
    _options(name),
    _published(name),
    [wrap(line) for line in _checks(name)],
  ]
  return "\n\n".join("\n".join(block) for block in blocks if block)


def page(name: str, state_bytes: int) -> str:
  """The same as a page of Markdown, for the site."""
  entry = methods.lookup(name)
  told = inspect.getdoc(entry.factory) or ""
  cell = lambda text: text.replace("|", "\\|")
  first, *rows = _option_rows(name)
  cells = [[cell(f"`{r[0]}`"), *map(cell, r[1:])] for r in rows]
  table = tables.markdown([cell(c) for c in first], cells) if rows else ["None."]
  listed = lambda lines: "\n".join(f"- {text}" for text in lines) or "Nothing on record."
  published = "\n".join(_published(name))
  titled = lambda p: f"[{cell(p.title)}]({p.link})" if p.link else cell(p.title)
  cited = "\n\n".join(f"{titled(p)}, {p.year}\n\n```bibtex\n{p.bibtex()}\n```" for p in _papers(name))
  blocks = [
    f"# {name}",
    f"*{entry.reference}*",
    told,
    f"## Papers\n\n{cited or 'None.'}",
    f"## Access\n\n{_access(name)}. Keeps {state_bytes:,} bytes between tasks (MLP 64-100-100-10, 5 tasks).",
    "## Options\n\n" + "\n".join(table),
    f"## Published settings\n\n```text\n{published}\n```",
    f"## Checks\n\n{listed(_checks(name))}\n",
  ]
  return "\n\n".join(blocks)
