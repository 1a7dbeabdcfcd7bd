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
  task is told at test does not matter), nor where tasks share their labels or there are no classes."""
  return spec.objective.classes and spec.active == "task" and not bool((spec.classes_of_task.sum(0) > 1).any())


def captured(model, spec: Spec) -> tuple[tuple[int, ...], list]:
  """The shape of the logits of one row, and the calls of the model's layers on it, abstract."""
  row = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), spec.shown)
  told = {"task": jnp.zeros(1, jnp.int32)} if model.by_task else {}
  calls: list = []

  def look(params, state, x):
    logits, found = model.capture(params, state, x, None, **told)
    calls.extend(found.values())
    return logits

  return jax.eval_shape(look, *jax.eval_shape(model.init, jax.random.key(0)), row).shape, calls


def classifier(model, spec: Spec) -> frozenset[str]:
  """The names of the leaves of the layer that gives the logits: of the model's last captured layer of their shape, of
  its last unit's reader, or, where it has neither, those called ``head``."""
  names = tree.paths(jax.eval_shape(model.init, jax.random.key(0))[0])
  if model.capture is not None:
    shape, calls = captured(model, spec)
    found = [c.spec.leaves for c in calls if c.output is not None and c.output.shape == shape]
    if found:
      return frozenset(found[-1].values())
  if model.units:
    layer = model.units[-1].out_kernel.rpartition("/")[0]
    return frozenset(n for n in names if n.rpartition("/")[0] == layer)
  return frozenset(n for n in names if re.search(r"(^|/)head(/|$)", n))


def batch_norms(model) -> frozenset[str]:
  """The names of the leaves of layers that keep statistics of batches: those with a state called ``mean`` or ``var``.
  Of Linen, whose states lie in collections, and of NNX."""
  params, state = jax.eval_shape(model.init, jax.random.key(0))
  layer = lambda name: name.rpartition("/")[0]
  kept = {layer(n) for n in tree.paths(state) if n.rpartition("/")[2] in ("mean", "var")}
  kept |= {n.partition("/")[2] for n in kept if n.startswith("batch_stats/")}
  return frozenset(n for n in tree.paths(params) if layer(n) in kept)


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


def projected(model, spec: Spec, skip: str, parts: bool = False):
  """``(skip, hold)`` of a projector of layer inputs: what it leaves alone, and a transform behind it, or None.

  It also leaves alone the leaves of two axes or more that multiply no captured input: tables of embeddings and of
  positions, grouped convolutions, Flax's own attention. ``hold`` keeps these as the first task left them, as biases
  are, for otherwise the inputs of all layers above would move; those that ``skip`` names stay free. Of a model that
  reads the task, those with a leading axis of tasks are free, but for the slices of other tasks, which are held.
  UsageError for a model whose kernels are made from trained parts (low-rank factors, adapters), which layer inputs say
  nothing of, and which ``hold`` would stop behind the first task; not where the method has a use for ``parts``.
  """
  chosen = skipping(model, spec, skip)
  leaves = tree.by_path(jax.eval_shape(model.init, jax.random.key(0))[0])
  lost = {n for n, a in leaves.items() if a.ndim >= 2 and not (chosen and chosen(n))}
  if model.capture is None or not lost:
    return chosen, None
  lost -= {c.spec.leaves.get("kernel") for c in captured(model, spec)[1] if c.spec.unfold is not None}
  if not lost:
    return chosen, None
  if model.plain is not None and not parts:
    raise UsageError(
      f"method.skip: got {skip!r}, which leaves {min(lost)} to projections of layer inputs; of a tuned model "
      "(model.tuning) these know the leaves that are trained in full alone: use model.tuning=bitfit, lnfit or ''"
    )
  own = {n for n in lost if model.by_task and leaves[n].shape[0] == spec.num_tasks}

  def update(updates, state, params=None, *, visit, **extra):
    del params, extra
    began, mine = visit.met.any(), jnp.arange(spec.num_tasks) == visit.task

    def one(name, u):
      if name in own:
        return jnp.where(mine.reshape(-1, *(1,) * (u.ndim - 1)), u, jnp.zeros_like(u))
      return jnp.where(began, jnp.zeros_like(u), u) if name in lost else u

    return tree.map_named(one, updates), state

  hold = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
  return lambda path: path in lost or bool(chosen and chosen(path)), hold


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
