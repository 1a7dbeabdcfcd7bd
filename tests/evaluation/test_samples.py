"""What a model of text says: against a loop over single rows that asks the run's own predictions, in NumPy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import cljax
from cljax import data, evaluators, models, streams
from cljax.core.types import Forget, Learn, UsageError
from cljax.evaluation import evaluations, results

LENGTH = 12
WORDS = {
  "a_latin": "arma virumque cano troiae qui primus ab oris ",
  "b_dutch": "het regent al dagen en wij zien geen zon ",
}


def text(words: str) -> str:
  rng = np.random.default_rng(0)
  return "\n".join(" ".join(rng.permutation(words.split())) for _ in range(16))


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
  folder = tmp_path_factory.mktemp("text")
  for name, words in WORDS.items():
    (folder / f"{name}.txt").write_text(text(words), encoding="utf-8")
  return streams.build(data.load(f"text:{folder}", length=LENGTH), "group", tasks=2, validation=0.0)


def model():
  return models.decoder(LENGTH, 257, width=16, depth=1, heads=2)


TOLD = {
  "bits_per_byte": evaluators.bits_per_byte(),
  "samples": evaluators.samples(rows=3),
  "drawn": evaluators.samples(rows=2, given=0.5, temperature=0.7, seed=3)._replace(name="drawn"),
}


def trained(stream, **given):
  given = {"evaluators": tuple(TOLD.values()), "seeds": [1, 2], **given}
  return cljax.run(stream, model(), objective="sequence", optimizer="adam", optimizer_options={"learning_rate": 0.02},
                   training=cljax.Recipe(batch_size=8, epochs=6), **given)  # fmt: skip


@pytest.fixture(scope="module")
def judged(stream):
  return trained(stream)


def logits(judged, x, row, member, tokens=None):
  shown = {k: np.array(v[row : row + 1]) for k, v in x.items()}
  if tokens is not None:
    shown["token"][0, : len(tokens)] = tokens
  return np.asarray(judged.predict(shown, member), np.float64)[0]


def said_by_hand(judged, split, row, member, given, temperature=0.0, seed=0):
  """One row, token after token; draws by inverting the distribution function of Gumbel-max's own noise."""
  count = int(split.y["weight"][row].sum())
  tokens = split.x["token"][row][: math.ceil(given * count)].tolist()
  prompt, said = list(tokens), []
  while len(said) < count - len(prompt) + 1:
    z = logits(judged, split.x, row, member, tokens)[len(tokens) - 1]
    if temperature:
      noise = np.random.Generator(np.random.PCG64([seed, int(row), len(tokens) - 1])).gumbel(size=len(z))
      z = np.log(np.exp(z / temperature) / np.exp(z / temperature).sum()) + noise
    said.append(int(z.argmax()))
    tokens.append(said[-1])
  return prompt, said


def grams(text, n):
  return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def as_text(tokens):
  return bytes(t for t in tokens if t < 256).decode("utf-8", "replace")


def language_by_hand(said, known):
  every = {g for text in known for g in grams(text, 3)}
  found = grams(" ".join(said.lower().split()), 3)
  if not found:
    return -1
  scores = [sum(math.log((t.count(g) + 1) / (len(t) + len(every) + 1)) for g in found)
            for t in (grams(text, 3) for text in known)]  # fmt: skip
  return int(np.argmax(scores))


@pytest.mark.parametrize(
  ("name", "rows", "options"),
  [("samples", 3, {"given": 0.25}), ("drawn", 2, {"given": 0.5, "temperature": 0.7, "seed": 3})],
)
def test_what_is_said_is_as_by_hand(stream, judged, name, rows, options):
  split = stream.dataset.test
  own = [np.asarray(t) for t in stream.test]
  whole = [as_text(split.y["token"][t][split.y["weight"][t] > 0]) for t in own]
  known = [" ".join(t.lower().split()) for t in whole]
  for member in (0, 1):
    for task in (0, 1):
      chosen = own[task][np.linspace(0, len(own[task]) - 1, rows).astype(int)]
      pairs = [said_by_hand(judged, split, r, member, **options) for r in chosen]
      shown = judged.texts[name]["samples"][member][-1][task]
      want = [
        {"row": int(r), "prompt": as_text(p), "said": as_text(s)} for r, (p, s) in zip(chosen, pairs, strict=True)
      ]
      assert shown == want
      found = {m: v[member, -1, task] for m, v in judged.evaluations[name].items()}
      repeated = np.mean([1 - len(set(grams(s, 4))) / len(grams(s, 4)) for _, s in pairs])
      np.testing.assert_allclose(found["repetition"], repeated)
      loops = [any(s[-k:] * 3 == s[-3 * k :] for k in range(1, len(s) // 3 + 1)) for _, s in pairs]
      np.testing.assert_allclose(found["loops"], np.mean(loops))
      right = [language_by_hand(as_text(s), known) == task for _, s in pairs]
      np.testing.assert_allclose(found["own_language"], np.mean(right))


def test_draws_are_others_than_the_likeliest_and_the_same_after_each_event(stream, judged):
  greedy, drawn = (judged.texts[name]["samples"] for name in ("samples", "drawn"))
  assert [e["said"][-3:] for e in drawn[0][-1][1]] != [e["said"][-3:] for e in greedy[0][-1][1]][:2]
  again = trained(stream, seeds=[1])
  assert again.texts["drawn"]["samples"][0] == drawn[0]


def test_bits_a_byte_are_the_mean_surprise_of_plain_letters(stream, judged):
  """A byte is a token here, and perplexity is that of the score."""
  split = stream.dataset.test
  for member in (0, 1):
    for task in (0, 1):
      nats, count = 0.0, 0
      for row in np.asarray(stream.test[task]):
        z = logits(judged, split.x, row, member)
        log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
        there = split.y["weight"][row] > 0
        nats -= log_p[np.arange(LENGTH), split.y["token"][row]][there].sum()
        count += there.sum()
      found = judged.evaluations["bits_per_byte"]["bits_per_byte"][member, -1, task]
      np.testing.assert_allclose(found, nats / np.log(2) / count, rtol=1e-5)
      np.testing.assert_allclose(2**found, judged.scores["perplexity"][member, -1, task], rtol=1e-4)


def test_each_language_is_spoken_after_its_task_and_forgotten_behind_the_next(judged):
  """The best a byte of a task is right after it."""
  bits = judged.evaluations["bits_per_byte"]["bits_per_byte"].mean(0)
  assert bits[1, 0] < bits[0, 0]
  assert bits[2, 1] < bits[1, 1]
  own = judged.evaluations["samples"]["own_language"].mean(0)
  assert own[2, 1] > own[1, 1] or own[1, 0] > own[2, 0]
  assert judged.task_names == ("a_latin", "b_dutch")


def test_texts_stand_in_the_result_and_join(judged):
  found = results.describe(judged, config={}, method="finetune", stream="text", kind="group", seeds=[1, 2])
  assert found["texts"] == json.loads(json.dumps(judged.texts))
  assert found["task_names"] == ["a_latin", "b_dutch"]
  assert evaluations.is_whole(found, (2, 3))
  one = results.describe(judged, config={}, method="finetune", stream="text", kind="group", seeds=[2], members=[1])
  assert one["texts"]["samples"]["samples"] == [judged.texts["samples"]["samples"][1]]
  assert not evaluations.is_whole({**found, "texts": one["texts"]}, (2, 3))
  broken = json.loads(json.dumps(found["texts"]))
  broken["samples"]["samples"][0][0][0][0]["said"] = 3
  assert not evaluations.is_whole({**found, "texts": broken}, (2, 3))


def test_what_a_request_names_is_shown_no_more(stream):
  """Neither after it nor before: the group's test rows go from what was shown, the other's stay."""
  events = (Learn(0), Learn(1), Forget(groups=(0,)))
  result = trained(stream._replace(events=events), evaluators=(TOLD["samples"], TOLD["bits_per_byte"]), seeds=[1],
                   forget="retrain")  # fmt: skip
  for row in result.texts["samples"]["samples"][0]:
    assert row[0] == []
    assert len(row[1]) == 3
  assert np.isnan(result.evaluations["samples"]["repetition"][0, -1, 0])
  assert np.isnan(result.evaluations["samples"]["own_language"][0, -1]).all(), "one language is left"
  assert np.isnan(result.evaluations["bits_per_byte"]["bits_per_byte"][0, -1, 0])
  assert np.isfinite(result.evaluations["bits_per_byte"]["bits_per_byte"][0, -1, 1])


def test_what_they_need_is_said_in_one_line(stream):
  for wrong, message in (
    ({"rows": 0}, "samples: rows: got 0"),
    ({"given": 1.0}, "given: got 1.0; expected a share above 0 and below 1"),
    ({"given": 0.0}, "samples"),
    ({"temperature": -1.0}, "temperature"),
    ({"seed": -1}, "samples: seed: got -1"),
  ):
    with pytest.raises(UsageError, match=message):
      evaluators.samples(**wrong)
  rows = np.zeros((8, LENGTH), np.int32)
  bare = data.from_arrays("bare", {"x": rows, "y": rows, "group": np.arange(8) % 2})
  bare = streams.build(bare, "group", tasks=2)
  digits = streams.build(data.load("digits"), "class", tasks=2)
  for name in ("samples", "bits_per_byte"):
    with pytest.raises(UsageError, match=f"evaluators: {name!r}: needs rows of text, whose tokenizer is known"):
      trained(bare, evaluators=TOLD[name])
    with pytest.raises(UsageError, match=f"evaluators: {name!r}: needs rows of text"):
      cljax.run(digits, models.mlp((8, 8, 1), 10, hidden=(4,)), evaluators=name)


@pytest.mark.parametrize(
  "texts", [[[]], [[], ["text"]], [[], [{"row": 1, "said": 2}]], [[], [{"said": "no row"}]]], ids=str
)
def test_texts_of_ones_own_are_checked(stream, texts):
  own = cljax.Evaluator("own", lambda *_: {"count": 1.0, "shown": evaluators.Texts(texts)})
  with pytest.raises(UsageError, match=r"evaluators: 'own': shown is .*; expected 2 lists, one a task, of"):
    trained(stream, evaluators=own)


def test_texts_of_ones_own_are_kept(stream):
  told = lambda learner, predict, stream, event: {
    "count": 1.0, "shown": evaluators.Texts([[{"row": 0, "said": f"event {event}"}], []]),
  }  # fmt: skip
  result = trained(stream, evaluators=cljax.Evaluator("own", told), seeds=[1])
  assert [row[0][0]["said"] for row in result.texts["own"]["shown"][0]] == ["event -1", "event 0", "event 1"]
  assert list(result.evaluations["own"]) == ["count"]
