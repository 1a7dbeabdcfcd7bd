"""The numbers of a report: means and errors, paired tests, ranks, the chosen configurations and the winner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cljax import UsageError
from cljax.cli.reporting._data import Run
from cljax.evaluation import ranks, scores, selection

ALPHA = 0.05


class Summary(NamedTuple):
  """Mean and standard error over seeds, ``std(ddof=1) / sqrt(S)``; NaN where undefined."""

  mean: float
  stderr: float


class Test(NamedTuple):
  """A two-sided paired t-test over ``pairs`` shared seeds; ``p`` as it is, ``holm`` corrected over the table; ``flips``
  the two-sided p of the exact test that flips the signs of differences (:func:`sign_flips`)."""

  difference: float
  p: float
  holm: float
  pairs: int
  flips: float = 1.0

  @property
  def significant(self) -> bool:
    return self.holm < ALPHA


class Line(NamedTuple):
  """A configuration in a table. ``selected``: it stands for its method; ``choice``: it was chosen among several."""

  run: Run
  score: Summary
  values: np.ndarray
  validation: Summary
  selected: bool
  choice: bool
  baseline: bool = False
  test: Test | None = None  # over the selected ones
  test_all: Test | None = None  # over all configurations


class Block(NamedTuple):
  """One stream under one main score: all its configurations, best score first; those that stand for a method; who
  wins."""

  name: str
  scenario: str
  lines: list[Line]
  winner: Line | None
  second: Line | None
  against_second: Test | None
  why_none: str
  notes: list[str]
  score: str = scores.ACCURACY
  sign: int = 1  # -1 where lower is better

  @property
  def shown(self) -> list[Line]:
    """The headline table: one configuration a method, all of a method where none could be chosen."""
    chosen = {line.run.title for line in self.lines if line.selected}
    return [line for line in self.lines if line.selected or line.run.title not in chosen]


class Protocol(NamedTuple):
  """``first_tasks``: None selects by validation accuracy (or main score) over all tasks."""

  first_tasks: int | None = None

  def score_name(self, score: str = scores.ACCURACY) -> str:
    name = "ACC" if score == scores.ACCURACY else scores.label(score)
    return name if self.first_tasks is None else f"{name} after task {self.first_tasks}"


def parse_select(text: str) -> Protocol:
  """``validation`` or ``first_tasks:K``; raises UsageError."""
  name, colon, count = text.partition(":")
  if text == "validation":
    return Protocol()
  if name == "first_tasks" and colon and count.isdigit() and int(count) > 0:
    return Protocol(int(count))
  raise UsageError(f"select: got {text!r}; expected validation, or first_tasks:K with K at least 1")


def summarize(values) -> Summary:
  values = np.asarray(values, np.float64)
  stderr = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
  return Summary(float(values.mean()) if len(values) else math.nan, float(stderr))


def paired(a: Run, ours: np.ndarray, b: Run, theirs: np.ndarray) -> Test | None:
  """``t = mean(d) / (std(d) / sqrt(n))`` of ``d_s = ours_s - theirs_s`` over the n seeds both have.

  None where it cannot be made: fewer than two shared seeds, an undefined value, or differences all alike (no spread to
  compare with), other than none at all, which is p = 1.
  """
  shared = [s for s in a.seeds if s in b.seeds]
  d = np.asarray([ours[a.seeds.index(s)] - theirs[b.seeds.index(s)] for s in shared])
  return _t_test(d)


def _t_test(d: np.ndarray) -> Test | None:
  if len(d) < 2 or np.isnan(d).any():
    return None
  if not d.any():
    return Test(0.0, 1.0, 1.0, len(d), 1.0)
  spread = d.std(ddof=1)
  if spread <= 1e-12 * np.abs(d).max():
    return None
  from scipy import stats  # not for free: over half a second

  t = d.mean() / (spread / math.sqrt(len(d)))
  p = float(2 * stats.t.sf(abs(t), len(d) - 1))
  return Test(float(d.mean()), p, p, len(d), sign_flips(d))


MOST_FLIPS = 16  # seeds of which all sign patterns are tried; of more, 2^16 patterns at random


def sign_flips(d: np.ndarray) -> float:
  """``#{s in {-1, 1}^n : |sum s_i d_i| >= |sum d_i|} / 2^n`` of differences ``d [n]``: exact under any distribution
  that is symmetric where nothing differs (Fisher 1935).

  At least ``2 / 2^n``: three seeds reach .25, five .0625, six .031. Beyond 16 seeds of 2^16 patterns drawn at random,
  itself among them.
  """
  n = len(d)
  if n <= MOST_FLIPS:
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
  else:
    signs = np.random.default_rng(0).choice([-1, 1], (2**MOST_FLIPS, n))
    signs[0] = 1
  total = np.abs(signs @ d)
  return float(np.mean(total >= np.abs(d.sum()) * (1 - 1e-12)))


def least_flips(n: int) -> float:
  """The least that :func:`sign_flips` can be of ``n`` differences: ``2 / 2^n``; one of the patterns where they are
  drawn."""
  return 2 / 2**n if n <= MOST_FLIPS else 1 / 2**MOST_FLIPS


def holm(tests: Sequence[Test | None]) -> list[Test | None]:
  """Holm's step-down correction: ``max_{j<=i} min(1, (m - j) p_(j))`` over the m tests that were made (Holm 1979)."""
  made = sorted((t.p, i) for i, t in enumerate(tests) if t is not None)
  out = list(tests)
  worst = 0.0
  for rank, (p, i) in enumerate(made):
    worst = max(worst, min(1.0, (len(made) - rank) * p))
    test = tests[i]
    assert test is not None
    out[i] = test._replace(holm=worst)
  return out


def block(name: str, runs: Sequence[Run], protocol: Protocol, baseline: str) -> Block:
  """Selects, scores, tests and orders the configurations of one stream.

  ``baseline`` is a method or the label of one configuration; without it there are no tests. Raises UsageError where
  ``protocol.first_tasks`` does not fit the stream.
  """
  notes: list[str] = []
  name_of = scores.label(runs[0].score)
  if protocol.first_tasks is not None:
    missing = [r.label for r in runs if r.matrix is None]
    if missing:
      notes.append(f"{', '.join(missing)}: no {name_of} matrix, so no {name_of} on the later tasks; left out")
    runs = [r for r in runs if r.matrix is not None]
    if not runs:
      raise UsageError("select: first_tasks needs the accuracy matrices of result.json; there are only rows")
  score, sign = runs[0].score, runs[0].sign
  found = [_score(r, protocol) for r in runs]
  validations = [_validation(r, protocol) for r in runs]
  eligible = [
    None if v is None or r.forgets or not all(r.alive) else float(np.mean(v))
    for r, v in zip(runs, validations, strict=True)
  ]
  titles = [r.title for r in runs]
  chosen = selection.best(titles, eligible, runs[0].better[score])
  several = {t for t in titles if titles.count(t) > 1}
  unchosen = sorted(several - {titles[i] for i in chosen})
  lines = [
    Line(r, summarize(s), s, summarize([] if v is None else v), i in chosen or r.title not in several,
         i in chosen and r.title in several)
    for i, (r, s, v) in enumerate(zip(runs, found, validations, strict=True))
  ]  # fmt: skip
  if unchosen:
    notes.append(_why_unchosen(unchosen, [r for r in runs if r.title in unchosen], protocol))
  lines.sort(key=lambda x: -math.inf if math.isnan(x.score.mean) else sign * x.score.mean, reverse=True)
  lines = _against(lines, baseline, notes)
  # A method whose every configuration diverged has lost; one that nothing could choose for may be the best.
  open_ = [t for t in unchosen if any(r.title == t and all(r.alive) for r in runs)]
  winner, second, why = _winner(lines, open_)
  test = paired(winner.run, winner.values, second.run, second.values) if winner and second else None
  scenario = next((r.scenario for r in runs if r.scenario), "")
  return Block(name, scenario, lines, winner, second, test, why, notes, score, sign)


def _score(run: Run, protocol: Protocol) -> np.ndarray:
  if protocol.first_tasks is None or run.matrix is None:
    return run.values["acc"]
  return selection.reported_accuracy(run.matrix, run.events, protocol.first_tasks)


def _validation(run: Run, protocol: Protocol) -> np.ndarray | None:
  if protocol.first_tasks is None:
    return run.values.get("validation_acc")
  if run.validation is None:
    return None
  return selection.validation_accuracy(run.validation, run.events, protocol.first_tasks)


def _why_unchosen(titles: Sequence[str], runs: Sequence[Run], protocol: Protocol) -> str:
  name = scores.label(runs[0].score)
  who = f"{', '.join(titles)}: no configuration is selected, all are shown: "
  if any(r.forgets for r in runs):
    return who + f"the stream has Forget events, and validation {name} prefers what did not forget"
  if protocol.first_tasks is not None and any("validation_acc" in r.values for r in runs):
    return who + "result.json has no validation_matrix (written before it was kept); run again, or --select=validation"
  if not any("validation_acc" in r.values for r in runs):
    return who + f"there are no validation rows (stream.validation=0), and test {name} must not choose"
  return who + "a seed of each diverged"


def _against(lines: list[Line], baseline: str, notes: list[str]) -> list[Line]:
  """Adds the tests against the baseline: its selected configuration, or the one whose label was given."""
  found = [x for x in lines if baseline in (x.run.label, x.run.title) and x.selected]
  found = found or [x for x in lines if x.run.label == baseline]
  if not found:
    there = any(x.run.title == baseline for x in lines)
    notes.append(
      f"no tests: {baseline} has several configurations and none selected; give --baseline a whole label"
      if there
      else f"no tests against a baseline: there is no {baseline}; give --baseline=METHOD"
    )
    return lines
  base = found[0]
  test = lambda x: None if x is base else paired(x.run, x.values, base.run, base.values)
  chosen = {x.run.title for x in lines if x.selected}
  shown = [x.selected or x.run.title not in chosen for x in lines]
  every = [test(x) for x in lines]
  headline = holm([t if s else None for t, s in zip(every, shown, strict=True)])
  return [
    x._replace(test=t, test_all=a, baseline=x is base)
    for x, t, a in zip(lines, headline, holm(every), strict=True)
  ]  # fmt: skip


def _winner(lines: list[Line], unchosen: Sequence[str]) -> tuple[Line | None, Line | None, str]:
  """The selected configuration with the best score, the next one, and why there is none."""
  if any(x.run.forgets for x in lines):
    name = scores.label(lines[0].run.score)
    return None, None, f"the stream has Forget events, and final {name} prefers what did not forget"
  if unchosen:
    return None, None, f"nothing could choose among the configurations of {', '.join(unchosen)}"
  able = [x for x in lines if x.selected and all(x.run.alive) and not math.isnan(x.score.mean)]
  if not able:
    return None, None, "a seed of every configuration diverged"
  return able[0], able[1] if len(able) > 1 else None, ""


class Ranked(NamedTuple):
  """A method over all streams. ``scores``: one a block; ``rank``: their mean, 1 is best; NaN where it is not ranked.
  ``mean`` and ``test`` are there where all blocks have one main score."""

  title: str
  scores: list[Summary | None]
  ranks: list[float]
  rank: float
  mean: Summary
  baseline: bool
  test: Test | None


RANKING = (
  "Average rank: on each stream the methods that stand on every stream are ordered by mean score over seeds, 1 is the "
  "best, equal means share the mean of their places; the ranks are averaged over the streams, each counting once."
)


def ranking(found: Sequence[Block], baseline: str) -> list[Ranked]:
  """Average rank over streams; tests pair seeds, each with its score averaged over the streams.

  Methods are represented by their selected configuration; those that are missing on a stream, or have none selected
  there, get no rank.
  """
  standing = [{x.run.title: x for x in b.lines if x.selected} for b in found]
  titles = list(dict.fromkeys(x.run.title for b in found for x in b.lines))
  everywhere = [t for t in titles if all(t in s and not math.isnan(s[t].score.mean) for s in standing)]
  ranks = {
    t: [
      _rank([b.sign * s[u].score.mean for u in everywhere], b.sign * s[t].score.mean)
      for b, s in zip(found, standing, strict=True)
    ]
    for t in everywhere
  }
  alike = len({b.score for b in found}) == 1  # else means over streams mix units
  by_seed = {t: _by_seed([s[t] for s in standing]) for t in everywhere} if alike else {}
  base = by_seed.get(baseline)
  tests: list[Test | None] = []
  for title in titles:
    own = by_seed.get(title)
    if base is None or own is None or title == baseline:
      tests.append(None)
      continue
    shared = [s for s in own if s in base]
    tests.append(_t_test(np.asarray([own[s] - base[s] for s in shared])))
  out = [
    Ranked(
      title,
      [s[title].score if title in s else None for s in standing],
      ranks.get(title, []),
      float(np.mean(ranks[title])) if title in ranks else math.nan,
      summarize(list(by_seed.get(title, {}).values())),
      title == baseline,
      test,
    )
    for title, test in zip(titles, holm(tests), strict=True)
  ]
  order = lambda r: -found[0].sign * r.mean.mean if alike else 0.0
  return sorted(out, key=lambda r: (math.isnan(r.rank), r.rank, order(r)))


def tested_ranks(found: Sequence[Block], ranked: Sequence[Ranked]) -> ranks.Ranks | None:
  """Friedman's test and Nemenyi's difference over the methods that have a rank; None for fewer than two."""
  able = [r for r in ranked if not math.isnan(r.rank)]
  if len(able) < 2:
    return None
  held = np.asarray([[s.mean if s is not None else math.nan for s in r.scores] for r in able]).T
  return ranks.mean_ranks([r.title for r in able], held, ["lower" if b.sign < 0 else "higher" for b in found], ALPHA)


def _rank(scores: Sequence[float], own: float) -> float:
  """1 + how many are better, plus half of how many others are equal."""
  return 1 + sum(s > own for s in scores) + (sum(s == own for s in scores) - 1) / 2


def _by_seed(lines: Sequence[Line]) -> dict[int, float]:
  """``{seed: mean score over streams}`` of the seeds that all of them have."""
  shared = [s for s in lines[0].run.seeds if all(s in x.run.seeds for x in lines)]
  return {s: float(np.mean([x.values[x.run.seeds.index(s)] for x in lines])) for s in shared}
