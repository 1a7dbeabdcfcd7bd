"""What each method does in a step and at a boundary, against independent NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import BATCH, Bench

import cljax
from cljax import memory as memories
from cljax import streams
from cljax.core import tree
from cljax.engine import recipe
from cljax.methods.replay import buffers as replay

RATE = 0.1


def logits_of(bench, params, x):
  """The MLP of the fixture by hand: ``relu(x W + b) V + c``."""
  p = {k: np.asarray(v, np.float64) for k, v in zip(tree.paths(params), jax.tree.leaves(params), strict=True)}
  h = np.maximum(np.asarray(x, np.float64).reshape(len(x), -1) @ p["hidden_0/kernel"] + p["hidden_0/bias"], 0)
  return h, h @ p["head/kernel"] + p["head/bias"]


def log_softmax(z):
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def cross_entropy(z, y):
  return -log_softmax(z)[np.arange(len(y)), y]


def batch_of(bench, task, k):
  index = np.asarray(bench.rows(task, k)[0])
  split = bench.stream.dataset.train
  return index, split.x[index], split.y[index]


def two_steps(name, stream, model, hyper):
  """The learner before the second step of the first task, and what that step returns."""
  bench = Bench(name, stream, model, hyper)
  first = bench.start()
  second, _, _ = bench.step(first, *bench.arguments(0, 0))
  after, _, loss = bench.step(second, *bench.arguments(0, 1))
  return bench, first, second, after, float(loss)


def test_er_trains_on_the_current_and_the_stored_rows(class_stream, small_model):
  """With one batch stored and as many rows drawn, the replay is that batch: the loss is the mean over both."""
  bench, _, second, _, loss = two_steps("er", class_stream, small_model, {"capacity": 50, "replay_batch": BATCH})
  rows = [batch_of(bench, 0, k) for k in (0, 1)]
  x, y = np.concatenate([r[1] for r in rows]), np.concatenate([r[2] for r in rows])
  _, z = logits_of(bench, second.params, x)
  np.testing.assert_allclose(loss, cross_entropy(z, y).mean(), rtol=1e-5)


@pytest.mark.parametrize("policy", ["reservoir", "ring", "class_balanced"])
def test_er_memories_hold_rows_that_were_seen(class_stream, small_model, policy):
  bench = Bench("er", class_stream, small_model, {"capacity": 12, "policy": policy})
  learner = bench.train(steps=3)
  stored, weight = replay.make_memory(bench.spec, 12, policy).contents(learner.method_state.memory)
  held, x = np.asarray(weight) > 0, np.asarray(class_stream.dataset.train.x)
  ids = np.asarray(stored["id"])[held]
  shown = {int(i) for t in (0, 1) for k in range(3) for i in bench.rows(t, k)[0]}
  assert set(ids.tolist()) <= shown
  assert len(set(ids.tolist())) == len(ids) >= 6
  np.testing.assert_array_equal(np.asarray(stored["x"])[held], x[ids])


def test_derpp_adds_both_draws(class_stream, small_model):
  """``CE(current) + alpha MSE(f(x1), z1) + beta CE(x1)`` where both draws are the whole of one stored batch."""
  hyper = {"alpha": 0.7, "beta": 0.3, "capacity": 50}
  bench, first, second, _, loss = two_steps("derpp", class_stream, small_model, hyper)
  _, old_x, old_y = batch_of(bench, 0, 0)
  _, x, y = batch_of(bench, 0, 1)
  _, stored = logits_of(bench, first.params, old_x)
  _, replayed = logits_of(bench, second.params, old_x)
  _, z = logits_of(bench, second.params, x)
  mse = ((replayed - stored) ** 2).mean()
  want = cross_entropy(z, y).mean() + 0.7 * mse + 0.3 * cross_entropy(replayed, old_y).mean()
  np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_lwf_distils_the_old_classes(class_stream, small_model):
  bench = Bench("lwf", class_stream, small_model, {"strength": 0.8, "temperature": 2.0})
  teacher = bench.train(steps=3, tasks=(0,))
  moved, _, _ = bench.step(teacher, *bench.arguments(1, 0))
  _, _, loss = bench.step(moved, *bench.arguments(1, 1))
  _, x, y = batch_of(bench, 1, 1)
  _, old = logits_of(bench, teacher.params, x)
  _, new = logits_of(bench, moved.params, x)
  seen = np.flatnonzero(class_stream.classes_of_task[0])
  q, p = log_softmax(old[:, seen] / 2), log_softmax(new[:, seen] / 2)
  kl = 4 * (np.exp(q) * (q - p)).sum(-1)
  np.testing.assert_allclose(float(loss), cross_entropy(new, y).mean() + 0.8 * kl.mean(), rtol=1e-5)


def gradient(bench, params, x, y):
  """The gradient of the mean cross-entropy, by hand."""
  p = {k: np.asarray(v, np.float64) for k, v in zip(tree.paths(params), jax.tree.leaves(params), strict=True)}
  h, z = logits_of(bench, params, x)
  d = np.exp(log_softmax(z))
  d[np.arange(len(y)), y] -= 1
  d /= len(y)
  back = (d @ p["head/kernel"].T) * (h > 0)
  flat = np.asarray(x, np.float64).reshape(len(x), -1)
  return {
    "head/bias": d.sum(0), "head/kernel": h.T @ d, "hidden_0/bias": back.sum(0), "hidden_0/kernel": flat.T @ back,
  }  # fmt: skip


def leaves(tree_):
  return dict(zip(tree.paths(tree_), (np.asarray(v, np.float64) for v in jax.tree.leaves(tree_)), strict=True))


def moved_by(before, after):
  a, b = leaves(before.params), leaves(after.params)
  return {k: b[k] - a[k] for k in a}


def inner(a, b):
  return sum((a[k] * b[k]).sum() for k in a)


def exact_fisher(bench, params, x, classes):
  """``mean_x sum_c p_c (grad log p_c)^2``, one row and class at a time."""
  total = None
  for row in x:
    _, z = logits_of(bench, params, row[None])
    p = np.exp(log_softmax(z))[0]
    for c in range(classes):
      g = gradient(bench, params, row[None], np.array([c]))
      total = {k: (0 if total is None else total[k]) + p[c] * v**2 / len(x) for k, v in g.items()}
  return total


def test_ewc_pulls_to_the_anchor_by_the_fisher(class_stream, small_model):
  """Two steps after a boundary: ``theta - rate (g + strength F (theta - theta*))``, F by hand."""
  strength = 20.0
  bench = Bench("ewc", class_stream, small_model, {"strength": strength})
  anchor = bench.train(steps=3, tasks=(0,))
  away, _, _ = bench.step(anchor, *bench.arguments(1, 0))
  after, _, _ = bench.step(away, *bench.arguments(1, 1))
  fisher = exact_fisher(bench, anchor.params, class_stream.dataset.train.x[class_stream.train[0]], 4)
  _, x, y = batch_of(bench, 1, 1)
  g, theta, star = gradient(bench, away.params, x, y), leaves(away.params), leaves(anchor.params)
  for path, value in leaves(after.params).items():
    want = theta[path] - RATE * (g[path] + strength * fisher[path] * (theta[path] - star[path]))
    np.testing.assert_allclose(value, want, atol=2e-5, err_msg=path)


@pytest.mark.parametrize(("name", "strength"), [("online_ewc", 3.0), ("si", 2.0), ("mas", 0.2)])
def test_a_boundary_makes_the_penalty_bite(name, strength, class_stream, small_model):
  """After a boundary the same steps move important weights less than without strength: ``sum importance moved^2``."""
  far, importance = [], None
  for used in (strength, 0.0):
    bench = Bench(name, class_stream, small_model, {"strength": used})
    learner = anchor = bench.train(steps=6, tasks=(0,))
    importance = importance or leaves(anchor.opt_state.penalty.importance)
    for k in range(6):
      learner, _, _ = bench.step(learner, *bench.arguments(1, k))
    moved = moved_by(anchor, learner)
    far.append(sum((importance[p] * moved[p] ** 2).sum() for p in moved))
  assert 0 < far[0] < 0.95 * far[1]


@pytest.mark.parametrize(("name", "hyper"), [("agem", {"reference_batch": 20}), ("gem", {"margin": 0.0, "ridge": 0.0})])
def test_the_loss_of_stored_rows_does_not_rise(name, hyper, class_stream, small_model):
  """To first order, on the update that was applied; and it does project somewhere (else nothing is tested)."""
  bench = Bench(name, class_stream, small_model, {"capacity": 20, **hyper})
  learner = bench.train(steps=5, tasks=(0,))
  stored, weight = memories.ring(20, 2).contents(learner.method_state.memory)
  kept = np.asarray(stored["id"])[np.asarray(weight) > 0]
  assert len(set(kept.tolist())) == 10
  split, fired = class_stream.dataset.train, 0
  for k in range(6):
    g_ref = gradient(bench, learner.params, split.x[kept], split.y[kept])
    _, x, y = batch_of(bench, 1, k)
    fired += inner(gradient(bench, learner.params, x, y), g_ref) < 0
    after, _, _ = bench.step(learner, *bench.arguments(1, k))
    step = moved_by(learner, after)
    assert inner(step, g_ref) <= 1e-3 * np.sqrt(inner(step, step) * inner(g_ref, g_ref))
    learner = after
  assert fired >= 2


def test_gpm_leaves_old_inputs_alone(class_stream, small_model):
  """After a task the hidden layer's response to that task's rows stays, while the layer itself moves."""
  hyper = {"threshold": 0.9, "samples": 40}
  bench = Bench("gpm", class_stream, small_model, hyper)
  learner = bench.train(steps=4, tasks=(0,))
  after = learner
  for k in range(5):
    after, _, _ = bench.step(after, *bench.arguments(1, k))
  change = moved_by(learner, after)["hidden_0/kernel"]
  flat = class_stream.dataset.train.x[class_stream.train[0]].reshape(-1, 16)
  plain = Bench("finetune", class_stream, small_model)
  free = plain.train(steps=4, tasks=(0,))
  start = free
  for k in range(5):
    free, _, _ = plain.step(free, *plain.arguments(1, k))
  unguarded = moved_by(start, free)["hidden_0/kernel"]
  share = lambda w: np.linalg.norm(flat @ w) / np.linalg.norm(w)
  assert np.linalg.norm(change) > 1e-3
  assert share(change) < 0.5 * share(unguarded)


def test_supsup_holds_finished_masks_under_momentum(class_stream, small_model):
  bench = Bench(
    "supsup",
    class_stream,
    small_model,
    optimizer=recipe.make_optimizer("momentum", learning_rate=0.1, weight_decay=0.01),
  )
  one = bench.train(steps=4, tasks=(0,))
  two = one
  for k in range(4):
    two, _, _ = bench.step(two, *bench.arguments(1, k))
  for before, after in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
    np.testing.assert_array_equal(before[0], after[0])
    assert (np.asarray(before[1]) != np.asarray(after[1])).any()
  for before, after in zip(jax.tree.leaves(one.model_state), jax.tree.leaves(two.model_state), strict=True):
    np.testing.assert_array_equal(before, after)  # the weights under the masks never move


def test_supsup_infers_permuted_tasks(make_blobs, small_model):
  """Where tasks differ in their inputs, each row's task is found: far better than any single mask."""
  stream = streams.build(make_blobs(rows=60), "permuted", tasks=3, validation=0.0)
  training = cljax.Recipe(batch_size=16, epochs=12)
  options = {"learning_rate": 0.02}
  result = cljax.run(stream, small_model, "supsup", training=training, optimizer="adam", optimizer_options=options)
  assert result.accuracy[0, -1].mean() > 0.55


def test_ncm_takes_the_nearest_mean_of_all_rows(make_blobs, small_model):
  """Every class occurs in both tasks, so means are mixed by counts: the second task has fewer rows."""
  stream = streams.build(make_blobs(), "group", tasks=2, task_fractions=[1.0, 0.25], validation=0.0)
  bench = Bench("ncm", stream, small_model)
  learner, means = bench.start(), []
  split = stream.dataset.train
  for task in (0, 1):
    learner, _, _ = bench.step(learner, *bench.arguments(task, 0))
    h, _ = logits_of(bench, learner.params, split.x[stream.train[task]])
    means.append([(h[split.y[stream.train[task]] == c]).sum(0) for c in range(4)])
    learner = bench.boundary("end_task", learner, task)
  counts = [[(split.y[rows] == c).sum() for c in range(4)] for rows in stream.train]
  want = np.sum(means, 0) / np.sum(counts, 0)[:, None]
  np.testing.assert_allclose(learner.method_state.means, want, atol=1e-4)
  x = stream.dataset.test.x
  h, _ = logits_of(bench, learner.params, x)
  nearest = ((h[:, None] - want) ** 2).sum(-1).argmin(-1)
  got = np.asarray(bench.parts.predict(learner, jnp.asarray(x), jnp.int32(0))).argmax(-1)
  np.testing.assert_array_equal(got, nearest)


def forget_once(name, stream, model, hyper):
  """A trained learner, the learner after forgetting class 0, and the rows on both sides."""
  bench = Bench(name, stream, model, hyper)
  learner = bench.train(steps=6, tasks=(0,))
  after, sides = bench.forget_class(learner)
  return bench, learner, after, sides


def test_ssd_dampens_by_the_formula(class_stream, small_model):
  alpha, dampening = 1.2, 0.7
  bench, before, after, sides = forget_once(
    "ssd", class_stream, small_model, {"alpha": alpha, "dampening": dampening, "search": 0}
  )
  split = class_stream.dataset.train

  def importance(rows):
    each = [gradient(bench, before.params, split.x[[r]], split.y[[r]]) for r in rows]
    return {k: np.mean([g[k] ** 2 for g in each], 0) for k in each[0]}

  of_forget, of_all = importance(sides[0]), importance(np.concatenate(sides))
  chosen = 0
  for path, value in leaves(before.params).items():
    f, d = of_forget[path], of_all[path]
    select = f > alpha * d
    want = np.where(select, value * np.minimum(dampening * d / np.where(f > 0, f, 1), 1), value)
    near = np.abs(f - alpha * d) < 1e-4 * f  # a rounding away from the threshold either answer is right
    np.testing.assert_allclose(np.where(near, 0, leaves(after.params)[path]), np.where(near, 0, want), atol=1e-6)
    chosen += select.sum()
  assert chosen > 20


@pytest.mark.parametrize("hyper", [{"alpha": 1e30}, {"alpha": 1.0, "dampening": 1e30}])
def test_ssd_at_zero_strength_is_the_identity(class_stream, small_model, hyper):
  _, before, after, _ = forget_once("ssd", class_stream, small_model, hyper)
  for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
    np.testing.assert_array_equal(a, b)


def test_graddiff_raises_the_forget_loss_and_keeps_the_rest(class_stream, small_model):
  hyper = {"steps": 20, "learning_rate": 0.05, "forget_weight": 0.3, "retain_weight": 1.0}
  bench, before, after, sides = forget_once("graddiff", class_stream, small_model, hyper)
  split = class_stream.dataset.train
  loss = lambda params, rows: cross_entropy(logits_of(bench, params, split.x[rows])[1], split.y[rows]).mean()
  assert loss(after.params, sides[0]) > loss(before.params, sides[0]) + 0.1
  assert loss(after.params, sides[1]) < loss(before.params, sides[1]) + 0.1
  _, before, after, _ = forget_once("graddiff", class_stream, small_model, {**hyper, "steps": 0})
  for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
    np.testing.assert_array_equal(a, b)
