"""The same stream told otherwise: other numbers for tasks, classes, outputs, rows and ids, other unused contents; and
the same model begun otherwise."""

from __future__ import annotations

import jax
import numpy as np

import cljax
from cljax import streams
from cljax.core import tree
from cljax.core.types import Forget


def own(stream, **changed) -> streams.Stream:
  """The stream through ``streams.from_tasks``, less what is changed."""
  fields = {
    f: changed.pop(f, getattr(stream, f))
    for f in ("validation", "labels", "events", "view", "num_classes", "active", "task_id_given")
  }
  dataset, train, test = (changed.pop(f, getattr(stream, f)) for f in ("dataset", "train", "test"))
  return streams.from_tasks(dataset, train, test, **fields, **changed)


def _in_requests(events, field: str, number) -> tuple:
  """The events with ``number(n)`` for each ``n`` that requests name under ``field``."""
  named = lambda e: e._replace(**{field: tuple(int(number(n)) for n in getattr(e, field))})
  return tuple(named(e) if isinstance(e, Forget) else e for e in events)


def tasks_renamed(stream, new: np.ndarray) -> streams.Stream:
  """Task ``t`` is task ``new[t]``; the events come in the same order."""
  old = np.argsort(new)
  view = stream.view._replace(tables=tuple(table[old] for table in stream.view.tables))
  learns = [cljax.Learn(int(new[e.task])) if isinstance(e, cljax.Learn) else e for e in stream.events]
  split = {f: tuple(getattr(stream, f)[t] for t in old) for f in ("train", "validation", "test")}
  events = _in_requests(learns, "tasks", lambda t: new[t])
  return own(stream, **split, labels=stream.labels[old], events=events, view=view)


def classes_renamed(stream, new: np.ndarray) -> streams.Stream:
  """Class ``c`` of the dataset is called ``new[c]``; tasks give it the label that they gave it before."""
  data, labels = stream.dataset, np.empty_like(stream.labels)
  if data.num_classes != stream.labels.shape[1]:
    raise ValueError("labels: hold other classes than the dataset")
  labels[:, new] = stream.labels
  parts = {f: getattr(data, f)._replace(y=new[getattr(data, f).y].astype(np.int32)) for f in ("train", "test")}
  events = _in_requests(stream.events, "classes", lambda c: new[c])
  return own(stream, dataset=data._replace(**parts), labels=labels, events=events)


def outputs_renamed(stream, new: np.ndarray) -> streams.Stream:
  """What was label ``c`` is label ``new[c]``: for a model whose outputs are permuted likewise."""
  labels = np.where(stream.labels >= 0, new[stream.labels], -1).astype(stream.labels.dtype)
  return own(stream, labels=labels)


def outputs_permuted(model: cljax.Model, new: np.ndarray) -> cljax.Model:
  """The model whose output ``new[c]`` begins as output ``c``."""
  return begun_otherwise(model, lambda params: permuted_head(params, np.argsort(new)))


def permuted_head(params, order: np.ndarray):
  """Head leaves with outputs in ``order``; a leading axis of members stays."""
  move = lambda path, a: a[..., order] if "head" in tree.path_name(path) else a
  return jax.tree_util.tree_map_with_path(move, params)


def rows_moved(stream, order: np.ndarray) -> streams.Stream:
  """Row ``order[j]`` of the training data is stored at ``j``; tasks list the same rows in the same sequence."""
  train, place = stream.dataset.train, np.argsort(order)
  moved = type(train)(*(field[order] for field in train))
  lists = {f: tuple(place[np.asarray(rows, int)] for rows in getattr(stream, f)) for f in ("train", "validation")}
  return own(stream, dataset=stream.dataset._replace(train=moved), **lists)


def ids_renumbered(stream, new: np.ndarray) -> streams.Stream:
  """Row ids are others; requests name the same rows."""
  train = stream.dataset.train
  table = dict(zip(train.id.tolist(), new.tolist(), strict=True))
  changed = stream.dataset._replace(train=train._replace(id=new.astype(np.int32)))
  return own(stream, dataset=changed, events=_in_requests(stream.events, "ids", table.__getitem__))


def contents_changed(stream, rng, train=None, test=None) -> streams.Stream:
  """Noise in the stead of the inputs of these rows (bool masks)."""
  data = stream.dataset

  def changed(split, mask):
    if mask is None or not mask.any():
      return split
    x = split.x.copy()
    x[mask] = rng.integers(0, 17, x[mask].shape).astype(x.dtype)
    return split._replace(x=x)

  return own(stream, dataset=data._replace(train=changed(data.train, train), test=changed(data.test, test)))


def holds(count: int, lists) -> np.ndarray:
  """[count] bool: the rows that any of the lists names."""
  mask = np.zeros(count, bool)
  for rows in lists:
    mask[np.asarray(rows, int)] = True
  return mask


def begun_otherwise(model: cljax.Model, change) -> cljax.Model:
  """The model with first parameters ``change(params)``, whatever its activation."""

  def init(key):
    params, state = model.init(key)
    return change(params), state

  again = model.with_activation
  remade = None if again is None else lambda activation: begun_otherwise(again(activation), change)
  return model._replace(init=init, with_activation=remade)


def perturbed(model: cljax.Model, size: float, salt: int) -> cljax.Model:
  """The model with first parameters that rounding might have made: each times ``1 + size * normal``."""

  def moved(params):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(salt), len(leaves))
    new = [a * (1 + size * jax.random.normal(k, a.shape)) for k, a in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, new)

  return begun_otherwise(model, moved)


def narrowed(model: cljax.Model, dtype: str) -> cljax.Model:
  """The model with parameters of another float type."""
  return begun_otherwise(model, lambda params: jax.tree.map(lambda a: a.astype(dtype), params))
