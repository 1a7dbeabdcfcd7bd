"""Several epochs over a task, each row offered to a memory once: what a memory then holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.memory import class_balanced, reservoir

ROWS, CAPACITY, TRIALS = 24, 6, 4000  # two tasks of 12 rows, the first for nine epochs, the second for one


def passes(memory, once: bool):
  """How often each row is stored, over many keys; ``once`` gives weight 0 to rows that were offered before."""
  rng = np.random.default_rng(0)
  order = [rng.permutation(12) for _ in range(9)] + [12 + rng.permutation(12)]
  ids = jnp.asarray(np.concatenate(order).reshape(-1, 4), jnp.int32)
  fresh = jnp.asarray(np.r_[np.ones(12), np.zeros(96), np.ones(12)].reshape(-1, 4), jnp.float32)

  def run(key):
    def step(state, t):
      rows = {"id": ids[t], "y": jnp.zeros(4, jnp.int32)}
      weight = fresh[t] if once else jnp.ones(4)
      return memory.add(jax.random.fold_in(key, t), state, rows, weight), None

    state = jax.lax.scan(step, memory.init({"id": jnp.int32(0), "y": jnp.int32(0)}), jnp.arange(len(ids)))[0]
    rows, weight = memory.contents(state)
    return jnp.zeros(ROWS).at[rows["id"]].add(weight)

  return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), TRIALS)))


@pytest.mark.parametrize("memory", [reservoir(CAPACITY), class_balanced(CAPACITY, 1)], ids=["reservoir", "balanced"])
def test_each_row_of_each_task_is_as_likely_and_stored_once(memory):
  held = passes(memory, once=True)
  assert held.max() == 1
  share = CAPACITY / ROWS
  np.testing.assert_allclose(held.mean(0), share, atol=4.5 * np.sqrt(share * (1 - share) / TRIALS))


def test_counting_every_pass_favours_the_task_of_many_epochs():
  """What the option is for: 108 of 120 offers are of the first task, and a memory then holds copies."""
  held = passes(reservoir(CAPACITY), once=False)
  np.testing.assert_allclose(held[:, :12].sum(1).mean() / CAPACITY, 108 / 120, atol=0.01)
  assert (held > 1).any()
