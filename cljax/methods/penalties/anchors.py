"""Methods that hold parameters or features to where an earlier task left them."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import losses, regularizers
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.heads import AUTO, classifier
from cljax.methods.penalties.pulls import DECOUPLED, consolidated, quadratic
from cljax.methods.registry import Entry, Option, register
from cljax.objectives.objective import reduced

_BOUNDARY = Access(task_boundaries=True)


def l2_previous(model, spec, *, strength, decoupled: bool = False) -> Method:
  """L2 to the parameters after the previous task, ``strength * |theta - theta*|^2``: EWC with F = 1; spec 1.5.

  ``decoupled`` as of :func:`cljax.methods.penalties.pulls.ewc`, with ``a = 2 rate * strength``.
  """
  del model, spec

  def end_task(key, learner, task):
    del key, task
    return consolidated(learner, "l2_previous")

  return Method(end_task=end_task, **quadratic(regularizers.l2_previous, strength, decoupled=decoupled))


def hierarchical(
  model, spec, *, strength, damping, decoupled: bool = False, general: int = 0, layers: str = "modules",
  normalise: str = "max",
) -> Method:  # fmt: skip
  """SI with a weight for each layer: ``strength sum_l s_l sum_i Omega_i (theta_i - theta*_i)^2``, ``s =
  softmax_l |Omega_l|``.

  Omega is the path integral over the tasks of the stream, or, as in the paper, over the first ``general`` of them
  alone, which are the general data: later ones change neither Omega nor the anchor. ``layers``: 'modules', or 'blocks',
  the first name of a path, as the paper's decoder blocks. ``normalise`` 'max': norms over the largest (else the layer
  of the largest norm soon has all the weight); 'none' is the formula as printed. The place of ``s_l`` is UNVERIFIED. In
  a hybrid with other penalties, write it first. ``decoupled`` as of
  :func:`cljax.methods.penalties.si`, with ``a = 2 rate * strength * s_l * max(Omega, 0)``. Spec 7.9; Song et al., 2025.
  """
  del model, spec

  def end_task(key, learner, task):
    del key
    consolidate = lambda learner: consolidated(learner, "hierarchical")
    if not general:
      return consolidate(learner)
    return jax.lax.cond(task.visit.others < general, consolidate, lambda learner: learner, learner)

  made = partial(regularizers.hierarchical, depth=1 if layers == "blocks" else None, normalise=normalise)
  return Method(end_task=end_task, **quadratic(made, strength, damping, decoupled=decoupled))


class HoldState(NamedTuple):
  held: Any  # bool: the chosen parameters stand still


def hold(chosen) -> optax.GradientTransformationExtraArgs:
  """``u <- 0`` for the parameters of ``chosen(path)``, from the call of :func:`held` on; bit for bit before it."""

  def update(updates, state, params=None, **extra):
    del params, extra

    def one(path, u):
      return jnp.where(state.held, jnp.zeros_like(u), u) if chosen(tree.path_name(path)) else u

    return jax.tree_util.tree_map_with_path(one, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: HoldState(jnp.zeros((), bool)), update)


def held(opt_state):
  """The optimizer state with every :func:`hold` in it switched on."""
  is_state = lambda s: isinstance(s, HoldState)
  switch = lambda s: HoldState(jnp.ones_like(s.held)) if is_state(s) else s
  return jax.tree.map(switch, opt_state, is_leaf=is_state)


class Centers(NamedTuple):
  """Class centres ``[C, D]``, learned in the first task; ``rows [C]`` of each class then (0: it has no centre)."""

  centers: Any
  rows: Any
  tasks: Any  # int32, finished


def center_loss(model, spec: Spec, *, strength, rate, head: str = AUTO) -> Method:
  """Center loss: ``strength * mean 1/2 |f(x) - c_y|^2``; centres move in the first task only, as does the classifier.

  Centres start at 0 and follow ``c_j += rate sum_{y=j} (f - c_j) / (1 + n_j)`` in each step of the first task.
  ``head``: a regular expression of the parameter paths held after the first task ('' for none); 'auto': the classifier
  where all tasks have the same classes, and none elsewhere, where new ones could not be learned. For tasks that share
  their labels; a class that the first task lacks has no centre and no term. ``strength`` and
  ``rate`` are UNVERIFIED. Raises UsageError: no features; ``head`` matches no parameter. Spec 7.1; Olpadkar and
  Gavas, 2021.
  """
  pattern = re.compile(head) if head and head != AUTO else None
  alike = bool((spec.classes_of_task == spec.classes_of_task[:1]).all())
  known = classifier(model, spec) if head == AUTO and alike else frozenset()
  chosen = lambda path: path in known or (pattern is not None and bool(pattern.search(path)))

  def init(key, learner):
    paths = tree.paths(learner.params)
    if pattern is not None and not any(map(chosen, paths)):
      raise UsageError(f"method.head: {head!r} matches no parameter; the paths are {', '.join(paths)}")
    x = jax.ShapeDtypeStruct((1, *spec.input_shape), spec.input_dtype)
    task = model.task_for(jnp.zeros(1, jnp.int32))
    apply = lambda x: model.apply(learner.params, learner.model_state, x, train=False, key=key, task=task, mask=None)
    features = jax.eval_shape(apply, x)[0].features
    if features is None:
      raise UsageError("method.name: 'center_loss' needs a model that returns features (Outputs.features is None)")
    return Centers(
      jnp.zeros((spec.num_classes, features.shape[-1]), jnp.float32), jnp.zeros(spec.num_classes, jnp.float32),
      jnp.zeros((), jnp.int32),
    )  # fmt: skip

  def term(key, params, learner, batch, outputs):
    del key, params
    state = learner.method_state
    per_row = losses.center_loss(outputs.features, batch.y, state.centers)
    per_row = jnp.where(state.rows[batch.y] > 0, per_row, 0.0)
    return strength * reduced(per_row, None, batch)

  def after_step(key, learner, info):
    del key
    state, batch = learner.method_state, info.batch
    moved = losses.update_centers(state.centers, info.outputs.features, batch.y, batch.weight, rate)
    rows = state.rows + jax.ops.segment_sum(batch.weight, batch.y, spec.num_classes)
    first = state.tasks == 0
    centers, rows = jnp.where(first, moved, state.centers), jnp.where(first, rows, state.rows)
    return learner._replace(method_state=Centers(centers, rows, state.tasks))

  def end_task(key, learner, task):
    del key, task
    state = learner.method_state
    return learner._replace(method_state=state._replace(tasks=state.tasks + 1), opt_state=held(learner.opt_state))

  def scrub(learner, request):
    state, gone = learner.method_state, request.classes
    centers, rows = jnp.where(gone[:, None], 0.0, state.centers), jnp.where(gone, 0.0, state.rows)
    return learner._replace(method_state=Centers(centers, rows, state.tasks))

  return Method(
    init=init,
    terms={"center": term},
    finalize=hold(chosen),
    after_step=after_step,
    end_task=end_task,
    scrub=scrub,
  )


register(
  "l2_previous",
  Entry(
    l2_previous,
    {"strength": Option(0.1, 0), **DECOUPLED},
    _BOUNDARY._replace(needs=()),
    "EWC with F = 1",
  ),
)
register(
  "hierarchical",
  Entry(
    hierarchical,
    {
      "strength": Option(0.05, 0),
      "damping": Option(0.1, 1e-12),
      **DECOUPLED,  # exp(-3) in the paper
      "general": Option(0, 0),
      "layers": Option("modules", choices=("modules", "blocks")),
      "normalise": Option("max", choices=("max", "none")),
    },
    _BOUNDARY._replace(needs=()),
    "Song et al. 2025",
  ),
)
register(
  "center_loss",
  Entry(
    center_loss,
    {"strength": Option(0.1, 0), "rate": Option(0.5, 0, 1), "head": Option(AUTO)},
    _BOUNDARY,
    "Olpadkar and Gavas 2021",
  ),
)
