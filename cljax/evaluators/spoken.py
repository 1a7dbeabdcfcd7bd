"""What a model of text says: samples to read, how much they repeat themselves, and in which language they are."""

from __future__ import annotations

import numpy as np

from cljax import metrics
from cljax.core.checks import check_count, check_scalar
from cljax.core.types import UsageError
from cljax.data import tokens
from cljax.evaluators.continuing import Pick, asked_logits, continued, greedy, padded, spread
from cljax.evaluators.registry import Evaluator, Predict, Texts, register
from cljax.streams.fates import reached_tests

BLOCK = 64  # rows that are judged at a time


def _drawn(temperature: float, seed: int) -> Pick:
  """A token from ``softmax(logits / temperature)``; its noise is the row's and the place's, the same after each
  event."""

  def pick(logits: np.ndarray, row: int, place: int) -> int:
    noise = np.random.Generator(np.random.PCG64([seed, row, place])).gumbel(size=len(logits))
    return int((logits.astype(np.float64) / temperature + noise).argmax())

  return pick


def _words(dataset) -> tokens.Tokenizer:
  if not dataset.tokenizer:
    raise UsageError("needs rows of text, whose tokenizer is known (data.name=text:PATH)")
  return tokens.named(dataset.tokenizer)


def _left(stream, upto: int) -> list[np.ndarray]:
  """Of each task the test rows that no request before event ``upto`` names."""
  return [np.asarray(mine)[~out] for mine, out in zip(stream.test, reached_tests(stream, upto), strict=True)]


def samples(rows: int = 8, given: float = 0.25, temperature: float = 0.0, seed: int = 0) -> Evaluator:
  """What the model goes on to say behind the beginnings of test rows of each task, to read and as numbers.

  ``rows`` test rows a task, evenly spread, less those that a request names, are continued from the first ``given`` of
  their tokens to their end: greedily, or with ``temperature`` above 0 by draws from ``softmax(logits / temperature)``,
  whose noise is the same after each event. Shown are prompt and continuation, as text. ``[T]``, means over the rows:
  ``repetition`` (:func:`cljax.metrics.repetition` of 4 tokens), ``loops`` (the share that ends in a span that stands
  three times in a row) and ``own_language`` (the share whose text is more like the task's test rows than like those of
  any other task, :func:`cljax.metrics.language`; NaN for one task). Raises UsageError for a wrong argument, rows whose
  tokenizer is not known, and a model whose logits are not ``[B, L, V]``.
  """
  check_count("samples: rows", rows)
  check_count("samples: seed", seed, 0)
  check_scalar("samples", "given", given, above=True)
  check_scalar("samples", "temperature", temperature)
  if given >= 1:
    raise UsageError(f"samples: given: got {given}; expected a share above 0 and below 1")

  def samples(learner, predict: Predict, stream, event: int) -> dict:
    del learner
    words, split = _words(stream.dataset), stream.dataset.test
    left = _left(stream, event + 1)
    known = [metrics.character_profile(_text(words, split, own)) for own in left]
    found = {name: np.full(stream.num_tasks, np.nan) for name in ("repetition", "loops", "own_language")}
    shown: list[list[dict]] = [[] for _ in left]
    for task, own in enumerate(left):
      chosen = spread(own, rows)
      pick = _drawn(temperature, seed) if temperature else greedy
      said = continued(predict, split, chosen, task, given, rows, pick) if len(chosen) else []
      texts = [words.decode(row.said) for row in said]
      if not said:
        continue
      repeated = [r for row in said if not np.isnan(r := metrics.repetition(row.said))]
      found["repetition"][task] = np.mean(repeated) if repeated else np.nan
      found["loops"][task] = np.mean([metrics.ends_in_loop(row.said) for row in said])
      if len(known) > 1 and all(known):
        found["own_language"][task] = np.mean([metrics.language(text, known) == task for text in texts])
      shown[task] = [
        {"row": int(r), "prompt": words.decode(row.given), "said": text}
        for r, row, text in zip(chosen, said, texts, strict=True)
      ]
    return {**found, "samples": Texts(shown)}

  return Evaluator("samples", samples, {"repetition": "lower", "loops": "lower", "own_language": "higher"})


def _text(words: tokens.Tokenizer, split, rows: np.ndarray) -> str:
  """The tokens of weight of rows, in their order, as text."""
  if not len(rows):
    return ""
  _, target, there = padded(split, rows, len(rows))
  return words.decode(target[there])


def bits_per_byte() -> Evaluator:
  """``sum -log2 p(y_l | x) / bytes`` ``[T]`` over a task's test rows: what can be compared between languages.

  The sum is over the tokens of weight, the bytes are those in UTF-8 of the text that they are, in the order of the
  rows. Rows that a request names are left out; NaN where none is left. Raises UsageError for rows whose tokenizer is
  not known, and for a model whose logits are not ``[B, L, V]``.
  """

  def bits_per_byte(learner, predict: Predict, stream, event: int) -> dict:
    del learner
    words, split = _words(stream.dataset), stream.dataset.test
    found = np.full(stream.num_tasks, np.nan)
    for task, own in enumerate(_left(stream, event + 1)):
      size = len(_text(words, split, own).encode())
      if size:
        parts = (own[i : i + BLOCK] for i in range(0, len(own), BLOCK))
        found[task] = sum(_surprise(predict, split, part, task) for part in parts) / np.log(2) / size
    return {"bits_per_byte": found}

  return Evaluator("bits_per_byte", bits_per_byte, {"bits_per_byte": "lower"})


def _surprise(predict: Predict, split, rows: np.ndarray, task: int) -> float:
  """``sum -log p`` of the tokens of weight, in nats."""
  x, target, there = padded(split, rows, BLOCK)
  z = asked_logits(predict, x, task).astype(np.float64)
  top = z.max(-1)
  each = top + np.log(np.exp(z - top[..., None]).sum(-1))
  each -= np.take_along_axis(z, np.where(there, target, 0)[..., None], -1)[..., 0]
  return float(each[: len(rows)][there[: len(rows)]].sum())


register(samples())
register(bits_per_byte())
