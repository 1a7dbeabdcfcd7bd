"""Methods of stored predictions on real targets and on text, against NumPy."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import leaves

import cljax
from cljax import engine, estimators, models, streams
from cljax.core.types import UsageError, Visit
from cljax.data import Dataset, Split
from cljax.engine.step import AGAIN, StreamPosition
from cljax.unlearning.sharding import shard_of

RATE, ROWS = 0.2, 6
RNG = np.random.default_rng(11)
X = RNG.normal(size=(24, 3)).astype(np.float32)
START = {"regression": RNG.normal(size=(3, 2)), "sequence": RNG.normal(size=(3, 4, 5))}
TARGET = {"regression": RNG.normal(size=(24, 2)).astype(np.float32), "sequence": RNG.integers(0, 5, (24, 4))}
TARGET["sequence"][RNG.random((24, 4)) < 0.3] = -1
TARGET["sequence"][:, 0] = np.abs(TARGET["sequence"][:, 0])  # no row is without a token


def predicted(w, x):
  return np.tensordot(np.asarray(x, np.float64), w, 1)


class Steps:
  """One method's step on two tasks of 12 rows, under an objective."""

  def __init__(self, objective, method, hyper=None, told=False, model=None, x=X, optimizer="sgd", **options):
    y, group = TARGET[objective].astype(np.int32 if objective == "sequence" else np.float32), np.repeat([0, 1], 12)
    split = Split(x, y, np.arange(24, dtype=np.int32), group.astype(np.int32))
    data = Dataset("made", split, split, 5, tuple("abcde"), ("0", "1"), None, "made")
    tasks = [np.arange(12), np.arange(12, 24)]
    stream = streams.from_tasks(data, tasks, tasks, events=[cljax.Learn(0), cljax.Learn(1)],
                                **({"task_id_given": True} if told else {}))  # fmt: skip
    start = lambda key: {"w": jnp.float32(START[objective])}
    model = model or models.from_apply(start, lambda params, x: jnp.tensordot(x, params["w"], 1))
    given = {"objective": objective, "objective_options": options, "training": cljax.Recipe(batch_size=ROWS)}
    rate = {"optimizer_options": {"learning_rate": RATE}, "optimizer": optimizer}
    made = engine.prepare(stream, model, method, hyper, **rate, **given)
    self.setup, self.objective = made.setup, objective
    self.step = jax.jit(made.setup.parts.step)
    self.end = made.setup.parts.end_task and jax.jit(made.setup.parts.end_task)

  def start(self):
    return self.setup.parts.init(jax.random.key(0))

  def where(self, task):
    zero, seen = jnp.int32(0), jnp.arange(2)
    return StreamPosition(Visit(jnp.int32(task), seen < task, seen <= task), zero, jnp.int32(9), jnp.int32(9))

  def go(self, learner, rows, task=0, offered=AGAIN):
    many = lambda v: jnp.full(len(rows), v, jnp.int32)
    given = jnp.asarray(rows, jnp.int32), many(task), jnp.broadcast_to(jnp.asarray(offered, jnp.int32), len(rows))
    learner, _, loss = self.step(learner, self.setup.train, self.where(task), jnp.asarray(True), *given)
    return learner, float(loss)

  def finish(self, learner, task):
    rows = jnp.arange(12 * task, 12 * task + 12, dtype=jnp.int32), jnp.full(12, task, jnp.int32), jnp.int32(12)
    return self.end(learner, jnp.asarray(True), self.setup.train, self.where(task), *rows)


def weight_of(learner):
  return np.asarray(learner.params["w"], np.float64)


def task_loss(objective, w, rows, reduction="tokens"):
  """The objective's loss of rows and its gradient; ``(loss, gradient, counted parts of each row)``."""
  x, y, z = X[rows].astype(np.float64), TARGET[objective][rows], predicted(w, X[rows])
  if objective == "regression":
    return ((z - y) ** 2).sum() / 2 / len(rows), np.einsum("bi,bk->ik", x, z - y) / len(rows), None
  inside = (y >= 0).astype(np.float64)
  log_p = z - np.logaddexp.reduce(z, -1, keepdims=True)
  hot = np.eye(5)[np.maximum(y, 0)]
  share = inside / (inside.sum() if reduction == "tokens" else inside.sum(-1, keepdims=True) * len(rows))
  return (
    -(share[..., None] * hot * log_p).sum(),
    np.einsum("bi,blv->ilv", x, share[..., None] * (np.exp(log_p) - hot)),
    inside,
  )


def gap_loss(objective, w, rows, target):
  """``mean (z - target)^2`` over rows and numbers, or over the tokens that count, and its gradient."""
  x, gap = X[rows].astype(np.float64), predicted(w, X[rows]) - target
  inside = np.ones(gap.shape[:1]) if objective == "regression" else (TARGET[objective][rows] >= 0).astype(np.float64)
  share = (inside / inside.sum())[..., None] / gap.shape[-1]
  return (share * gap**2).sum(), np.tensordot(x, 2 * share * gap, ((0,), (0,)))


@pytest.mark.parametrize("objective", ["regression", "sequence"])
@pytest.mark.parametrize("method", ["derpp", "unified"])
def test_stored_predictions_of_any_form(method, objective):
  """``L(now) + alpha mean (z - z_stored)^2 + beta L(stored)``; an absent row is neither stored nor seen."""
  hyper = {"alpha": 0.7, "beta": 0.3, "capacity": 20, "replay_batch": 20}
  if method == "unified":
    hyper = {**hyper, "beta": 0.0, "parameter": "none"}
  steps = Steps(objective, method, hyper)
  first, second, here = np.arange(6), np.arange(12, 18), np.array([0, 1, 2, 4, 5])
  one, _ = steps.go(steps.start(), first, 0, np.where(np.isin(first, here), AGAIN, 0))
  old = predicted(START[objective].astype(np.float32), X[here])
  kept = jax.tree.leaves(one.method_state)
  assert any(a.shape == (ROWS, *old.shape[1:]) and np.allclose(np.asarray(a)[here], old, atol=1e-5) and
             not np.asarray(a)[3].any() for a in kept)  # fmt: skip
  two, loss = steps.go(one, second, 1)
  w = weight_of(one)
  (a, g), (b, h) = task_loss(objective, w, second)[:2], gap_loss(objective, w, here, old)
  c, k = task_loss(objective, w, here)[:2]
  beta = hyper["beta"]
  np.testing.assert_allclose(loss, a + 0.7 * b + beta * c, rtol=1e-5)
  np.testing.assert_allclose(weight_of(two), w - RATE * (g + 0.7 * h + beta * k), atol=2e-6)


@pytest.mark.parametrize("objective", ["regression", "sequence"])
def test_without_strength_nothing_of_the_memory_reaches_the_step(objective):
  steps = Steps(objective, "derpp", {"alpha": 0.0, "beta": 0.0, "capacity": 20})
  one, _ = steps.go(steps.start(), np.arange(6))
  two, loss = steps.go(one, np.arange(12, 18), 1)
  want, g, _ = task_loss(objective, weight_of(one), np.arange(12, 18))
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  np.testing.assert_allclose(weight_of(two), weight_of(one) - RATE * g, atol=1e-6)


def test_a_row_s_own_mean_of_text_counts_the_same_tokens():
  """Under reduction 'rows' the gap is of each row's tokens that count, and the mean is over rows."""
  steps = Steps("sequence", "derpp", {"alpha": 1.0, "beta": 0.0, "capacity": 20, "replay_batch": 20}, reduction="rows")
  one, _ = steps.go(steps.start(), np.arange(6))
  _, loss = steps.go(one, np.arange(12, 18), 1)
  w = weight_of(one)
  old = predicted(START["sequence"].astype(np.float32), X[:6])
  gap = ((predicted(w, X[:6]) - old) ** 2).mean(-1)
  want = task_loss("sequence", w, np.arange(12, 18), "rows")[0] + gap[TARGET["sequence"][:6] >= 0].mean()
  np.testing.assert_allclose(loss, want, rtol=1e-5)


class Reader(nn.Module):
  """A transformer of one block over five tokens, causal, 24 wide."""

  @nn.compact
  def __call__(self, x):
    h = nn.Embed(5, 24)(x) + self.param("place", nn.initializers.normal(0.5), (4, 24))
    q, k, v = jnp.split(nn.Dense(72, name="qkv")(nn.LayerNorm()(h)), 3, -1)
    score = jnp.where(jnp.tril(jnp.ones((4, 4), bool)), jnp.einsum("bqd,bkd->bqk", q, k) / 5, -jnp.inf)
    h = h + nn.Dense(24, name="out")(jax.nn.softmax(score) @ v)
    return nn.Dense(5, name="head")(h)


TOKENS = RNG.integers(0, 5, (24, 4)).astype(np.int32)


def reader():
  return models.from_linen(Reader(), (4,), input_dtype=jnp.int32)


@pytest.mark.parametrize(("method", "on"), [("gpm", "update"), ("gpm", "gradient"), ("cuber", "update")])
def test_old_text_keeps_its_predictions(method, on):
  """All inputs that count are in the span: old rows' logits stay up to their last token that counts; padding behind it
  is not in the span; embeddings, places, norms and biases stand still, and the kernels move, under Adam too."""
  hyper = {
    "threshold": 1.0,
    "on": on,
    "skip": "",
    **({"samples": 4} if method == "gpm" else {"samples": 4, "sufficient": 2.0}),
  }
  y = TARGET["sequence"].copy()
  steps = Steps("sequence", method, hyper, model=reader(), x=TOKENS, optimizer="adam" if on == "update" else "sgd")
  # Few rows, so that their inputs do not span all 24 directions.
  few = np.arange(4)
  learner = steps.go(steps.start(), few)[0]
  rows = jnp.asarray(np.r_[few, np.zeros(8)], jnp.int32), jnp.zeros(12, jnp.int32), jnp.int32(4)
  first = steps.end(learner, jnp.asarray(True), steps.setup.train, steps.where(0), *rows)
  after = first
  if steps.setup.parts.start_task is not None:
    own = jnp.arange(12, 24, dtype=jnp.int32), jnp.ones(12, jnp.int32), jnp.int32(12)
    after = jax.jit(steps.setup.parts.start_task)(first, jnp.asarray(True), steps.setup.train, steps.where(1), *own)
  for k in range(3):
    after = steps.go(after, np.arange(12 + 4 * k, 16 + 4 * k), 1)[0]
  model, x = reader(), jnp.asarray(TOKENS[few])
  of = lambda l: np.asarray(model.apply(l.params, {}, x, train=False, key=None)[0].logits)
  last = 3 - (y[few, ::-1] >= 0).argmax(1)
  counts = np.arange(4) <= last[:, None]
  assert not counts.all()
  gap = np.abs(of(after) - of(first)).max(-1)
  assert gap[counts].max() < 2e-4
  assert gap[~counts].max() > 1e-2
  before, now = (leaves(l.params) for l in (first, after))
  still = [n for n in before if not n.endswith("kernel")]
  assert {"place", "Embed_0/embedding", "LayerNorm_0/scale", "head/bias"} <= set(still)
  for name in before:
    assert (np.abs(now[name] - before[name]).max() == 0) == (name in still), name
  if method == "gpm":
    basis = leaves(next(s for s in jax.tree.leaves(first.opt_state, is_leaf=lambda s: hasattr(s, "bases"))
                        if hasattr(s, "bases")).bases)["head/kernel"]  # fmt: skip
    inside = estimators.layer_inputs(model, first.params, {}, x)["head/kernel"]
    rest = np.asarray(inside) - np.asarray(inside) @ basis @ basis.T
    left = np.linalg.norm(rest, axis=1) / np.linalg.norm(inside, axis=1)
    assert left[counts.ravel()].max() < 1e-3 < 1e-2 < left[~counts.ravel()].max()


def test_what_skip_names_stays_free():
  """Embeddings that ``skip`` names learn on; the rest is held or projected."""
  steps = Steps(
    "sequence", "gpm", {"threshold": 1.0, "skip": "embedding|place", "samples": 4}, model=reader(), x=TOKENS
  )
  first = steps.finish(steps.go(steps.start(), np.arange(6))[0], 0)
  after = steps.go(first, np.arange(12, 18), 1)[0]
  before, now = leaves(first.params), leaves(after.params)
  assert np.abs(now["Embed_0/embedding"] - before["Embed_0/embedding"]).max() > 0
  assert np.abs(now["place"] - before["place"]).max() > 0
  np.testing.assert_array_equal(now["head/bias"], before["head/bias"])


@pytest.mark.parametrize("objective", ["regression", "sequence"])
def test_each_shard_of_sisa_has_the_mean_over_its_own_rows(objective):
  """The vote is the mean of the shards' predictions."""
  steps = Steps(objective, "sisa", {"shards": 2})
  start = steps.start()
  after, loss = steps.go(start, np.arange(6))
  of = np.asarray(shard_of(jnp.arange(6), 2))
  assert 0 < of.sum() < 6
  w = weight_of(start)
  want = [task_loss(objective, w[s], np.flatnonzero(of == s)) for s in (0, 1)]
  np.testing.assert_allclose(loss, sum(a for a, _, _ in want), rtol=1e-5)
  for s in (0, 1):
    np.testing.assert_allclose(weight_of(after)[s], w[s] - RATE * want[s][1], atol=2e-6)
  seen = np.asarray(jax.jit(steps.setup.parts.predict)(after, jnp.asarray(X), jnp.int32(0)))
  np.testing.assert_allclose(seen, predicted(weight_of(after).mean(0), X), atol=1e-5)


def test_side_networks_replay_real_targets():
  """CLPU-DER++: the current rows' loss, and ``alpha gap + beta loss`` of the stored rows of tasks met before."""
  steps = Steps("regression", "clpu_derpp", {"alpha": 0.7, "beta": 0.3, "capacity": 12, "replay_batch": 12}, told=True)
  begin = jax.jit(steps.setup.parts.start_task)

  def started(learner, task):
    rows = jnp.arange(12 * task, 12 * task + 12, dtype=jnp.int32), jnp.full(12, task, jnp.int32), jnp.int32(12)
    return begin(learner, jnp.asarray(True), steps.setup.train, steps.where(task), *rows)

  one, _ = steps.go(started(steps.start(), 0), np.arange(6))
  two = started(steps.finish(one, 0), 1)
  _, loss = steps.go(two, np.arange(12, 18), 1)
  w = np.asarray(two.params["main"]["w"], np.float64)
  old = predicted(START["regression"].astype(np.float32), X[:6])
  want = task_loss("regression", w, np.arange(12, 18))[0] + 0.7 * gap_loss("regression", w, np.arange(6), old)[0]
  np.testing.assert_allclose(loss, want + 0.3 * task_loss("regression", w, np.arange(6))[0], rtol=1e-5)


@pytest.mark.parametrize("objective", ["regression", "sequence"])
def test_a_posterior_of_small_deviation_pays_its_divergence_beside_the_loss(objective):
  """VCL: ``L + KL(N(w, d^2) || N(0, 1)) / N``, N the rows of the largest task."""
  d = 1e-4
  steps = Steps(objective, "vcl", {"deviation": d, "strength": 2.0})
  _, loss = steps.go(steps.start(), np.arange(6))
  w = START[objective].astype(np.float32).astype(np.float64)
  kl = 0.5 * (w**2 + d**2 - 1 - 2 * np.log(d)).sum()
  np.testing.assert_allclose(loss, task_loss(objective, w, np.arange(6))[0] + 2.0 * kl / 12, rtol=2e-3)
  with pytest.raises(UsageError, match=r"method\.samples: got 3, which needs classes"):
    Steps(objective, "vcl", {"samples": 3})


def test_the_stable_model_of_fomo_holds_tokens_that_count():
  """From the second step on, ``strength T^2 KL(stable || f)`` over the tokens of positive weight."""
  hyper = {"fraction": 0.0, "decay": 0.0, "strength": 0.6, "temperature": 2.0, "period": 1, "patterns": "w"}
  steps = Steps("sequence", "fomo", {**hyper, "decay": 1.0})
  one, _ = steps.go(steps.start(), np.arange(6))
  _, loss = steps.go(one, np.arange(6, 12))
  rows, w = np.arange(6, 12), weight_of(one)
  log = lambda w: (lambda z: z - np.logaddexp.reduce(z, -1, keepdims=True))(predicted(w, X[rows]) / 2)
  q, p = log(START["sequence"].astype(np.float32)), log(w)
  each = 4 * (np.exp(q) * (q - p)).sum(-1)
  want = task_loss("sequence", w, rows)[0] + 0.6 * each[TARGET["sequence"][rows] >= 0].mean()
  np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_ssd_of_real_targets_dampens_by_their_own_fisher():
  """``theta min(1, lambda I_D / I_f)`` where ``I_f > alpha I_D``; squared gradients of each row's loss."""
  x, y = X.astype(np.float64), TARGET["regression"].astype(np.float64)
  split = Split(X, TARGET["regression"], np.arange(24, dtype=np.int32), np.zeros(24, np.int32))
  data = Dataset("made", split, split, 2, ("a", "b"), ("0",), None, "made")
  asked = cljax.Forget(ids=(3, 5))
  stream = streams.from_tasks(data, [np.arange(24)], [np.arange(24)], events=[cljax.Learn(0), asked])
  model = models.from_apply(lambda key: {"w": jnp.float32(START["regression"])}, lambda params, x: x @ params["w"])
  run = lambda events: cljax.run(
    stream._replace(events=events), model, forget="ssd" if len(events) > 1 else "", objective="regression",
    forget_hyper={"alpha": 1.0, "dampening": 0.5, "importance": "empirical"} if len(events) > 1 else {},
    optimizer_options={"learning_rate": 0.01}, training=cljax.Recipe(batch_size=8),
  ).learner.params["w"][0]  # fmt: skip
  w, after = np.asarray(run(stream.events[:1]), np.float64), np.asarray(run(stream.events))
  slopes = np.einsum("ni,nk->nik", x, x @ w - y) ** 2
  whole, gone = slopes.mean(0), slopes[[3, 5]].mean(0)
  wanted = np.where(gone > whole, w * np.minimum(0.5 * whole / gone, 1), w)
  assert (wanted != w).any()
  np.testing.assert_allclose(after, wanted, rtol=2e-3, atol=1e-5)
