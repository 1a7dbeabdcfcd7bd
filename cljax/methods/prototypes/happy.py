"""Happy: new classes are found in rows without labels, by clusters whose sizes are evened out; old ones are replayed as
noisy means, the hard ones more often."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.estimators import class_moments
from cljax.estimators.clusters import k_means
from cljax.methods import views
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.prototypes.frozen import over
from cljax.methods.prototypes.rotations import radius_of
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.exemplars import in_blocks
from cljax.models import heads
from cljax.objectives.rows import of_terms_alone

STEPS = 20  # of the k-means that begins new directions


class HappyState(NamedTuple):
  teacher: Teacher  # the model at the end of the last task
  begun: Any  # [C] bool: classes of tasks that were begun
  prototypes: Any  # [C, D] of norm 1; 0 where a class has none
  radius: Any  # deviation of a feature, of rows of norm 1, within the classes of the first task


def evened(p, old, new, between, within_old, within_new):
  """``between [p_o ln p_o + p_n ln p_n + ln 2] + within_old [ln K_o - H(p | old)] + within_new [ln K_n - H(p | new)]``
  of mean probabilities ``p [C]``: each at least 0, and 0 where groups, or classes of a group, are alike. What is of a
  group without classes is 0."""
  log = lambda v: jnp.log(jnp.where(v > 0, v, 1.0))

  def group(inside):
    sure = jnp.sum(jnp.where(inside, p, 0.0))
    share = jnp.where(inside, p, 0.0) / jnp.where(sure > 0, sure, 1.0)
    count = jnp.maximum(jnp.sum(inside, dtype=p.dtype), 1.0)
    return sure, jnp.where(inside.any(), jnp.log(count) + jnp.sum(share * log(share)), 0.0)

  (first, of_old), (second, of_new) = group(old), group(new)
  both = first * log(first) + second * log(second) + jnp.log(jnp.asarray(2.0, p.dtype))
  return between * jnp.where(old.any() & new.any(), both, 0.0) + within_old * of_old + within_new * of_new


def hardness(prototypes, known, temperature):
  """``[C]`` log weights: the mean cosine of a prototype with the others, over ``temperature``; -inf for classes without
  one, where any has one."""
  alike = jnp.matmul(prototypes, prototypes.T, precision="highest")
  others = jnp.where(known[None] & ~jnp.eye(known.shape[0], dtype=bool), alike, 0.0)
  mean = jnp.sum(others, axis=1) / jnp.maximum(jnp.sum(known, dtype=alike.dtype) - 1.0, 1.0)
  return jnp.where(known | ~known.any(), mean / temperature, -jnp.inf)


def drawn_prototypes(key, prototypes, logits, radius, size: int):
  """``(p [size, D], class [size])``: prototypes of classes drawn by ``logits [C]``, with noise of N(0, radius^2); not
  normalised; each by its place, whatever the size."""

  def one(place):
    own = jax.random.fold_in(key, place)
    label = jax.random.categorical(tree.fold(own, "class"), logits).astype(jnp.int32)
    noise = jax.random.normal(tree.fold(own, "noise"), prototypes.shape[1:], prototypes.dtype)
    return prototypes[label] + radius * noise, label

  return jax.vmap(one)(jnp.arange(size, dtype=jnp.int32))


def new_directions(centres, there, directions, old, new):
  """``[C, D]``: the directions, those of ``new`` classes made of the centres (``there [K]`` of them) that old classes
  claim least, by their highest cosine with an old direction, at the mean norm of the new directions."""
  c, d = heads.unit(centres), heads.unit(directions)
  claimed = jnp.max(jnp.where(old[None], jnp.matmul(c, d.T, precision="highest"), -jnp.inf), axis=1)
  order = jnp.argsort(jnp.where(there, claimed, jnp.inf))
  rank = jnp.maximum(jnp.cumsum(new, dtype=jnp.int32) - 1, 0)
  norms = jnp.linalg.norm(directions, axis=1)
  size = jnp.sum(jnp.where(new, norms, 0.0)) / jnp.maximum(jnp.sum(new, dtype=norms.dtype), 1.0)
  return jnp.where(new[:, None], size * c[order[rank]], directions)


def happy(
  model, spec: Spec, *, supervised, temperature, teacher_temperature, contrast_temperature, class_temperature, between,
  within_old, within_new, prototypes, hardness_temperature, distillation, least_area, jitter, grey, flip: bool = True,
  width: int = 128,
) -> Method:  # fmt: skip
  """Happy: ``(1 - s) [CE(q', p) + even(mean p) + NT-Xent(z, z')] + s [CE(y, p) + SupCon(z, z')] + l_p CE(o, p(mu_o + r
  e)) + l_d |f - f_old|^2``; of rows without labels s is 0, of others ``supervised``.

  Two views of each row: as the run shows it, and one of :func:`cljax.methods.views.shown_again`. f are features of norm
  1 and p the softmax over the classes of tasks that were begun of ``cos(f, d_c) / temperature``; q' is the other view's
  answer over ``teacher_temperature``, which is lower, without a gradient; z are features through a network of two
  layers to ``width`` numbers of norm 1. even is :func:`evened`, over old and new classes; the last two terms begin with
  the second task. mu are prototypes: means of classes' f at the end of the task that brought them, of norm 1, where
  rows have no label of those that the model takes for the class; o is drawn by :func:`hardness`, twice as many as
  rows; e is N(0, I) and r is measured when the first task ends and never again. When a task begins whose rows have no
  labels, k-means of their f finds as many centres as classes were begun, and those that old classes claim least begin
  the directions of the new ones (:func:`new_directions`). How many classes are new is known.

  Deviations: after a task its last parameters stay, where the released code keeps those that tested best; the second
  network has one hidden layer of 3 and ReLU; k-means starts once, from rows; the first view is augmented where the run
  augments; a first task is taught with s as the released code does, where the spec is silent, and its classes are
  evened by ``within_new``. A request clears prototypes and the teacher's directions of classes that go whole, which are
  not answered from then on; of a task without labels its new classes go when all of its rows do. Raises UsageError for
  inputs that are no pictures ``[H, W, C]`` and for a model without features. Spec B25; Ma et al., 2024.
  """
  views.refuse_other_inputs(spec, "happy")
  network = heads.cosine_classifier(model, spec, "happy", scale=1.0 / temperature, learned=False)
  network = heads.with_projection(network, spec, "happy", width)
  inner, of_task = heads.width_of(model, spec, "happy"), jnp.asarray(spec.classes_of_task)

  def directions(params):
    return params["network"]["cosine"]["directions"][:, :, 0].T

  def teacher_of(learner):
    return Teacher(tree.copy(learner.params), tree.copy(learner.model_state))

  def init(key, learner):
    del key
    zeros = jnp.zeros((spec.num_classes, inner), jnp.float32)
    return HappyState(teacher_of(learner), jnp.zeros(spec.num_classes, bool), zeros, jnp.float32(0))

  def say(params, model_state, x, task, key):
    told = {"task": model.task_for(task), "mask": None}
    out = network.apply(params, model_state, x, train=False, key=key, **told)[0]
    return heads.unit(heads.flat(out.features)), out.logits

  def known_of(state):
    return jnp.any(state.prototypes != 0, axis=1)

  def start_task(key, learner, task):
    state = learner.method_state
    old, new = state.begun, of_task[task.id] & ~state.begun
    begun, rows = old | new, task.rows.batch(0, task.rows.capacity)
    hidden = (rows.weight > 0) & (rows.y < 0)

    def found(learner):
      there = jnp.arange(spec.num_classes) < jnp.sum(begun, dtype=jnp.int32)
      look = lambda b: say(learner.params, learner.model_state, b.x, b.task, key)[0]
      f = in_blocks(lambda *at: look(task.rows.batch(*at)), task.rows.capacity)
      centres = k_means(key, f, rows.weight, spec.num_classes, STEPS, there)
      made = new_directions(centres, there, directions(learner.params), old, new).T[:, :, None]
      put = lambda name, w: made.astype(w.dtype) if name.endswith("cosine/directions") else w
      return learner._replace(params=tree.map_named(put, learner.params))

    learner = jax.lax.cond(hidden.any() & old.any() & new.any(), found, lambda learner: learner, learner)
    return learner._replace(method_state=state._replace(begun=begun))

  def term(key, params, learner, batch, outputs):
    state, visit = learner.method_state, batch.visit
    shown = views.shown_again(key, spec, batch.x, least_area, jitter, grey, flip)
    again = views.outputs_again(key, network, params, learner.model_state, batch, shown)
    seen, both = state.begun, (outputs, again)
    z = [o.logits.astype(jnp.float32) for o in both]
    log_p = [losses.masked_log_softmax(v, seen) for v in z]
    answer = lambda v, scale: jnp.where(seen, jnp.exp(losses.masked_log_softmax(v * scale, seen)), 0.0)
    sharp = [jax.lax.stop_gradient(answer(v, temperature / teacher_temperature)) for v in z]
    mean = lambda each: losses.reduce(each, batch.weight)
    cluster = -0.5 * sum(mean(jnp.sum(q * p, axis=-1)) for q, p in zip(sharp, log_p[::-1], strict=True))
    weight = jnp.tile(batch.weight, 2)
    average = jax.vmap(losses.reduce, (1, None))(jnp.concatenate([answer(v, 1.0) for v in z]), weight)
    others = jnp.arange(spec.num_tasks) != visit.task
    old = (of_task & (visit.met & others)[:, None]).any(0)
    cluster += evened(average, seen & old, seen & ~old, between, within_old, within_new)
    first, second = (heads.projected(params["projection"], o.features) for o in both)
    cluster += mean(losses.nt_xent(first, second, batch.weight, contrast_temperature))
    named = jnp.where(batch.y >= 0, batch.weight, 0.0)
    taught = 0.5 * sum(losses.reduce(losses.cross_entropy(v, jnp.maximum(batch.y, 0), seen), named) for v in z)
    taught += losses.reduce(losses.supcon(first, second, batch.y, batch.weight, class_temperature), named)
    share = jnp.where(named.any(), supervised, 0.0)
    f = heads.unit(jnp.concatenate([heads.flat(o.features) for o in both]))
    teacher, known = state.teacher, known_of(state)
    before = [say(teacher.params, teacher.model_state, x, batch.task, key)[0] for x in (batch.x, shown)]
    held = losses.reduce(jnp.sum(jnp.square(f - jnp.concatenate(before)), axis=-1), weight)
    chances = hardness(state.prototypes, known, hardness_temperature)
    size = batch.weight.shape[0]  # one for each view of a row, by the row's place
    draw = lambda name: drawn_prototypes(tree.fold(key, name), state.prototypes, chances, state.radius, size)
    p, label = jax.tree.map(lambda *a: jnp.concatenate(a), draw("old"), draw("old again"))
    among = seen | ~known.any()
    said = jnp.matmul(heads.unit(p), heads.unit(directions(params)).T) / temperature
    replayed = losses.reduce(losses.cross_entropy(said, label, among), weight)
    more = prototypes * replayed + distillation * held
    return (1.0 - share) * cluster + share * taught + jnp.where(known.any(), more, 0.0)

  def end_task(key, learner, task):
    state = learner.method_state
    statistics, known = class_moments("none"), known_of(state)

    def look(b):
      f, logits = say(learner.params, learner.model_state, b.x, b.task, key)
      taken = jnp.argmax(jnp.where(state.begun, logits, -jnp.inf), axis=-1).astype(jnp.int32)
      return f, jnp.where(b.y >= 0, b.y, taken)

    start = statistics.start(spec.num_classes, inner)
    found = over(task.rows, lambda s, b: statistics.add(s, *look(b), b.weight), start)

    def spread(sums, b):
      f, label = look(b)
      return sums.at[label].add(jnp.where(b.weight > 0, jnp.sum(jnp.square(f - found.means[label]), axis=-1), 0.0))

    squares = over(task.rows, spread, jnp.zeros_like(found.counts))
    fresh = heads.unit(jnp.where((found.counts > 0)[:, None], found.means, directions(learner.params)))
    made = jnp.where((state.begun & ~known & (task.count > 0))[:, None], fresh, state.prototypes)
    radius = jnp.where(state.radius > 0, state.radius, radius_of(squares, found.counts, inner))
    return learner._replace(method_state=HappyState(teacher_of(learner), state.begun, made, radius))

  def predict(key, learner, x, task):
    known = learner.method_state.begun
    said = say(learner.params, learner.model_state, x, task, key)[1]
    return jnp.where((known | ~known.any())[None], said, -jnp.inf)

  def scrub(learner, request):
    state, gone = learner.method_state, request.classes
    clear = lambda name, w: jnp.where(gone[None, :, None], 0, w) if name.endswith("cosine/directions") else w
    teacher = state.teacher._replace(params=tree.map_named(clear, state.teacher.params))
    left = jnp.where(gone[:, None], 0, state.prototypes)
    return learner._replace(method_state=HappyState(teacher, state.begun & ~gone, left, state.radius))

  def after_forget(learner, before):
    state = learner.method_state
    followed = tree.follow(state.teacher.params, before, learner.params)
    return learner._replace(method_state=state._replace(teacher=state.teacher._replace(params=followed)))

  return Method(
    model=network, init=init, start_task=start_task, terms={"happy": term}, end_task=end_task, predict=predict,
    prepare=lambda key, learner, batch: (learner, of_terms_alone(batch)), scrub=scrub, after_forget=after_forget,
  )  # fmt: skip


register(
  "happy",
  Entry(
    happy,
    {
      "supervised": Option(0.35, 0, 1),
      "temperature": Option(0.1, 1e-6),
      "teacher_temperature": Option(0.05, 1e-6),
      "contrast_temperature": Option(1.0, 1e-6),
      "class_temperature": Option(0.07, 1e-6),
      "between": Option(1.0, 0),
      "within_old": Option(1.0, 0),
      "within_new": Option(1.0, 0),
      "prototypes": Option(1.0, 0),
      "hardness_temperature": Option(0.1, 1e-6),
      "distillation": Option(1.0, 0),
      **views.VIEW,
      "width": Option(128, 1),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs"), unlabelled=True),
    "Ma et al. 2024",
  ),
)
