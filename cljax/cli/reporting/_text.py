"""What a report says in words and figures: sentences about the winner, the protocol and the tests; numbers as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cljax.cli.reporting._data import Run
from cljax.cli.reporting._table import ALPHA, Block, Line, Protocol, Ranked, Summary, Test, least_flips
from cljax.evaluation import scores
from cljax.evaluation.results import human_bytes

NONE = "–"


def shown(s: Summary | None, score: str = scores.ACCURACY) -> str:
  """``81.2 ± 1.0``, accuracy in percent; a dash where it is undefined, no error for one seed."""
  return NONE if s is None else scores.with_error(score, s.mean, s.stderr, NONE)


def seconds(value: float) -> str:
  if math.isnan(value):
    return NONE
  if value < 10:
    return f"{value:.2g} s" if value < 1 else f"{value:.1f} s"
  return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def kept(value: float) -> str:
  return human_bytes(int(value))


def p_value(p: float) -> str:
  return "p < 0.001" if p < 0.001 else "p = 1" if p > 0.9995 else f"p = {p:.3f}"


def points(difference: float, score: str = scores.ACCURACY) -> str:
  """``+3.2``, accuracy in percent points, with a true minus sign."""
  text = f"{100 * difference:+.1f}" if score == scores.ACCURACY else f"{difference:+.3g}"
  return text.replace("-", "−")


def against(test: Test | None, score: str = scores.ACCURACY) -> str:
  """``+56.9, p = 0.003``, or n.s. where the corrected p-value does not reach 0.05."""
  if test is None:
    return NONE
  return f"{points(test.difference, score)}, {'' if test.significant else 'n.s., '}{p_value(test.holm)}"


def explained(test: Test | None, line: Line) -> str:
  """The tooltip of a test."""
  if test is None:
    return "the baseline itself" if line.baseline else "not tested: needs two shared seeds that differ unequally"
  return (
    f"paired t-test over {test.pairs} shared seeds: uncorrected {p_value(test.p)}, after Holm's correction "
    f"{p_value(test.holm)}; exact sign-flip test: {p_value(test.flips)}, uncorrected"
  )


def streams_of(runs: Sequence[Run]) -> str:
  """Over which streams a mean over seeds is taken: ', on one stream', or on one for each seed."""
  own = {run.own_streams for run in runs}
  if len(own) > 1:
    return ", of some runs each on a stream of its own"
  return ", each on a stream of its own" if own == {True} else ", on one stream"


def seeds(line: Line) -> str:
  """``3``, or ``3 (1 diverged)``."""
  bad = sum(not a for a in line.run.alive)
  return f"{len(line.run.seeds)}" + (f" ({bad} diverged)" if bad else "")


def score_meaning(protocol: Protocol, scenario: str, score: str = scores.ACCURACY, sign: int = 1) -> str:
  on = "all tasks" if protocol.first_tasks is None else f"the tasks after the first {protocol.first_tasks}"
  kind = f", {scenario}" if scenario else ""
  way = ", lower is better" if sign < 0 else ""
  return f"test {scores.label(score)} after the last task, mean over {on}{kind}{way}"


def only_accuracy(blocks: Sequence[Block]) -> bool:
  return all(b.score == scores.ACCURACY for b in blocks)


def _costs(line: Line) -> str:
  run = line.run
  spent = "an unknown time" if math.isnan(run.seconds) else f"{seconds(run.seconds)} a seed"
  return f"at a cost of {spent}, " + (f"keeping {kept(run.state_bytes)}" if run.state_bytes else "keeping nothing")


def _sure(test) -> str:
  """Both tests: of few seeds the exact one can not reach what the other gives."""
  t = p_value(test.holm) if test.significant else f"not significant, {p_value(test.holm)}"
  return f"{t}, {p_value(test.flips)} by sign flips"


def headline(block: Block, protocol: Protocol) -> list[str]:
  """Sentences: the winner with its score and cost; how sure that is; what the figures mean."""
  w = block.winner
  if w is None:
    return [f"No winner is named on {block.name}: {block.why_none}."]
  alone = len(block.lines) == 1
  what = "Result" if alone else "Winner"
  score, unit = block.score, scores.unit(block.score, " ")
  name = protocol.score_name(score)
  out = [f"{what} on {block.name}: {w.run.label}, {shown(w.score, score)}{unit} {name}, {_costs(w)}."]
  in_points = " points" if score == scores.ACCURACY else ""
  more = []
  if w.test is not None:
    base = next(x.run.label for x in block.lines if x.baseline)
    more.append(f"Against the baseline {base}: {points(w.test.difference, score)}{in_points} ({_sure(w.test)}).")
  elif w.baseline and not alone:
    more.append("It is the baseline itself.")
  if block.second is not None and not (block.second.baseline and w.test is not None):
    text = f"Next is {block.second.run.label} with {shown(block.second.score, score)}{unit}"
    test = block.against_second
    if test is None:
      text += "; too few shared seeds to say whether they differ"
    elif test.p >= ALPHA:
      text += f": the two are not told apart by these seeds (uncorrected {p_value(test.p)})"
    else:
      text += f" ({points(-test.difference, score)}{in_points}, uncorrected {p_value(test.p)})"
    more.append(text + ".")
  if more:
    out.append(" ".join(more))
  count = len(w.run.seeds)
  over = (f"mean ± standard error over {count} seeds" if count > 1 else "1 seed") + streams_of([w.run])
  meaning = score_meaning(protocol, block.scenario, score, block.sign)
  text = f"{name}: {meaning}; {over}. Cost: wall time of training and "
  text += "evaluation"
  if not math.isnan(w.run.compile_seconds):
    text += f", without {seconds(w.run.compile_seconds)} of compilation"
  return [*out, text + "; bytes kept between tasks beside the model."]


def overall(ranked: Sequence[Ranked], blocks: Sequence[Block]) -> list[str]:
  """Sentences on all streams together."""
  able = [r for r in ranked if not math.isnan(r.rank)]
  if not able or any(b.winner is None for b in blocks):
    why = next((f"{b.name}: {b.why_none}" for b in blocks if b.winner is None), "no method stands on every stream")
    return [f"No winner is named over the {len(blocks)} streams: {why}."]
  best = [r for r in able if r.rank == able[0].rank]
  names = " and ".join(r.title for r in best)
  lines = [x for b in blocks for x in b.lines if x.selected and x.run.title == best[0].title]
  out = [
    f"{'Winner' if len(best) == 1 else 'Tied'} over {len(blocks)} streams: {names}, average rank {able[0].rank:.2f} "
    f"among {len(able)} methods"
  ]
  score = blocks[0].score
  mean = f", mean score {shown(best[0].mean, score)}{scores.unit(score, ' ')}"
  out[0] += "." if math.isnan(best[0].mean.mean) else f"{mean}."
  if len(best) == 1:
    spent = sum(x.run.seconds for x in lines)
    most = max(x.run.state_bytes for x in lines)
    out[0] += f" All streams together cost {seconds(spent)} of training and evaluation a seed; it keeps "
    out[0] += f"at most {kept(most)} between tasks." if most else "nothing between tasks."
  test = best[0].test
  if test is not None:
    in_points = " points" if score == scores.ACCURACY else ""
    text = f"{points(test.difference, score)}{in_points} on average ({_sure(test)})"
    out.append(f"Against the baseline: {text}; of seeds, not of streams.")
  return out


def selection(protocol: Protocol, blocks: Sequence[Block]) -> str:
  """Which protocol chose the hyper-parameters."""
  chosen = any(x.choice for b in blocks for x in b.lines)
  several = any(not x.selected for b in blocks for x in b.lines)
  k = protocol.first_tasks
  validated = [x for b in blocks for x in b.lines if not math.isnan(x.validation.mean)]
  text, name = "", "accuracy" if only_accuracy(blocks) else "score"
  if chosen:
    best = "highest validation accuracy" if only_accuracy(blocks) else "best validation score"
    text = f"Of each method with several configurations, the one with the {best} "
    text += (
      "(held-out training rows of all tasks, after the last task)"
      if k is None
      else f"after the first {k} tasks (held-out training rows of these tasks only) "
    ).strip()
    text += " is selected; runs in which a seed diverged are passed over. "
    text += f"Test {name} chose nothing."
  elif several:
    text = "No hyper-parameters were selected"
    text += f": there is no validation {name} to select by." if not validated else "."
  else:
    text = "Each method has one configuration, so no hyper-parameters were selected"
    text += "." if validated else "; there are no validation rows either."
  if k is not None:
    text += f" Scores are test {name if only_accuracy(blocks) else 'scores'} on the tasks after the first {k}, "
    text += "which took no part in the choice."
  return text


def testing(baseline: str, blocks: Sequence[Block]) -> str:
  if not any(x.test for b in blocks for x in b.lines):
    return "No significance was tested (it takes the baseline and two or more shared seeds)."
  flips = "; ".join(f"{x.run.label} {p_value(x.test.flips)}" for b in blocks for x in b.lines if x.test)
  return (
    f"Significance against {baseline}: two-sided paired t-test on the score over the seeds that both ran, p-values "
    f"corrected by Holm's method over the rows of the table; n.s. is p ≥ {ALPHA:g}. With few seeds the test misses all "
    f"but large differences. The exact sign-flip test supposes no normal differences; uncorrected: {flips}. "
    f"{reach(blocks)}"
  )


def reach(blocks: Sequence[Block]) -> str:
  """The least p that the exact test can reach with the seeds at hand; '' where nothing was tested."""
  least = sorted({x.test.pairs for b in blocks for x in b.lines if x.test})
  if not least:
    return ""
  of = ", ".join(f"{least_flips(n):.2g} of {n}" for n in least)
  return f"The least that the exact sign-flip test can reach is p = {of} shared seeds."
