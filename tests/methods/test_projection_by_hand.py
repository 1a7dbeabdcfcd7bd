"""Methods that project, a step after several tasks, against NumPy in float64: the memory or the basis, the reference
gradients, the loss of replay, and the projection."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, gradient, leaves
from projecting_by_hand import ROWS, flat, inputs_of, nested, off, on_all, on_one, rows_of, widened

from cljax import projectors, streams


@pytest.fixture(scope="module")
def four(make_blobs):
  """Four tasks of one class each, all of whose rows a memory can hold, so that no draw decides which."""
  return streams.build(make_blobs(rows=ROWS), "class", tasks=4, validation=0.0)


def unflat(vector, like):
  out, at = {}, 0
  for p in sorted(like):
    out[p] = vector[at : at + like[p].size].reshape(like[p].shape)
    at += like[p].size
  return out


def assert_moved(before, after, slope, atol=5e-6):
  theta = leaves(before.params)
  for path, value in leaves(after.params).items():
    np.testing.assert_allclose(value, theta[path] - RATE * slope[path], atol=atol, err_msg=path)


SIZES = {"capacity": 4 * ROWS}
CASES = [
  ("agem", {**SIZES, "reference_batch": 4 * ROWS}),
  ("agem", {**SIZES, "reference_batch": 4 * ROWS, "on": "update"}),
  ("gem", {**SIZES, "margin": 0.2, "ridge": 0.01}),
  ("gem", {**SIZES, "margin": 0.0, "ridge": 0.0, "on": "update"}),
  ("er_agem", {**SIZES, "replay_batch": 4 * ROWS}),
  ("er_gem", {**SIZES, "replay_batch": 4 * ROWS, "reference_batch": ROWS, "margin": 0.1, "ridge": 0.02}),
]


@pytest.mark.parametrize(("name", "hyper"), CASES)
def test_a_step_against_references(name, hyper, four, small_model):
  """Steps of the fourth task beside all rows of the three before it, and of the first beside none.

  ER's loss weighs the current rows by 1/4 and the stored ones by 3/4.
  """
  bench = Bench(name, four, small_model, hyper)
  start = bench.start()
  first = bench.step(start, *bench.arguments(0, 0))[0]
  assert_moved(start, first, gradient(start.params, *batch_of(bench, 0, 0)))
  unstored = bench.step(start, *bench.arguments(1, 0))[0]  # a task was met and nothing of it is left
  assert_moved(start, unstored, gradient(start.params, *batch_of(bench, 1, 0)))
  learner = bench.train(steps=3, tasks=(0, 1, 2))
  fired, down = [], gradient(learner.params, *batch_of(bench, 3, 0))
  away = {p: v - 3 * RATE * down[p] for p, v in leaves(learner.params).items()}  # the old rows object to the new ones
  for k, at in enumerate((learner.params, nested(away), fitted(learner.params, rows_of(four, 0, 1, 2)))):
    learner = learner._replace(params=at)
    each = np.stack([flat(gradient(at, *rows_of(four, t))) for t in range(3)])
    stored = flat(gradient(at, *rows_of(four, 0, 1, 2)))
    like = gradient(at, *batch_of(bench, 3, k))
    g = flat(like) / 4 + 3 * stored / 4 if name.startswith("er") else flat(like)
    if name.endswith("agem"):
      want = on_one(g, stored, 1e-7 if name == "er_agem" else 0.0)
    else:
      want = on_all(g, each, hyper["margin"], hyper["ridge"])
    fired.append(bool((want != g).any()))
    assert_moved(learner, bench.step(learner, *bench.arguments(3, k))[0], unflat(want, like), 2e-5)
  assert any(fired)


def fitted(params, rows, steps=400):
  """Parameters at which these rows are learned: only there a loss that has them in it is against their gradient."""
  at = leaves(params)
  for _ in range(steps):
    down = gradient(nested(at), *rows)
    at = {p: v - 0.5 * down[p] for p, v in at.items()}
  return nested(at)


# Bases


@pytest.mark.parametrize(
  "hyper",
  [{"on": "update"}, {"on": "gradient", "skip": "head"}, {"max_rank": 3}],
  ids=["update", "gradient", "few"],
)
def test_gpm_keeps_off_old_inputs(hyper, four, small_model):
  """``G - M M^T G`` with M of the energy ``0.6 + 0.1 t``, after two tasks; biases stand still, those of a skipped
  kernel too. More samples are asked for than there are."""
  level, step = 0.6, 0.1
  options = {"threshold": level, "threshold_step": step, "samples": 14, **hyper}
  bench = Bench("gpm", four, small_model, options)
  learner = bench.start()
  bases = {p: np.zeros((v.shape[0], 0)) for p, v in leaves(learner.params).items() if v.ndim == 2}
  skipped = [p for p in bases if hyper.get("skip") and p.startswith("head")]
  for task in (0, 1):
    for k in (0, 1):
      learner = bench.step(learner, *bench.arguments(task, k))[0]
    inputs = inputs_of(learner.params, rows_of(four, task)[0])
    for p in bases:
      bases[p] = widened(bases[p], inputs[p], level + step * task, hyper.get("max_rank"))
    learner = bench.boundary("end_task", learner, task)
  after = bench.step(learner, *bench.arguments(2, 0))[0]
  g = gradient(learner.params, *batch_of(bench, 2, 0))
  ranks = {p: b.shape[1] for p, b in bases.items()}
  assert all(0 < r < len(bases[p]) for p, r in ranks.items())
  want = {p: (g[p] if p in skipped else off(bases[p], g[p])) if p in bases else 0 * g[p] for p in g}
  if skipped:
    want["head/bias"] = g["head/bias"]
  assert_moved(learner, after, want)


def true_gradients(params, x, y):
  """``[n, p]``: the gradient of each row's own logit."""
  return np.stack([flat(backward(params, x[[i]], np.eye(4)[y[[i]]])) for i in range(len(x))])


@pytest.mark.parametrize(
  ("name", "hyper"),
  [
    ("ogd", {"samples": 30}),
    ("ogd", {"samples": ROWS, "on": "gradient"}),
    ("pca_ogd", {"directions": 3, "samples": 30}),
    ("pca_ogd", {"directions": 20, "samples": 30}),
    ("pca_ogd", {"directions": 3, "samples": ROWS, "center": True, "on": "gradient"}),
  ],
)
def test_ogd_keeps_off_old_output_gradients(name, hyper, four, small_model):
  """``g - B^T B g`` with B the gradients of the true logits, or the principal directions of each task's."""
  bench = Bench(name, four, small_model, hyper)
  learner, stored = bench.start(), []
  for task in (0, 1):
    for k in (0, 1):
      learner = bench.step(learner, *bench.arguments(task, k))[0]
    rows = true_gradients(learner.params, *rows_of(four, task))
    if name == "pca_ogd":
      rows = rows - rows.mean(0) if hyper.get("center") else rows
      rows = np.linalg.svd(rows, full_matrices=False)[2][: hyper["directions"]]
    stored.append(rows)
    learner = bench.boundary("end_task", learner, task)
  basis = np.linalg.svd(np.concatenate(stored), full_matrices=False)[2]
  after = bench.step(learner, *bench.arguments(2, 0))[0]
  g = gradient(learner.params, *batch_of(bench, 2, 0))
  want = off(basis.T, flat(g))
  assert np.linalg.norm(want - flat(g)) > 0.05
  assert_moved(learner, after, unflat(want, g), 2e-5)
  state = getattr(learner.opt_state, "transform" if hyper.get("on") == "gradient" else "finalize")
  assert int(state.rank) == len(np.concatenate(stored))


@pytest.mark.parametrize(
  ("on", "sufficient", "positive"),
  [("update", 0.2, -0.03), ("gradient", 0.2, -0.03), ("update", 0.0, -1.0)],
  ids=["update", "gradient", "open"],
)
def test_cuber_opens_the_spans_on_which_tasks_agree(on, sufficient, positive, four, small_model):
  """``(I - B B^T)(G + 2 strength sum_j S_j S_j^T (W - W_start))``: B spans the closed inputs, S_j the open ones."""
  strength, level = 0.8, 0.7
  hyper = {"strength": strength, "threshold": level, "sufficient": sufficient, "positive": positive, "samples": 14}
  bench = Bench("cuber", four, small_model, {**hyper, "on": on})
  learner = bench.start()
  kernels = [p for p, v in leaves(learner.params).items() if v.ndim == 2]
  spans, gradients = {p: [] for p in kernels}, {p: [] for p in kernels}
  for task in (0, 1):
    learner = bench.boundary("start_task", learner, task)
    for k in (0, 1):
      learner = bench.step(learner, *bench.arguments(task, k))[0]
    x, y = rows_of(four, task)
    inputs, g = inputs_of(learner.params, x), gradient(learner.params, x, y)
    for p in kernels:
      spans[p].append(widened(np.zeros((inputs[p].shape[1], 0)), inputs[p], level))
      gradients[p].append(g[p])
    learner = bench.boundary("end_task", learner, task)
  begun, new = leaves(learner.params), gradient(learner.params, *rows_of(four, 2))
  learner = bench.boundary("start_task", learner, 2)
  regimes = {}
  for p in kernels:
    norm = np.linalg.norm
    enough = [norm(s.T @ new[p]) >= sufficient * norm(new[p]) for s in spans[p]]
    agree = [(old * new[p]).sum() >= positive * norm(old) * norm(new[p]) for old in gradients[p]]
    regimes[p] = [3 if a and b else 2 if a else 1 for a, b in zip(enough, agree, strict=True)]
  assert {r for found in regimes.values() for r in found} == ({3} if positive == -1.0 else {1, 2, 3})
  found = learner.opt_state.transform.kernels
  for p in kernels:
    np.testing.assert_array_equal(found[p].regime, [*regimes[p], 0, 0])
  away = bench.step(learner, *bench.arguments(2, 0))[0]
  away = away._replace(params=jax.tree.map(lambda v: 1.1 * v, away.params))  # off the start, along all directions
  after = bench.step(away, *bench.arguments(2, 1))[0]
  theta, g = leaves(away.params), gradient(away.params, *batch_of(bench, 2, 1))
  want = {p: 0 * v for p, v in g.items()}  # biases are held
  for p in kernels:
    opened = [s for s, r in zip(spans[p], regimes[p], strict=True) if r == 3]
    closed = [s for s, r in zip(spans[p], regimes[p], strict=True) if r != 3]
    pulled = g[p] + 2 * strength * sum((s @ (s.T @ (theta[p] - begun[p])) for s in opened), np.zeros_like(g[p]))
    basis = np.linalg.svd(np.concatenate(closed, 1), full_matrices=False)[0] if closed else np.zeros((len(g[p]), 0))
    want[p] = off(basis, pulled)
  assert_moved(away, after, want, 2e-5)


class Coso:
  """CoSO of one kernel ``[d_in, c_out]`` in NumPy: :meth:`direction` of a gradient, :meth:`end` of a task."""

  def __init__(self, rank, sketch_rank, decay, every, shape):
    self.rank, self.sketch_rank, self.decay, self.every = rank, sketch_rank, decay, every
    self.history, self.shape = np.zeros((shape[1], 0)), shape
    self.clear()

  def clear(self):
    self.count, self.sketch = 0, np.zeros((self.shape[1], self.sketch_rank))
    self.mu = self.nu = np.zeros((self.rank, self.shape[0]))

  def shrunk(self, a):
    u, s, _ = np.linalg.svd(a, full_matrices=False)
    r = self.sketch_rank
    lost = s[r] ** 2 if len(s) > r else 0.0
    return u[:, :r] * np.sqrt(np.maximum(s[:r] ** 2 - lost, 0))

  def direction(self, g):
    a = off(self.history, g.T)  # [out, in]
    if self.count % self.every == 0:
      self.axes = np.linalg.svd(a, full_matrices=False)[0][:, : self.rank]
      self.sketch = self.shrunk(np.concatenate([np.sqrt(self.decay) * self.sketch, self.shrunk(a)], 1))
    small = self.axes.T @ a
    self.count += 1
    self.mu, self.nu = 0.9 * self.mu + 0.1 * small, 0.999 * self.nu + 0.001 * small**2
    step = (self.mu / (1 - 0.9**self.count)) / (np.sqrt(self.nu / (1 - 0.999**self.count)) + 1e-6)
    return (self.axes @ step).T

  def end(self, threshold):
    u, s, _ = np.linalg.svd(self.sketch, full_matrices=False)
    r = int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), threshold - 1e-9)) + 1
    new = off(self.history, u[:, :r])
    self.history = np.linalg.qr(np.concatenate([self.history, new], 1))[0]
    self.clear()


@pytest.mark.parametrize(
  ("on", "decay", "skip", "sketch_rank", "every"),
  [("update", 0.8, "head", 3, 2), ("gradient", 1.0, "", 4, 1), ("update", 1.0, "", 5, 1)],
  ids=["update", "gradient", "small"],
)
def test_coso_is_adam_off_the_old_output_directions(on, decay, skip, sketch_rank, every, class_stream, small_model):
  """Each step of two tasks: kernels by Adam in two directions, their biases held once a task is stored, a skipped
  layer, or one too small, by its plain gradient. Compared until the axes are renewed, for their signs are free."""
  scale, threshold = 0.3, 0.7
  options = {"rank": 2, "sketch_rank": sketch_rank, "every": every, "scale": scale, "threshold": threshold}
  bench = Bench("coso", class_stream, small_model, {**options, "decay": decay, "skip": skip, "on": on})
  learner = bench.start()
  kernels = {p: v.shape for p, v in leaves(learner.params).items() if v.ndim == 2 and min(v.shape) >= sketch_rank}
  shapes = {p: s for p, s in kernels.items() if not (skip and p.startswith(skip))}
  hands = {p: Coso(2, sketch_rank, decay, every, s) for p, s in shapes.items()}
  layers = {p.split("/")[0] for p in shapes}
  for task in (0, 1):
    for k in (0, 1, 2):
      before, g = learner, gradient(learner.params, *batch_of(bench, task, k))
      learner = bench.step(learner, *bench.arguments(task, k))[0]
      slope = {p: 0 * v if task and v.ndim < 2 and p.split("/")[0] in layers else v for p, v in g.items()}
      directions = {p: hands[p].direction(g[p]) for p in hands}
      if k < every:
        assert_moved(before, learner, {**slope, **{p: scale * d for p, d in directions.items()}}, 1e-4)
    for p, hand in hands.items():
      found = projector_state(learner, projectors.CoSOState).kernels[p].sketch
      np.testing.assert_allclose(found @ found.T, hand.sketch @ hand.sketch.T, atol=1e-5)
      hand.end(threshold)
      assert 0 < hand.history.shape[1] < shapes[p][1] or task
    learner = bench.boundary("end_task", learner, task)
    for p, hand in hands.items():
      found = np.asarray(projector_state(learner, projectors.CoSOState).kernels[p].history, np.float64)
      np.testing.assert_allclose(found @ found.T, hand.history @ hand.history.T, atol=1e-4)


def projector_state(learner, kind):
  found = jax.tree.leaves(learner.opt_state, is_leaf=lambda s: isinstance(s, kind))
  return next(s for s in found if isinstance(s, kind))


@pytest.mark.parametrize("name", ["ogd", "pca_ogd"])
def test_the_basis_is_of_the_sampled_rows_alone(name, four, small_model):
  """Of ten rows three are drawn, and all their directions kept: just theirs lie in the basis."""
  bench = Bench(name, four, small_model, {"samples": 3, **({"directions": 3} if name == "pca_ogd" else {})})
  start = bench.start()
  state = bench.boundary("end_task", start, 0).opt_state.finalize
  assert int(state.rank) == 3
  basis = np.stack([flat({p: v[i] for p, v in leaves(state.basis).items()}) for i in range(3)])
  rows = true_gradients(start.params, *rows_of(four, 0))
  left = np.linalg.norm(off(basis.T, rows.T), axis=0) / np.linalg.norm(rows, axis=1)
  assert (left < 1e-4).sum() == 3
  assert np.sort(left)[3] > 1e-2
