"""Rows that hold a number which the model or the objective has no place for are refused before anything is trained."""

import numpy as np
import pytest

import cljax
from cljax import data, engine, models, objectives, streams
from cljax.core.types import UsageError

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 7, (40, 4)).astype(np.int32)
PAIRS = np.stack([RNG.integers(0, 6, 40), RNG.permutation(40) % 8], 1).astype(np.int32)
REAL = RNG.normal(size=(40, 4)).astype(np.float32)
NONE = np.zeros((40, 1), np.float32)


def with_one(a, place, value):
  """``a`` with one number set."""
  a = a.copy()
  a[place] = value
  return a


def stream_of(x, y, tests=(), used=None):
  """Two tasks over the rows of ``x``, one held out for validation in each; the rows ``tests`` are for tests alone."""
  named = lambda key, a: {f"{key}/{n}": v for n, v in a.items()} if isinstance(a, dict) else {key: a}
  cut = lambda a, rows: {n: v[rows] for n, v in a.items()} if isinstance(a, dict) else a[rows]
  test = np.isin(np.arange(40), tests if len(tests) else np.arange(30, 40))
  parts = {}
  for split, rows in (("train", ~test), ("test", test)):
    parts |= {**named(f"x_{split}", cut(x, rows)), **named(f"y_{split}", cut(y, rows))}
  rows = data.from_arrays("rows", parts)
  used = np.arange((~test).sum()) if used is None else used
  halves, every = np.array_split(used, 2), np.arange(test.sum())
  return streams.from_tasks(
    rows, [h[1:] for h in halves], [every, every], validation=[h[:1] for h in halves], num_classes=7
  )


def prepared(stream, model, objective, **options):
  training = cljax.Recipe(batch_size=4, epochs=1)
  return engine.prepare(stream, model, objective=objective, objective_options=options, training=training)


def small(vocabulary=7):
  return models.transformer(4, vocabulary, width=4, depth=1, heads=1)


def factors(users=6, items=8):
  return models.matrix_factorisation(users, items, 2)


weighed = lambda weight: {"token": TOKENS, "weight": with_one(np.ones((40, 4), np.float32), (3, 1), weight)}
OF_INPUTS = "model.vocabulary: got 7; the data hold tokens "
REFUSED = {
  "a vocabulary too small": (TOKENS, TOKENS, small(6), "sequence", {},
    "model.vocabulary: got 6; the data hold tokens 0..6, expected 0..5"),
  "a token that is none": (with_one(TOKENS, (3, 1), -1), TOKENS, small(), "sequence", {}, OF_INPUTS + "-1..6"),
  "in a test row": (with_one(TOKENS, (35, 0), 9), TOKENS, small(), "sequence", {}, OF_INPUTS + "0..9"),
  "in a validation row": (with_one(TOKENS, (0, 0), 9), TOKENS, small(), "sequence", {}, OF_INPUTS + "0..9"),
  "in a dict": ({"token": with_one(TOKENS, (3, 1), 8)}, TOKENS, small(), "sequence", {}, OF_INPUTS + "0..8"),
  "a target without a logit": (TOKENS, with_one(TOKENS, (35, 0), 7), small(), "sequence", {},
    "y: the data hold tokens up to 7; the model gives logits of 7, 0..6"),
  "a weight below 0": (TOKENS, weighed(-1.0), small(), "sequence", {}, "y: the data hold weights down to -1.0"),
  "users": (PAIRS, NONE, factors(users=5), "ranking", {"items": 8}, "model.users: got 5; the data hold users 0..5"),
  "items of the model": (PAIRS, NONE, factors(items=7), "ranking", {"items": 7},
    "model.items: got 7; the data hold items 0..7, expected 0..6"),
  "items of the objective": (PAIRS, NONE, factors(), "ranking", {"items": 7},
    "objective.items: got 7; the data hold items 0..7, expected 0..6"),
  "items that are drawn": (PAIRS, NONE, factors(), "ranking", {"items": 9},
    "objective.items: got 9, whose last the model has no place for (model.items: got 8"),
  "no pairs": (np.pad(PAIRS, ((0, 0), (0, 1))), NONE, factors(), "ranking", {"items": 8},
    "x: a row has shape (3,); ranking expects two integers"),
  "a condition": ({"x": REAL, "condition": np.arange(40) % 4}, NONE, models.denoiser((4,), (4,), 3), "denoising", {},
    "model.conditions: got 3; the data hold conditions 0..3, expected -1..2"),
  "a label of two": (REAL, np.full((40, 7), 2, np.float32), models.mlp((4,), 7, hidden=(4,)), "multi_label", {},
    "y: the data hold 2.0..2.0; multi_label expects each label to be 0 or 1"),
  "a likelihood of bytes": (REAL, NONE, models.vae((4,), 2, (4,)), "reconstruction", {},
    "objective.likelihood: 'bernoulli' expects numbers in 0..1; the data hold -"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case):
  x, y, model, objective, options, said = REFUSED[case]
  with pytest.raises(UsageError) as error:
    prepared(stream_of(x, y), model, objective, **options)
  assert said in str(error.value)
  assert "\n" not in str(error.value)


def test_what_fits_is_taken():
  """All edges are places: the last token, targets that are ignored, no condition, the last item, probabilities."""
  prepared(stream_of(TOKENS, with_one(TOKENS, (3, 1), -1)), small(), "sequence")
  prepared(stream_of(TOKENS, weighed(0.0)), small(), "sequence")
  prepared(stream_of(PAIRS, NONE), factors(), "ranking", items=8)
  x = {"x": REAL, "condition": np.arange(40) % 4 - 1}
  prepared(stream_of(x, NONE), models.denoiser((4,), (4,), 3), "denoising")
  prepared(stream_of(REAL, np.full((40, 7), 0.5, np.float32)), models.mlp((4,), 7, hidden=(4,)), "multi_label")
  prepared(stream_of(REAL, NONE), models.vae((4,), 2, (4,)), "reconstruction", likelihood="gaussian")


def test_rows_that_a_stream_does_not_use_are_nobodys():
  x = with_one(TOKENS, (3, 1), 9)
  prepared(stream_of(x, TOKENS, used=np.arange(4, 30)), small(), "sequence")
  with pytest.raises(UsageError, match=r"hold tokens 0\.\.9, expected 0\.\.6"):
    prepared(stream_of(x, TOKENS, used=np.arange(2, 30)), small(), "sequence")


def test_an_option_that_has_to_be_given_is_asked_for_at_the_call():
  with pytest.raises(UsageError, match=r"^objective\.items: not given; expected an integer of at least 2$"):
    objectives.ranking()
  assert objectives.defaults("ranking") == {"items": 0, "negatives": 1}


KINDS = {
  "labels as integers": (
    "multi_label", REAL, np.ones((40, 3), np.int64), "several targets a row are floats, labels 0.0 or 1.0",
  ),
  "labels as truth values": ("multi_label", REAL, np.ones((40, 3), bool), r"real targets, or labels 0.0 and 1.0"),
  "classes as numbers": ("regression", REAL, np.arange(40) % 4, "integers are class numbers, real targets are floats"),
  "text without weights": ("sequence", TOKENS, {"token": TOKENS}, "y: has token; 'sequence' takes 'token' and"),
  "text of real targets": ("sequence", TOKENS, REAL, "y: is float32; 'sequence' takes tokens, which are integers"),
}  # fmt: skip


@pytest.mark.parametrize("what", KINDS)
def test_targets_of_another_kind_are_one_line(what):
  objective, x, y, said = KINDS[what]
  model = models.named.NAMED["transformer"]((4,), 7, width=4, depth=1, heads=1) if objective == "sequence" else None
  with pytest.raises(UsageError, match=said):
    engine.prepare(stream_of(x, y), model or models.mlp((4,), 3, hidden=(2,)), objective=objective)
