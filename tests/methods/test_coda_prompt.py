"""CODA-Prompt against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import assert_same
from prompts_by_hand import (
  batch_of,
  cross_entropy,
  f64,
  logits,
  made,
  moved,
  network,
  query,
  slopes_agree,
  trained,
)

from cljax import methods
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.prompts import coda_prompt

HYPER = {"components": 6, "length": 4, "blocks": 2, "orthogonality": 0.3}
TASK = np.array([[True, True, False, False], [False, False, True, True]])


def flat(a, tasks):
  """``[tasks * share, ...]`` of the first ``tasks`` tasks and a block: the components in their order."""
  return np.concatenate([f64(a[t]) for t in range(tasks)])


def answers(params, state, x, tasks):
  """With the components of the first ``tasks`` tasks, one by one."""
  q, prefixes = query(state, x), {}
  for block in range(2):
    p, k, a = (flat(params["prompts"][n][:, block], tasks) for n in ("components", "keys", "attentions"))
    made_ = np.zeros((len(x), 4, 8))
    for m in range(len(p)):
      attended = q * a[m]
      fit = (attended @ k[m]) / (np.linalg.norm(attended, axis=-1) * np.linalg.norm(k[m]))
      made_ += fit[:, None, None] * p[m]
    prefixes[block] = (made_[:, :2], made_[:, 2:])
  return logits(params, state, x, prefixes=prefixes)


def unlike(params, tasks):
  """The penalty by hand."""
  total = 0.0
  for n in ("components", "keys", "attentions"):
    for block in range(2):
      b = flat(params["prompts"][n][:, block], tasks).reshape(3 * tasks, -1)
      total += np.mean((b @ b.T - np.eye(len(b))) ** 2)
  return total


def loss_of(params, state, x, y, task):
  return cross_entropy(answers(params, state, x, task + 1), y, TASK[task]).mean() + 0.3 * unlike(params, task + 1)


@pytest.fixture(scope="module")
def bench(class_stream):
  return made("coda_prompt", class_stream, HYPER)


@pytest.fixture(scope="module")
def second(bench):
  """Where the first task ends; where the second begins; a step on; and what another step gives."""
  first = trained(bench)
  begun = bench.boundary("start_task", first, 1, (0,))
  one = bench.step(begun, *bench.arguments(1, 0))[0]
  return first, begun, one, bench.step(one, *bench.arguments(1, 1))


def test_coda_s_loss_is_of_weighed_components(bench, second):
  """In the first task of its own alone, in the second of both; over the classes of the task."""
  first, _, one, (_, _, loss) = second
  np.testing.assert_allclose(float(loss), loss_of(one.params, one.model_state, *batch_of(bench, 1, 1), 1), rtol=1e-4)
  loss = float(bench.step(first, *bench.arguments(0, 2))[2])
  np.testing.assert_allclose(loss, loss_of(first.params, first.model_state, *batch_of(bench, 0, 2), 0), rtol=1e-4)


def test_coda_s_gradient_by_differences(bench, second):
  """Of the task's own components and the classifier; earlier components are used and get none."""
  _, _, one, (two, _, _) = second
  rows, step = batch_of(bench, 1, 1), moved(two.params, one.params)
  for a in step["prompts"].values():
    assert not a[0].any()
    assert np.abs(a[1]).max() > 1e-5

  def at(part):
    whole = {n: np.stack([f64(one.params["prompts"][n][0]), f64(part["prompts"][n])]) for n in part["prompts"]}
    return loss_of({"prompts": whole, "linear": part["linear"]}, one.model_state, *rows, 1)

  own = lambda p: {**p, "prompts": {n: a[1] for n, a in p["prompts"].items()}}
  slopes_agree(own(step), at, own(one.params), rtol=5e-3)


def test_components_of_later_tasks_have_no_part(bench, second):
  """Whatever they are: neither in a step's loss nor in an answer; and they stand still."""
  first, _, _, _ = second
  noise = jax.tree.map(lambda a: a.at[1].set(7.0), first.params["prompts"])
  other = first._replace(params={**first.params, "prompts": noise})
  one, two = (bench.step(l, *bench.arguments(0, 2)) for l in (first, other))
  assert float(one[2]) == float(two[2])
  x = bench.stream.dataset.test.x
  predict = jax.jit(lambda l: bench.parts.predict(l, x, jnp.int32(1)))
  np.testing.assert_array_equal(predict(first), predict(other))
  for a in two[0].params["prompts"].values():
    assert (np.asarray(a[1]) == 7).all()


def test_answers_of_coda_are_of_all_components_begun(bench, second):
  first, _, one, _ = second
  x = bench.stream.dataset.test.x
  predict = jax.jit(lambda l, x: bench.parts.predict(l, x, jnp.int32(0)))
  want = answers(one.params, one.model_state, x, 2)
  np.testing.assert_allclose(predict(one, x), want, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(predict(one, x)[:1], predict(one, x[:1]), rtol=1e-4, atol=1e-5)
  want = np.where(TASK[0], answers(first.params, first.model_state, x, 1), -np.inf)
  np.testing.assert_allclose(predict(first, x), want, rtol=1e-3, atol=1e-3)


def test_a_task_s_components_begin_at_right_angles_to_all_before(bench, second):
  """To trained ones too, which are not at right angles to one another; norm 1 each. Keys and attentions as well."""
  first, rng = second[0], np.random.default_rng(0)
  moved_on = {n: a.at[0].add(0.2 * rng.normal(size=a.shape[1:])) for n, a in first.params["prompts"].items()}
  first = first._replace(params={**first.params, "prompts": moved_on})
  begun = bench.boundary("start_task", first, 1, (0,))
  for n, a in begun.params["prompts"].items():
    assert_same(a[0], first.params["prompts"][n][0])
    for block in range(2):
      old, new = (f64(a[t, block]).reshape(3, -1) for t in (0, 1))
      np.testing.assert_allclose(new @ new.T, np.eye(3), atol=1e-4)
      np.testing.assert_allclose(new @ (old / np.linalg.norm(old, axis=-1, keepdims=True)).T, 0, atol=1e-4)
      gram = old @ old.T
      assert np.abs(gram - np.diag(np.diag(gram))).max() > 1e-2


def test_vectors_away_from_others():
  """In six dimensions two away from three that lean on one another, and from a row of zeros, which does not count."""
  rng = np.random.default_rng(0)
  old = np.vstack([rng.normal(size=(3, 6)), np.zeros((1, 6))])
  old[1] = old[0] + 0.05 * old[1]
  rows = rng.normal(size=(2, 6))
  got = np.asarray(coda_prompt.away_from(jnp.asarray(rows, jnp.float32), jnp.asarray(old, jnp.float32)))
  basis = np.linalg.qr(old[:3].T)[0]
  first = rows[0] - basis @ (basis.T @ rows[0])
  first /= np.linalg.norm(first)
  second = rows[1] - basis @ (basis.T @ rows[1]) - first * (first @ rows[1])
  np.testing.assert_allclose(got, [first, second / np.linalg.norm(second)], atol=2e-3)


def test_old_components_stay_to_the_bit(class_stream):
  """Under Adam with weight decay. A task that comes back goes on from its own."""
  bench = made("coda_prompt", class_stream, HYPER, optax.adamw(0.05, weight_decay=0.5))
  first = trained(bench)
  second = trained(bench, 1, (0,), learner=first)
  of = lambda l, t: jax.tree.map(lambda a: np.asarray(a)[t], l.params["prompts"])
  assert_same(of(second, 0), of(first, 0))
  back = bench.boundary("start_task", second, 0, (0, 1))
  assert_same(of(back, 0), of(first, 0))
  again = bench.steps(back, 0, 1, met=(0, 1))
  assert_same(of(again, 1), of(second, 1))
  gaps = [np.abs(of(again, 0)[n] - a).max() for n, a in of(first, 0).items()]
  assert max(gaps) > 1e-4


def test_uniform_components_and_sizes_of_coda(class_stream):
  spec = spec_of(class_stream, 8)
  for given, said in (
    ({"length": 3}, "method.length: got 3; expected an even number"),
    ({"components": 1}, "method.components: got 1; expected one for each of 2 tasks at least"),
    ({"components": 9}, "method.components: got 9; vectors of 8 are at right angles to at most as many others"),
  ):
    with pytest.raises(UsageError, match=said):
      methods.make("coda_prompt", network(), spec, **given)
  bench = made("coda_prompt", class_stream, {**HYPER, "components": 41, "start": "uniform", "blocks": 1})
  begun = bench.boundary("start_task", bench.start(), 1, ())
  shapes = {"components": (2, 1, 20, 4, 8), "keys": (2, 1, 20, 8), "attentions": (2, 1, 20, 8)}
  for n, a in begun.params["prompts"].items():
    assert a.shape == shapes[n]
    assert np.abs(a).max() <= 1
    np.testing.assert_allclose(np.asarray(a[1]).std(), 3**-0.5, rtol=0.15)
  methods.make("coda_prompt", network(), spec, components=8)
