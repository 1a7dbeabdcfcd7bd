"""Trust region gradient projection: a new task sees the weights scaled inside the spans of old ones like it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import projectors
from cljax.core import rows as picking
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Model, Spec
from cljax.methods.heads import AUTO, hold_others, projected
from cljax.methods.projection.gradients import ON_UPDATE, layer_rows, standing, with_held
from cljax.methods.projection.scaled import seen_as
from cljax.methods.projection.subspaces import task_gradient
from cljax.methods.registry import Entry, Option, register
from cljax.projectors.gpm import kernels

BASES, SPANS, REGIONS = "bases", "spans", "regions"


def regional_model(model: Model, spec: Spec, found: dict, max_rank: int, count: int) -> Model:
  """The network whose kernels are ``W + sum_k S_k R_k S_k^T W`` for rows of task t, k over t's regions.

  ``params`` are the model's and ``scales {name: [T, K, r, r]}``, the trainable R of each task, zeros at first;
  ``model_state`` the model's own, ``bases {name: [d_in, r]}``, ``spans {name: [T, r]}`` bool, the columns of each
  task's span, and ``regions {name: [T, K]}`` int32, the tasks whose spans each one trusts, -1 for none.
  """
  wide = {n: k.size // k.shape[-1] for n, k in found.items()}
  ranks = {n: min(max_rank or d, d) for n, d in wide.items()}

  def weight(name, w, scales, state, task):
    regions, basis = state[REGIONS][name][task], state[BASES][name]
    spans = state[SPANS][name][jnp.maximum(regions, 0)] & (regions >= 0)[:, None]
    return projectors.rescaled(w, basis, spans, scales[task])

  def begin(named):
    scales = {n: jnp.zeros((spec.num_tasks, count, r, r), named[n].dtype) for n, r in ranks.items()}
    return scales, {
      BASES: {n: jnp.zeros((wide[n], r), jnp.float32) for n, r in ranks.items()},
      SPANS: {n: jnp.zeros((spec.num_tasks, r), bool) for n, r in ranks.items()},
      REGIONS: {n: jnp.full((spec.num_tasks, count), -1, jnp.int32) for n in ranks},
    }

  return seen_as(model, spec, weight, begin, "method.name: 'trgp'")


def trgp(
  model, spec: Spec, *, threshold, threshold_step, sufficient, regions: int = 2, samples: int = 125, max_rank: int = 0,
  skip: str = AUTO, on: str = "update",
) -> Method:  # fmt: skip
  """TRGP: ``gpm``, and task t sees each kernel as ``W + sum_j S_j (Q_j - I) S_j^T W``, S_j ``[d_in, r_j]`` the input
  span of each of at most ``regions`` old tasks j and Q_j ``[r_j, r_j]`` trained for t alone, from I.

  When a task is met, its gradient G on ``samples`` rows chooses for each kernel the old tasks that take the largest
  parts of it, ``|S_j^T G| >= sufficient |G|``. So a new task uses what the projection forbids it to change: W itself
  moves off all old inputs, and old tasks answer through their own Q as before. A task's span are the directions, old
  and new by falling energy, that reach ``threshold + threshold_step * t`` of its inputs' energy
  (:func:`cljax.projectors.trgp_extend`). ``regions`` that nobody fills leave ``gpm``'s step.

  ``samples``, ``max_rank``, ``skip``, ``on`` and what is held after the first task as for ``gpm``. Q is stored as ``R =
  Q - I``, so that weight decay pulls to I. A task that comes back keeps its span and its regions, and goes on with its
  Q. Keeps ``T regions r^2`` numbers a kernel of r columns, beside gpm's memory twice. A batch that mixes tasks takes a
  pass for each.

  Deviations: behind the optimizer; ``on='gradient'`` is the published order. The released code drops the first new
  direction of each task from the memory; here it is kept. Raises UsageError for streams that do not tell the task at
  test, a model without ``capture``, one whose parameters are no dict, and a ``skip`` that leaves no kernel;
  requests are answered by ``retrain`` alone. Spec E4; Lin et al., 2022.
  """
  skipped, _ = projected(model, spec, skip)
  found = kernels(jax.eval_shape(model.init, jax.random.key(0))[0], skipped)
  count = min(regions, spec.num_tasks)
  model = regional_model(model, spec, found, max_rank, count)
  skipped, hold = projected(model, spec, skip)

  def kept(learner, field, task, new):
    """What each kernel has of the task: ``new {name: a}`` where it is met for the first time."""
    state = dict(learner.model_state[field])
    for name, a in new.items():
      own = jnp.where(task.visit.first, a, state[name][task.visit.task])
      state[name] = state[name].at[task.visit.task].set(own)
    return learner._replace(model_state={**learner.model_state, field: state})

  def start_task(key, learner, task):
    rows = picking.sample(fold(key, "rows"), task.rows, samples)
    gradient, state = tree.by_path(task_gradient(model, spec, learner, task, rows)), learner.model_state

    def chosen(name):
      g = gradient[name].reshape(-1, gradient[name].shape[-1])
      return projectors.trust_regions(state[BASES][name], state[SPANS][name], g, task.visit.met, count, sufficient)

    return kept(learner, REGIONS, task, {name: chosen(name) for name in found})

  def end_task(key, learner, task):
    inputs = layer_rows(model, spec, learner, picking.sample(fold(key, "rows"), task.rows, samples))
    level = jnp.minimum(threshold + threshold_step * task.visit.others.astype(jnp.float32), 1.0)
    opt_state, owned = projectors.trgp_extend(learner.opt_state, inputs, level)
    is_mine = lambda node: isinstance(node, projectors.GPMState)
    memory = next(filter(is_mine, jax.tree.leaves(opt_state, is_leaf=is_mine)))
    learner = kept(learner._replace(opt_state=opt_state), SPANS, task, owned)
    bases = {name: jnp.array(b, jnp.float32, copy=True) for name, b in memory.bases.items()}
    return learner._replace(model_state={**learner.model_state, BASES: bases})

  projector = with_held(projectors.gpm(max_rank or None, skipped), hold)
  stands = standing(projector, hold_others(model, spec, skip), on)
  return Method(model=model, start_task=start_task, end_task=end_task, **stands)


register(
  "trgp",
  Entry(
    trgp,
    {
      "threshold": Option(0.97, 0, 1),
      "threshold_step": Option(0.003, 0, 1),
      "sufficient": Option(0.5, 0),
      "regions": Option(2, 1),
      "samples": Option(125, 1),
      "max_rank": Option(0, 0),
      "skip": Option(AUTO),
      **ON_UPDATE,
    },
    Access(task_boundaries=True, boundary_data=True, task_id_at_test=True, needs=("plain_inputs",)),
    "Lin et al. 2022",
  ),
)
