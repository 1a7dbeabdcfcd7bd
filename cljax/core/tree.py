"""Pytree arithmetic, leaf by leaf: nothing here ravels a tree, so sharded parameters keep their sharding."""

from __future__ import annotations

import hashlib
import sys
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from cljax.core.types import UsageError


def product(x, y):
  """``x * y`` elementwise; of complex numbers ``Re(conj(x) y)``, whose sum is their inner product as pairs of reals."""
  if jnp.iscomplexobj(x) or jnp.iscomplexobj(y):
    return jnp.real(x) * jnp.real(y) + jnp.imag(x) * jnp.imag(y)
  return x * y


def dot(a, b):
  """Real inner product over all leaves, as sums of :func:`product` (``vdot`` reshapes: it fails on sharded leaves)."""
  return total([jnp.sum(product(x, y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)])


def total(terms):
  """The sum of scalars or arrays of one shape, in the widest of their dtypes, whatever the setting of promotion."""
  with jax.numpy_dtype_promotion("standard"):
    return sum(terms)


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


def empty_like(x, dtype=None):
  """Zeros that lie as the array ``x`` does, under ``jit`` too, where a constant would come out on every device."""
  if not isinstance(x, jax.core.Tracer):
    return jnp.zeros_like(x, dtype=dtype)
  zero = jnp.zeros((), dtype or x.dtype)
  return jnp.where(jnp.isnan(x), zero, zero)


def zero_stack(a, k: int, dtype=None):
  """``k`` zero copies of ``a`` along a new leading axis, sharded as ``a`` is."""
  return jax.tree.map(lambda x: empty_like(jnp.broadcast_to(x, (k, *x.shape)), dtype or x.dtype), a)


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


def _is_box(x) -> bool:
  """An NNX Variable, or a Linen box of metadata: its one field ``value`` is no part of a leaf's name."""
  for module, kind in (("flax.nnx", "Variable"), ("flax.core.meta", "AxisMetadata")):
    boxes = getattr(sys.modules.get(module), kind, None)
    if boxes is not None and isinstance(x, boxes):
      return True
  return False


def path_name(path) -> str:
  """A key path in one string. To name the leaves of a tree use :func:`paths`, which knows what only wraps them."""
  return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def paths(a) -> list[str]:
  """The name of each leaf, such as ``params/Dense_0/kernel``: its path, in dicts, tuples, dataclasses, Linen, Equinox
  and NNX.

  This is the one place where leaves get their names. A State of NNX Variables, as ``init`` gets it, names its leaves as
  the pure State does that ``update`` gets.
  """
  out = []
  for path, node in jax.tree_util.tree_leaves_with_path(a, is_leaf=_is_box):
    if _is_box(node):
      inner = [p for p, _ in jax.tree_util.tree_leaves_with_path(node)]
      out += [path_name((*path, *(p[1:] if p and path_name(p[:1]) == "value" else p))) for p in inner]
    else:
      out.append(path_name(path))
  return out


def by_path(a) -> dict:
  """``{name: leaf}``, the names as :func:`paths` gives them. Raises UsageError where two leaves share a name."""
  names, leaves = paths(a), jax.tree.leaves(a)
  out = dict(zip(names, leaves, strict=True))
  if len(out) < len(names):
    twice = next(n for i, n in enumerate(names) if n in names[:i])
    raise UsageError(f"parameters: two leaves are called {twice!r}; rename one")
  return out


def map_named(fn: Callable, a, *rest):
  """``fn(name, leaf, *leaves of rest)`` over the leaves of ``a``, in its structure, which ``rest`` must share."""
  treedef: Any = jax.tree.structure(a)
  others = [treedef.flatten_up_to(r) for r in rest]
  return treedef.unflatten([fn(*v) for v in zip(paths(a), jax.tree.leaves(a), *others, strict=True)])


def unboxed(a):
  """``a`` with NNX Variables and Linen's boxes replaced by what they hold."""

  def open_box(x):
    return jax.tree.leaves(x)[0] if _is_box(x) else x  # a Variable may refuse attribute access inside a trace

  return jax.tree.map(open_box, a, is_leaf=_is_box)


def boxed(a, like):
  """``a``, an :func:`unboxed` tree, back in the boxes of ``like``, whose leaves correspond one to one."""
  return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(a))


def edit_nodes(a, kind: type | tuple[type, ...], edit: Callable):
  """``(a with edit applied to every node of this kind, their number)``, wherever they are nested.

  ``edit`` sees a node without boxes; what it returns gets those of the node back, leaf by leaf: so one edit serves an
  optax state and an ``nnx.Optimizer``'s.
  """
  found = 0

  def visit(node):
    nonlocal found
    if not isinstance(node, kind):
      return node
    found += 1
    return boxed(edit(unboxed(node)), node)

  return jax.tree.map(visit, a, is_leaf=lambda x: isinstance(x, kind)), found


def is_placeholder(params) -> bool:
  """What ``optax.tree.map_params`` gives to ``init`` in the parameters' place, to learn which parts of a state are like
  them: a node without leaves."""
  return type(params).__name__ == "_ParamsPlaceholder"


def refuse_complex(owner: str, params) -> None:
  """Where the theory is of real numbers: raises UsageError for a complex leaf."""
  for name, x in by_path(params).items():
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
      raise UsageError(f"{owner}: {name!r} is complex; give real parameters (optax.contrib.split_real_and_imaginary)")


def cut(x):
  """The sharding of ``x`` where explicit mesh axes cut it, else None."""
  sharding: Any = getattr(jax.typeof(x), "sharding", None) if isinstance(x, jax.Array) else None
  explicit = sharding is not None and AxisType.Explicit in (sharding.mesh.axis_types or ())
  return sharding if explicit and any(axis is not None for axis in sharding.spec) else None


def refuse_explicit(owner: str, a) -> None:
  """Raises UsageError where a leaf is :func:`cut`: contractions and sorts of it would end in errors of JAX's own."""
  for name, x in by_path(a).items():
    sharding = cut(x)
    if sharding is not None:
      kinds = len(sharding.mesh.axis_types)
      auto = "axis_types=(jax.sharding.AxisType.Auto,)" + (f" * {kinds}" if kinds > 1 else "")
      raise UsageError(f"{owner}: {name!r} is cut over an explicit mesh axis; make the mesh with {auto}")


def match(tree, like, name: str = "tree"):
  """Returns ``tree`` if it has the structure and leaf shapes of ``like``; else a UsageError names the leaf's path."""
  fit(tree, like, name)
  got, want = str(jax.tree.structure(tree)), str(jax.tree.structure(like))
  if got != want:
    raise UsageError(f"{name}: structure {got} differs from {want}")
  return tree


def alike(a, b) -> bool:
  """Whether two trees have the same structure and leaf shapes."""
  one: Any = jax.tree.structure(a)
  if one != jax.tree.structure(b):
    return False
  return all(jnp.shape(x) == jnp.shape(y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def fit(tree, like, name: str = "tree", extra: bool = False):
  """``tree`` in the structure of ``like``: leaves are found by name, so that an NNX State fits its pure form.

  ``extra`` allows ``tree`` to hold more: the whole Equinox model, functions and all, for its gradients. Raises
  UsageError with the leaf's path where a leaf is missing, of another shape, or unexpected.
  """
  if alike(tree, like):
    return tree
  got, want = by_path(tree), by_path(like)
  for path, leaf in want.items():
    shape = jnp.shape(leaf)
    if path not in got:
      raise UsageError(f"{name}: leaf {path!r} is missing; expected shape {shape}")
    if jnp.shape(got[path]) != shape:
      raise UsageError(f"{name}: leaf {path!r} has shape {jnp.shape(got[path])}; expected {shape}")
  for path in got:
    if path not in want and not extra:
      raise UsageError(f"{name}: leaf {path!r} is unexpected; the parameters have no such leaf")
  return jax.tree.unflatten(jax.tree.structure(like), [got[path] for path in want])


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


def edit_leaves(tree, edits: dict):
  """``tree`` with the leaves at the paths in ``edits`` replaced; the rest are the same arrays."""
  names = paths(tree)
  for name in edits:
    if name not in names:
      raise UsageError(f"units: no parameter at {name!r}; the paths are {', '.join(names)}")
  return jax.tree.unflatten(
    jax.tree.structure(tree), [edits.get(n, x) for n, x in zip(names, jax.tree.leaves(tree), strict=True)]
  )


def leaf(tree, path: str):
  """The leaf at ``path``, as :func:`paths` names it; UsageError where there is none."""
  names = paths(tree)
  if path not in names:
    raise UsageError(f"units: no parameter at {path!r}; the paths are {', '.join(names)}")
  return jax.tree.leaves(tree)[names.index(path)]
