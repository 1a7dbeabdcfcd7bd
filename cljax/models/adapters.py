"""Models from plain functions (Equinox, Haiku, hand-written) and from Flax NNX modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from cljax.core import tree
from cljax.core.types import Model, UsageError
from cljax.models.linen import with_fields
from cljax.models.tasks import each_row


def from_apply(
  init: Callable, apply: Callable, *, stateful: bool = False, units: Sequence[Any] = (), by_task: bool = False
) -> Model:
  """A :class:`Model` from ``init(key) -> params`` and ``apply(params, x) -> logits`` (or ``Outputs``).

  With ``stateful``: ``init(key) -> (params, model_state)`` and
  ``apply(params, model_state, x) -> (logits, model_state)``. ``apply`` also receives those of ``train``, ``key``,
  ``task`` and ``mask`` that it names. ``params`` is any pytree of arrays, such as the array half of
  ``equinox.partition(module, equinox.is_array)``. Parameters are copied at ``init``. There is no ``capture``, so
  per-sample estimators go row by row. ``by_task``: ``task`` is the task of each row, int32 ``[B]``.
  """
  taken = set(inspect.signature(apply).parameters)
  if by_task and "task" not in taken:
    raise UsageError("by_task: apply takes no 'task'")

  def model_init(key):
    made = init(key)
    if stateful and not (isinstance(made, tuple) and len(made) == 2):
      raise UsageError(f"init: returned {type(made).__name__}; with stateful=True it returns (params, model_state)")
    params, model_state = made if stateful else (made, {})
    return tree.copy(params), tree.copy(model_state)

  def model_apply(params, model_state, x, *, train, key, task=None, mask=None):
    offered = {"train": train, "key": key, "task": each_row(task, x) if by_task else task, "mask": mask}
    given = {n: v for n, v in offered.items() if n in taken}
    if not stateful:
      return with_fields(apply(params, x, **given)), model_state
    out, new = apply(params, model_state, x, **given)
    return with_fields(out), new

  return Model(model_init, model_apply, None, tuple(units), by_task=by_task)


def from_nnx(module: Any, *, units: Sequence[Any] = (), by_task: bool = False) -> Model:
  """A :class:`Model` from a Flax NNX module, or from a function ``rngs -> module`` that builds one.

  From a function, ``init(key)`` builds a module with ``nnx.Rngs(key)``; from a module, it copies the module's present
  weights and ignores the key. ``params`` and ``model_state`` are plain dicts of arrays: the module itself is never
  mutated, and aliases nothing. Random streams (dropout) are reseeded from ``key`` at every call. With ``mask``, every
  ``nnx.BatchNorm`` leaves the masked rows out of its statistics. There is no ``capture``. ``by_task``:
  ``task`` is the task of each row, int32 ``[B]``.
  """
  from cljax.models import nnx_modules  # a slow import

  return nnx_modules.adapt(module, units, by_task)
