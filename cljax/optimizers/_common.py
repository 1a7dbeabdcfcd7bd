"""What the optimizers share."""

from __future__ import annotations

import jax

from cljax.core.dtypes import wide


def random_like(key, params, draw=jax.random.normal):
  """One draw a leaf, from a key folded with the leaf's number, in at least float32."""
  leaves, treedef = jax.tree.flatten(params)
  return jax.tree.unflatten(
    treedef, [draw(jax.random.fold_in(key, i), x.shape, wide(x.dtype)) for i, x in enumerate(leaves)]
  )
