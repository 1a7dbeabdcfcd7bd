"""Pytree arithmetic, leaf by leaf: nothing here ravels a tree, so sharded parameters keep their sharding."""

from __future__ import annotations

import hashlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from cljax.types import UsageError


def dot(a, b):
  """Inner product over all leaves, as sums of ``a * b`` (``vdot`` reshapes, which fails on sharded leaves)."""
  return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def norm(a):
  """Euclidean norm over all leaves."""
  return jnp.sqrt(dot(a, a))


def add(a, b):
  return jax.tree.map(jnp.add, a, b)


def scale(s, a):
  """``s * a`` in each leaf's own dtype."""
  return jax.tree.map(lambda x: jnp.asarray(s, x.dtype) * x, a)


def axpy(s, x, y):
  """``s * x + y`` in ``y``'s dtypes."""
  return jax.tree.map(lambda u, v: jnp.asarray(s, v.dtype) * u.astype(v.dtype) + v, x, y)


def zeros_like(a, dtype=None):
  return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=dtype), a)


def copy(a, dtype=None):
  """A copy that shares no buffer: an anchor that aliases live parameters follows them and freezes training silently."""
  return jax.tree.map(lambda x: jnp.array(x, dtype=dtype, copy=True), a)


def follow(kept, before, after):
  """``kept + (after - before)``: a kept copy of parameters moves as an edit moved them; where it was the same, to the
  bit."""
  moved = lambda k, b, a: jnp.where(k == b.astype(k.dtype), a.astype(k.dtype), k + (a - b).astype(k.dtype))
  return jax.tree.map(moved, kept, before, after)


def size(a) -> int:
  """Number of scalars."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(a))


def nbytes(a) -> int:
  """Bytes of all array leaves; works on ``ShapeDtypeStruct`` too. Typed keys count their key data."""
  total = 0
  for x in jax.tree.leaves(a):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.eval_shape(jax.random.key_data, x)
    total += int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize
  return total


def paths(a) -> list[str]:
  """The path of each leaf, such as ``params/Dense_0/kernel``."""
  return [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(a)]


def path_name(path) -> str:
  return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def match(tree, like, name: str = "tree"):
  """Returns ``tree`` if it has the structure and leaf shapes of ``like``; else a UsageError names the leaf's path."""
  got, want = jax.tree_util.tree_flatten_with_path(tree)[0], jax.tree_util.tree_flatten_with_path(like)[0]
  got_shapes = {path_name(p): jnp.shape(v) for p, v in got}
  want_shapes = {path_name(p): jnp.shape(v) for p, v in want}
  for path, shape in want_shapes.items():
    if path not in got_shapes:
      raise UsageError(f"{name}: leaf {path!r} is missing; expected shape {shape}")
    if got_shapes[path] != shape:
      raise UsageError(f"{name}: leaf {path!r} has shape {got_shapes[path]}; expected {shape}")
  for path in got_shapes:
    if path not in want_shapes:
      raise UsageError(f"{name}: leaf {path!r} is unexpected; the parameters have no such leaf")
  got_structure, want_structure = str(jax.tree.structure(tree)), str(jax.tree.structure(like))
  if got_structure != want_structure:
    raise UsageError(f"{name}: structure {got_structure} differs from {want_structure}")
  return tree


def digest(a) -> str:
  """SHA-256 over leaf paths, dtypes, shapes and bytes, in path order: how bit-equality is shown."""
  h = hashlib.sha256()
  for path, x in sorted(((path_name(p), v) for p, v in jax.tree_util.tree_leaves_with_path(a)), key=lambda t: t[0]):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    x = np.asarray(x)
    h.update(f"{path}:{x.dtype}:{x.shape};".encode())
    h.update(np.ascontiguousarray(x).tobytes())
  return h.hexdigest()


def fold(key, name: str):
  """Folds a stable hash of a component's name into a key, so that adding a component never shifts another's noise."""
  return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
