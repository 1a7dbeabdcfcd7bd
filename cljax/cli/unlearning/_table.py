"""The comparison of unlearning methods as a table, for a terminal and as Markdown."""

from __future__ import annotations

from typing import Any

import numpy as np

from cljax.evaluation import authors_evidence, evidence, evidence_more
from cljax.io import tables

PERCENT = "%"
RETRAINED = {
  "epochs": "from the start, as many passes over the rows that are left; steps shrink with the data",
  "steps": "from the start, as many steps as with the rows, on the same batches without them",
}
KLOM = (
  "KLoM: nats, its floor in the row retrained (half of the oracles against the other half), its marks by regrouping "
  "unlearned models and oracles at random."
)
COST = (
  "Cost, epochs: the seconds of an answer, in epochs of the originals' training. Of methods that train their own way "
  "({names}) it is what their run took beyond the originals' training, a dash where that is within the clocks' error."
)


def _has(compared, start: str) -> bool:
  """Whether the table has a column of that name."""
  return any(k.startswith(start) for v in compared.values.values() for k in v)


def _cell(values, heading: str) -> str:
  v = np.atleast_1d(np.asarray(values, float))
  v = v[~np.isnan(v)]
  if not len(v):  # too few rows to say
    return "-"
  scale = 100 if heading.endswith(PERCENT) else 1
  digits = 1 if scale == 100 or "epochs" in heading else 2 if np.abs(v).max(initial=1) < 100 else 0
  error = f" ± {scale * v.std(ddof=1) / np.sqrt(len(v)):.{digits}f}" if len(v) > 1 else ""
  return f"{scale * v.mean():.{digits}f}{error}"


def rows(compared, stream: bool) -> tuple[list[str], list[list[str]]]:
  """Head and body; ``*`` marks a value outside the noise floor."""
  headings = compared.headings
  used = [k for k in headings if any(k in v for v in compared.values.values())]
  head = [
    "method",
    *(headings[k] for k in used),
    "outside",
    "training s" if stream else "cost, epochs",
    "exactness",
    "needs",
  ]
  body = []
  for name, values in compared.values.items():
    about = compared.about[name]
    if not values:
      why = "refused" if "refused" in about else "diverged"
      body.append([name, *(why for _ in used), "-", _epochs(about), about["exactness"], about["needs"]])
      continue
    beyond, told_of = marks(compared, name)
    cells = [_cell(values[k], headings[k]) + (" *" if k in beyond else "") if k in values else "-" for k in used]
    told = name != "retrained" and compared.context["seeds"][1:]  # one seed has no standard error
    counted = f"{len(beyond)} of {told_of}" if told else "-"
    body.append([name, *cells, counted, _epochs(about), about["exactness"], about["needs"]])
  return head, body


def marks(compared, name: str) -> tuple[list[str], int]:
  """The metrics of a row that are told from retraining, and of how many that could be; none of the floor itself."""
  values, floor = compared.values[name], compared.values["retrained"]
  spread = {k: v for k, v in values.items() if np.ndim(v) and k in floor}  # retraining has no trade-off to compare
  seeds = max(map(len, spread.values()), default=0)  # one seed or two have no marks of any number
  chances = compared.about[name].get("chances", {}) if seeds >= evidence.LEAST else {}
  rows = compared.context["rows_to_forget"]
  found = [] if name == "retrained" else evidence.outside_noise_floor(spread, floor, chances, rows)
  return found, len(set(spread) | set(chances))


def _epochs(about: dict[str, Any]) -> str:
  return f"{about['epochs']:.2f}" if np.isfinite(about["epochs"]) else "-"


def notes(compared, stream: bool) -> list[str]:
  context = compared.context
  out = [
    "mean ± standard error over seeds; * outside the noise floor: told from the retrained models of other seeds (row "
    "retrained) by Welch's t-test, at a level of 0.05 for all numbers of a row together (Holm). Within it, a method is "
    "not told from retraining by that number at this size; that is no proof of privacy.",
  ]
  if "schedule" in context:
    out.append(f"Retrained: {RETRAINED[context['schedule']]} (schedule={context['schedule']}).")
  seeds = max((len(v) for v in compared.values["retrained"].values() if np.ndim(v)), default=0)
  if seeds < evidence.LEAST:
    out.append(f"Marks need {evidence.LEAST} seeds or more; here there are none, whatever the numbers.")
  elif "original" in compared.values and not set(marks(compared, "original")[0]) - {"cka"}:
    out.append(
      "This table can not tell forgetting from nothing: the original models, which forgot nothing, lie within the "
      "floor on every number but the CKA, which compares them with themselves. More seeds, or a request for more rows, "
      "may."
    )
  rows = f"{context['rows_to_forget']} rows to forget"
  if stream:
    out.append(
      f"Gaps are to retraining after the same request (mean over {len(context['seeds'])} seeds), averaged over "
      f"{context['requests']} requests, {rows} in all. Training s: of all seeds, learning and forgetting together."
    )
  else:
    out.append(
      f"{context['population']} models unlearn, {context['oracles']} were retrained without the rows; {rows}; an "
      f"epoch of one population took {context['epoch_seconds']:.2f} s."
    )
    own = [n for n, a in compared.about.items() if a.get("own_training")]
    out += [COST.format(names=", ".join(own))] if own else []
    shadowed = _has(compared, "u_lira") and context.get("shadows")
    told = "KLoM" in compared.note  # as in comparisons that were written before
    parts = [compared.note, KLOM if _has(compared, "klom") and not told else ""]
    parts.append(f"U-LiRA on {context['shadows']} shadow models; 0.5 is exact." if shadowed else "")
    out.append(" ".join(filter(None, parts)))
  out += [f"{n} refused: {a['refused']}." for n, a in compared.about.items() if "refused" in a]
  leaks = [n for n, a in compared.about.items() if a.get("over_forgets")]
  if leaks:
    out.append(
      f"Over-forgetting, a leak too (rows to forget score worse than with every retrained model): {', '.join(leaks)}."
    )
  return out


def more(compared) -> tuple[list[str], list[list[str]]] | None:
  """Head and body of the second table; None where there is nothing for it."""
  headings = evidence_more.HEADINGS | authors_evidence.BESIDE
  used = [k for k in headings if any(k in v for v in compared.more.values())]
  if not used:
    return None
  cell = lambda v, k: _cell(v[k], headings[k]) if k in v else "-"
  body = [[name, *(cell(v, k) for k in used)] for name, v in compared.more.items()]
  return ["method", *(headings[k] for k in used)], body


def _told_of(head: list[str]) -> str:
  """What the columns of the second table are."""
  parts = set(authors_evidence.BESIDE.values())
  return authors_evidence.BESIDE_NOTE if parts & {*head} else evidence_more.note(head)


def _plain(head, body) -> list[str]:
  return tables.aligned([head, *body], ruled=True)


def render(compared, request: str, stream: bool) -> str:
  second = more(compared)
  text = [f"request: {request}", "", *_plain(*rows(compared, stream)), "", *notes(compared, stream)]
  return "\n".join([*text, *(["", *_plain(*second), "", _told_of(second[0])] if second else [])])


def markdown(compared, request: str, command: str, stream: bool) -> str:
  listed, second = [f"- {note}" for note in notes(compared, stream)], more(compared)
  text = [f"# Forgetting `{request}`", "", f"`{command}`", "", *tables.markdown(*rows(compared, stream)), "", *listed]
  return "\n".join([*text, *(["", *tables.markdown(*second), "", _told_of(second[0])] if second else []), ""])
