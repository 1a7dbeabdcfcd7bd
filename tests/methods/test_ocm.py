"""OCM against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, cross_entropy, forward

from cljax import losses, methods
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods import views
from cljax.methods.replay import ocm

T = 0.4
HYPER = {"capacity": 20, "replay_batch": 8, "temperature": T, "width": 8, "distillation": 0.7, "rotations": 4}


def unit(a):
  return a / np.linalg.norm(a, axis=-1, keepdims=True)


def doubled(key, x, **how):
  """In place of second views."""
  del key, how
  return 2.0 * x[:, ::-1]


def quarter_turns(x):
  """``[4, B, ...]``, with the labels' classes in that order."""
  return np.stack([np.rot90(x, k, axes=(1, 2)) for k in (0, 2, 1, 3)])


def contrast(s, y, z_y, itself):
  """The mean over anchors; s ``[N, M]`` over the temperature, labels y of anchors and z_y of what they meet."""
  each = []
  for i in range(len(y)):
    there = np.arange(len(z_y)) != i if not itself else np.ones(len(z_y), bool)
    log_p = s[i] - np.log(np.exp(s[i][there]).sum())
    each.append(-log_p[there & (z_y == y[i])].mean())
  return np.mean(each)


def embedded(params, x):
  """z and the features of norm 1."""
  head = {k: np.asarray(v, np.float64) for k, v in params["embedding"].items()}
  f = forward(params["network"], x)[0]
  return unit(f @ head["kernel"] + head["bias"]), unit(f)


def among(params, x, y, similarity="sum"):
  """Of rows in all their views; the slice of the features is all of them."""
  turns = quarter_turns(np.asarray(x, np.float64))
  both = np.concatenate([turns.reshape(-1, *x.shape[1:]), np.concatenate([doubled(None, t) for t in turns])])
  label = np.tile(np.concatenate([y + 10 * r for r in range(4)]), 2)
  z, f = embedded(params, both)
  s = {"sum": z @ z.T + z @ f.T, "mean": (z @ z.T + z @ f.T) / 2, "projection": z @ z.T}[similarity]
  return contrast(s / T, label, label, itself=False)


def of_second_task(params, teacher, own, kept, similarity="sum"):
  x, y = kept
  turns = quarter_turns(np.asarray(x, np.float64)).reshape(-1, *x.shape[1:])
  label = np.concatenate([y + 10 * r for r in range(4)])
  last = contrast(embedded(params, turns)[0] @ embedded(teacher, turns)[0].T / T, label, label, itself=True)
  z, said = (forward(p["network"], doubled(None, np.asarray(x, np.float64)))[1] for p in (params, teacher))
  held = ((z - said)[:, :2] ** 2).mean()
  made = among(params, *own, similarity) + among(params, *kept, similarity)
  return made + last + cross_entropy(z, y).mean() + 0.7 * held


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench; its start, a step on, the end of the task with moved parameters, a step of the next and another; and their
  losses."""
  patch = pytest.MonkeyPatch()
  patch.setattr(views, "second_view", doubled)
  bench = Bench("ocm", class_stream, small_model, HYPER)
  start = bench.start()
  one, _, first = bench.step(start, *bench.arguments(0, 0))
  more = bench.step(one, *bench.arguments(0, 0, np.zeros(8, np.int32)))[0]  # nothing but what is stored
  end = bench.boundary("end_task", one, 0)
  end = end._replace(params=jax.tree.map(lambda a: 1.3 * a, end.params))  # so that the last network says something else
  two, _, second = bench.step(end, *bench.arguments(1, 1, met=(0,)))
  three, _, third = bench.step(two, *bench.arguments(1, 0, met=(0,)))
  patch.undo()
  return bench, (start, one, end, two, three, more), (float(first), float(second), float(third))


def test_ocm_s_first_task_contrasts_and_learns_new_rows(trained):
  """In the cross-entropy second views; what is stored is not learned yet."""
  bench, (start, one, *_, more), losses_ = trained
  assert (np.asarray(start.method_state.replay.pending["id"]) == -1).all()  # of no row
  x, y = batch_of(bench, 0, 0)
  z = forward(start.params["network"], doubled(None, x))[1]
  np.testing.assert_allclose(losses_[0], among(start.params, x, y) + cross_entropy(z, y).mean(), rtol=1e-5)
  assert_same(more.params, one.params)
  assert int(more.method_state.replay.memory.count) == 8


def test_ocm_s_loss_is_of_new_rows_stored_rows_and_the_last_network(trained):
  bench, (_, one, end, two, *_), losses_ = trained
  assert_same(end.method_state.teacher.params, one.params)
  own, kept = batch_of(bench, 1, 1), batch_of(bench, 0, 0)
  np.testing.assert_allclose(losses_[1], of_second_task(end.params, one.params, own, kept), rtol=1e-5)
  assert_same(two.method_state.teacher.params, one.params)


def test_ocm_s_gradient_by_differences(trained):
  bench, (_, one, end, two, *_), _ = trained
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - np.asarray(b)) / -RATE, two.params, end.params)
  rng, own, kept = np.random.default_rng(0), batch_of(bench, 1, 1), batch_of(bench, 0, 0)
  for _ in range(3):
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), step)
    at = lambda t, direction=direction: of_second_task(
      jax.tree.map(lambda p, d: np.asarray(p, np.float64) + t * d, end.params, direction), one.params, own, kept
    )
    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    got = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(got, slope, rtol=2e-3)


@pytest.mark.parametrize("rotations", [4, 16])
def test_pictures_are_turned_as_often_as_classes_are_told_apart(rotations):
  """All views differ, the first is the picture; a full turn brings each back; halves are turned, then all."""
  x = np.arange(2 * 16, dtype=np.float32).reshape(2, 4, 4, 1)
  got = np.asarray(ocm.turned(jnp.asarray(x), rotations))
  assert got.shape == (rotations, 2, 4, 4, 1)
  np.testing.assert_array_equal(got[0], x)
  assert len({a[0].tobytes() for a in got}) == rotations
  part = rotations // 4
  np.testing.assert_array_equal(got[::part], quarter_turns(x))
  again = got
  for _ in range(4):
    again = np.stack([np.asarray(ocm.turned(jnp.asarray(a), 4)[2]) for a in again])
  np.testing.assert_array_equal(again, got)
  if rotations == 16:
    flipped = x.copy()
    flipped[:, :, :2] = x[:, ::-1, 1::-1]
    np.testing.assert_array_equal(got[1], flipped)
    flipped[:, :, 2:] = x[:, ::-1, :1:-1]
    np.testing.assert_array_equal(got[2], flipped)
    np.testing.assert_array_equal(got[3][:, :, :2], x[:, :, :2])
    np.testing.assert_array_equal(got[3][:, :, 2:], flipped[:, :, 2:])
  np.testing.assert_array_equal(ocm.turned(x, 1), x[None])


def test_ocm_s_contrast_of_projections_is_supcon():
  """A row of weight 0 is no anchor's mate, and none of those that it meets."""
  rng = np.random.default_rng(0)
  a, b = (jnp.asarray(rng.normal(size=(5, 3)), jnp.float32) for _ in range(2))
  y, weight = jnp.array([0, 1, 0, 2, 0]), jnp.array([1.0, 1, 1, 1, 0])
  z = jnp.concatenate([a, b])
  z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
  alike = ocm.likeness(jax.random.key(0), z, z, "projection") / 0.5
  each = ocm.label_contrast(alike, jnp.tile(y, 2), jnp.tile(weight, 2), ~jnp.eye(10, dtype=bool))
  want = losses.supcon(a, b, y, weight, 0.5)
  np.testing.assert_allclose((each[:5] + each[5:])[:4] / 2, want[:4], rtol=1e-5)
  alone = ocm.label_contrast(jnp.zeros((2, 2)), jnp.array([0, 1]), jnp.ones(2), ~jnp.eye(2, dtype=bool))
  np.testing.assert_array_equal(alone, 0)


def test_likeness_adds_a_slice_of_the_features_at_any_place():
  """Three places of a slice of two of four features, each as often; the sum of two products is in [-2, 2]."""
  rng = np.random.default_rng(0)
  z, f = unit(rng.normal(size=(3, 2))), rng.normal(size=(3, 4))
  of = jax.vmap(lambda key: ocm.likeness(key, jnp.asarray(z), jnp.asarray(f), "sum"))
  got = np.asarray(of(jax.random.split(jax.random.key(0), 600)))
  want = np.stack([z @ z.T + z @ unit(f)[:, i : i + 2].T for i in range(3)])
  which = np.abs(got[:, None] - want[None]).max((2, 3)).argmin(1)
  np.testing.assert_allclose(got, want[which], atol=1e-5)
  np.testing.assert_allclose(np.bincount(which) / 600, 1 / 3, atol=0.07)
  half = ocm.likeness(jax.random.key(0), jnp.asarray(z), jnp.asarray(f), "mean")
  np.testing.assert_allclose(
    2 * half, ocm.likeness(jax.random.key(0), jnp.asarray(z), jnp.asarray(f), "sum"), rtol=1e-6
  )


def test_second_views_of_ocm_are_as_its_options_say(class_stream, small_model, monkeypatch):
  """Sixteen turns of each row, each with a noise of its own, and once for the labels."""
  told = []
  monkeypatch.setattr(views, "second_view", lambda key, x, **how: told.append((x.shape, how)) or x)
  given = {"least_area": 0.7, "jitter": 0.1, "grey": 0.3, "flip": False}
  bench = Bench("ocm", class_stream, small_model, {"capacity": 20, "replay_batch": 5, **given})
  learner = jax.eval_shape(bench.parts.init, jax.random.key(0))
  jax.eval_shape(lambda l: bench.parts.step(l, *bench.arguments(0, 0)), learner)
  assert {shape for shape, _ in told} == {(13, 4, 4, 1)}
  for _, how in told:
    assert {k: float(v) for k, v in how.items()} == pytest.approx(
      {"least": 0.7, "jitter": 0.1, "grey_share": 0.3, "flip": 0}
    )
  assert learner.params["embedding"]["kernel"].shape == (8, 8)  # 128 of eight features


def test_ocm_forgets_rows_and_its_last_network_follows_edits(trained):
  bench, (*_, three, _), _ = trained
  gone = np.asarray(bench.rows(0, 0)[0])[:3]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  state = jax.jit(bench.parts.scrub)(three, named, jnp.zeros(4, bool)).method_state.replay
  ids = np.asarray(state.memory.rows["id"])[: int(state.memory.count)]
  assert len(ids) == 13
  assert not set(ids) & set(gone)
  moved = three._replace(params=jax.tree.map(lambda a: a + 1.0, three.params))
  followed = bench.parts.method.after_forget(moved, three.params).method_state.teacher.params
  for a, b in zip(jax.tree.leaves(followed), jax.tree.leaves(three.method_state.teacher.params), strict=True):
    np.testing.assert_allclose(a, b + 1.0, rtol=1e-5, atol=1e-6)


def test_ocm_needs_square_pictures_and_features(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  shaped = lambda *shape: spec._replace(shown=jax.ShapeDtypeStruct(shape, jnp.float32))
  with pytest.raises(UsageError, match=r"'ocm' makes second views of pictures; expected inputs \[H, W, C\]"):
    methods.make("ocm", small_model, shaped(5))
  for shape in ((4, 6, 1), (5, 5, 1)):
    with pytest.raises(UsageError, match=r"method.rotations: got 4; of pictures \[\d, \d, 1\], which are not square"):
      methods.make("ocm", small_model, shaped(*shape), rotations=4)
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'ocm' needs a model that returns features"):
    methods.make("ocm", bare, spec)
