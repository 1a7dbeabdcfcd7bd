"""What the state of a method gives back of a row: a search of every array for copies, directions and spans."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

import cljax
from cljax import engine, methods, models, streams
from cljax.core import tree
from cljax.data import Dataset, Split
from experiments._proof_records import records

SHAPE = (6, 6, 1)
SIZE = 36


class Found(NamedTuple):
  """The most that any array gives: ``copy`` and ``id`` (is it there), ``cosine`` of a vector in it with the row, and
  ``span``: the share of the row's length that lies in the span of an array's vectors; ``where`` the last two are."""

  copy: bool
  id: bool
  cosine: float
  span: float
  where: tuple[str, str]


def vectors(array) -> list[np.ndarray]:
  """An array as stacks ``[K, SIZE]`` of the vectors of a row's size that lie along one of its axes, or along the last
  ones together; of a complex or integer array its values."""
  a, out = np.asarray(array, np.float64), []
  for axis in range(a.ndim):
    if a.shape[axis] == SIZE:
      out.append(np.moveaxis(a, axis, -1).reshape(-1, SIZE))
  for last in range(2, a.ndim + 1):
    if np.prod(a.shape[-last:]) == SIZE:
      out.append(a.reshape(-1, SIZE))
  return out


def search(state, row, row_id: int) -> Found:
  """Looks for a row ``[SIZE]`` and its id in every array of a state (bookkeeping of one number has no ids)."""
  row = np.asarray(row, np.float64).ravel()
  length = np.linalg.norm(row)
  copy = ident = False
  best = {"cosine": (0.0, ""), "span": (0.0, "")}
  for path, leaf in zip(tree.paths(state), jax.tree.leaves(state), strict=True):
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      continue
    a = np.asarray(leaf)
    if np.issubdtype(a.dtype, np.integer):
      ident |= a.size > 1 and bool((a == row_id).any())
      continue
    for stack in vectors(a):
      norms = np.linalg.norm(stack, axis=1)
      stack, norms = stack[norms > 1e-12], norms[norms > 1e-12]
      if not len(stack):
        continue
      copy |= bool(np.isclose(stack, row, rtol=1e-3, atol=1e-4).all(1).any())
      cosine = float(np.abs(stack @ row / norms / length).max())
      if cosine > best["cosine"][0]:
        best["cosine"] = (cosine, path)
      _, values, basis = np.linalg.svd(stack / norms[:, None], full_matrices=False)
      basis = basis[values > 1e-4 * values[0]]
      if len(basis) < SIZE:  # a span of everything tells nothing
        share = float(np.linalg.norm(basis @ row) / length)
        if share > best["span"][0]:
          best["span"] = (share, path)
  return Found(copy, ident, best["cosine"][0], best["span"][0], (best["cosine"][1], best["span"][1]))


def data(seed: int = 0) -> Dataset:
  """Gaussian noise: no row lies near another, nor in the span of a few."""
  rng = np.random.default_rng(seed)

  def split(n: int, first: int) -> Split:
    y = np.tile(np.arange(4, dtype=np.int32), n)
    ids = np.arange(first, first + len(y), dtype=np.int32)
    return Split(rng.normal(size=(len(y), *SHAPE)).astype(np.float32), y, ids, (ids % 2).astype(np.int32))

  names = tuple(f"class{c}" for c in range(4))
  return Dataset("noise", split(12, 100), split(2, 900), 4, names, ("even", "odd"), 1.0, f"gauss{seed}")


def measured(
  name: str, arguments, planted: int = 2, forget: str = "ssd", learning_rate: float | None = None
) -> dict[str, Found] | None:
  """What the state of a method holds of the last ``planted`` rows of the first task, after both tasks were learned and
  these were forgotten, and of as many that no task has (``control``): of each the most that is found.

  None: it keeps no array. A method that answers requests itself answers this one; one that diverges at the default
  rate is tried at 0.01.
  """
  entry = methods.METHODS[name]
  whole = data()
  kind = "task" if entry.access.task_id_at_test else "class"
  stream = streams.build(whole, kind, tasks=2, validation=0.2)
  task = next(iter(arguments.get("temporary", (0,))))
  rows, control = stream.train[task][-planted:], stream.validation[task][:planted]
  for row in (*rows, *control):
    whole.train.x[row] *= 3  # brighter than the others: what stands out is what a summary keeps
  asked = [(2, cljax.Forget(ids=tuple(int(i) for i in whole.train.id[rows])))]
  if "temporary" in arguments:  # it forgets tasks
    asked = [(2, cljax.Forget(tasks=(task,)))]
  stream = streams.build(whole, kind, tasks=2, validation=0.2, forget=asked)
  rate: dict[str, Any] = {} if learning_rate is None else {"optimizer_options": {"learning_rate": learning_rate}}
  plan: dict[str, Any] = {"method": name, "hyper": arguments, "forget": "" if entry.access.forgets else forget}
  if entry.access.forgets and not any(
    getattr(entry.access, k) for k in ("prefix", "stores_data", "task_boundaries")
  ):  # an edit: what learns is plain
    plan = {"method": "finetune", "hyper": {}, "forget": name, "forget_hyper": arguments}
  model = records.network(name, models.mlp(SHAPE, 4, hidden=(8, 7)), SHAPE)
  training, options = cljax.Recipe(batch_size=8, epochs=2), cljax.Options(chunk_steps=2)
  # Built for the stream without its request, which may be refused for what is looked for here.
  plain = stream._replace(events=tuple(e for e in stream.events if isinstance(e, cljax.Learn)))
  made = engine.prepare(plain, model, **plan, **rate, training=training, options=options)
  made = made._replace(setup=made.setup._replace(stream=stream))
  own = lambda learner: learner._replace(params=(), key=(), step=())
  abstract = own(jax.eval_shape(made.setup.parts.init, jax.random.key(0)))
  if not any(leaf.size > 1 for leaf in jax.tree.leaves(abstract)):
    return None
  try:
    state = own(made.run().learner)
  except cljax.DivergedError:
    if learning_rate is not None:
      raise
    return measured(name, arguments, planted, forget, 0.01)
  return {"planted": _most(state, whole, rows), "control": _most(state, whole, control)}


def _most(state, whole, rows) -> Found:
  found = [search(state, whole.train.x[r], int(r)) for r in rows]
  most = lambda k: max(found, key=lambda f: getattr(f, k))
  cosine, span = most("cosine"), most("span")
  where = (cosine.where[0], span.where[1])
  return Found(any(f.copy for f in found), any(f.id for f in found), cosine.cosine, span.span, where)
