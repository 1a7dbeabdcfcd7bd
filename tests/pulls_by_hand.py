"""Parameters, importances and trees in float64 NumPy: what regularizers' tests compare with."""

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core import tree

RNG = np.random.default_rng(11)
SHAPES = {"head": {"kernel": (3, 2), "bias": (2,)}, "scale": (4,)}


def draw(positive=False):
  of = lambda s: RNG.uniform(0.1, 2, size=s) if positive else RNG.normal(size=s)
  return jax.tree.map(lambda s: of(s).astype(np.float32), SHAPES, is_leaf=lambda s: isinstance(s, tuple))


START, END, AWAY, GRADIENT = draw(), draw(), draw(), draw()
F1, F2 = draw(True), draw(True)
ZERO = jax.tree.map(np.zeros_like, START)


def wide(t):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), t)


def tmap(fn, *trees):
  return jax.tree.map(fn, *map(wide, trees))


def total(fn, *trees):
  return sum(np.sum(x) for x in jax.tree.leaves(tmap(fn, *trees)))


def near(got, want, rtol=1e-5, atol=1e-5):
  assert tree.paths(got) == tree.paths(want)
  for name, a, b in zip(tree.paths(want), jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)


def jnp_tree(t):
  return jax.tree.map(jnp.asarray, t)


def added(tx, state, params=AWAY, gradient=GRADIENT):
  """What the transform adds to a gradient, and its next state."""
  got, state = tx.update(jnp_tree(gradient), state, jnp_tree(params))
  return tmap(lambda a, b: a - b, got, gradient), state
