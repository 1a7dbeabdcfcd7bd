"""A frozen network with tuned parts for each task: a stack of what :mod:`cljax.models.tuning` trains, one a place.

``params["stack"]`` are ``{path: [T, ...]}``, the parts of each place among the tasks met; ``model_state`` is a
:class:`Stacked`. The network's own parameters and state stay as they are, to the bit: it runs in eval mode.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.types import Model, Spec, UsageError
from cljax.models import heads, isolated, tuning

RANKED = ("adapter", "parallel_adapter", "lora")  # tunings that have a rank


class Stacked(NamedTuple):
  """The model state of a network with a stack."""

  slots: Any  # [T] int32: the place of each task among those met, from 0; -1 for those that were not
  slot: Any  # int32: the place of the task that is learned
  base: Any  # the network's own: what is frozen, its classifier, its state


class Stack(NamedTuple):
  """``begin(key) -> ({path: [T, ...]}, Stacked)``; ``outputs(parts, model_state, slot, x, key, task=None) -> Outputs``
  of the network with the parts of a place."""

  begin: Callable
  outputs: Callable


def stack(model: Model, num_tasks: int, kind: str, rank: int, layers: str, classifier: Set[str]) -> Stack:
  """A stack of the parts that the tuning ``kind`` trains beside the model, of ``rank`` where it has one.

  Each place's are drawn for themselves. The leaves in ``classifier`` have none; ``layers`` as in ``tuning.KIND``, whose
  UsageErrors this raises, by the names of a method's options.
  """
  full = "|".join(f"^{re.escape(n)}$" for n in sorted(classifier))
  ranked = {"rank": rank} if kind in RANKED else {}

  def make(model):
    try:
      return tuning.TUNINGS[kind](model, layers=layers, trained=full, **ranked)
    except UsageError as e:
      raise UsageError(str(e).replace("tuning_", "method.", 1)) from None

  tuned = make(model)

  def begin(key):
    params, inner = model.init(tree.fold(key, "network"))
    fixed = make(model._replace(init=lambda key: (params, inner)))
    own, state = fixed.init(key)
    base = {"trained": {n: a for n, a in tree.by_path(own).items() if n in classifier}, "state": state}
    draw = lambda key: {n: a for n, a in tree.by_path(fixed.init(key)[0]).items() if n not in classifier}
    parts = jax.vmap(draw)(jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_tasks)))
    return parts, Stacked(jnp.full(num_tasks, -1, jnp.int32), jnp.int32(0), tree.copy(base))

  def outputs(parts, model_state: Stacked, slot, x, key, task=None, mask=None):
    base = jax.lax.stop_gradient(model_state.base)
    params = tuning.nested({**base["trained"], **{n: a[slot] for n, a in parts.items()}})
    return tuned.apply(params, base["state"], x, train=False, key=key, task=task, mask=mask)[0]

  return Stack(begin, outputs)


def with_head(model: Model, spec: Spec, stack: Stack, name: str, init: Callable, answer: Callable) -> Model:
  """The model with ``{"stack": ..., name: init(key)}``, whose logits are ``answer(head, features [B, D])`` under the
  parts of the task that is learned, whatever the task of a row."""

  def begin(key):
    parts, state = stack.begin(key)
    return {"stack": parts, name: init(tree.fold(key, name))}, state

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    del train
    out = stack.outputs(params["stack"], model_state, model_state.slot, x, key, task, mask)
    return out._replace(logits=answer(params[name], heads.flat(out.features))), model_state

  return Model(begin, apply, by_task=model.by_task, check_rows=model.check_rows)


def opened(model_state: Stacked, task) -> Stacked:
  """The state in which the task is learned, and has a place."""
  slot = isolated.place_of(model_state.slots, task)
  return model_state._replace(slots=model_state.slots.at[task].set(slot), slot=slot)


def every(stack: Stack, parts, model_state: Stacked, count, x, key, task=None):
  """``[T, B, D]``: the features of rows under the parts of each of the first ``count`` places; 0 behind these."""
  one = lambda slot: heads.flat(stack.outputs(parts, model_state, slot, x, key, task).features)
  like = jax.eval_shape(one, jnp.int32(0))
  none = lambda j: jnp.zeros(like.shape, like.dtype)
  # Of a fixed length: a loop that ends at a traced count has no derivative by the rows.
  return jax.lax.map(
    lambda j: jax.lax.cond(j < count, one, none, j), jnp.arange(len(model_state.slots), dtype=jnp.int32)
  )
