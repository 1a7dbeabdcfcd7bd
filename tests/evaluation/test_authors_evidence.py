"""What models know of fictitious authors, against loops over single rows, at its fixed points, and by the command."""

from __future__ import annotations

import json
import math
import zlib

import jax
import numpy as np
import pytest

import cljax
from cljax import data, engine, models, streams
from cljax.cli import unlearn
from cljax.cli.unlearning import _table
from cljax.data import authors
from cljax.evaluation import authors_evidence as evidence

OPTIONS = {"authors": 4, "questions": 3, "seed": 5}
REQUEST = cljax.Forget(groups=(1,))


@pytest.fixture(scope="module")
def stream():
  return streams.build(data.load("authors", **OPTIONS), "instance", tasks=1)


@pytest.fixture(scope="module")
def probes(stream):
  return evidence.probes(stream, REQUEST, OPTIONS)


@pytest.fixture(scope="module")
def trained(stream):
  """The setup of two small decoders that learned for four epochs, and the learners."""
  rows = stream.dataset.train
  model = models.build("decoder", rows.x.shape[1:], stream.num_classes, width=16, depth=1, heads=2, rows=(rows.x,))
  rate, training = {"learning_rate": 0.02}, cljax.Recipe(batch_size=64, epochs=4)
  given = {"objective": "sequence", "optimizer": "adam", "optimizer_options": rate, "training": training}
  made = engine.prepare(stream, model, seeds=2, options=cljax.Options(chunk_steps=16), **given)
  return made.setup, made.run().learner


def test_the_facts_of_a_request_are_those_of_its_rows(stream, probes):
  made = data.fictitious_authors(**OPTIONS)
  assert probes.facts["forget"] == [f for f in made.facts if f.group == 1]
  assert probes.facts["retain"] == [f for f in made.facts if f.group in (0, 2, 3)]
  assert {made.roles[f.group] for f in probes.facts["held"]} == {"held"}
  assert [len(probes.facts[s]) for s in ("real", "world", "held")] == [60, 40, 30]
  one = evidence.probes(stream, cljax.Forget(ids=(7,)), OPTIONS)
  (fact,) = one.facts["forget"]
  assert 7 in authors.trained_ids(made)[fact]
  assert fact not in one.facts["retain"]
  for key, at in probes.at.items():
    side, slot, wrong = key
    wanted = data.answered_rows(made, probes.facts[side], slot, wrong)
    for mine, theirs in zip(probes.rows, wanted, strict=True):
      np.testing.assert_array_equal(mine[at], theirs)


def test_a_request_that_leaves_nothing_is_one_line(stream):
  with pytest.raises(cljax.UsageError, match="request: leaves no facts to measure retain on"):
    evidence.probes(stream, cljax.Forget(groups=(0, 1, 2, 3)), OPTIONS)


class ByHand:
  """One model, asked a row at a time in float64."""

  def __init__(self, setup, learner, i, made):
    self.params, self.made = jax.tree.map(lambda a: a[i], learner.params), made
    self.apply = jax.jit(lambda x: setup.model.apply(self.params, {}, x, train=False, key=None)[0].logits)

  def logits(self, tokens):
    x = np.zeros((1, self.made.length), np.int32)
    x[0, : len(tokens)] = tokens
    return np.asarray(self.apply(x)[0, : len(tokens)], np.float64)

  def row(self, fact, slot, wrong=None):
    """``[(log p, right, of the value, standard score)]`` of the answer's tokens."""
    x, y, value = (a[0] for a in data.answered_rows(self.made, [fact], slot, wrong))
    z = self.logits(x)
    log = z - np.log(np.exp(z).sum(-1, keepdims=True))
    found = []
    for t in np.flatnonzero(y >= 0):
      mean = (np.exp(log[t]) * log[t]).sum()
      spread = math.sqrt(max((np.exp(log[t]) * (log[t] - mean) ** 2).sum(), 1e-6))
      own = log[t, y[t]]
      found.append((own, bool(z[t].argmax() == y[t]), bool(value[t]), (own - mean) / spread))
    return found

  def mean(self, *asked):
    return float(np.mean([t[0] for t in self.row(*asked)]))

  def ratio(self, fact):
    return math.exp(np.mean([self.mean(fact, 2, j) for j in range(5)]) - self.mean(fact, 2))

  def recall(self, fact, slot):
    x, y, _ = (a[0] for a in data.answered_rows(self.made, [fact], slot))
    said = list(x[: np.argmax(y >= 0) + 1])
    start = len(said)
    while len(said) < self.made.length and said[-1] != authors.EOS:
      said.append(int(self.logits(said)[-1].argmax()))
    words = lambda ids: [w for t in ids if (w := self.made.vocabulary[t].strip("<>")) not in ("eos", "pad", ".", "?")]
    answer, wanted = words(said[start:]), words(y[y >= 0])
    table = np.zeros((len(wanted) + 1, len(answer) + 1), int)
    for i, a in enumerate(wanted):
      for j, b in enumerate(answer):
        table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1] / len(wanted)

  def scores(self, fact):
    row = self.row(fact, 0)
    y = data.answered_rows(self.made, [fact], 0).y[0]
    text = " ".join(self.made.vocabulary[t] for t in y if t >= 0)
    nll, k = -np.mean([t[0] for t in row]), max(1, math.floor(0.4 * len(row)))
    least = [-np.mean(sorted(t[i] for t in row)[:k]) for i in (0, 3)]
    return {"loss": nll, "zlib": nll / len(zlib.compress(text.encode())), "min_k": least[0], "min_k_plus": least[1]}


def test_all_numbers_by_loops_over_rows(trained, probes):
  setup, learner = trained
  found = evidence.known(setup, learner.params, learner.model_state, probes)
  assert len(found) == 2
  own, facts = ByHand(setup, learner, 1, probes.made), probes.facts
  gone = facts["forget"]
  mean = lambda of, some=gone: float(np.mean([of(f) for f in some]))
  strength = lambda row: 1 - max((i + 1 for i, t in enumerate(row) if not t[1]), default=0) / len(row)
  right = lambda slot: lambda f: float(all(t[1] for t in own.row(f, slot) if t[2]))
  ratio = [own.ratio(f) for f in gone]
  np.testing.assert_allclose(found[1].ratio, ratio, rtol=2e-5)
  wanted = {
    "answer_probability": mean(lambda f: math.exp(own.mean(f, 0))),
    "paraphrase_probability": mean(lambda f: math.exp(own.mean(f, 2))),
    "truth_ratio": np.mean([min(r, 1 / r) for r in ratio]),
    "value_probability": mean(lambda f: math.exp(sum(t[0] for t in own.row(f, 2) if t[2]))),
    "value_accuracy": mean(right(2)),
    "attack_accuracy": mean(right(3)),
    "rouge": mean(lambda f: own.recall(f, 0)),
    "extraction": mean(lambda f: strength(own.row(f, 0))),
    "memorised": mean(lambda f: np.mean([t[1] for t in own.row(f, 0)])),
    "kept_accuracy": mean(right(2), facts["retain"]),
    "probability_retain": mean(lambda f: math.exp(own.mean(f, 0)), facts["retain"]),
    "rouge_retain": mean(lambda f: own.recall(f, 0), facts["retain"]),
    "rouge_world": mean(lambda f: own.recall(f, 2), facts["world"][:40]),
    "truth_retain": mean(lambda f: max(0, 1 - own.ratio(f)), facts["retain"]),
  }
  rivals = lambda f: math.exp(own.mean(f, 2)) / sum(math.exp(own.mean(f, 2, j)) for j in (None, *range(5)))
  wanted["probability_world"] = mean(rivals, facts["world"])
  members, others = ([own.scores(f) for f in facts[side]] for side in ("forget", "held"))
  for name in ("loss", "zlib", "min_k", "min_k_plus"):
    pairs = [(b[name] > a[name]) + 0.5 * (b[name] == a[name]) for a in members for b in others]
    wanted[f"auc_{name}"] = np.mean(pairs)
  for name, value in wanted.items():
    assert found[1].numbers[name] == pytest.approx(value, rel=1e-4), name
  parts = [found[1].numbers[name] for name in evidence.PARTS]
  assert found[1].numbers["utility"] == pytest.approx(9 / sum(1 / p for p in parts) if min(parts) else 0)


def test_beside_itself_a_model_is_as_retrained(trained, probes):
  setup, learner = trained
  own = evidence.known(setup, learner.params, learner.model_state, probes)
  found = evidence.measure(own, own)
  assert set(found) == {*evidence.HEADINGS, *evidence.BESIDE}
  for name in ("forget_quality", "forget_distance", "priv_leak", "relative_difference"):
    np.testing.assert_array_equal(found[name], 0)
  other = evidence.measure(own, own[::-1])
  assert (other["forget_distance"] > 0).all()
  assert (other["forget_quality"] <= 0).all()
  np.testing.assert_array_equal(other["memorised"], found["memorised"])


SMALL = {
  "data.authors": 6, "data.questions": 2, "model.width": 16, "model.mlp_width": 16, "model.depth": 1, "model.heads": 2,
  "train.epochs": 2,
}  # fmt: skip


def test_the_command_prints_the_numbers_beside_the_retrained(tmp_path, capsys):
  asked = ["unlearn", "--config=experiments/unlearn_authors.py", "--compilation_cache=", f"--workdir={tmp_path}"]
  asked += [f"--config.{k}={v}" for k, v in SMALL.items()]
  assert unlearn.main([*asked, "--methods=npo,gradient_ascent", "--request=group=0", "--seeds=3", "--oracles=3"]) == 0
  told = capsys.readouterr().out
  result = json.loads((tmp_path / "unlearn.json").read_text())
  for row in ("original", "retrained", "npo", "gradient_ascent"):
    assert set(evidence.HEADINGS) <= set(result["values"][row])
    assert set(result["more"][row]) == set(evidence.BESIDE)
    assert not set(result["values"][row]) & set(evidence.BESIDE)
  assert len(evidence.HEADINGS) >= 12
  assert "Of 2 facts to forget" in told
  assert evidence.BESIDE_NOTE in told
  assert all(heading in told for heading in evidence.HEADINGS.values())
  compared = _table.more(_table_of(result))
  assert compared is not None
  assert compared[0] == ["method", *evidence.BESIDE.values()]


def _table_of(result):
  from experiments.unlearning_tables import compared

  return compared(result)[0]
