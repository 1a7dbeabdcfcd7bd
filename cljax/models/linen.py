"""Any Flax Linen module as a :class:`cljax.core.types.Model`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cljax.core.types import Array, Model, Outputs, Tree, UsageError
from cljax.models.capture import capture_layers
from cljax.models.tasks import each_row

_TRAIN = ("train", "training", "is_training")  # names by which modules take the mode ...
_EVAL = ("deterministic", "eval", "use_running_average", "inference")  # ... and by which they take its opposite


def calling(module_class) -> Any:
  """``(train, task, mask) -> kwargs`` for the names that the module's ``__call__`` takes."""
  names = list(inspect.signature(module_class.__call__).parameters)[2:]

  def kwargs(train, task, mask):
    given: dict[str, Any] = {n: train for n in names if n in _TRAIN}
    given |= {n: not train for n in names if n in _EVAL}
    given |= {n: v for n, v in (("task", task), ("mask", mask)) if n in names}
    return given

  return kwargs


def rows_of_tasks(module_class, by_task: bool) -> Any:
  """``(task, x) -> task``: with ``by_task`` the task of each row of ``x [B, ...]``, ``[B]``; else as it is given."""
  if not by_task:
    return lambda task, x: task
  if "task" not in inspect.signature(module_class.__call__).parameters:
    raise UsageError(f"by_task: the __call__ of {module_class.__name__} takes no 'task'")
  return each_row


def _mask_batch_norm(mask):
  """Hands the row mask to every ``nn.BatchNorm``: rows that do not exist must not touch the statistics."""

  def interceptor(next_fun, args, kwargs, context):
    if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__" and kwargs.get("mask") is None:
      if "mask" not in inspect.signature(next_fun).parameters:
        return next_fun(*args, **kwargs)  # a subclass's own call; the base's, which it calls, comes by here too
      x = args[0] if args else kwargs["x"]
      if x.shape[0] != mask.shape[0]:
        raise UsageError(f"mask: has {mask.shape[0]} rows, but a BatchNorm input has leading size {x.shape[0]}")
      kwargs = {**kwargs, "mask": mask.reshape(mask.shape + (1,) * (x.ndim - 1))}
    return next_fun(*args, **kwargs)

  return nn.intercept_methods(interceptor)


def with_fields(out, sown=None) -> Outputs:
  """A module's result as :class:`Outputs`."""
  if isinstance(out, Outputs):
    return out
  if isinstance(out, (tuple, list)) or not hasattr(out, "shape"):
    raise UsageError(f"module: returned {type(out).__name__}; return logits [B, C] or cljax.Outputs")
  sown = sown or {}
  features, hidden = sown.get("features"), sown.get("hidden", ())
  return Outputs(out, features[-1] if features else None, tuple(hidden))


def from_linen(
  module: nn.Module, input_shape: Sequence[int] | Mapping[str, Any], *,
  init: Callable[[Tree, Array], Tree] | None = None, units: Sequence[Any] = (),
  with_activation: Callable[..., Model] | None = None, input_dtype: DTypeLike = jnp.float32, by_task: bool = False,
) -> Model:  # fmt: skip
  """A :class:`Model` from a Linen module that maps ``x [B, *input_shape]`` to logits or to :class:`Outputs`.

  Of inputs that are a dict ``input_shape`` is one of ``jax.ShapeDtypeStruct`` of a batch of one row.

  ``params`` is the module's ``params`` collection, ``model_state`` a dict of all its other collections. The mode is
  passed by the name that ``__call__`` takes it under (``train``, ``training``, ``deterministic``, ...), and ``task``
  and ``mask`` where it takes them. With ``mask``, every ``nn.BatchNorm`` inside leaves the masked rows out of its
  statistics, and a batch without any row leaves ``model_state`` as it was. Values sown as ``features`` and ``hidden``
  into ``intermediates`` reach ``Outputs``. ``init(shapes, key) -> variables`` replaces the module's initialisers (the
  zoo uses :func:`flat_init`, which compiles far faster). ``units`` and ``with_activation`` go into the Model.
  ``by_task``: ``task`` is the task of each row, int32 ``[B]`` (see :class:`Model`); else the current task or None.
  Raises UsageError where the output is neither logits nor Outputs, or ``by_task`` and ``__call__`` takes no ``task``.
  """
  told_to = calling(type(module))
  for_rows = rows_of_tasks(type(module), by_task)
  dummy = input_shape if isinstance(input_shape, dict) else jax.ShapeDtypeStruct((1, *input_shape), input_dtype)

  def module_init(key, x):
    rngs = {n: jax.random.fold_in(key, i) for i, n in enumerate(("params", "dropout"))}
    variables = dict(module.init(rngs, x, **told_to(False, each_row(0, x) if by_task else None, None)))
    return {n: c for n, c in variables.items() if n != "intermediates"}

  @functools.cache
  def shapes():
    return jax.eval_shape(module_init, jax.random.key(0), dummy)

  def model_init(key):
    zeros = lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), dummy)
    variables = init(shapes(), key) if init is not None else module_init(key, zeros())
    return variables.get("params", {}), {n: c for n, c in variables.items() if n != "params"}

  def apply(params, model_state, x, *, train, key, task=None, mask=None, **more):
    keywords = lambda *told: {**told_to(*told), **more}
    variables = {"params": params, **model_state}
    rngs = {"dropout": key} if train and key is not None else None
    task = for_rows(task, x)
    mutable = [*(model_state if train else ()), "intermediates"]
    if not train or mask is None or not model_state:
      out, changed = module.apply(variables, x, **keywords(train, task, mask), rngs=rngs, mutable=mutable)
      return with_fields(out, changed.get("intermediates", {})), {n: changed.get(n, c) for n, c in model_state.items()}
    mask = mask > 0
    some = mask.any()
    with _mask_batch_norm(mask | ~some):  # the mean over no rows would be 0/0
      out, changed = module.apply(variables, x, **keywords(train, task, mask), rngs=rngs, mutable=mutable)
    new = {n: changed.get(n, c) for n, c in model_state.items()}
    new = jax.tree.map(lambda a, b: jnp.where(some, a, b), new, dict(model_state))
    return with_fields(out, changed.get("intermediates", {})), new

  def capture(params, model_state, x, probe, task=None):
    def run():
      return apply(params, model_state, x, train=False, key=None, task=task)[0].logits

    return capture_layers(run, probe)

  return Model(model_init, apply, capture, tuple(units), with_activation, by_task)
