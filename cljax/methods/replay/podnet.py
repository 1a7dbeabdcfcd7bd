"""PODNet: pooled maps and features held to the last task's, several directions of each class, and balanced training of
these when a task ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec, UsageError
from cljax.estimators import clusters
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay import finetuning
from cljax.methods.replay.lucir import DIRECTIONS, hold_old_directions
from cljax.models import heads

FORMS = ("paper", "released")


def pooled(maps):
  """``[B, (W + H) C]`` of norm 1: of the squares of ``maps [B, H, W, C]`` the sums over H and over W. Where a layer has
  fewer axes (tokens, dense), its map is one wide, or one place."""
  squares = jnp.square(maps.astype(jnp.float32))
  squares = squares.reshape(squares.shape[0], *squares.shape[1:-1], *(1,) * (4 - squares.ndim), squares.shape[-1])
  flat = lambda a: a.reshape(a.shape[0], -1)
  return heads.unit(jnp.concatenate([flat(squares.sum(1)), flat(squares.sum(2))], axis=-1))


def hidden_layers(model, spec: Spec) -> int:
  """How many hidden activations the model returns."""
  row = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), spec.shown)
  told = {"task": jnp.zeros(1, jnp.int32) if model.by_task else None, "mask": None}
  run = lambda params, state, x: model.apply(params, state, x, train=False, key=jax.random.key(0), **told)[0].hidden
  return len(jax.eval_shape(run, *jax.eval_shape(model.init, jax.random.key(0)), row))


def spatial_gap(hidden, theirs):
  """``[B]``: the mean over layers of the distance of both :func:`pooled`."""
  gaps = [heads.distance(pooled(a), pooled(b)) for a, b in zip(hidden, theirs, strict=True)]
  return sum(gaps) / len(gaps)


def nca(cosine, scale, y, margin, mask, form: str = "paper"):
  """``max(0, -s (c_y - margin) + log sum_{k != y} e^{s c_k})`` of each row over the classes of the mask ``[B, C]``.

  ``form`` 'released': the margin is taken from all cosines and cancels, and the label's own entry adds e^0 to the sum
  over the others, whose largest is 0; it is not cut at 0. No derivative by the scale goes through the margin: a scale
  that is learned would fall below 0, where the margin lowers the loss.
  """
  own = jax.nn.one_hot(y, cosine.shape[-1], dtype=bool)
  z, others = scale * cosine, mask & ~own
  label = jnp.take_along_axis(z, y[:, None], axis=-1)[:, 0]
  if form == "released":
    top = jnp.max(jnp.where(mask, z, -jnp.inf), axis=-1)
    rest = jnp.sum(jnp.where(others, jnp.exp(jnp.where(others, z - top[:, None], 0.0)), 0.0), axis=-1)
    return -(label - top) + jnp.log1p(rest)
  some = others.any(-1)
  rest = jax.nn.logsumexp(jnp.where(others, z, -1e30), axis=-1)
  return jnp.where(some, jax.nn.relu(jnp.where(some, rest, 0.0) - label + jax.lax.stop_gradient(scale) * margin), 0.0)


def podnet(
  model, spec: Spec, *, spatial, flat, margin, scale, rate, capacity: int, replay_batch: int = 0, directions: int = 10,
  passes: int = 20, form: str = "paper",
) -> Method:  # fmt: skip
  """PODNet: ``NCA(s c(f)) + sqrt(K / n_new) [spatial mean_stages |P(h) - P(h_old)| + flat (1 - cos(f, f_old))]``.

  c is the local similarity classifier (:func:`cljax.models.heads.cosine_classifier`) of ``directions`` a class, s its
  learned scale, which begins at ``scale``; :func:`nca` has the margin on the label alone; P are :func:`pooled` maps, of
  all hidden activations that the model returns. The bracket is there from the second task on, K the classes met and
  n_new those of the task. All means are over the union of the task's rows and the exemplars, as for
  :func:`cljax.methods.replay.icarl.icarl`, whose lists these are; outputs of classes met so far take part. When a new
  task begins, its classes' directions are k-means centres of their normalised features, at the mean norm of old ones,
  which stand still while it is learned. When a task with old classes ends, the directions and s are trained ``passes``
  times over the exemplars (balanced) by the NCA alone, at ``rate``.

  Deviations: the rate of this training is constant; batches as large as a step's; k-means takes 20 steps from rows
  drawn. Raises UsageError for a capacity below the number of lists, and a model without features or hidden
  activations. Spec B4; Douillard et al., 2020.
  """
  if not hidden_layers(model, spec):
    raise UsageError("method.name: 'podnet' needs a model that returns hidden activations (Outputs.hidden is empty)")
  network = heads.cosine_classifier(model, spec, "podnet", directions, scale)
  memory = sets.make_exemplars(spec, capacity)
  size, of_task = min(replay_batch or spec.batch_size, capacity), jnp.asarray(spec.classes_of_task)
  shared = sets.hooks(spec, memory)

  def seen_of(visit):
    return (of_task & visit.seen[:, None]).any(0)

  def each(params, features, batch, visit):
    """The NCA of each row, over the classes met so far among those that the stream lets compete."""
    cosine = heads.cosines(params["cosine"], features)
    mask = jnp.broadcast_to(seen_of(visit), cosine.shape)
    mask = mask if batch.class_mask is None else mask & batch.class_mask
    return nca(cosine, params["cosine"]["scale"].astype(jnp.float32), batch.y, margin, mask, form)

  def centred(key, learner, task, directions_):
    """The directions with those of the task's classes at the centres of their features."""
    old, new = sets.old_and_new(spec, task.visit)
    here = lambda start, block: task.rows.batch(start, block)
    f = sets.in_blocks(lambda *at: sets.features_of(network, learner, here(*at).x, here(*at).task), task.rows.capacity)
    rows = task.rows.as_read().batch(0, task.rows.capacity)

    def of(c):
      inside = (rows.weight > 0) & (rows.y == c)
      found = clusters.k_means(jax.random.fold_in(key, c), f, inside.astype(jnp.float32), directions)
      return found, inside.any()

    centres, some = jax.lax.map(of, jnp.arange(spec.num_classes, dtype=jnp.int32))  # [C, K, D]
    norms = jnp.sqrt(jnp.sum(jnp.square(directions_.astype(jnp.float32)), axis=0))
    length = jnp.sum(jnp.where(old[:, None], norms, 0.0)) / jnp.maximum(
      jnp.sum(old, dtype=jnp.float32) * directions, 1.0
    )
    made = length * jnp.transpose(heads.unit(centres), (2, 0, 1))
    takes = new & some & old.any() & task.visit.first
    return jnp.where(takes[None, :, None], made.astype(directions_.dtype), directions_)

  def start_task(key, learner, task):
    learner = shared["start_task"](key, learner, task)
    made = centred(fold(key, "centres"), learner, task, learner.params["cosine"]["directions"])
    return learner._replace(params=tree.map_named(lambda n, w: made if n == DIRECTIONS else w, learner.params))

  def prepare(key, learner, batch):
    state = learner.method_state
    batch = sets.union(fold(key, "exemplars"), spec, memory, state.memory, batch, state.rows, size)
    # The rows' shares are the term's; the objective's own loss is not asked.
    extra = {**batch.extra, "share": sets.shares(batch)}
    return learner, batch._replace(scale=jnp.zeros_like(batch.scale), extra=extra)

  def term(key, params, learner, batch, outputs):
    visit, share = batch.visit, batch.extra["share"]
    (old, new), own = sets.old_and_new(spec, visit), slice(0, share.shape[0])
    count = lambda which: jnp.sum(which, dtype=jnp.float32)
    factor = jnp.sqrt(count(seen_of(visit)) / jnp.maximum(count(new), 1.0))
    cut = lambda tree_: jax.tree.map(lambda a: a[own], tree_)
    said = jax.lax.stop_gradient(sets.said_by_teacher(network, learner, batch, key))
    f, g = (heads.unit(heads.flat(o.features[own])) for o in (outputs, said))
    held = flat * (1.0 - jnp.sum(f * g, axis=-1)) + spatial * spatial_gap(cut(outputs.hidden), cut(said.hidden))
    rows = batch._replace(y=batch.y[own], class_mask=None if batch.class_mask is None else batch.class_mask[own])
    total = each(params, outputs.features[own], rows, visit) + jnp.where(old.any(), factor * held, 0.0)
    return jnp.sum(share * jnp.where(share != 0, total, 0.0))

  def end_task(key, learner, task):
    old, _ = sets.old_and_new(spec, task.visit)
    learner = sets.task_ended(network, spec, memory, learner, task)

    def loss(key, params, model_state, batch):
      told = {"task": network.task_for(batch.task), "mask": (batch.weight > 0).astype(jnp.float32)}
      out, _ = network.apply(params, model_state, batch.x, train=False, key=key, **told)
      return losses.reduce(each(params, out.features, batch, task.visit), batch.weight), model_state

    def trained(learner):
      return finetuning.on_stored(
        fold(key, "balanced"), learner, spec, memory, learner.method_state.memory, task.visit, loss,
        passes=passes, rate=rate, trains=lambda name: name.startswith("cosine/"), size=spec.batch_size,
      )  # fmt: skip

    learner = jax.lax.cond(old.any(), trained, lambda learner: learner, learner)
    return learner._replace(method_state=learner.method_state._replace(teacher=sets.teacher_of(learner)))

  return Method(
    model=network,
    prepare=prepare,
    terms={"podnet": term},
    finalize=hold_old_directions(spec),
    end_task=end_task,
    **{**shared, "start_task": start_task},
  )


register(
  "podnet",
  Entry(
    podnet,
    {
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "spatial": Option(3.0, 0),
      "flat": Option(1.0, 0),
      "margin": Option(0.6, 0),
      "scale": Option(1.0, 0, above=True),
      "directions": Option(10, 1),
      "passes": Option(20, 0),
      "rate": Option(0.05, 0),
      "form": Option(FORMS[0], choices=FORMS),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Douillard et al. 2020",
  ),
)
