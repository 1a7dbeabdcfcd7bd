"""The report put together: the page, the LaTeX table and the picture, from the same numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cljax.cli.reporting import _html as parts
from cljax.cli.reporting import _ranks, _row_log, _samples
from cljax.cli.reporting import _text as text
from cljax.cli.reporting._charts import charts, scaled, so_far
from cljax.cli.reporting._style import CSS, SCRIPT
from cljax.cli.reporting._svg import COLORS
from cljax.cli.reporting._table import RANKING, Block, Line, Protocol, Ranked, Summary
from cljax.cli.reporting._templates import render
from cljax.evaluation import evaluations, scores
from cljax.evaluation.ranks import Ranks
from cljax.io import tables


class Report(NamedTuple):
  """``ranked`` is empty for one stream. ``notes``: what was left out, a line each."""

  blocks: list[Block]
  ranked: list[Ranked]
  protocol: Protocol
  baseline: str
  sources: list[str]
  notes: list[str]
  ranks: Ranks | None = None  # Friedman's and Nemenyi's, of the methods that stand on every stream


NOTES = 4  # so many stand open


def title(report: Report) -> str:
  if len(report.blocks) == 1:
    return f"Sweep report: {report.blocks[0].name}"
  return f"Sweep report: {len(report.blocks)} streams"


def headline(report: Report) -> list[str]:
  """The sentences at the top of the page, also printed."""
  if report.ranked:
    return text.overall(report.ranked, report.blocks)
  return text.headline(report.blocks[0], report.protocol)


def page(report: Report) -> str:
  """The whole page. Its policy forbids the browser any request."""
  from markupsafe import Markup

  notes = [*report.notes, *(f"{b.name}: {n}" for b in report.blocks for n in b.notes)]
  whole = render(
    "page", title=title(report), css=Markup(CSS), script=Markup(SCRIPT),
    said=[*headline(report), text.selection(report.protocol, report.blocks)], notes=notes, opened=len(notes) <= NOTES,
    ranking=parts.ranking_table(report.ranked, report.blocks) if report.ranked else "",
    ranks=_ranks.section(report.ranks) if report.ranked else "",
    blocks=[_block(block, report) for block in report.blocks],
    single_rows=_row_log.section(single_rows(report), len(report.blocks) > 1), definitions=_definitions(report),
  )  # fmt: skip
  return str(whole)  # no longer Markup, which would escape what it is put together with


def single_rows(report: Report) -> list[tuple[str, str, Mapping[str, Any] | None]]:
  """``(stream, configuration, what its raw log says)`` of the headline table."""
  return [(b.name, x.run.label, x.run.test_rows) for b in report.blocks for x in b.shown]


def _block(block: Block, report: Report) -> dict[str, Any]:
  several = len(block.lines) > len(block.shown)
  one = len(report.blocks) == 1
  named = lambda name: name if one else f"{block.name}: {name[0].lower()}{name[1:]}"
  parted = [
    ("Charts", charts(block, report.protocol)),
    ("All configurations" if several else "All metrics", parts.table(block, report.protocol, True)),
    ("Accuracy matrices" if block.score == scores.ACCURACY else "Score matrices", parts.matrices(block)),
    ("Samples", _samples.section(block)),
  ]
  return {
    "heading": "Comparison" if one else block.name,
    "lead": [] if one else text.headline(block, report.protocol),
    "table": parts.table(block, report.protocol, False),
    "more": [(named(name), part) for name, part in parted if part],
  }


COST = (
  "Seconds are wall time of training and evaluation, divided by the runs that shared the program; compilation counts "
  "once a program and is shorter with a warm cache. Runs on other machines or at other load do not compare. Bytes are "
  "those that the method keeps between tasks beside the model."
)


def _definitions(report: Report) -> list[tuple[str, str]]:
  selected = text.selection(report.protocol, report.blocks)
  score = {text.score_meaning(report.protocol, b.scenario, b.score, b.sign) for b in report.blocks}
  name = "Score" if len({b.score for b in report.blocks}) > 1 else report.protocol.score_name(report.blocks[0].score)
  items = [
    ("Score", f"{name}: {'; '.join(sorted(score))}."),
    (
      "Errors",
      "± is the standard error over seeds, std(ddof=1) / √seeds; diverged seeds count as they were frozen. "
      + _over_streams(report),
    ),
    ("Selection", selected),
    ("Significance", text.testing(report.baseline, report.blocks)),
  ]
  if report.ranked:
    items.append(("Ranking", RANKING + " Its tests pair seeds, each with its score averaged over the streams."))
  items.append(("Cost", COST))
  items.append(("Sources", ", ".join(report.sources)))
  return items


def _over_streams(report: Report) -> str:
  """Which kind of mean over seeds the page shows."""
  own = {x.run.own_streams for block in report.blocks for x in block.lines}
  one = "Seeds share one stream (class order, permutations, held-out rows): the spread is of learners, not of orders."
  each = "Each seed has a stream of its own (stream.per_seed): the spread is over orders too."
  if len(own) > 1:
    return f"{each} So it is in blocks named per_seed; in the others seeds share one stream."
  return each if own == {True} else one


SPECIAL = {
  "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
  "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
  "|": r"\textbar{}", '"': "''",
}  # fmt: skip


def tex_escape(value: object) -> str:
  """Text for LaTeX, each special character by its command."""
  return "".join(SPECIAL.get(c, c) for c in str(value))


def _tex_number(s: Summary | None, bold: bool, star: bool = False, score: str = scores.ACCURACY) -> str:
  if s is None or math.isnan(s.mean):
    return "--"
  number, _, error = text.shown(s, score).partition(" ± ")
  number = rf"\mathbf{{{number}}}" if bold else number
  error = rf" \pm {error}" if error else ""
  return f"${number}{error}{'^{*}' if star else ''}$"


def tex(report: Report) -> str:
  """``report.tex``: a booktabs table, one row a method; needs ``\\usepackage{booktabs}``."""
  return _tex_ranking(report) if report.ranked else _tex_block(report.blocks[0], report)


TEX_METRICS = (("average_incremental_accuracy", "AIA", 1), ("forgetting", "Forgetting", -1))


def _tex_block(block: Block, report: Report) -> str:
  lines, score, sign = block.shown, block.score, block.sign
  plain = score == scores.ACCURACY
  used = [m for m in TEX_METRICS if any(m[0] in x.run.values for x in lines)]
  value = lambda x, key: parts.summarize(x.run.values[key]) if key in x.run.values else None
  able = [x for x in lines if all(x.run.alive) and x.selected and not x.run.forgets]
  top: dict[str, float] = {"score": sign * max((sign * x.score.mean for x in able), default=math.nan)}
  for key, _, way in used:
    held = [v.mean for x in able if (v := value(x, key)) is not None and not math.isnan(v.mean)]
    way = sign * way if key == "average_incremental_accuracy" else way
    top[key] = (max if way > 0 else min)(held, default=math.nan)
  over = lambda name: name if plain else name.replace("AIA", "Over events")
  others = list(dict.fromkeys(n for x in lines for n in x.run.better if n != score))
  more = [tex_escape(f"{scores.label(n)}{scores.unit(n)}") for n in others]
  said = list(dict.fromkeys(k for x in lines for k in x.run.evaluated))
  more += [tex_escape(f"{evaluations.label(k)}{scores.unit(evaluations.metric(k))}") for k in said]
  named = [*(over(name) for _, name, _ in used), *more]
  head = [tex_escape(report.protocol.score_name(score)), *named, "Kept", "Time per seed", "Seeds"]
  rows = []
  for x in lines:
    name = tex_escape(x.run.label) + ("" if all(x.run.alive) else r"$^{\dagger}$")
    sound = any(x is a for a in able)
    star = x.test is not None and x.test.significant
    cells = [_tex_number(x.score, sound and x.score.mean == top["score"], star, score)]
    for key, _, _ in used:
      v = value(x, key)
      cells.append(_tex_number(v, sound and v is not None and v.mean == top[key], False, score))
    cells += [_tex_number(value(x, f"{n}.acc"), False, False, n) for n in others]
    cells += [_tex_number(value(x, k), False, False, evaluations.metric(k)) for k in said]
    costs = [text.kept(x.run.state_bytes), text.seconds(x.run.seconds), str(len(x.run.seeds))]
    rows.append([name, *cells, *(tex_escape(c).replace(text.NONE, "--") for c in costs)])
  meaning = tex_escape(text.score_meaning(report.protocol, block.scenario, score, sign))
  unit = ", in \\%" if plain else ""
  caption = f"{tex_escape(block.name)}: {meaning}{unit}."
  return _tabular(["Method", *head], rows, caption + _tex_notes(report, lines))


def _tex_ranking(report: Report) -> str:
  score = report.blocks[0].score
  best = [parts.best_mean(report.ranked, i, b.sign) for i, b in enumerate(report.blocks)]
  first = min((r.rank for r in report.ranked if not math.isnan(r.rank)), default=math.nan)
  rows = []
  for r in report.ranked:
    rank = "--" if math.isnan(r.rank) else f"{r.rank:.2f}"
    cells = [
      _tex_number(s, s is not None and s.mean == top, False, b.score)
      for s, top, b in zip(r.scores, best, report.blocks, strict=True)
    ]
    mean = _tex_number(r.mean, False, r.test is not None and r.test.significant, score)
    rows.append([tex_escape(r.title), *cells, mean, rf"\textbf{{{rank}}}" if r.rank == first else rank])
  head = ["Method", *(tex_escape(b.name) for b in report.blocks), "Mean", "Average rank"]
  lines = [x for b in report.blocks for x in b.lines if x.selected]
  names = dict.fromkeys(report.protocol.score_name(b.score) for b in report.blocks)
  unit = " in \\%" if text.only_accuracy(report.blocks) else ""
  return _tabular(head, rows, f"{tex_escape(', '.join(names))}{unit}." + _tex_notes(report, lines))


def _tex_notes(report: Report, lines: Sequence[Line]) -> str:
  out = " Mean $\\pm$ standard error over seeds. " + tex_escape(text.selection(report.protocol, report.blocks))
  if any(x.test for x in lines):
    out += f" $^{{*}}$ differs from {tex_escape(report.baseline)}, paired $t$-test over seeds, $p < 0.05$ after Holm."
  out += f" {tex_escape(text.reach(report.blocks))}" if text.reach(report.blocks) else ""
  if any(not all(x.run.alive) for x in lines):
    out += r" $^{\dagger}$ a seed diverged."
  return out


def _tabular(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
  body = "\n".join(" & ".join(row) + r" \\" for row in rows)
  return (
    "% needs \\usepackage{booktabs}\n\\begin{table}[t]\n\\centering\n"
    f"\\caption{{{caption}}}\n\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n\\toprule\n"
    f"{' & '.join(head)} \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
  )


BARS = 24


def picture(report: Report, path) -> None:
  """``report.png``: for each stream, final scores as bars and the score over events."""
  from cljax.cli.reporting._plots import _event_names, _pyplot, _save

  heights = [max(2.6, 0.34 * min(BARS, len(b.shown)) + 1.2) for b in report.blocks]
  figure, axes = _pyplot().subplots(
    len(heights), 2, figsize=(10.5, sum(heights)), squeeze=False, layout="constrained", height_ratios=heights
  )
  for (bars, curve), block in zip(axes, report.blocks, strict=True):
    lines = block.shown[:BARS]
    place = list(range(len(lines)))[::-1]
    colors = [COLORS[n % len(COLORS)] for n in range(len(lines))]
    score, plain = block.score, block.score == scores.ACCURACY
    means = [scaled(score, x.score.mean) for x in lines]
    errors = [0 if math.isnan(x.score.stderr) else scaled(score, x.score.stderr) for x in lines]
    ends = [m + e for m, e in zip(means, errors, strict=True) if not math.isnan(m)]
    room = 1.5 if plain else 0.015 * max(map(abs, ends), default=1.0)
    bars.barh(place, means, xerr=errors, color=colors, capsize=3)
    bars.set_yticks(place, [x.run.label + " (diverged)" * (not all(x.run.alive)) for x in lines], fontsize=8)
    for at, x, mean, error in zip(place, lines, means, errors, strict=True):
      star = " *" if x.test and x.test.significant else ""
      if math.isnan(mean):
        continue
      number = scores.number(score, x.score.mean)
      bars.text(mean + error + room, at, f"{number}{star}", va="center", fontsize=8)
    if plain:
      bars.set_xlim(0, 112)
    else:
      bars.margins(x=0.15)
    bars.set_xlabel(f"{report.protocol.score_name(score)}{scores.unit(score)}")
    bars.set_title(block.name, fontsize=10)
    for n, x in enumerate(lines):
      if x.run.matrix is None or x.run.events != lines[0].run.events:
        continue
      values = scaled(score, so_far(x.run))
      spread = None if len(values) < 2 else values.std(0, ddof=1) / math.sqrt(len(values))
      style = ("-", "--", ":", "-.")[n // len(COLORS) % 4]
      curve.errorbar(range(values.shape[1]), values.mean(0), yerr=spread, color=colors[n], marker="o", markersize=3,
                     linestyle=style, capsize=2, label=x.run.label)  # fmt: skip
    names = _event_names(lines[0].run.events)[1:]
    shown = range(0, len(names), max(1, -(-len(names) // 26)))
    curve.set_xticks(shown, [names[i] for i in shown], fontsize=8)
    if plain:
      curve.set_ylim(0, 102)
    curve.set_xlabel("after learning task, or event" if any("forget" in n for n in names) else "after learning task")
    curve.set_ylabel(f"{scores.label(score)} on tasks so far{scores.unit(score)}")
    curve.grid(alpha=0.3)
    if curve.lines:
      curve.legend(fontsize=7, ncols=2 if len(lines) > 6 else 1)
  starred = any(x.test and x.test.significant for b in report.blocks for x in b.shown)
  note = "mean ± standard error over seeds"
  note += f"; * differs from {report.baseline}, paired t-test, p < 0.05 after Holm" if starred else ""
  figure.suptitle(note, fontsize=10)
  _save(figure, path)


def plain(report: Report) -> str:
  """The table as text, for the terminal."""
  names = {report.protocol.score_name(b.score) for b in report.blocks}
  heading = names.pop() if len(names) == 1 else "score"
  others = list(dict.fromkeys(n for b in report.blocks for x in b.shown for n in x.run.better if n != b.score))
  said = list(dict.fromkeys(k for b in report.blocks for x in b.shown for k in x.run.evaluated))
  value = lambda x, key: parts.summarize(x.run.values[key]) if key in x.run.values else None
  finals = lambda x: {evaluations.label(k) + scores.unit(evaluations.metric(k)):
                      text.shown(value(x, k), evaluations.metric(k)) for k in said}  # fmt: skip
  rows: list[Mapping[str, str]] = [
    {
      "stream": block.name,
      "method": x.run.label,
      heading: text.shown(x.score, block.score),
      "against baseline": "baseline" if x.baseline else text.against(x.test, block.score),
      **{scores.label(n) + scores.unit(n): text.shown(value(x, f"{n}.acc"), n) for n in others},
      **finals(x),
      "kept": text.kept(x.run.state_bytes),
      "time a seed": text.seconds(x.run.seconds),
      "seeds": text.seeds(x),
    }
    for block in report.blocks
    for x in block.shown
  ]
  head = list(rows[0])[0 if len(report.blocks) > 1 else 1 :]
  lines = tables.aligned([head, *([r[h] for h in head] for r in rows)], None, ruled=True)
  lines += [*filter(None, [text.reach(report.blocks)]), "", *_row_log.text(single_rows(report), len(report.blocks) > 1)]
  return "\n".join(line.rstrip() for line in [*lines, *(["", *_ranks.text(report.ranks)] if report.ranked else [])])
