"""ZSCL against NumPy in float64, slopes by differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from bench import Bench, assert_same
from by_hand import RATE, batch_of, cross_entropy, forward, leaves

from cljax.core.types import UsageError
from cljax.methods.pretrained import zscl

HYPER = {"images": 0.7, "texts": 0.4, "consolidation": 0.3, "temperature": 1.5, "scale": 4.0, "every": 2}


def read_by_texts(model):
  """The network as one that compares features with texts: its head's columns, thrice as long."""
  return model._replace(texts=lambda params, state: 3.0 * params["head"]["kernel"].T)


@pytest.fixture(scope="module", params=["rows", "texts"])
def trained(request, class_stream, small_model):
  """One and two steps into the second task."""
  model = small_model if request.param == "rows" else read_by_texts(small_model)
  bench = Bench("zscl", class_stream, model, HYPER)
  begun = bench.boundary("start_task", bench.train(steps=3, tasks=(0,)), 1)
  one = bench.steps(begun, 1, 1, met=(0,))
  return request.param, bench, begun, one


def unit(h):
  return h / np.maximum(np.linalg.norm(h, axis=-1, keepdims=True), 1e-30)


def divergence(now, then, mask, tau=1.5):
  """``T^2 KL`` of each line, over what its mask has, line by line."""
  out = []
  for a, b, m in zip(now, then, mask, strict=True):
    p, q = (scipy.special.log_softmax(v[m] / tau) for v in (a, b))
    out.append(tau**2 * np.sum(np.exp(q) * (q - p)))
  return np.array(out)


def loss_of(first, last, x, y, kind, reference=None):
  """``params -> loss`` by the formula."""
  rows = x if reference is None else reference

  def loss(p):
    now, then = unit(forward(p, rows)[0]), unit(forward(first, rows)[0])
    against = 4.0 * then if kind == "rows" else 3.0 * leaves(first)["head/kernel"].T
    mask = ~np.eye(len(rows), dtype=bool) if kind == "rows" else np.ones((len(rows), len(against)), bool)
    s, s0 = now @ against.T, then @ against.T
    value = cross_entropy(forward(p, x)[1], y).mean()
    value += 0.7 * divergence(s, s0, mask).mean() + 0.4 * divergence(s.T, s0.T, mask.T).mean()
    return value + 0.3 * sum(
      np.sum((a - b) ** 2) for a, b in zip(leaves(p).values(), leaves(last).values(), strict=True)
    )

  return loss


def slopes(loss, params, names):
  """By central differences."""
  flat = leaves(params)
  nested = lambda f: {n: {k: f[f"{n}/{k}"] for k in ("kernel", "bias")} for n in ("hidden_0", "head")}
  found = {}
  for name in names:
    d = np.zeros_like(flat[name])
    for at in np.ndindex(d.shape):
      sides = []
      for e in (1e-5, -1e-5):
        moved = {n: a.copy() for n, a in flat.items()}
        moved[name][at] += e
        sides.append(loss(nested(moved)))
      d[at] = (sides[0] - sides[1]) / 2e-5
    found[name] = d
  return found


NAMES = ("hidden_0/kernel", "hidden_0/bias", "head/kernel", "head/bias")


def moved_as(loss, old, new):
  want, a, b = slopes(loss, old.params, NAMES), leaves(new.params), leaves(old.params)
  for name in NAMES:
    np.testing.assert_allclose((a[name] - b[name]) / -RATE, want[name], rtol=5e-3, atol=5e-4, err_msg=name)
  return want


def test_zscl_s_step_by_hand(trained):
  """Towards the network that the run began with, on what it compared rows with; near the last task's."""
  kind, bench, begun, one = trained
  x, y = batch_of(bench, 1, 1)
  two = bench.step(one, *bench.arguments(1, 1))[0]
  first, last = bench.start().params, begun.params
  assert_same(one.method_state.first[0], first)
  assert_same(one.method_state.last, last)
  want = moved_as(loss_of(first, last, x, y, kind), one, two)
  plain = slopes(lambda p: cross_entropy(forward(p, x)[1], y).mean(), one.params, NAMES)
  assert np.abs(want["hidden_0/kernel"] - plain["hidden_0/kernel"]).max() > 1e-2


def test_zscl_is_of_rows_that_are_there(trained):
  kind, bench, begun, one = trained
  weight = np.array([1, 1, 1, 0, 1, 0, 0, 1], np.int32)
  x, y = (a[weight > 0] for a in batch_of(bench, 1, 1))
  two = bench.step(one, *bench.arguments(1, 1, weight))[0]
  moved_as(loss_of(bench.start().params, begun.params, x, y, kind), one, two)


def test_at_the_first_network_distillation_has_no_slope(trained):
  """The first step of all is that of the task's loss alone."""
  _, bench, *_ = trained
  learner = bench.boundary("start_task", bench.start(), 0, ())
  x, y = batch_of(bench, 0, 0)
  moved_as(lambda p: cross_entropy(forward(p, x)[1], y).mean(), learner, bench.steps(learner, 0, 1))


def test_zscl_ends_as_the_mean_of_the_last_network_and_snapshots(trained):
  """After steps 1, 3 and 5 of a visit, whatever came before it; and between tasks the first network alone is kept."""
  _, bench, begun, _ = trained
  learner, snapshots = begun, [begun.params]
  for k in range(5):
    learner = bench.step(learner, *bench.arguments(1, k))[0]
    snapshots += [learner.params] if k % 2 == 0 else []
    mean = jax.tree.map(lambda *a: np.mean(np.float64(a), 0), *snapshots)
    for a, b in zip(jax.tree.leaves(learner.method_state.mean), jax.tree.leaves(mean), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  ended = bench.boundary("end_task", learner, 1)
  assert_same(ended.params, learner.method_state.mean)
  state = ended.method_state
  assert not any(np.asarray(a).any() for a in jax.tree.leaves((state.last, state.mean, state.steps, state.count)))
  assert_same(state.first[0], bench.start().params)
  assert_same(bench.boundary("end_task", begun, 1).params, begun.params)  # a task without a step


def test_without_snapshots_a_task_ends_where_it_came_to(class_stream, small_model):
  bench = Bench("zscl", class_stream, small_model, {**HYPER, "every": 0})
  learner = bench.steps(bench.boundary("start_task", bench.start(), 0, ()), 0, 2)
  assert_same(bench.boundary("end_task", learner, 0).params, learner.params)


def test_zscl_s_reference_is_a_file_of_rows(class_stream, small_model, tmp_path):
  """One row, drawn over and over, so that by hand it is one; and what is no such file is refused."""
  file = str(tmp_path / "rows.npy")
  row = np.random.default_rng(0).uniform(size=(1, *class_stream.dataset.train.x.shape[1:])).astype(np.float32)
  np.save(file, row)
  bench = Bench("zscl", class_stream, read_by_texts(small_model), {**HYPER, "reference": file})
  begun = bench.boundary("start_task", bench.train(steps=2, tasks=(0,)), 1)
  one = bench.steps(begun, 1, 1, met=(0,))
  two = bench.step(one, *bench.arguments(1, 1))[0]
  x, y = batch_of(bench, 1, 1)
  moved_as(loss_of(bench.start().params, begun.params, x, y, "texts", np.repeat(row, len(x), 0)), one, two)
  made = lambda path: Bench("zscl", class_stream, small_model, {**HYPER, "reference": path})
  with pytest.raises(UsageError, match=r"method.reference: got '.*none.npy'; expected a file .npy of rows"):
    made(str(tmp_path / "none.npy"))
  for wrong in (row[0, 0], row[:0], np.float32(1)):
    np.save(file, wrong)
    with pytest.raises(UsageError, match=r"method.reference: .*rows.npy holds \[.*\]; expected rows of \("):
      made(file)


def test_units_of_nothing_have_no_slope():
  f = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
  np.testing.assert_allclose(zscl.unit(f), [[0.6, 0.8], [0, 0]], rtol=1e-6)
  assert np.isfinite(jax.grad(lambda f: zscl.unit(f).sum())(f)).all()
