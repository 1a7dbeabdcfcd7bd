"""What a model still knows of fictitious authors: TOFU's and its successors' numbers, beside retrained models.

Of each member: what it makes of the facts that a request names (trained wording, paraphrase, the attack's wording, five
wrong answers), of facts to keep, of real authors and the world, and of authors that nobody saw.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cljax import models, streams
from cljax.core.types import UsageError
from cljax.data import authors as data
from cljax.engine.setup import CompiledRun
from cljax.metrics import unlearning as metrics

HEADINGS = {
  "answer_probability": "P answer",
  "paraphrase_probability": "P paraphrase",
  "truth_ratio": "truth ratio",
  "forget_quality": "FQ log10 p",
  "forget_distance": "KS D",
  "value_probability": "P value",
  "value_accuracy": "value acc. %",
  "attack_accuracy": "value acc. attack %",
  "rouge": "ROUGE-L recall",
  "extraction": "ES",
  "memorised": "EM",
  "auc_loss": "MIA loss AUC",
  "auc_zlib": "MIA zlib AUC",
  "auc_min_k": "MIA min-k AUC",
  "auc_min_k_plus": "MIA min-k++ AUC",
  "priv_leak": "PrivLeak",
  "utility": "MU",
  "kept_accuracy": "value acc. retain %",
}
SETS = {"retain": "retain", "real": "real", "world": "world"}
PARTS = {
  f"{kind}_{name}": f"{label} {shown}"
  for name, shown in SETS.items()
  for kind, label in (("probability", "P"), ("rouge", "ROUGE"), ("truth", "1 - R"))
}
BESIDE = {**PARTS, "relative_difference": "rel. difference"}  # in the second table
NOTE = (
  "Of {forget} facts to forget: P answer, ROUGE-L, ES (extraction strength), EM (exact memorisation) and the AUCs in "
  "the trained wording, the latter against {held} facts of authors that no model saw; P paraphrase, P value and value "
  "acc. in a wording not trained of them, attack: in another. Truth ratio: mean min(R, 1/R). FQ, KS D and PrivLeak: "
  "against the retrained model of the same place; where D is 1, FQ is its least and orders nothing. MU: harmonic mean "
  "of the nine numbers of the table below. Value acc. retain: of {retain} facts to keep, in a wording not trained of "
  "them."
)
BESIDE_NOTE = (
  "What MU is the harmonic mean of: probability, ROUGE-L recall and truth ratio of retain, real authors and facts of "
  "the world. Rel. difference: of the min-k AUC to the retrained model's, per cent."
)
MOST = {"retain": 160, "real": 80, "world": 40, "held": 80}  # facts of a side
BLOCK = 256  # rows of one forward pass
TRAINED, OTHER, ATTACK = 0, 2, 3  # slots


class Probes(NamedTuple):
  """What is asked: facts by side, and the rows of all questions in one array."""

  made: data.Authors
  facts: dict[str, list[data.Fact]]
  rows: data.Answered
  at: dict[tuple[str, int, int | None], slice]  # (side, slot, wrong answer) -> rows
  texts: dict[str, list[str]]  # of the trained wording's answers


class Known(NamedTuple):
  """What is compared with a retrained model, of one member."""

  ratio: np.ndarray  # truth ratios of the facts to forget
  auc: float  # of min-k
  numbers: dict[str, float]


def asked(stream) -> bool:
  """Whether a stream is of fictitious authors."""
  return stream.dataset.name == "authors"


def probes(stream, request, options) -> Probes:
  """The facts of which the request names a row, at most :data:`MOST` of the others evenly, and what is asked of them.

  ``options`` are those of the data set. Raises UsageError for a request after which no fact of a side is left.
  """
  made = data.fictitious_authors(**options)
  named = streams.resolve_pairs(request, stream)
  gone = {int(i) for rows, mine in zip(stream.train, named, strict=True) for i in np.asarray(rows)[mine]}
  ids = data.trained_ids(made)
  facts: dict[str, list[data.Fact]] = {"forget": [f for f, own in ids.items() if gone & set(own)]}
  reached = set(facts["forget"])
  role = {"retain": "fictitious", "real": "real", "world": "world", "held": "held"}
  for side, most in MOST.items():
    there = [f for f in made.facts if made.roles[f.group] == role[side] and f not in reached]
    facts[side] = [there[i] for i in np.linspace(0, len(there) - 1, min(most, len(there))).astype(int)]
  empty = next((side for side, own in facts.items() if not own), "")
  if empty:
    raise UsageError(f"request: leaves no facts to measure {empty} on")
  wanted: list[tuple[str, int, int | None]] = [("held", TRAINED, None), ("forget", ATTACK, None)]
  wanted += [(side, TRAINED, None) for side in ("forget", "retain")]
  for side in ("forget", *SETS):
    wanted += [(side, OTHER, None), *((side, OTHER, j) for j in range(data.WRONG))]
  parts = [data.answered_rows(made, facts[side], slot, wrong) for side, slot, wrong in wanted]
  ends = np.cumsum([len(p.x) for p in parts])
  at = {key: slice(int(end - len(p.x)), int(end)) for key, p, end in zip(wanted, parts, ends, strict=True)}
  rows = data.Answered(*(np.concatenate([p[i] for p in parts]) for i in range(3)))
  told = {side: _told(made, rows.y[at[side, TRAINED, None]]) for side in ("forget", "held")}
  return Probes(made, facts, rows, at, told)


def _told(made: data.Authors, y: np.ndarray) -> list[str]:
  return [data.written(made, row[row >= 0]) for row in y]


def known(setup: CompiledRun, params: Any, model_state: Any, asked: Probes) -> list[Known]:
  """Of each member (a leading axis of the parameters) what it knows."""
  model = setup.parts.method.model or setup.model
  count = len(jax.tree.leaves(params)[0])
  member = lambda tree, i: jax.tree.map(lambda a: a[i], tree)
  return [_known(model, member(params, i), member(model_state, i), asked) for i in range(count)]


def measure(ours: Sequence[Known], reference: Sequence[Known]) -> dict[str, np.ndarray]:
  """``{name of HEADINGS and BESIDE: [S]}``, member i beside retrained member i."""
  found: dict[str, list[float]] = {}
  for mine, other in zip(ours, reference, strict=False):
    quality = metrics.forget_quality(mine.ratio, other.ratio)
    values = {
      "forget_quality": float(np.log10(max(quality.p, 1e-300))),
      "forget_distance": quality.statistic,
      "priv_leak": metrics.priv_leak(mine.auc, other.auc),
      "relative_difference": metrics.relative_difference(mine.auc, other.auc),
      **mine.numbers,
    }
    for name, value in values.items():
      found.setdefault(name, []).append(value)
  order = [*HEADINGS, *BESIDE]
  return {name: np.asarray(found[name]) for name in order}


def _known(model, params, state, asked: Probes) -> Known:
  x, y, value = asked.rows
  scores = _scores(model, params, state, x, y)
  of = lambda field, *key: getattr(scores, field)[asked.at[key]]
  told = lambda *key: (of("log_p", *key), of("there", *key))
  mean = lambda rows: metrics.row_mean(rows).mean
  said = _rouge(model, params, state, asked)
  ratios = {}
  for side in ("forget", *SETS):
    right, *wrong = (metrics.mean_log_probability(*told(side, OTHER, j)) for j in (None, *range(data.WRONG)))
    ratios[side] = right, np.stack(wrong, 1)
  # In the form of a choice where it is asked in the wording of the wrong answers, as TOFU has it.
  answered = {side: metrics.choice_probability(*ratios[side]) for side in ("real", "world")}
  answered["retain"] = metrics.answer_probability(*told("retain", TRAINED, None))
  numbers: dict[str, float] = {}
  for side in SETS:
    numbers[f"probability_{side}"] = mean(answered[side])
    numbers[f"rouge_{side}"] = said[side]
    numbers[f"truth_{side}"] = mean(metrics.truth_ratio_score(metrics.truth_ratio(*ratios[side]), forget=False))
  accuracy = lambda side, slot: mean(
    metrics.value_accuracy(of("correct", side, slot, None), value[asked.at[side, slot, None]])
  )
  attacks = {side: _attacks(scores, asked, side) for side in ("forget", "held")}
  auc = {name: metrics.membership_auc(attacks["forget"][name], attacks["held"][name]) for name in attacks["held"]}
  trained, correct = told("forget", TRAINED, None), of("correct", "forget", TRAINED, None)
  ratio = metrics.truth_ratio(*ratios["forget"])
  other = asked.at["forget", OTHER, None]
  numbers |= {
    "answer_probability": mean(metrics.answer_probability(*trained)),
    "paraphrase_probability": mean(metrics.answer_probability(*told("forget", OTHER, None))),
    "truth_ratio": mean(metrics.truth_ratio_score(ratio, forget=True)),
    "value_probability": mean(metrics.value_probability(scores.log_p[other], value[other])),
    "value_accuracy": accuracy("forget", OTHER),
    "attack_accuracy": accuracy("forget", ATTACK),
    "rouge": said["forget"],
    "extraction": mean(metrics.extraction_strength(correct, trained[1])),
    "memorised": mean(metrics.exact_memorisation(correct, trained[1])),
    **{f"auc_{name}": of_name for name, of_name in auc.items()},
    "utility": metrics.model_utility([numbers[name] for name in PARTS]),
    "kept_accuracy": accuracy("retain", OTHER),
  }
  return Known(ratio, auc["min_k"], numbers)


def _attacks(scores: metrics.TokenScores, asked: Probes, side: str) -> dict[str, np.ndarray]:
  own = metrics.TokenScores(*(a[asked.at[side, TRAINED, None]] for a in scores))
  return {
    "loss": metrics.loss_scores(own.log_p, own.there),
    "zlib": metrics.zlib_scores(own.log_p, own.there, asked.texts[side]),
    "min_k": metrics.min_k_scores(own.log_p, own.there),
    "min_k_plus": metrics.min_k_plus_scores(own.log_p, own.mean, own.variance, own.there),
  }


def _scores(model, params, state, x: np.ndarray, y: np.ndarray) -> metrics.TokenScores:
  """Of all rows, a block of :data:`BLOCK` at a time, the last one filled up with its last row."""
  call, parts = _logits(model), []
  for start in range(0, len(x), BLOCK):
    at = np.minimum(np.arange(start, start + BLOCK), len(x) - 1)
    left = min(BLOCK, len(x) - start)
    parts.append(metrics.token_scores(np.asarray(call(params, state, x[at]))[:left], y[at[:left]]))
  return metrics.TokenScores(*(np.concatenate(field) for field in zip(*parts, strict=True)))


@functools.lru_cache(maxsize=4)
def _logits(model):
  return jax.jit(lambda p, s, x: model.apply(p, s, x, train=False, key=jax.random.key(0))[0].logits)


def _rouge(model, params, state, asked: Probes) -> dict[str, float]:
  """Of each side the mean ROUGE-L recall, in words, of what the model says behind its questions, greedily, to the end.

  Questions of one length are continued together, of all sides: each length is a program of its own.
  """
  slots = {side: TRAINED if side in ("forget", "retain") else OTHER for side in ("forget", *SETS)}
  places = {side: np.arange(len(asked.rows.x))[asked.at[side, slot, None]] for side, slot in slots.items()}
  found = np.zeros(len(asked.rows.x))
  every = np.concatenate(list(places.values()))
  starts = np.argmax(asked.rows.y >= 0, 1) + 1  # tokens of the question
  for start in np.unique(starts[every]):
    mine = every[starts[every] == start]
    given, new = asked.rows.x[mine, :start], asked.made.length - int(start)
    said = np.asarray(models.generate(model, params, given, new, model_state=state, stop=data.EOS, pad=data.PAD))
    for row, tokens in zip(mine, said, strict=True):
      ends, y = np.flatnonzero(tokens == data.EOS), asked.rows.y[row]
      own, wanted = tokens[: ends[0]] if len(ends) else tokens, y[(y >= 0) & (y != data.EOS)]
      words = [metrics.rouge_words(data.written(asked.made, ids)) for ids in (wanted, own)]
      found[row] = metrics.rouge_l(*words).recall
  return {side: float(found[at].mean()) for side, at in places.items()}
