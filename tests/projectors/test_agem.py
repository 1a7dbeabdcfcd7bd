import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.projectors import agem, current_weight, er_agem


def tree(seed, scale=1.0):
  rng = np.random.default_rng(seed)
  return {
    "w": jnp.asarray(scale * rng.normal(size=(4, 3)), jnp.float32),
    "b": jnp.asarray(rng.normal(size=3), jnp.float32),
  }


def flat(t):
  return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(t)])


def step(tx, g, **refs):
  return tx.update(g, tx.init(g), references=refs)


def test_matches_the_formula_when_it_fires():
  g, r = tree(0), tree(1)
  if flat(g) @ flat(r) > 0:
    r = jax.tree.map(jnp.negative, r)
  out, state = step(agem(), g, memory=r)
  want = flat(g) - flat(g) @ flat(r) / (flat(r) @ flat(r)) * flat(r)
  np.testing.assert_allclose(flat(out), want, rtol=1e-5, atol=1e-6)
  assert int(state.projected) == 1
  again, _ = step(agem(), out, memory=r)
  np.testing.assert_allclose(flat(again), flat(out), atol=1e-6)


def test_untouched_to_the_bit_when_aligned_or_empty():
  g = {"w": jnp.asarray([-0.0, 1.0, 3.0]), "b": jnp.asarray([-0.0])}
  for r in (g, jax.tree.map(jnp.zeros_like, g), jax.tree.map(lambda x: -x * 1e-30, g)):
    out, state = step(agem(), g, memory=r)
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(g), strict=True):
      assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert int(state.projected) == 0


def test_reads_its_own_reference():
  g, r = tree(0), jax.tree.map(jnp.negative, tree(0))
  out, _ = step(agem("old"), g, memory=g, old=r)
  np.testing.assert_allclose(flat(out), 0, atol=1e-6)


def test_epsilon_of_er_agem():
  g = {"w": jnp.asarray([1.0, 1.0])}
  r = {"w": jnp.asarray([-1e-3, 0.0])}
  out, _ = step(er_agem(), g, replay=r)
  np.testing.assert_allclose(out["w"], [1 - 1e-6 / (1e-6 + 1e-7), 1.0], rtol=1e-5)
  np.testing.assert_allclose([float(current_weight(t)) for t in range(3)], [1, 1 / 2, 1 / 3])


def test_bfloat16_gradients_keep_their_dtype():
  g = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree(0))
  out, _ = step(agem(), g, memory=jax.tree.map(lambda x: -x.astype(jnp.float32), g))
  assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype(jnp.bfloat16)}
  np.testing.assert_allclose(flat(out), 0, atol=1e-2)


@pytest.mark.parametrize(
  ("references", "message"),
  [
    (None, "'memory' is missing"),
    ({"other": 1}, "given: 'other'"),
    ({"memory": {"w": jnp.ones((4, 3))}}, "leaf 'b' is missing"),
    ({"memory": {"w": jnp.ones((2, 4, 3)), "b": jnp.ones((2, 3))}}, "shape"),
  ],
)
def test_errors_are_one_line(references, message):
  g = tree(0)
  with pytest.raises(UsageError, match=message) as error:
    agem().update(g, agem().init(g), references=references)
  assert "\n" not in str(error.value)


def test_negative_epsilon_is_refused_and_a_traced_one_is_not():
  with pytest.raises(UsageError, match="epsilon"):
    agem(epsilon=-1.0)
  g = tree(0)
  jax.jit(lambda e: step(agem(epsilon=e), g, memory=g))(0.1)
