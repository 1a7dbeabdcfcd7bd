"""Methods that project the gradient: what they remember at the end of a task, and the projector that uses it."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp

from cljax import estimators, memory, projectors
from cljax import rows as picking
from cljax.method import Method, Reference
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import drawn, example_row
from cljax.tree import fold
from cljax.types import Access, Spec, UsageError

EPISODIC = Access(stores_data=True, task_boundaries=True, boundary_data=True)


def episodic(spec: Spec, capacity: int):
  """An episodic memory of past tasks, ``capacity // num_tasks`` rows of each, filled when a task ends.

  Returns ``(memory, end_task, scrub)`` for a method whose state is the memory's.
  """
  share = capacity // spec.num_tasks
  if share < 1:
    raise UsageError(f"method.capacity: got {capacity}; {spec.num_tasks} tasks need at least one row each")
  ring = memory.ring(capacity, spec.num_tasks)

  def end_task(key, learner, task):
    kept = picking.spread(task.rows.as_read(), share)
    stored = {"x": kept.x, "y": kept.y, "id": kept.id, "task": kept.task}
    return learner._replace(method_state=ring.add(fold(key, "add"), learner.method_state, stored, kept.weight))

  def scrub(learner, request):
    return learner._replace(
      method_state=ring.remove(learner.method_state, lambda rows: request.names(rows["id"], rows["task"]))
    )

  return ring, end_task, scrub


def agem(model, spec: Spec, *, capacity: int, reference_batch: int = 0) -> Method:
  """A-GEM: where ``<g, g_ref> < 0``, ``g - <g, g_ref> / <g_ref, g_ref> g_ref``; g_ref on a random batch of past tasks'
  rows.

  The memory holds an even share of each finished task. ``reference_batch`` 0 means the training batch size. Spec 4.2;
  Chaudhry et al., 2019.
  """
  del model
  ring, end_task, scrub = episodic(spec, capacity)
  size = min(reference_batch or spec.batch_size, capacity)

  def batch(key, learner):
    stored, weight = ring.sample(fold(key, "sample"), learner.method_state, size)
    return drawn(spec, stored, weight)

  return Method(
    init=lambda key, learner: ring.init(example_row(spec)),
    references={"memory": Reference(batch)},
    transform=projectors.agem("memory"),
    end_task=end_task,
    scrub=scrub,
  )


def gem(model, spec: Spec, *, margin, ridge, capacity: int) -> Method:
  """GEM: one constraint for each finished task, ``<g, g_k> >= 0`` with g_k on all its stored rows; spec 4.1.

  The memory holds ``capacity // num_tasks`` rows of each finished task; each step takes a gradient for every task of
  the stream (zero for those to come). ``margin`` bounds the dual variables from below. Lopez-Paz and Ranzato, 2017.
  """
  del model
  ring, end_task, scrub = episodic(spec, capacity)

  def batch(key, learner):
    del key
    stored, weight = ring.contents(learner.method_state)
    flat = drawn(spec, stored, weight)
    return jax.tree.map(lambda a: a.reshape(spec.num_tasks, -1, *a.shape[1:]), flat)

  return Method(
    init=lambda key, learner: ring.init(example_row(spec)),
    references={"memory": Reference(batch)},
    transform=projectors.gem("memory", margin, ridge),
    end_task=end_task,
    scrub=scrub,
  )


def skipping(skip: str):
  """``path -> bool`` for a regular expression of parameter paths that are left alone; None for the empty one."""
  if not skip:
    return None
  try:
    pattern = re.compile(skip)
  except re.error as e:
    raise UsageError(f"method.skip: got {skip!r}; expected a regular expression ({e})") from None
  return lambda path: bool(pattern.search(path))


def layer_rows(model, learner, batch):
  """``{kernel path: [n, d_in]}``: what each kernel multiplies on a batch, zero for rows of weight 0."""
  inputs = estimators.layer_inputs(model, learner.params, learner.model_state, batch.x)
  size = batch.weight.shape[0]
  # A convolution has several rows for each sample, in sample order.
  return {p: r * jnp.repeat(batch.weight, r.shape[0] // size)[:, None] for p, r in inputs.items()}


def gpm(model, spec: Spec, *, threshold, threshold_step, samples: int = 125, max_rank: int = 0, skip: str = "head"):
  """GPM: kernels' gradients orthogonal to the span of old layer inputs; ``threshold + threshold_step * task`` of
  energy.

  ``skip``: a regular expression of parameter paths that are not projected (the head). Biases and norm parameters are
  held after the first task, as in the released code. Needs a model with ``capture``. Spec 4.5; Saha et al., 2021.
  """
  del spec

  def end_task(key, learner, task):
    del key
    inputs = layer_rows(model, learner, picking.spread(task.rows, samples))
    level = jnp.minimum(threshold + threshold_step * task.visit.others, 1.0)
    return learner._replace(opt_state=projectors.gpm_extend(learner.opt_state, inputs, level))

  return Method(transform=projectors.gpm(max_rank or None, skipping(skip)), end_task=end_task)


register(
  "agem",
  Entry(
    agem,
    {"capacity": Option(200, 1), "reference_batch": Option(0, 0)},
    EPISODIC,
    "Chaudhry et al. 2019",
    test={"capacity": 20},
  ),
)
register(
  "gem",
  Entry(
    gem,
    {"margin": Option(0.5, 0), "ridge": Option(0.001, 0), "capacity": Option(200, 1)},
    EPISODIC,
    "Lopez-Paz and Ranzato 2017",
    test={"capacity": 20},
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
      "skip": Option("head"),
    },
    Access(task_boundaries=True, boundary_data=True),
    "Saha et al. 2021",
    test={"samples": 16},
  ),
)
