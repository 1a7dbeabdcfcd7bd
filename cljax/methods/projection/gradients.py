"""Methods that project the gradient: what they remember at the end of a task, and the projector that uses it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import estimators, memory, projectors
from cljax.core import rows as picking
from cljax.core.calls import since_0_2
from cljax.core.method import Method, Reference
from cljax.core.tree import fold
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.heads import AUTO, hold_others, projected
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import drawn, example_row
from cljax.methods.slots import no_slots, slot_of
from cljax.projectors.gpm import gpm_rows

EPISODIC = Access(stores_data=True, task_boundaries=True, boundary_data=True)


class Episodes(NamedTuple):
  """An episodic memory, with a portion for each task in the order in which tasks were first met."""

  memory: Any
  slots: Any  # [T] int32: the portion of each task, -1 for none


def episodic(spec: Spec, capacity: int):
  """An episodic memory of past tasks, ``capacity // num_tasks`` rows of each, drawn at random and balanced by class
  when the task ends; a task that comes back has its portion drawn anew.

  Returns ``(memory, init, end_task, scrub)`` for a method whose state is :class:`Episodes`.
  """
  share = capacity // spec.num_tasks
  if share < 1:
    raise UsageError(f"method.capacity: got {capacity}; {spec.num_tasks} tasks need at least one row each")
  ring = memory.ring(capacity, spec.num_tasks, lambda rows: rows["slot"])

  def init(key, learner):
    del key, learner
    return Episodes(ring.init(example_row(spec, slot=jnp.zeros((), jnp.int32))), no_slots(spec))

  def end_task(key, learner, task):
    state = learner.method_state
    slot, slots = slot_of(state.slots, task.visit)
    kept = picking.sample(fold(key, "rows"), task.rows.as_read(), share, by_class=spec.objective.classes)
    stored = {"x": kept.x, "y": kept.y, "id": kept.id, "task": kept.task, "slot": jnp.full(share, slot, jnp.int32)}
    filled = ring.add(fold(key, "add"), state.memory, stored, kept.weight)
    return learner._replace(method_state=Episodes(filled, slots))

  def scrub(learner, request):
    state = learner.method_state
    kept = ring.remove(state.memory, lambda rows: request.names(rows["id"], rows["task"]))
    return learner._replace(method_state=state._replace(memory=kept))

  return ring, init, end_task, scrub


ON_GRADIENT = {"on": Option("gradient", choices=("gradient", "update"))}
ON_UPDATE = {"on": Option("update", choices=("update", "gradient"))}


def by_references(projector, on: str, margin=0.0, around=lambda projector: projector) -> dict[str, Any]:
  """Where a projector stands whose constraints are reference gradients: as fields of a Method. ``around`` wraps it."""
  if on == "gradient":
    return {"transform": around(projector)}
  if isinstance(margin, (int, float)) and margin:
    raise UsageError(f"method.margin: got {margin}; on='update' takes 0, for it would be added without a learning rate")
  return {"finalize": around(projectors.on_update(projector))}


def agem(model, spec: Spec, *, capacity: int, reference_batch: int = 0, on: str = "gradient") -> Method:
  """A-GEM: where ``<g, g_ref> < 0``, ``g - <g, g_ref> / <g_ref, g_ref> g_ref``; g_ref on a random batch of past tasks'
  rows.

  The memory holds an even share of each finished task. ``reference_batch`` 0 means the training batch size. The promise
  ``<g, g_ref> >= 0`` is on the gradient: plain SGD keeps it, while momentum, Adam and weight decay turn it into steps
  that may still raise the stored rows' loss. ``on='update'`` projects what they make of it: then ``<u, g_ref> <= 0``
  for the update u itself. Spec 4.2; Chaudhry et al., 2019.
  """
  del model
  ring, init, end_task, scrub = episodic(spec, capacity)
  size = min(reference_batch or spec.batch_size, capacity)

  def batch(key, learner):
    stored, weight = ring.sample(fold(key, "sample"), learner.method_state.memory, size)
    return drawn(spec, stored, weight)

  return Method(
    init=init, references={"memory": Reference(batch)}, end_task=end_task, scrub=scrub,
    averaged=("memory", 0.0) if on == "gradient" else None, **by_references(projectors.agem("memory"), on),
  )  # fmt: skip


def gem(
  model, spec: Spec, *, margin, ridge, capacity: int, on: str = "gradient", constraints: str = "all"
) -> Method:  # fmt: skip
  """GEM: one constraint for each finished task, ``<g, g_k> >= 0`` with g_k on all its stored rows; spec 4.1.

  The memory holds ``capacity // num_tasks`` rows of each finished task; each step takes a gradient for every task of
  the stream (zero for those to come). ``margin`` bounds the dual variables from below. The promise is on the gradient;
  what momentum, Adam and weight decay do to it, and ``on='update'``, are as for :func:`agem` (with ``margin`` 0).
  Lopez-Paz and Ranzato, 2017. ``constraints='one'``: each step has the constraint of one finished task alone, drawn
  uniformly, and takes that one gradient; the others may be violated. S-GEM, of Chaudhry et al., 2019.
  """
  del model
  ring, init, end_task, scrub = episodic(spec, capacity)

  def batch(key, learner):
    stored, weight = ring.contents(learner.method_state.memory)
    flat = drawn(spec, stored, weight)
    each = jax.tree.map(lambda a: a.reshape(spec.num_tasks, -1, *a.shape[1:]), flat)
    if constraints == "all":
      return each
    task = jax.random.categorical(fold(key, "task"), jnp.where((each.weight > 0).any(1), 0.0, -jnp.inf))
    return jax.tree.map(lambda a: a[task], each)

  return Method(
    init=init, references={"memory": Reference(batch)}, end_task=end_task, scrub=scrub,
    **by_references(projectors.gem("memory", margin, ridge), on, margin),
  )  # fmt: skip


def standing(projector, behind, on: str) -> dict[str, Any]:
  """Where a linear projector stands, as fields of a Method: behind the optimizer, with ``behind``, or before it."""
  if on == "gradient":
    return {"transform": projector}
  return {"finalize": projector if behind is None else optax.chain(projector, behind)}


@since_0_2("spec stands behind model")
def layer_rows(model, spec: Spec, learner, batch):
  """``{kernel path: [n, d_in]}``: what each kernel multiplies on a batch, zero for rows of weight 0; of text, for
  positions behind the last one that counts too, which are padding (a prompt before them is none)."""
  inputs = estimators.layer_inputs(model, learner.params, learner.model_state, batch.x, model.task_for(batch.task))
  size = batch.weight.shape[0]
  there = None
  if spec.objective.parts is not None:
    counts = spec.objective.parts(batch) > 0
    there = jax.lax.cummax(counts.astype(batch.weight.dtype), axis=counts.ndim - 1, reverse=True)

  def one(rows):
    each = rows.shape[0] // size  # a convolution has several rows for each sample, in sample order
    weight = jnp.repeat(batch.weight, each)
    if there is not None and there.size == rows.shape[0]:
      weight = weight * there.reshape(-1)
    return rows * weight[:, None]

  return {path: one(rows) for path, rows in inputs.items()}


def with_held(projector, hold):
  """The projector, and behind it what holds the leaves that it cannot read."""
  return projector if hold is None else optax.chain(projector, hold)


def gpm(
  model, spec: Spec, *, threshold, threshold_step, samples: int = 125, max_rank: int = 0, skip: str = AUTO,
  on: str = "update",
) -> Method:  # fmt: skip
  """GPM: updates of kernels orthogonal to the span of old layer inputs, ``threshold + threshold_step * t`` of whose
  energy is kept where t other tasks were met before.

  It projects what the optimizer made of the gradient, weight decay included: so old inputs keep their pre-activations
  under any optimizer. ``on='gradient'`` is the published order, in front of the optimizer: momentum, Adam and weight
  decay then move the protected span. ``skip``: a regular expression of names that are not projected; 'auto': the
  classifier where each task has outputs of its own, as in the paper, and none where tasks share it. Biases and norm
  parameters are held after the first task, as in the released code, and so are tables of embeddings and positions and
  whatever else multiplies no captured input (:func:`cljax.methods.heads.projected`); name them in ``skip`` to let them
  go. Inputs ``[B, L, D]`` are B L rows, without padding. Needs a model with ``capture``. Spec 4.5; Saha et al., 2021.
  """

  def end_task(key, learner, task):
    inputs = layer_rows(model, spec, learner, picking.sample(fold(key, "rows"), task.rows, samples))
    level = jnp.minimum(threshold + threshold_step * task.visit.others.astype(jnp.float32), 1.0)
    return learner._replace(opt_state=projectors.gpm_extend(learner.opt_state, inputs, level))

  skipped, hold = projected(model, spec, skip)
  projector = with_held(projectors.gpm(max_rank or None, skipped), hold)

  def projects(learner):
    here = lambda node: isinstance(node, projectors.GPMState)
    (state,) = filter(here, jax.tree.leaves(learner.opt_state, is_leaf=here))
    return {path: (basis, state.ranks[path]) for path, basis in state.bases.items()}, gpm_rows

  return Method(end_task=end_task, projects=projects, **standing(projector, hold_others(model, spec, skip), on))


register(
  "agem",
  Entry(
    agem,
    {"capacity": Option(200, 1), "reference_batch": Option(0, 0), **ON_GRADIENT},
    EPISODIC._replace(needs=()),
    "Chaudhry et al. 2019",
  ),
)
register(
  "gem",
  Entry(
    gem,
    {
      "margin": Option(0.5, 0),
      "ridge": Option(0.001, 0),
      "capacity": Option(200, 1),
      **ON_GRADIENT,
      "constraints": Option("all", choices=("all", "one")),
    },
    EPISODIC._replace(needs=()),
    "Lopez-Paz and Ranzato 2017",
  ),
)
register(
  "gpm",
  Entry(
    gpm,
    {
      "threshold": Option(0.95, 0, 1),
      "threshold_step": Option(0.003, 0, 1),
      "samples": Option(125, 1),
      "max_rank": Option(0, 0),
      "skip": Option(AUTO),
      **ON_UPDATE,
    },
    Access(task_boundaries=True, boundary_data=True, needs=("plain_inputs",)),
    "Saha et al. 2021",
  ),
)
