"""Which leaves are the classifier, and whether each task has one of its own: known from the model and the scenario."""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.types import Spec, UsageError

AUTO = "auto"


def separate(spec: Spec) -> bool:
  """Whether a task's outputs are moved by its own rows alone: only its classes are in the softmax of its rows, and it
  shares none with another task. So in task-incremental streams; not where all or all seen classes compete (whether the
  task is told at test does not matter), nor where tasks share their labels."""
  return spec.active == "task" and not bool((spec.classes_of_task.sum(0) > 1).any())


def classifier(model, spec: Spec) -> frozenset[str]:
  """The names of the leaves of the layer that gives the logits: of the model's last captured layer of their shape, of
  its last unit's reader, or, where it has neither, those called ``head``."""
  params, state = jax.eval_shape(model.init, jax.random.key(0))
  names = tree.paths(params)
  if model.capture is not None:
    x = jax.ShapeDtypeStruct((1, *spec.input_shape), spec.input_dtype)
    told = {"task": jnp.zeros(1, jnp.int32)} if model.by_task else {}
    found: list[dict[str, str]] = []

    def look(params, state, x):
      logits, calls = model.capture(params, state, x, None, **told)
      found.extend(c.spec.leaves for c in calls.values() if c.output is not None and c.output.shape == logits.shape)
      return logits

    jax.eval_shape(look, params, state, x)
    if found:
      return frozenset(found[-1].values())
  if model.units:
    layer = model.units[-1].out_kernel.rpartition("/")[0]
    return frozenset(n for n in names if n.rpartition("/")[0] == layer)
  return frozenset(n for n in names if re.search(r"(^|/)head(/|$)", n))


def skipping(model, spec: Spec, skip: str) -> Callable[[str], bool] | None:
  """``name -> bool``: leaves that a projector leaves alone; None for none.

  ``skip`` is a regular expression of their names, '' for none, or 'auto': the classifier where tasks have outputs of
  their own (:func:`separate`), and nothing where they share them.
  """
  if skip == AUTO:
    return classifier(model, spec).__contains__ if separate(spec) else None
  if not skip:
    return None
  try:
    pattern = re.compile(skip)
  except re.error as e:
    raise UsageError(f"method.skip: got {skip!r}; expected 'auto' or a regular expression ({e})") from None
  return lambda path: bool(pattern.search(path))


def hold_others(model, spec: Spec, skip: str) -> optax.GradientTransformationExtraArgs | None:
  """``u <- 0`` for other tasks' outputs where 'auto' leaves the classifier alone; None elsewhere.

  Their gradients are 0, but momentum and weight decay would move them.
  """
  if skip != AUTO or not separate(spec):
    return None
  head, own = classifier(model, spec), jnp.asarray(spec.classes_of_task)

  def update(updates, state, params=None, *, visit, **extra):
    del params, extra

    def one(name, u):
      outputs = name in head and u.shape[-1:] == (spec.num_classes,)
      return jnp.where(own[visit.task], u, jnp.zeros_like(u)) if outputs else u

    return tree.map_named(one, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
