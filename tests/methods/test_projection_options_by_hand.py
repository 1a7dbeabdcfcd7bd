"""What projecting methods do by request, against NumPy in float64: BatchNorm left out, spans seen scaled."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, forward, gradient, leaves, near
from flax import nnx
from projecting_by_hand import ROWS, flat, inputs_of, nested, off, on_all, on_one, rows_of, widened

from cljax import methods, models, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods import heads


@pytest.fixture(scope="module")
def four(make_blobs):
  return streams.build(make_blobs(rows=ROWS), "class", tasks=4, validation=0.0)


class Normed(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(3, name="in")(x.reshape(x.shape[0], -1))
    x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
    x = nn.LayerNorm(name="layer")(nn.relu(x))
    return nn.Dense(4, name="head")(x)


class NnxNormed(nnx.Module):
  def __init__(self, rngs):
    self.dense, self.norm = nnx.Linear(16, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)
    self.head = nnx.Linear(3, 4, rngs=rngs)

  def __call__(self, x):
    return self.head(self.norm(self.dense(x.reshape(x.shape[0], -1))))


def test_s_gem_draws_the_constraint_of_one_finished_task(four, small_model):
  """Each step is projected against all rows of one of the three, each in its turn and never that of a task to come;
  a task without rows left is none; with nothing stored the gradient is left as it is."""
  hyper = {"capacity": 4 * ROWS, "margin": 0.2, "ridge": 0.01, "constraints": "one"}
  bench = Bench("gem", four, small_model, hyper)
  start = bench.start()
  first = bench.step(start, *bench.arguments(1, 0))[0]
  g = gradient(start.params, *batch_of(bench, 1, 0))
  near(first.params, {n: v - RATE * g[n] for n, v in leaves(start.params).items()})
  learner = bench.train(steps=3, tasks=(0, 1, 2))
  down = gradient(learner.params, *batch_of(bench, 3, 0))
  at = nested({n: v - 3 * RATE * down[n] for n, v in leaves(learner.params).items()})  # the old rows object
  each, g = [flat(gradient(at, *rows_of(four, t))) for t in range(3)], flat(gradient(at, *batch_of(bench, 3, 0)))
  want = np.stack([on_all(g, row[None], 0.2, 0.01) for row in each])
  assert np.abs(want - g).max(1).min() > 1e-3

  def drawn(learner, many=12):
    found = []
    for seed in range(many):
      here = learner._replace(params=at, key=jax.random.key(seed))
      after = bench.step(here, *bench.arguments(3, 0))[0]
      got = (flat(leaves(at)) - flat(leaves(after.params))) / RATE
      gap = np.abs(want - got).max(1)
      assert gap.min() < 1e-4 < np.sort(gap)[1]
      found.append(int(gap.argmin()))
    return found

  counts = np.bincount(drawn(learner), minlength=3)
  assert (counts > 0).all()
  named = jnp.zeros(bench.spec.num_rows, bool).at[np.asarray(four.train[1])].set(True)
  left = bench.parts.scrub(learner, named, jnp.zeros(4, bool))
  assert set(drawn(left, 8)) == {0, 2}
  half = np.asarray(four.train[1])[::2]  # of some of its rows alone: it is still a constraint, by those that are left
  some = bench.parts.scrub(learner, jnp.zeros_like(named).at[half].set(True), jnp.zeros(4, bool))
  x, y = rows_of(four, 1)
  want[1] = on_all(g, flat(gradient(at, x[1::2], y[1::2]))[None], 0.2, 0.01)
  assert np.bincount(drawn(some), minlength=3)[1] > 0


@pytest.mark.parametrize("name", ["er_agem", "er_gem"])
@pytest.mark.parametrize("made", ["linen", "nnx"])
def test_batch_norm_stays_out_of_the_projection(name, made, four):
  """The projection is that of all other leaves, of LayerNorm's too; BatchNorm's follow their own gradient."""
  model = models.from_linen(Normed(), (4, 4, 1)) if made == "linen" else models.from_nnx(NnxNormed)
  spec = Bench("finetune", four, models.mlp((4, 4, 1), 4, hidden=(2,))).spec
  norm = {"norm/bias", "norm/scale"}
  assert heads.batch_norms(model) == norm
  assert not heads.batch_norms(models.mlp((4, 4, 1), 4, hidden=(2,)))
  params, rng = model.init(jax.random.key(0))[0], np.random.default_rng(0)
  like = lambda *lead: jax.tree.map(lambda p: jnp.asarray(rng.normal(size=(*lead, *p.shape)), jnp.float32), params)
  count = () if name == "er_agem" else (2,)
  hyper, project = {"capacity": 20}, lambda g, r: on_one(g, r[0], 1e-7)
  if count:
    hyper |= {"margin": 0.1, "ridge": 0.02}
    project = lambda g, r: on_all(g, r, 0.1, 0.02)
  fired = 0
  for _ in range(4):
    g, references = like(), like(*count)
    for norms, out in (("free", norm), ("projected", set())):
      transform = methods.make(name, model, spec, **hyper, norms=norms).transform
      got = leaves(transform.update(g, transform.init(params), params, references={"replay": references})[0])
      mine = {n: v for n, v in leaves(g).items() if n not in out}
      rows = {n: v.reshape(-1, mine[n].size) for n, v in leaves(references).items() if n not in out}
      want = project(flat(mine), np.concatenate([rows[n] for n in sorted(mine)], 1))
      np.testing.assert_allclose(flat({n: got[n] for n in mine}), want, rtol=1e-4, atol=1e-5)
      fired += bool((want != flat(mine)).any())
      for n in out:
        np.testing.assert_array_equal(got[n], leaves(g)[n])
  assert fired


def test_cuber_scales_the_spans_on_which_tasks_disagree(make_blobs, small_model):
  """``W - S S^T W + S Q S^T W`` for the second task, where its gradient lies in the first one's span and is against it:
  Q learns ``S^T D W^T S`` of the slope D of that kernel, W the rest of it off S; the first task answers as before."""
  stream = streams.build(make_blobs(rows=ROWS), "task", tasks=2, validation=0.0)
  hyper = {"threshold": 0.7, "sufficient": 0.1, "positive": 1.0, "samples": 2 * ROWS, "scaled": True}
  bench = Bench("cuber", stream, small_model, hyper)
  learner = bench.start()
  for k in (0, 1):
    learner = bench.step(learner, *bench.arguments(0, k))[0]
  x, _ = rows_of(stream, 0)
  span = widened(np.zeros((16, 0)), inputs_of(learner.params, x)["hidden_0/kernel"], 0.7)
  learner = bench.boundary("start_task", bench.boundary("end_task", learner, 0), 1)
  x = np.float32((x.reshape(len(x), -1) @ span @ span.T).reshape(x.shape))  # what is held of its inputs
  mine = np.flatnonzero(stream.classes_of_task[0])
  answers = lambda learner, t: np.asarray(bench.parts.predict(learner, jnp.asarray(x), jnp.int32(t)))[:, mine]
  old, same = answers(learner, 0), answers(learner, 1)
  np.testing.assert_array_equal(learner.opt_state.transform.kernels["hidden_0/kernel"].regime, [2, 0])
  s = np.asarray(learner.model_state["spans"]["hidden_0/kernel"], np.float64)
  np.testing.assert_array_equal(s[0], 0)
  np.testing.assert_allclose(s[1] @ s[1].T, span @ span.T, atol=1e-5)
  np.testing.assert_allclose(old, same, atol=1e-5)  # Q begins at the identity
  q = np.tile(np.eye(16), (2, 1, 1))
  for k in (0, 1, 2):
    theta = leaves({n: v for n, v in learner.params.items() if n != "scales"})
    w, (x1, y1) = theta["hidden_0/kernel"], batch_of(bench, 1, k)
    inside = s[1].T @ w
    seen = {**theta, "hidden_0/kernel": w + s[1] @ (q[1] - np.eye(16)) @ inside}
    own = stream.classes_of_task[1]
    z = np.where(own, forward(nested(seen), x1)[1], -np.inf)
    d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
    d[np.arange(len(y1)), y1] -= 1
    slope = backward(nested(seen), x1, d / len(y1))
    down = slope["hidden_0/kernel"]
    into = s[1] @ (q[1] - np.eye(16)).T @ (s[1].T @ down)
    want = {n: 0.0 * v for n, v in slope.items()}  # biases are held
    want |= {n: slope[n] for n in ("head/kernel", "head/bias")}  # its own
    want["hidden_0/kernel"] = off(s[1][:, np.abs(s[1]).sum(0) > 0], down + into)
    q[1] -= RATE * s[1].T @ down @ inside.T
    after = bench.step(learner, *bench.arguments(1, k))[0]
    got = after.params["scales"]["hidden_0/kernel"]
    np.testing.assert_allclose(got, q, atol=2e-5)
    for n, value in leaves({n: v for n, v in after.params.items() if n != "scales"}).items():
      np.testing.assert_allclose(value, theta[n] - RATE * want[n], atol=2e-5, err_msg=n)
    learner = after
  assert np.abs(q[1] - np.eye(16)).max() > 1e-3
  np.testing.assert_allclose(answers(learner, 0), old, atol=1e-4)
  assert np.abs(answers(learner, 1) - old).max() > 1e-2
  back = bench.boundary("start_task", bench.boundary("end_task", learner, 1), 0, (0, 1))
  np.testing.assert_array_equal(back.model_state["spans"]["hidden_0/kernel"], s.astype(np.float32))
  with pytest.raises(UsageError, match=r"method\.scaled: got True; this stream does not tell"):
    methods.make("cuber", small_model, spec_of(stream._replace(task_id_given=False), 8), scaled=True)
  listed = models.from_apply(lambda key: [jnp.ones((16, 4))], lambda p, x: x.reshape(len(x), -1) @ p[0])
  with pytest.raises(UsageError, match=r"method\.scaled: needs a model whose parameters are a dict"):
    methods.make("cuber", listed, bench.spec, scaled=True)
