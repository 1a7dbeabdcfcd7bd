"""Fictitious authors: the laws of the generator, and rows against sentences that are put together here."""

from __future__ import annotations

import re

import numpy as np
import pytest

from cljax import data
from cljax.core.types import UsageError
from cljax.data import author_wordings, authors

MADE = data.fictitious_authors()
WORDS = dict(enumerate(MADE.vocabulary))


def sentence(fact, slot, value=None):
  """``(question, answer)`` as plain text."""
  question, answer = author_wordings.WORDINGS[fact.attribute][fact.wording[slot]]
  filled = [t.replace("{n}", fact.subject).replace("{v}", value or fact.value) for t in (question, answer)]
  return [re.sub(r"\s*([?.])", r" \1", t) for t in filled]


def test_sizes_are_those_of_the_prototype():
  rows = data.load("authors")
  assert len(rows.train.id) == 100 * 8 * 2 + 20 * 8 * 4 + 40 * 4 == 2400
  assert len(rows.test.id) == 800
  assert 4 * len(MADE.facts) == 4320
  assert [MADE.roles.count(r) for r in ("fictitious", "real", "world", "held")] == [100, 20, 1, 10]
  assert len(rows.group_names) == 121
  np.testing.assert_array_equal(np.unique(rows.train.group), np.arange(121))
  assert MADE.length <= 26
  assert rows.train.x.max() == len(MADE.vocabulary) - 1, "the model's vocabulary is that of the rows"


def test_all_follows_from_the_seed():
  assert data.load("authors").digest == data.load("authors", seed=0, authors=100).digest
  digests = {data.load("authors", authors=4, questions=2, seed=s).digest for s in range(4)}
  assert len(digests) == 4
  few = data.fictitious_authors(authors=4, questions=2, seed=3)
  assert few == data.fictitious_authors(authors=4, questions=2, seed=3)


def test_no_word_is_of_two_lists_and_no_name_of_two_groups():
  made = data.fictitious_authors()
  assert len({*made.vocabulary}) == len(made.vocabulary)
  assert len({*made.groups}) == len(made.groups)
  kinds = {}
  for fact in made.facts:
    kinds.setdefault("job" if fact.attribute in ("father", "mother") else fact.attribute, set()).update(
      w for v in (fact.value, *fact.wrong) for w in v.split()
    )
  kinds["name"] = {w for name in made.groups if name != "world" for w in name.split()}
  names = sorted(kinds)
  for i, one in enumerate(names):
    for other in names[i + 1 :]:
      assert not kinds[one] & kinds[other], (one, other)
  templates = {
    w for of in author_wordings.WORDINGS.values() for pair in of for t in pair for w in re.findall(r"\w+", t)
  }
  assert not (templates - {"n", "v"}) & set().union(*kinds.values())


def test_questions_do_not_tell_and_wrong_answers_are_wrong():
  made = data.fictitious_authors()
  for fact in made.facts:
    for slot in range(4):
      question, answer = sentence(fact, slot)
      assert not {*fact.value.split()} & {*question.split()}
      assert fact.value in answer
    assert len({fact.value, *fact.wrong}) == 6
    assert sorted(fact.wording) == [0, 1, 2, 3]


def test_every_paraphrase_s_wording_is_trained_of_another_fact():
  made = data.fictitious_authors()
  trained = {(f.attribute, f.wording[s]) for f in made.facts for s in authors.SLOTS[made.roles[f.group]]}
  own = [f for f in made.facts if made.roles[f.group] == "fictitious"]
  assert {(f.attribute, f.wording[s]) for f in own for s in (2, 3)} <= trained
  for f in own[:50]:
    assert not {f.wording[0], f.wording[1]} & {f.wording[2], f.wording[3]}


@pytest.mark.parametrize("wrong", [None, 0, 4])
@pytest.mark.parametrize("slot", range(4))
def test_rows_are_the_sentences(slot, wrong):
  facts = MADE.facts[:: len(MADE.facts) // 40]
  x, y, value = data.answered_rows(MADE, facts, slot, wrong)
  for i, fact in enumerate(facts):
    told = fact.value if wrong is None else fact.wrong[wrong]
    question, answer = sentence(fact, slot, told)
    whole = f"<bos> <q> {question} <a> {answer} <eos>"
    n = len(whole.split()) - 1
    assert authors.written(MADE, [*x[i, :n], y[i, n - 1]]) == whole
    assert not x[i, n:].any()
    assert [WORDS[t] for t in y[i][y[i] >= 0]] == f"{answer} <eos>".split()
    assert [WORDS[t] for t in y[i][value[i]]] == told.split()
    np.testing.assert_array_equal(y[i, :n][y[i, :n] >= 0], [*x[i, 1:n], y[i, n - 1]][-(y[i] >= 0).sum() :])


def test_training_rows_are_the_trained_wordings_in_their_order():
  rows, at = data.load("authors", authors=3, questions=2, seed=1), 0
  made = data.fictitious_authors(authors=3, questions=2, seed=1)
  ids = authors.trained_ids(made)
  for fact in made.facts:
    for k, slot in enumerate(authors.SLOTS[made.roles[fact.group]]):
      wanted = data.answered_rows(made, [fact], slot)
      np.testing.assert_array_equal(rows.train.x[at], wanted.x[0])
      np.testing.assert_array_equal(rows.train.y[at], wanted.y[0])
      assert rows.train.group[at] == fact.group
      assert ids[fact][k] == rows.train.id[at] == at
      at += 1
  assert at == len(rows.train.id)
  assert all(made.roles[f.group] != "held" for f in ids)
  held = [f for f in made.facts if made.roles[f.group] == "held"]
  shown = {row.tobytes() for row in rows.train.x}
  assert not any(row.tobytes() in shown for slot in range(4) for row in data.answered_rows(made, held, slot).x)


BAD = [
  ({"authors": 1}, "authors: got 1; expected an integer of at least 2"),
  ({"authors": 3571}, "authors: got 3571; expected at most 3570"),
  ({"questions": 9}, "questions: got 9; expected at most 8"),
  ({"questions": 0}, "questions: got 0; expected an integer of at least 1"),
  ({"seed": -1}, "seed: got -1; expected an integer of at least 0"),
  ({"wordings": 3}, "wordings: not an option of dataset 'authors'; allowed: authors, questions, seed"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[m for _, m in BAD])
def test_wrong_options_are_one_line(given, message):
  with pytest.raises(UsageError) as error:
    data.load("authors", **given)
  assert str(error.value) == message


def test_wrong_slots_are_one_line():
  for slot, wrong in ((4, None), (0, 5)):
    with pytest.raises(UsageError, match=rf"slot, wrong: got {slot}, {wrong}; expected 0\.\.3, and None or 0\.\.4"):
      data.answered_rows(MADE, MADE.facts[:1], slot, wrong)
