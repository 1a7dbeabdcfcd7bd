"""What makes a run that run, where no launcher's configuration says so: all that its result depends on.

A workdir resumes only a run of the same identity. Data and row sets are hashed; code of the caller's own (model, view,
method, optimizer) is known by the operations that it traces to.
"""

from __future__ import annotations

import functools
import hashlib
import re
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax.data.types import changed_contents

NEUTRAL = (
  "eval_block", "chunk_steps", "checkpoint_every", "checkpoint_purge_before_deletion", "checkpoint_keep_ids",
  "max_interval_s",
)  # fmt: skip

# Options that came later, at their defaults: a run of before is the same run.
LATER = {
  "presentations": False,
  "eval_log": "scores",
  "eval_log_limit": 64,
  "eval_ahead": True,
  "patience": 0,
  "precision": "float32",
  "population_group": 0,
}


def describe(
  stream,
  model,
  method,
  hyper,
  forget,
  forget_hyper,
  optimizer,
  optimizer_options,
  training,
  values,
  options,
  inputs=None,
) -> dict[str, Any]:
  """The configuration of a run of :func:`cljax.run`, for its checkpoints; ``code`` holds only under equal versions."""
  name = method if isinstance(method, str) else f"{method.__module__}.{method.__qualname__}"
  rows = changed_contents(stream.dataset)
  drop = NEUTRAL if options.feed == "grain" else (*NEUTRAL, "boundary_limit")
  return {
    "stream": stream.name,
    "stream_digest": stream_digest(stream),
    "data": stream.dataset.digest,
    **({"data_changed": rows} if rows else {}),
    "events": [repr(e) for e in stream.events],
    "method": name,
    "hyper": {k: repr(v) for k, v in (hyper or {}).items()},
    "forget": forget,
    "forget_hyper": {k: repr(v) for k, v in (forget_hyper or {}).items()},
    "optimizer": optimizer if isinstance(optimizer, str) else "custom",
    "optimizer_options": {k: repr(v) for k, v in (optimizer_options or {}).items()},
    "training": _but_later(training._asdict()),
    "values": values,
    "options": {k: v for k, v in _but_later(options._asdict()).items() if k not in drop},
    "code": {"model": model_digest(model, stream, inputs), "view": view_digest(stream)},
  }


def _but_later(given: dict[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in given.items() if k not in LATER or v != LATER[k]}


def stream_digest(stream) -> str:
  """SHA-256 of what a stream makes of its data set: the rows and labels of every task, events, classes and views."""
  h = hashlib.sha256()
  seen: dict[int, bytes] = {}

  def add(array) -> None:
    if id(array) not in seen:  # hundreds of tasks may share one array
      a = np.ascontiguousarray(array)
      seen[id(array)] = hashlib.sha256(f"{a.dtype}{a.shape}".encode() + a.tobytes()).digest()
    h.update(seen[id(array)])

  for split in (stream.train, stream.validation, stream.test):
    h.update(b"|")
    for rows in split:
      add(rows)
  for array in (stream.labels, *jax.tree.leaves(stream.view.tables)):
    add(array)
  whole = (stream.num_classes, stream.active, stream.task_id_given, stream.dataset.scale, *map(repr, stream.events))
  whole += ("room", stream.room) if stream.room else ()
  whole += ("row_room", stream.row_room) if stream.row_room else ()
  h.update(repr(whole).encode())
  h.update(repr([stream.dataset.digest, stream.dataset.class_names]).encode())
  return h.hexdigest()


def traced_digest(function: Callable, *arguments) -> str:
  """SHA-256 of what ``function`` traces to on abstract arguments: its operations and the arrays that it closes over."""
  closed, out = jax.make_jaxpr(function, return_shape=True)(*arguments)
  # Addresses in what is printed differ between processes.
  text = re.sub(r"0x[0-9a-f]+", "", f"{closed.jaxpr}{jax.tree.structure(out)}")
  h = hashlib.sha256(text.encode())
  for constant in closed.consts:
    if jnp.issubdtype(jnp.asarray(constant).dtype, jax.dtypes.prng_key):
      constant = jax.random.key_data(constant)
    h.update(np.ascontiguousarray(constant).tobytes())
  return h.hexdigest()


def code_digest(function) -> str:
  """SHA-256 of a function of the caller's own that nothing traces: its bytecode and constants, its defaults and what it
  closes over, and, of its own module, the functions and plain values that it names. Holds under one version of Python.
  """
  h, seen = hashlib.sha256(), set[int]()

  def add(value, home: str) -> None:
    if isinstance(value, functools.partial):
      value = (value.func, value.args, value.keywords)
    value = getattr(value, "__func__", value)  # of a bound method
    if isinstance(value, types.FunctionType):
      h.update(f"{value.__module__}.{value.__qualname__}".encode())
      if id(value) in seen:
        return
      seen.add(id(value))
      home = home or value.__module__
      if value.__module__ == home:
        code(value.__code__, value.__globals__, home)
      add((value.__defaults__, value.__kwdefaults__), home)
      for cell in value.__closure__ or ():
        try:
          add(cell.cell_contents, home)
        except ValueError:  # not filled yet
          h.update(b"empty")
    elif isinstance(value, types.CodeType):
      code(value, {}, home)
    elif isinstance(value, np.ndarray | jax.Array):
      a = np.ascontiguousarray(value)
      h.update(f"{a.dtype}{a.shape}".encode() + a.tobytes())
    elif isinstance(value, tuple | list):
      h.update(f"{type(value).__name__}{len(value)}".encode())
      for part in value:
        add(part, home)
    elif isinstance(value, dict):
      add([part for pair in sorted(value.items(), key=lambda p: repr(p[0])) for part in pair], home)
    elif isinstance(value, set | frozenset):
      add(sorted(map(repr, value)), home)
    elif isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
      h.update(f"{getattr(value, '__module__', '')}.{value.__name__}".encode())
      if isinstance(value, type) and value.__module__ == home and id(value) not in seen:
        seen.add(id(value))
        add({k: v for k, v in vars(value).items() if not k.startswith("__") or callable(v)}, home)
    else:
      h.update(type(value).__qualname__.encode())
      call = type(value).__call__ if callable(value) else None
      own = type(value).__module__ == home and hasattr(value, "__dict__")
      if (isinstance(call, types.FunctionType) or own) and id(value) not in seen:
        seen.add(id(value))
        add(call, home)
        add(vars(value) if hasattr(value, "__dict__") else {}, home)
      else:
        h.update(re.sub(r"0x[0-9a-f]+", "", repr(value)).encode())

  def code(one: types.CodeType, named: dict, home: str) -> None:
    h.update(one.co_code)
    add((one.co_names, one.co_varnames, one.co_freevars), home)
    for constant in one.co_consts:
      if isinstance(constant, types.CodeType):
        code(constant, named, home)
      else:
        add(constant, home)
    for name in one.co_names:
      if name in named and not isinstance(named[name], types.ModuleType):
        add(named[name], home)

  add(function, "")
  return h.hexdigest()


def model_digest(model, stream, inputs=None) -> str:
  """Of a model on inputs as the stream stores them; on ``inputs``, abstract, where an objective shows it others."""
  key, rows = jax.random.key(0), stream.dataset.train.x
  if isinstance(rows, dict) or isinstance(inputs, dict) or (inputs is not None and stream.dataset.scale is None):
    x = inputs
  else:
    x = jax.ShapeDtypeStruct((2, *rows.shape[1:]), jnp.float32)
  params, state = jax.eval_shape(model.init, key)

  def both(key, params, state, x):
    each = [model.apply(params, state, x, train=train, key=key, task=0, mask=None) for train in (False, True)]
    return model.init(key), each

  return traced_digest(both, key, params, state, x)


def view_digest(stream) -> str:
  x = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape[1:]), a.dtype), stream.dataset.train.x)
  return traced_digest(stream.view.apply, stream.view.tables, x, jax.ShapeDtypeStruct((2,), jnp.int32))


def parts_digest(parts, learner, train, where, spec, inputs=None) -> str:
  """Of a method or an optimizer of the caller's own: a training step and every hook of one learner."""
  ints, flag = jax.ShapeDtypeStruct((spec.batch_size,), jnp.int32), jax.ShapeDtypeStruct((), bool)
  rows = (jax.ShapeDtypeStruct((spec.task_rows,), jnp.int32),) * 2
  count = jax.ShapeDtypeStruct((), jnp.int32)
  x = inputs if isinstance(inputs, dict) else jax.ShapeDtypeStruct((2, *spec.input_shape), spec.input_dtype)
  found = [traced_digest(parts.init, jax.random.key(0))]
  found.append(traced_digest(parts.step, learner, train, where, flag, ints, ints, ints))
  for hook in (parts.start_task, parts.end_task):
    found.append(traced_digest(hook, learner, flag, train, where, *rows, count) if hook is not None else "")
  found.append(traced_digest(parts.predict, learner, x, count))
  return hashlib.sha256("".join(found).encode()).hexdigest()


def of_other_code(difference: str) -> bool:
  """Whether a difference of configurations is one of traced code, which other versions of JAX trace otherwise."""
  return difference.startswith("code.")


def told(difference: str) -> str:
  """A difference of configurations in words: of code, of which two digests say nothing, whose it is."""
  key = difference.partition(":")[0]
  if not of_other_code(difference):
    return difference
  whose = key.removeprefix("code.").replace("evaluators.", "evaluator ")
  whose = "method, the objective or the optimizer" if whose == "parts" else whose
  return f"{key} (the code of the {whose} is not what it was)"


__all__ = ["code_digest", "describe", "of_other_code", "parts_digest", "stream_digest", "told", "traced_digest"]
