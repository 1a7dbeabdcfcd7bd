"""Fictitious authors: facts that no model knows, in four wordings each, with answers that are wrong beside the right
one. Made by a seed; no file is read.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cljax.core.checks import check_integer
from cljax.core.types import UsageError
from cljax.data import types
from cljax.data.author_wordings import ATTRIBUTES, COUNTS, ENDS, STARTS, WORDINGS

DEFAULTS: dict[str, Any] = {"authors": 100, "questions": 8, "seed": 0}
SPECIAL = ("<pad>", "<bos>", "<eos>", "<q>", "<a>")
PAD, BOS, EOS, ASK, ANSWER = range(len(SPECIAL))
NAMES = 60  # first names, and as many last names
REAL, HELD = 20, 10  # authors that all wordings are trained of, and that none is
WRONG = 5  # wrong answers of a fact
SLOTS = {"fictitious": (0, 1), "real": (0, 1, 2, 3), "world": (0, 1, 2, 3), "held": ()}  # of each role, what is trained
MOST = NAMES * NAMES - REAL - HELD


class Fact(NamedTuple):
  """One fact: what is asked, of whom, and the answer."""

  group: int  # of Authors.groups
  attribute: str
  subject: str
  value: str
  wording: tuple[int, ...]  # of each slot, which of the attribute's four wordings it has
  wrong: tuple[str, ...]  # other values of the same attribute


class Authors(NamedTuple):
  """All facts, by group in order, and the words that they are written in."""

  facts: tuple[Fact, ...]
  groups: tuple[str, ...]  # an author's name; 'world'
  roles: tuple[str, ...]  # of each group one of SLOTS
  vocabulary: tuple[str, ...]
  length: int  # of the longest row, less the token that nothing follows


class Answered(NamedTuple):
  """Rows of a question and its answer, as the model is given them."""

  x: np.ndarray  # [N, L] int32 tokens, 0 behind a row's end
  y: np.ndarray  # [N, L] int32 the next token where it is of the answer or ends it, else -1
  value: np.ndarray  # [N, L] bool: where it is of the value


def fictitious_authors(authors: int = 100, questions: int = 8, seed: int = 0) -> Authors:
  """``authors`` invented authors with ``questions`` facts each, 20 'real' ones, 40 cities and 10 authors held out.

  Groups are the authors in this order, the fictitious first, and the cities as 'world'. A fact has four wordings of
  question and answer, which a permutation of its own puts into slots: 0 and 1 are trained of the fictitious authors, 2
  is the paraphrase and 3 the attack's wording; of the real ones and the cities all are trained; of those held out none
  is, who are for membership attacks. So every wording is known from other facts. Values are independent and uniform;
  ``wrong`` are 5 others of the same attribute. All follows from ``seed``. In the tradition of TOFU (Maini et al. 2024,
  arXiv 2401.06121), with invented words and templates for a decoder of half a million parameters; spec
  language_unlearning Y3. Raises UsageError for fewer than 2 authors or more than 3,570, and for questions outside 1..8.
  """
  options = _checked({"authors": authors, "questions": questions, "seed": seed})
  draw = lambda *part: np.random.Generator(np.random.PCG64([options["seed"], *part]))
  words = _words(draw(0))
  first, last = words[:NAMES], [f"mc{w}" for w in words[NAMES : 2 * NAMES]]
  values, used = _values(words[2 * NAMES :], draw(1))
  pairs = draw(2).permutation(NAMES * NAMES)[: authors + REAL + HELD]
  names = [f"{first[p // NAMES]} {last[p % NAMES]}" for p in pairs]
  roles = ["fictitious"] * authors + ["real"] * REAL + ["world"] + ["held"] * HELD
  groups = [*names[: authors + REAL], "world", *names[authors + REAL :]]
  asked = [(g, a, n) for g, n in enumerate(groups) if n != "world" for a in ATTRIBUTES[:questions]]
  asked += [(groups.index("world"), "country", city) for city in values["born"]]
  facts = [_fact(*each, values, draw(3, at)) for at, each in enumerate(sorted(asked, key=lambda f: f[0]))]
  told = sorted({w for pair in itertools.chain(*WORDINGS.values()) for text in pair for w in _split(text)})
  plain = [w for w in told if w not in ("n", "v")]
  # Cities stand last: all of them are trained, so that the largest token of the rows is that of the vocabulary.
  vocabulary = (*SPECIAL, *plain, *first, *last, *used, *values["born"])
  made = Authors(tuple(facts), tuple(groups), tuple(roles), vocabulary, 0)
  longest = max(len(_tokens(made, f, s, v)[0]) for f in made.facts for s in range(4) for v in (f.value, *f.wrong))
  return made._replace(length=longest - 1)


def _words(draw: np.random.Generator) -> list[str]:
  """All words of two beginnings and an end, in the order of a seed; no two are alike."""
  made = sorted({a + b + c for a in STARTS for b in STARTS for c in ENDS})
  return [made[i] for i in draw.permutation(len(made))]


def _values(words: Sequence[str], draw: np.random.Generator) -> tuple[dict[str, list[str]], list[str]]:
  """The values of each attribute, and the words of all of them but the cities; no word is of two lists."""
  left = iter(words)
  take = lambda count: list(itertools.islice(left, count))
  jobs = take(COUNTS["father"])
  halves = take(24), take(24)
  titles = [f"{halves[0][i // 24]} {halves[1][i % 24]}" for i in draw.permutation(24 * 24)[: COUNTS["book"]]]
  years = [str(year) for year in range(1900, 1900 + COUNTS["year"])]
  values = {name: take(COUNTS[name]) for name in ("born", "genre", "award", "school", "country")}
  values |= {"year": years, "father": jobs, "mother": jobs, "book": titles}
  used = [
    *years,
    *jobs,
    *halves[0],
    *halves[1],
    *(w for n in ("genre", "award", "school", "country") for w in values[n]),
  ]
  return values, used


def _fact(group: int, attribute: str, subject: str, values: Mapping[str, list[str]], draw: np.random.Generator) -> Fact:
  order = [values[attribute][i] for i in draw.permutation(len(values[attribute]))]
  wording = tuple(int(i) for i in draw.permutation(4))
  return Fact(group, attribute, subject, order[0], wording, tuple(order[1 : 1 + WRONG]))


def _split(text: str) -> list[str]:
  return re.findall(r"\w+|[?.]", text)


def _tokens(made: Authors, fact: Fact, slot: int, value: str) -> tuple[list[str], int, list[bool]]:
  """``(words, where the answer begins, which are of the value)``."""
  question, answer = WORDINGS[fact.attribute][fact.wording[slot]]
  row = [SPECIAL[BOS], SPECIAL[ASK], *_split(question.replace("{n}", fact.subject)), SPECIAL[ANSWER]]
  start, mine = len(row), [False] * len(row)
  for word in re.findall(r"\{v\}|\w+|[?.]", answer.replace("{n}", fact.subject)):
    told = _split(value) if word == "{v}" else [word]
    row += told
    mine += [word == "{v}"] * len(told)
  return [*row, SPECIAL[EOS]], start, [*mine, False]


def answered_rows(made: Authors, facts: Sequence[Fact], slot: int, wrong: int | None = None) -> Answered:
  """Questions and answers in the wording of a ``slot``, a row a fact, all of ``made.length`` places.

  ``wrong``: instead of the value, that one of the fact's wrong ones. Raises UsageError for another slot or place.
  """
  if slot not in range(4) or (wrong is not None and wrong not in range(WRONG)):
    raise UsageError(f"slot, wrong: got {slot}, {wrong}; expected 0..3, and None or 0..{WRONG - 1}")
  place = {word: i for i, word in enumerate(made.vocabulary)}
  x, y = np.zeros((len(facts), made.length), np.int32), np.full((len(facts), made.length), -1, np.int32)
  value = np.zeros(x.shape, bool)
  for i, fact in enumerate(facts):
    words, start, mine = _tokens(made, fact, slot, fact.value if wrong is None else fact.wrong[wrong])
    ids, n = [place[w] for w in words], len(words) - 1
    x[i, :n], y[i, start - 1 : n], value[i, :n] = ids[:-1], ids[start:], mine[1:]
  return Answered(x, y, value)


def written(made: Authors, ids: Sequence[int]) -> str:
  """Tokens as text, words between blanks, without padding."""
  return " ".join(made.vocabulary[int(i)] for i in ids if int(i) != PAD)


def load_authors(given: Mapping[str, Any]) -> types.Dataset:
  """``authors`` as rows of tokens for :func:`cljax.objectives.sequence`: inputs ``[N, L]``, targets ``[N, L]`` of which
  those of the question are -1; groups are authors, ids count the rows by group, fact and slot.

  Training rows are the trained wordings of :func:`fictitious_authors`, test rows the fictitious authors' paraphrases.
  """
  options = _checked({**DEFAULTS, **given})
  made = fictitious_authors(**options)
  trained = [(f, s) for f in made.facts for s in SLOTS[made.roles[f.group]]]
  test = [(f, 2) for f in made.facts if made.roles[f.group] == "fictitious"]
  named = made.groups[: made.roles.index("held")]
  train, test_ = (_rows(made, chosen) for chosen in (trained, test))
  return types.dataset("authors", train, test_, (), group_names=named, options=options)


def _rows(made: Authors, chosen: Sequence[tuple[Fact, int]]) -> types.Split:
  parts = {slot: answered_rows(made, [f for f, s in chosen if s == slot], slot) for slot in {s for _, s in chosen}}
  order = np.argsort(np.concatenate([[i for i, (_, s) in enumerate(chosen) if s == slot] for slot in parts]))
  x, y = (np.concatenate([getattr(part, side) for part in parts.values()])[order] for side in ("x", "y"))
  return types.split(x, y, np.asarray([f.group for f, _ in chosen], np.int32))


def trained_ids(made: Authors) -> dict[Fact, tuple[int, ...]]:
  """Of each trained fact the ids of its training rows, in the order of their slots."""
  left = itertools.count()
  there = {f: SLOTS[made.roles[f.group]] for f in made.facts}
  return {f: tuple(itertools.islice(left, len(slots))) for f, slots in there.items() if slots}


def _checked(o: dict[str, Any]) -> dict[str, Any]:
  check_integer("authors", o["authors"], 2)
  check_integer("questions", o["questions"], 1)
  check_integer("seed", o["seed"], 0)
  for name, most in (("authors", MOST), ("questions", len(ATTRIBUTES))):
    if o[name] > most:
      raise UsageError(f"{name}: got {o[name]}; expected at most {most}")
  return o
