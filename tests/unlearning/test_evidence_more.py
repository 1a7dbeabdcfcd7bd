"""The second table of launch.unlearn: each number of a made population against NumPy, and what is printed of it."""

from __future__ import annotations

import types

import jax
import numpy as np
import pytest
from scipy.special import log_softmax

from cljax import models
from cljax.cli.unlearning import _table
from cljax.evaluation import evidence, evidence_more

S, N, K, D = 3, {"forget": 8, "retain": 12, "test": 10}, 3, 4


@pytest.fixture(scope="module")
def made():
  """``(answers by name, rows, model)`` of linear models on made rows."""
  rng = np.random.default_rng(0)
  model = models.mlp((D,), K, hidden=())
  x = {s: rng.normal(size=(n, D)).astype(np.float32) for s, n in N.items()}
  y = {s: rng.integers(0, K, n) for s, n in N.items()}
  rows = evidence.Sides(x, y, {s: np.zeros(n, int) for s, n in N.items()}, np.ones((1, K), bool))

  def answers(seed):
    params = jax.vmap(lambda key: model.init(key)[0])(jax.random.split(jax.random.key(seed), S))
    logits = {s: 3 * np.einsum("nd,sdk->snk", x[s], params["head"]["kernel"]) for s in N}
    return evidence.Answers(logits, {s: np.stack([x[s]] * S) for s in N}, params, {})

  return {n: answers(i) for i, n in enumerate(("ours", "reference", "original", "untrained"))}, rows, model


def test_each_number_by_hand(made):
  given, rows, model = made
  found = evidence_more.measure(*given.values(), rows, model)
  right = lambda a, s: np.mean(a.logits[s].argmax(-1) == rows.y[s], -1)
  ours = given["ours"]
  np.testing.assert_allclose(found["unlearning_accuracy"], 1 - right(ours, "forget"))
  drop = np.maximum(right(given["original"], "forget") - right(ours, "forget"), 0)
  kept = right(ours, "retain")
  assert (drop > 0).any()
  want = [2 * d * k / (d + k) if d > 0 else 0 for d, k in zip(drop, kept, strict=True)]
  np.testing.assert_allclose(found["h_mean"], want)
  lp, lq = (log_softmax(given[n].logits["forget"].astype(np.float64), -1) for n in ("ours", "untrained"))
  p, q = np.exp(lp), np.exp(lq)
  middle = np.log((p + q) / 2)
  js = ((p * (lp - middle)).sum(-1) + (q * (lq - middle)).sum(-1)) / 2
  np.testing.assert_allclose(found["zrf"], 1 - js.mean(-1), rtol=1e-6)
  for i in range(S):
    a, b = (given[n].logits["forget"][i].argmax(-1) for n in ("ours", "reference"))
    either = [k for k in range(K) if ((a == k) | (b == k)).any()]
    overlaps = [np.sum((a == k) & (b == k)) / np.sum((a == k) | (b == k)) for k in either]
    assert found["jaccard"][i] == pytest.approx(np.mean(overlaps))


def test_the_recovery_gap_by_descent_by_hand(made):
  """Twenty steps on a twentieth of the rows, measured on the others."""
  given, rows, model = made
  found = evidence_more.measure(*given.values(), rows, model)["recovery_gap"]
  x, y = rows.x["forget"].astype(np.float64), rows.y["forget"]
  few, held = (np.asarray(part) for part in evidence.metrics.split_forget(len(y)))

  def recovered(params, i):
    w, b = (np.asarray(params["head"][k][i], np.float64) for k in ("kernel", "bias"))
    for _ in range(20):
      error = (np.exp(log_softmax(x[few] @ w + b, -1)) - np.eye(K)[y[few]]) / len(few)
      w, b = w - 0.05 * x[few].T @ error, b - 0.05 * error.sum(0)
    return np.mean((x[held] @ w + b).argmax(-1) == y[held])

  ends = [[recovered(given[n].params, i) for i in range(S)] for n in ("ours", "reference")]
  np.testing.assert_allclose(found, np.subtract(*ends), atol=1e-6)
  assert np.abs(found).max() > 0


def test_the_floor_is_of_even_oracles_against_odd_ones(made):
  given, rows, _ = made
  many = jax.tree.map(lambda *a: np.concatenate(a), *(given[n] for n in ("ours", "reference", "original")))
  floor = evidence_more.floors(many, rows)
  for side in ("forget", "retain"):
    z = many.logits[side][:8].astype(np.float64)
    own = z[:, np.arange(N[side]), rows.y[side]]
    rest = np.where(np.eye(K, dtype=bool)[rows.y[side]], -np.inf, z)
    margin = own - np.log(np.exp(rest).sum(-1))
    a, b = margin[::2], margin[1::2]
    each = []
    for n in range(N[side]):
      low, high = min(a[:, n].min(), b[:, n].min()), max(a[:, n].max(), b[:, n].max())
      p, q = (np.histogram(v[:, n], 8, (low, high))[0] / 4 + 1e-5 for v in (a, b))
      each.append(np.sum(p / p.sum() * np.log((p / p.sum()) / (q / q.sum()))))
    assert floor[f"klom_{side}_floor"] == pytest.approx(np.mean(each), rel=0.02)
  assert set(evidence_more.population(many, many, rows)) == {"klom_forget_p95", "klom_retain_p95"}
  assert evidence_more.population(many, many, rows)["klom_forget_p95"] == pytest.approx(0, abs=1e-12)


def test_the_table_has_what_there_is():
  more = {"original": {"zrf": np.asarray([0.5, 0.7]), "u_lira_tpr": 0.25}, "ssd": {"zrf": np.asarray([0.8, 0.8])}}
  head, body = _table.more(types.SimpleNamespace(more=more))
  assert head == ["method", "ZRF", "U-LiRA TPR %"]
  assert body == [["original", "0.60 ± 0.10", "25.0"], ["ssd", "0.80 ± 0.00", "-"]]
  assert _table.more(types.SimpleNamespace(more={})) is None
  assert _table.more(types.SimpleNamespace(more={"ssd": {}})) is None
