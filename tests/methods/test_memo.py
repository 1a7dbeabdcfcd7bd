"""MEMO against NumPy in float64: shared first layers, a last one for each task."""

from __future__ import annotations

import flax.linen as nn
import grown_by_hand as hand
import jax
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, leaves

from cljax import methods, models, streams
from cljax.core.method import Outlook
from cljax.core.types import Outputs, UsageError
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.methods.replay import memo
from cljax.models import growing

HYPER = {"capacity": 12, "replay_batch": 12, "auxiliary": 0.6}
MODEL = models.mlp((4, 4, 1), 6, hidden=(7, 5))


@pytest.fixture(scope="module")
def three(make_blobs):
  """Three tasks of two classes."""
  return streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def trained(three):
  """A bench of momentum and decay; after one task; the second begun; a step on; and after it."""
  optimizer = recipe.make_optimizer("momentum", learning_rate=0.1, momentum=0.0, weight_decay=0.02)
  bench = Bench("memo", three, MODEL, HYPER, rows=12, optimizer=optimizer)
  one = bench.train(2, (0,))
  begun = bench.boundary("start_task", one, 1)
  moved = bench.step(begun, *bench.arguments(1, 1))[0]
  return bench, one, begun, moved, bench.boundary("end_task", moved, 1)


def blocks(params, x):
  """The shared layer's values, and those of each last block ``[B, S, 5]``."""
  p = leaves(params["network"])
  s = np.maximum(np.asarray(x, np.float64).reshape(len(x), -1) @ p["hidden_0/kernel"] + p["hidden_0/bias"], 0)
  return s, np.maximum(np.einsum("bi,sij->bsj", s, p["hidden_1/kernel"]) + p["hidden_1/bias"][None], 0)


def loss_and_slopes(params, x, y, count, new):
  s, f = blocks(params, x)
  f = f * (np.arange(3) < count)[None, :, None]
  mine = f[:, count - 1]
  each, d = hand.slope_of_cross_entropy(hand.logits(params, f), y)
  places = np.append(np.isin(np.arange(6), new), True)
  aux, e = hand.slope_of_cross_entropy(hand.auxiliary(params, mine), np.where(np.isin(y, new), y, 6), places)
  d, e = d / len(y), 0.6 * e / len(y)
  w, a = leaves(params["classifier"])["kernel"], leaves(params["auxiliary"])["kernel"]
  back = (d @ w[count - 1].T + e @ a.T) * (mine > 0)
  return each.mean() + 0.6 * aux.mean(), {
    "classifier/kernel": np.einsum("bsd,bc->sdc", f, d), "auxiliary/kernel": mine.T @ e,
    "network/hidden_1/kernel": s.T @ back, "network/hidden_1/bias": back.sum(0),
  }  # fmt: skip


def test_memo_s_step_moves_the_task_s_last_block(trained):
  """The union's two losses; the shared layer and the last blocks of other tasks keep their bits under weight decay."""
  bench, one, _, moved, _ = trained
  after, _, loss = bench.step(moved, *bench.arguments(1, 0))
  split, kept = bench.stream.dataset.train, hand.stored(one.method_state.memory)
  share = len(kept) / (len(kept) + len(bench.stream.train[1]))
  new = loss_and_slopes(moved.params, *batch_of(bench, 1, 0), 2, (2, 3))
  old = loss_and_slopes(moved.params, split.x[kept], split.y[kept], 2, (2, 3))
  np.testing.assert_allclose(float(loss), (1 - share) * new[0] + share * old[0], rtol=1e-5)
  before, after = leaves(moved.params), leaves(after.params)
  for name in new[1]:
    own = name.startswith("network")
    weight = before[name][1] if own else before[name]
    want = (1 - share) * new[1][name] + share * old[1][name] + 0.02 * weight
    have = ((after[name] - before[name]) / -RATE)[1] if own else (after[name] - before[name]) / -RATE
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(have, want, atol=3e-6, rtol=2e-3, err_msg=name)
  for name in ("hidden_0/kernel", "hidden_0/bias"):
    np.testing.assert_array_equal(after[f"network/{name}"], before[f"network/{name}"])
  for name in ("hidden_1/kernel", "hidden_1/bias"):
    np.testing.assert_array_equal(after[f"network/{name}"][[0, 2]], before[f"network/{name}"][[0, 2]])


def test_memo_aligns_new_weights_and_grows_by_the_last_block(trained):
  """Mean norms of columns are one, over blocks in use; the first layer is there once; a block begins as the last."""
  bench, one, begun, moved, end = trained
  w, got = (leaves(l.params["classifier"])["kernel"] for l in (moved, end))
  norms = np.sqrt((w[:2] ** 2).sum((0, 1)))
  gamma = norms[:2].mean() / norms[2:4].mean()
  assert abs(gamma - 1) > 1e-3
  np.testing.assert_allclose(got[:2], w[:2] * np.r_[1, 1, gamma, gamma, 1, 1], rtol=1e-5)
  rest = ("network", "auxiliary")
  assert_same(*({k: l.params[k] for k in rest} for l in (end, moved)))
  kernel = begun.params["network"]["hidden_1"]["kernel"]
  np.testing.assert_array_equal(kernel[1], kernel[0])
  assert one.params["network"]["hidden_0"]["kernel"].shape == (16, 7)
  copied = memo.last_block(MODEL, bench.spec, "auto").__contains__
  size = [growing.parameters_in_use(one.params, n, copied) for n in (1, 2, 3)]
  assert np.diff(size).tolist() == [7 * 5 + 5 + 5 * 6] * 2
  assert int(end.method_state.memory.count) == 12


def test_shared_blocks_learn_in_the_first_task_and_with_always_old_features_drift(trained, three):
  """The released ``train_base``: the pitfall is an option; the default's old features stand."""
  bench, one, begun, moved, _ = trained
  x = three.dataset.test.x
  assert (
    np.abs(
      leaves(one.params)["network/hidden_0/kernel"] - leaves(bench.start().params)["network/hidden_0/kernel"]
    ).max()
    > 1e-3
  )
  np.testing.assert_array_equal(blocks(moved.params, x)[1][:, 0], blocks(begun.params, x)[1][:, 0])
  other = Bench("memo", three, MODEL, {**HYPER, "shared": "always"}, rows=12)
  start = other.start()
  start = start._replace(model_state=begun.model_state, params=begun.params, method_state=begun.method_state)
  start = start._replace(opt_state=growing.held_at(start.opt_state, np.int32(1), True))
  after = other.step(start, *other.arguments(1, 0))[0]
  assert np.abs(blocks(after.params, x)[1][:, 0] - blocks(begun.params, x)[1][:, 0]).max() > 1e-4
  # The slope of the shared layer goes through the last blocks of other tasks too.
  split, kept = three.dataset.train, hand.stored(one.method_state.memory)
  share, total = len(kept) / (len(kept) + len(three.train[1])), 0.0
  for part, (rows, y) in ((1 - share, batch_of(other, 1, 0)), (share, (split.x[kept], split.y[kept]))):
    s, f = blocks(begun.params, rows)
    f = f * (np.arange(3) < 2)[None, :, None]
    d = part * hand.slope_of_cross_entropy(hand.logits(begun.params, f), y)[1] / len(y)
    places = np.r_[0, 0, 1, 1, 0, 0, 1].astype(bool)
    target = np.where(np.isin(y, (2, 3)), y, 6)
    e = part * 0.6 * hand.slope_of_cross_entropy(hand.auxiliary(begun.params, f[:, 1]), target, places)[1] / len(y)
    back = np.einsum("bc,sdc->bsd", d, leaves(begun.params["classifier"])["kernel"])
    back[:, 1] += e @ leaves(begun.params["auxiliary"])["kernel"].T
    back = np.einsum("bsd,sid->bi", back * (f > 0), leaves(begun.params["network"])["hidden_1/kernel"]) * (s > 0)
    total = total + np.asarray(rows, np.float64).reshape(len(rows), -1).T @ back
  got = leaves(after.params)["network/hidden_0/kernel"] - leaves(begun.params)["network/hidden_0/kernel"]
  np.testing.assert_allclose(got / -RATE, total, atol=3e-6, rtol=2e-3)


class Normed(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(5, name="first")(x.reshape(x.shape[0], -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
    x = nn.relu(nn.Dense(5, name="second")(x))
    return Outputs(nn.Dense(6, name="head")(x), x)


def test_what_the_last_block_of_memo_can_be(three):
  """The block of the last layer before the outputs, or a pattern of names; BatchNorms that stand are refused."""
  spec = spec_of(three, 8)
  block = lambda model, last="auto": sorted(memo.last_block(model, spec, last))
  assert block(MODEL) == ["hidden_1/bias", "hidden_1/kernel"]
  assert block(MODEL, "hidden_0/k") == ["hidden_0/kernel"]
  residual = block(models.resnet18((4, 4, 1), 6, width=2))
  assert {n.split("/")[0] for n in residual} == {"block_3_1"}
  for last, model, said in (
    (
      "nowhere",
      MODEL,
      "method.block_pattern: got 'nowhere', which is no layer before the outputs; there are hidden_0/",
    ),
    ("head", MODEL, "method.block_pattern: got 'head', which is no layer"),
    ("(", MODEL, r"method.block_pattern: got '\('; expected 'auto' or a regular expression"),
    (
      "auto",
      MODEL._replace(capture=None),
      "method.block_pattern: got 'auto', which needs a model whose layers are captured",
    ),
    ("auto", models.mlp((4, 4, 1), 6, hidden=()), "method.block_pattern: got 'auto', which is no layer"),
  ):
    with pytest.raises(UsageError, match=said):
      methods.make("memo", model, spec, block_pattern=last)
  normed = models.from_linen(Normed(), (4, 4, 1))
  with pytest.raises(UsageError, match="shared layers stand; 'norm/bias' is of a BatchNorm"):
    methods.make("memo", normed, spec)
  for given in ({"block_pattern": "second|norm"}, {"shared": "always"}):
    methods.make("memo", normed, spec, **given)
  said = lambda model: methods.make("memo", model, spec).remarks(Outlook(1, (0,)))
  assert said(MODEL) == []
  assert said(models.mlp((4, 4, 1), 6, hidden=(7,)))[0].endswith("so that tasks share nothing")
  network = growing.growing(normed, spec, "x", 3, frozenset(block(normed, "second|norm")).__contains__)
  params, state = jax.eval_shape(network.init, jax.random.key(0))
  assert params["network"]["first"]["kernel"].shape == (16, 5)
  assert state.network["batch_stats"]["norm"]["mean"].shape == (3, 5)
