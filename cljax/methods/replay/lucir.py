"""LUCIR: a classifier of cosines, features held to the last task's, and a margin between old classes and new ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from cljax import estimators
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.models import heads

DIRECTIONS = "cosine/directions"


def hold_old_directions(spec: Spec) -> optax.GradientTransformationExtraArgs:
  """``u <- 0`` for the directions of old classes: of those met before that the current task has not."""

  def update(updates, state, params=None, *, visit, **extra):
    del params, extra
    old = sets.old_and_new(spec, visit)[0][None, :, None]
    one = lambda name, u: jnp.where(old, jnp.zeros_like(u), u) if name == DIRECTIONS else u
    return tree.map_named(one, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def imprinted(directions, means, old, new):
  """The directions ``[D, C, K]`` with those of new classes ``|w_old| unit(means)``, ``|w_old|`` the mean norm of old
  ones; means ``[C, D]`` of normalised features. A class without a mean keeps its own."""
  norms = jnp.sqrt(jnp.sum(jnp.square(directions.astype(jnp.float32)), axis=0))
  size = jnp.sum(jnp.where(old[:, None], norms, 0.0)) / jnp.maximum(jnp.sum(old) * norms.shape[1], 1).astype(
    jnp.float32
  )
  theirs = size * heads.unit(means).T[:, :, None]
  some = new & old.any() & (jnp.abs(means).max(-1) > 0)
  return jnp.where(some[None, :, None], theirs.astype(directions.dtype), directions)


def ranking(cosine, y, rivals, weight, of_old, margin, number: int):
  """``mean over old rows of sum_k max(0, margin - c_y + c_k)``, k the ``number`` rivals of the largest cosines.

  cosine ``[B, C]``, rivals ``[B, C]`` bool, weight and of_old ``[B]``; 0 where there is no row or no rival.
  """
  true = jnp.take_along_axis(cosine, y[:, None], axis=-1)
  top, _ = jax.lax.top_k(jnp.where(rivals, cosine, -jnp.inf), number)
  there = top > -jnp.inf
  gap = jnp.where(there, jax.nn.relu(margin - true + jnp.where(there, top, 0.0)), 0.0)
  own = jnp.where(of_old, weight, 0.0)
  return jnp.sum(own * jnp.sum(gap, axis=-1)) / jnp.maximum(jnp.sum(own), 1e-12)


def lucir(
  model, spec: Spec, *, strength, rank, margin, scale, capacity: int, replay_batch: int = 0, rivals: int = 2
) -> Method:
  """LUCIR: ``CE(s cos(w, f)) + lam mean (1 - cos(f, f_old)) + rank mean_old sum_k max(0, margin - c_y + c_k)``.

  ``lam = strength sqrt(n_old / n_new)`` of the task that is learned; both means and the cross-entropy are over the
  union of its rows and the exemplars, as for :func:`cljax.methods.replay.icarl.icarl`, whose lists these are. The third
  term is over rows of old classes, k the ``rivals`` new classes of the largest cosines, not scaled. Classifiers are
  directions of which the cosine with the features counts, times a scale s that is learned and begins at ``scale``.
  When a new task begins, its classes' directions are the means of their normalised features, at the mean norm of old
  ones; those of old classes stand still. Old classes are those met before that the current task has not.

  Deviations: the sum over k, as printed, where the released code takes the mean (``rank=1/rivals``); a last layer
  without ReLU, which the released network has, is the model's to have; exemplars come beside the task's rows with their
  share of the union. Raises UsageError for a capacity below the number of lists and a model without features. Spec B2;
  Hou et al., 2019.
  """
  network = heads.cosine_classifier(model, spec, "lucir", scale=scale)
  memory = sets.make_exemplars(spec, capacity)
  size, number = min(replay_batch or spec.batch_size, capacity), min(rivals, spec.num_classes)
  shared = sets.hooks(spec, memory)

  def start_task(key, learner, task):
    learner = shared["start_task"](key, learner, task)
    old, new = sets.old_and_new(spec, task.visit)
    of = lambda x: sets.features_of(network, learner, x, task.id)
    means, _ = estimators.class_means(of, task.rows, spec.num_classes)
    set_new = lambda w: jnp.where(task.visit.first, imprinted(w, means, old, new), w)
    one = lambda name, w: set_new(w) if name == DIRECTIONS else w
    return learner._replace(params=tree.map_named(one, learner.params))

  def prepare(key, learner, batch):
    state = learner.method_state
    batch = sets.union(fold(key, "exemplars"), spec, memory, state.memory, batch, state.rows, size)
    return learner, batch._replace(extra={**batch.extra, "share": sets.shares(batch)})

  def term(key, params, learner, batch, outputs):
    (old, new), share = sets.old_and_new(spec, batch.visit), batch.extra["share"]
    own = slice(0, share.shape[0])
    count = lambda which: jnp.sum(which, dtype=jnp.float32)
    lam = strength * jnp.sqrt(count(old) / jnp.maximum(count(new), 1.0))
    f = heads.unit(heads.flat(outputs.features[own]))
    theirs = heads.unit(heads.flat(sets.said_by_teacher(network, learner, batch, key).features[own]))
    apart = 1.0 - jnp.sum(f * jax.lax.stop_gradient(theirs), axis=-1)
    y, cosine = batch.y[own], heads.cosines(params["cosine"], outputs.features[own])
    against = jnp.broadcast_to(new, cosine.shape)
    against = against if batch.class_mask is None else against & batch.class_mask[own]
    ranked = ranking(cosine, y, against, share, old[y], margin, number)
    return lam * jnp.sum(share * jnp.where(share != 0, apart, 0.0)) + rank * ranked

  def end_task(key, learner, task):
    del key
    return sets.task_ended(network, spec, memory, learner, task)

  hooks = {**shared, "start_task": start_task}
  return Method(
    model=network,
    prepare=prepare,
    terms={"lucir": term},
    finalize=hold_old_directions(spec),
    end_task=end_task,
    **hooks,
  )


register(
  "lucir",
  Entry(
    lucir,
    {
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "strength": Option(5.0, 0),
      "rank": Option(1.0, 0),
      "margin": Option(0.5, 0),
      "rivals": Option(2, 1),
      "scale": Option(1.0, 0, above=True),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Hou et al. 2019",
  ),
)
