"""The engine suite: its rivals do the same work, and a table of a tiny model."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core import tree
from experiments.benchmarks import _limit, _scan, _torch, _torch_ensemble, engine

CASE = engine.Case("mlp", 8, 64, 8, 8)
SHAPE, RATE = (4, 4, 1), 0.1
# With these the rows that are drawn are all that are stored, in both.
DRAWN = {"er": {"capacity": 128, "replay_batch": 128}, "derpp": {"capacity": 128, "replay_batch": 128}}
DRAWN["agem"] = {"capacity": 16, "reference_batch": 16}


@pytest.fixture(scope="module")
def stream():
  return engine.stream_of(CASE, SHAPE, first=32)


@pytest.fixture(scope="module")
def model():
  return engine.network("mlp", SHAPE, (8,))


@pytest.fixture(scope="module")
def plain(stream, model):
  return engine.at_second_task(stream, model, "finetune", CASE, rate=RATE)


def by_path(params):
  return {tree.path_name(p): np.asarray(a) for p, a in jax.tree_util.tree_leaves_with_path(params)}


def test_the_scan_trains_as_the_engine_does(stream, model, plain):
  state, seconds = plain.train()
  assert (state.step, seconds > 0) == (CASE.steps, True)
  start = plain.learner
  y = jnp.asarray(engine.labels_of(stream), jnp.int32)
  index = engine.rows_of(CASE, stream, CASE.steps)
  by_hand, losses = _scan.trainer(model, RATE)(start.params, start.model_state, stream.dataset.train.x, y, index)
  mine, theirs, before = (
    by_path(jax.tree.map(lambda a: a[0], state.learner.params)),
    by_path(by_hand),
    by_path(start.params),
  )
  for path, value in mine.items():
    assert np.abs(value - before[path]).max() > 1e-3, path
    np.testing.assert_allclose(value, theirs[path], atol=1e-6, err_msg=path)
  assert losses.shape == (CASE.steps,)
  again, _ = plain.train()
  assert tree.digest(again.learner.params) == tree.digest(state.learner.params), "a timed call leaves its start alone"


@pytest.mark.parametrize("name", engine.METHODS)
def test_pytorch_trains_as_the_engine_does(stream, model, plain, name):
  pytest.importorskip("torch", reason="the extra 'bench' is not installed")
  hyper = DRAWN.get(name, {})
  run = plain if name == "finetune" else engine.at_second_task(stream, model, name, CASE, rate=RATE, **hyper)
  params = engine.eager(name, CASE, stream, run.learner, RATE, **hyper)(engine.rows_of(CASE, stream, CASE.steps))
  state, _ = run.train()
  mine = _torch.tensors(jax.tree.map(lambda a: a[0], state.learner.params))
  for path, value in mine.items():
    np.testing.assert_allclose(value.numpy(), params[path].detach().numpy(), atol=2e-5, err_msg=path)
  if name != "finetune":
    other, _ = plain.train()
    apart = [
      np.abs(a - b).max()
      for a, b in zip(jax.tree.leaves(other.learner.params), jax.tree.leaves(state.learner.params), strict=True)
    ]
    assert max(apart) > 1e-3, "what the method keeps has an effect"


@pytest.mark.parametrize("name", engine.ENSEMBLES)
@pytest.mark.parametrize("compiled", [False, True])
def test_an_ensemble_in_pytorch_trains_as_a_population_does(stream, model, name, compiled):
  pytest.importorskip("torch", reason="the extra 'bench' is not installed")
  hyper = DRAWN.get(name, {})
  run = engine.at_second_task(stream, model, name, CASE, 2, RATE, **hyper)
  index = np.stack([engine.rows_of(CASE, stream, CASE.steps, seed) for seed in range(2)])
  params = engine.ensemble(name, CASE, stream, run.learners, compiled, RATE, **hyper)(index)
  state, _ = run.train()
  for member in range(2):
    mine = _torch.tensors(jax.tree.map(lambda a, member=member: a[member], state.learner.params))
    for path, value in mine.items():
      np.testing.assert_allclose(value.numpy(), params[path][member].numpy(), atol=2e-5, err_msg=path)


def test_the_reservoir_of_the_ensemble_is_uniform():
  torch = pytest.importorskip("torch", reason="the extra 'bench' is not installed")
  kept, members = [], 4
  for turn in range(25):
    buffers = _torch_ensemble.Buffers([_torch.Buffer({"x": torch.zeros(20, dtype=torch.int64)}, 0, 0)] * members)
    buffers.draw.manual_seed(turn)
    for start in range(0, 200, 8):
      buffers.add(x=torch.arange(start, start + 8).expand(members, 8))
    kept.append(buffers.rows["x"])
  assert all(len(set(row.tolist())) == 20 for row in kept[-1])
  counts = np.bincount(torch.cat(kept).flatten().numpy(), minlength=200)
  halves = counts[:100].sum(), counts[100:].sum()
  assert abs(halves[0] - halves[1]) < 5 * np.sqrt(2000), halves


def test_the_reservoir_of_the_eager_loop_is_uniform():
  torch = pytest.importorskip("torch", reason="the extra 'bench' is not installed")
  buffer = _torch.Buffer({"x": torch.zeros(20, dtype=torch.int64)}, 0, 0)
  kept = []
  for _ in range(100):
    buffer.count = buffer.seen = 0
    for start in range(0, 200, 8):
      buffer.add(x=torch.arange(start, start + 8))
    kept.append(buffer.rows["x"].clone())
    assert len(set(kept[-1].tolist())) == 20
  drawn = buffer.sample(20)["x"].tolist()
  assert sorted(drawn) == sorted(buffer.rows["x"].tolist())
  counts = np.bincount(torch.cat(kept).numpy(), minlength=200)
  assert counts.sum() == 2000
  halves = counts[:100].sum(), counts[100:].sum()
  assert abs(halves[0] - halves[1]) < 5 * np.sqrt(2000), halves


@pytest.mark.parametrize("kind", ["cnn", "resnet", "vit"])
def test_the_networks_in_pytorch_are_those_of_the_zoo(kind):
  pytest.importorskip("torch", reason="the extra 'bench' is not installed")
  model = engine.network(kind, (8, 8, 1))
  params, model_state = jax.jit(model.init)(jax.random.key(0))
  x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
  apply = lambda p, s, x: model.apply(p, s, x, train=True, key=jax.random.key(0), task=None, mask=None)[0].logits
  logits = jax.jit(apply)(params, model_state, x)
  torch = _torch.require()
  theirs = _torch.NETWORKS[kind](_torch.tensors(params), _torch.tensors(model_state), torch.from_numpy(x))
  np.testing.assert_allclose(np.asarray(logits), theirs.numpy(), atol=2e-4)


def test_a_tiny_table(tmp_path):
  pytest.importorskip("torch", reason="the extra 'bench' is not installed")
  rates = _limit.rates(side=16, sizes=(1024, 4096), work=8192)
  assert rates.flops > 0
  assert rates.bytes_a_second(1) == rates.bandwidth[1024]
  assert rates.bytes_a_second(1e9) == rates.bandwidth[4096]
  case = CASE._replace(methods=("finetune", "er"), eager=2)
  group = case._replace(methods=("finetune",), seeds=(2,))
  table = engine.suite(lambda line: None, 3, (case,), (group,), SHAPE, (8,), 32, rates)
  json.dumps(table.rows)
  plain, replay, crowd = table.rows
  assert [row["method"] for row in table.rows] == ["finetune", "er", "finetune"]
  assert {tuple(row) for row in table.rows} == {tuple(plain)}
  assert replay["Mflop"] > 1.5 * plain["Mflop"] == 1.5 * crowd["Mflop"]
  assert (crowd["seeds"], crowd["over scan"]) == (2, "")
  floor = max(1e3 * plain["Mflop"] * 1e6 / rates.flops, plain["limit ms"])
  assert np.isclose(plain["over limit"], plain["step ms"] / floor)
  assert table.plot is not None
  table.plot(str(tmp_path / "plot.png"))
  assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
