"""Month 2 from a month-1 checkpoint, without month-1 data: anchors and importance are a checkpoint of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import UsageError
from cljax import regularizers as R
from cljax.core import tree
from cljax.io import checkpoint


def loss(params, x, y):
  return optax.softmax_cross_entropy_with_integer_labels(x @ params["w"] + params["b"], y).mean()


def fit(tx, params, state, x, y, steps=150):
  @jax.jit
  def step(carry, _):
    params, state = carry
    updates, state = tx.update(jax.grad(loss)(params, x, y), state, params)
    return (optax.apply_updates(params, updates), state), None

  return jax.lax.scan(step, (params, state), length=steps)[0]


def month(label_of, seed):
  x = jnp.asarray(np.random.default_rng(seed).normal(size=(256, 8)), jnp.float32)
  return x, jnp.asarray(label_of(np.asarray(x)), jnp.int32)


@pytest.mark.parametrize("state_dtype", [None, jnp.bfloat16])
def test_month_two_restarts_without_month_one_data(tmp_path, state_dtype):
  first, second = month(lambda x: x[:, 0] > 0, 0), month(lambda x: x[:, 1] > 0, 1)
  # Month 1, plain AdamW, which knows nothing of regularizers; at its end the Fisher diagonal becomes an item on disk.
  adamw = optax.adamw(0.02)
  params = {"w": jnp.zeros((8, 2)), "b": jnp.zeros(2)}
  params, opt_state = fit(adamw, params, adamw.init(params), *first)
  checkpoint.save_tree(tmp_path / "model", {"params": params}, report=lambda line: None)
  checkpoint.save_tree(tmp_path / "optimizer", {"state": _dict(opt_state)})
  each = jax.vmap(lambda x, y: jax.grad(loss)(params, x[None], y[None]))(*first)
  fisher = jax.tree.map(lambda g: jnp.square(g).mean(0), each)
  anchored = R.consolidate(R.ewc(100.0).init(params), params, importance=fisher)
  told = []
  size = checkpoint.save_tree(
    tmp_path / "anchors", R.export_state(anchored), state_dtype=state_dtype, report=told.append
  )
  full = R.state_bytes(anchored)
  assert f"{size:,} bytes" in told[0]
  assert size <= (full if state_dtype is None else full // 2 + 8)
  del params, opt_state, anchored, each, fisher

  # Month 2: everything from disk.
  params = checkpoint.load_tree(tmp_path / "model")["params"]
  old = _filled(adamw.init(params), checkpoint.load_tree(tmp_path / "optimizer")["state"])
  tx = optax.chain(R.ewc(100.0), adamw)
  state = R.import_state(R.attach(tx, old, params), checkpoint.load_tree(tmp_path / "anchors"))
  assert int(state[1][0].count) == 150  # AdamW goes on where it stopped
  kept, _ = fit(tx, params, state, *second)
  lost, _ = fit(adamw, params, old, *second)
  assert float(loss(kept, *first)) < 0.5 * float(loss(lost, *first))
  accuracy = lambda p: float((jnp.argmax(first[0] @ p["w"] + p["b"], -1) == first[1]).mean())
  assert accuracy(kept) > accuracy(lost) + 0.1


def _dict(state):
  return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state))}


def _filled(like, saved):
  return jax.tree.unflatten(jax.tree.structure(like), [saved[str(i)] for i in range(len(jax.tree.leaves(like)))])


def test_a_tree_of_its_own_keeps_its_shapes_and_refuses_nothing_to_read(tmp_path):
  content = {"a": {"b": jnp.arange(3.0), "none": jnp.zeros((0, 2))}, "n": jnp.asarray(4, jnp.int32)}
  assert checkpoint.save_tree(tmp_path / "t", content, report=lambda line: None) == 16
  back = checkpoint.load_tree(tmp_path / "t")
  assert tree.paths(back) == tree.paths(content)
  for saved, read in zip(jax.tree.leaves(content), jax.tree.leaves(back), strict=True):
    assert saved.dtype == read.dtype
    np.testing.assert_array_equal(saved, read)
  with pytest.raises(UsageError, match="holds no tree"):
    checkpoint.load_tree(tmp_path / "nothing")
  with pytest.raises(UsageError, match="has no arrays"):
    checkpoint.save_tree(tmp_path / "u", {}, report=print)
