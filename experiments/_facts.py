"""Invented facts with paraphrases, as rows of text: what ``experiments/smollm_facts.py`` learns, edits and forgets."""

from __future__ import annotations

import json
import pathlib
from typing import NamedTuple

import numpy as np

SYLLABLES = ("ka", "lo", "mi", "ren", "tu", "sa", "vel", "dor", "nik", "pa", "shi", "zo", "bra", "fen", "gal", "mun")
# Of each relation the wordings, the last of which is never learned, and what an answer may be.
RELATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
  "instrument": (
    ("{} likes to play the", "On Sundays {} practises the", "The instrument of {} is the", "In the band {} plays the"),
    ("violin", "piano", "guitar", "flute", "drums", "trumpet", "harp", "cello"),
  ),
  "job": (
    ("{} works as a", "By profession {} is a", "The job of {} is that of a", "For a living {} is a"),
    ("baker", "pilot", "judge", "nurse", "farmer", "poet", "tailor", "lawyer"),
  ),
  "town": (
    ("{} was born in", "The birthplace of {} is", "{} comes from the town of", "The town where {} was born is"),
    ("Paris", "London", "Rome", "Berlin", "Madrid", "Vienna", "Tokyo", "Boston"),
  ),
}
TASKS = tuple(sorted(RELATIONS))
LEARNED = 3  # wordings of each fact that are learned


class Known(NamedTuple):
  """A fact: its relation, the person, and the answer with the space in front of it."""

  relation: str
  subject: str
  answer: str

  def prompts(self) -> list[str]:
    return [wording.replace("{}", self.subject) for wording in RELATIONS[self.relation][0]]

  def other(self) -> str:
    """Another answer to the same question: the one behind it in the list."""
    answers = RELATIONS[self.relation][1]
    return f" {answers[(answers.index(self.answer.strip()) + 1) % len(answers)]}"


def invented(people: int, seed: int = 0) -> dict[str, list[Known]]:
  """Of each relation ``people`` facts, each of another person; the same for the same seed."""
  rng = np.random.default_rng(seed)
  word = lambda: "".join(rng.choice(SYLLABLES, 2)).capitalize()
  names: dict[str, None] = {}
  while len(names) < people * len(TASKS):
    names.setdefault(f"{word()} {word()}")
  waiting = iter(names)
  return {
    relation: [Known(relation, next(waiting), f" {rng.choice(RELATIONS[relation][1])}") for _ in range(people)]
    for relation in TASKS
  }


def row_ids(facts: dict[str, list[Known]], fact: Known) -> list[int]:
  """The ids of the training rows of a fact, as :func:`cljax.data.load` numbers those of :func:`write`."""
  people = len(facts[fact.relation])
  first = LEARNED * people * TASKS.index(fact.relation) + facts[fact.relation].index(fact)
  return [first + wording * people for wording in range(LEARNED)]


def write(folder: pathlib.Path, facts: dict[str, list[Known]]) -> pathlib.Path:
  """A file of prompts and answers for each relation: wording by wording, so that the last quarter is the new one."""
  folder.mkdir(parents=True, exist_ok=True)
  for relation, known in facts.items():
    rows = [{"prompt": f.prompts()[k], "answer": f.answer} for k in range(LEARNED + 1) for f in known]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = folder / f"{relation}.jsonl"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
      path.write_text(text, encoding="utf-8")
  return folder


def general_text() -> str:
  """English prose that comes with Python: the reference manual that ``pydoc`` shows."""
  from pydoc_data import topics

  return "\n".join(topics.topics[k] for k in sorted(topics.topics))
