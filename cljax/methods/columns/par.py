"""PAR: a task that is near to earlier ones shares their expert and holds its old heads; a far one gets its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods import heads
from cljax.methods.registry import Entry, Option, register
from cljax.methods.told import TOLD, task_at_test
from cljax.models import isolated
from cljax.models.heads import flat, width_of

FORMS = ("paper", "released")
FEW = 0.5  # of the rows of an expert's largest task: with fewer a task that shares it trains its head alone
BLOCK = 256  # rows that go through the network at once, at a boundary


class Relations(NamedTuple):
  """What is known of tasks, by their places, and what the current one may move."""

  fixed: Any  # the weights and the state by which tasks are compared: those that the run began with
  means: Any  # [T, C, D] of features of each class of each task
  counts: Any  # [T, C]
  distances: Any  # [T, T], symmetric
  largest: Any  # [T] of each expert the number of rows of its largest task
  teacher: Any  # the expert of the current task as it was when that began; 0 between tasks
  moves: Any  # bool: whether the current task shares an expert and trains it


def distance_of(f, y, weight, means, counts, other_means, other_counts, form: str):
  """The distance of a task, of features ``f [N, D]`` and class ``means [C, D]``, to another: in [0, 1].

  ``d_i = mean over the rows of class i of log(min_c |f - nu_c| / |f - mu_i|)``, nu the other's means, and
  ``S = sum_i max(d_i, 0)``: ``min(1 - exp(-2 S), S)``. With ``form`` 'released' 1 where that is 0."""
  away = lambda m: jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(f[:, None] - m[None]), axis=-1), 1e-24))
  nearest = jnp.min(jnp.where((other_counts > 0)[None], away(other_means), jnp.inf), axis=-1)
  own = jnp.take_along_axis(away(means), y[:, None], axis=-1)[:, 0]
  of = jax.nn.one_hot(y, means.shape[0], dtype=f.dtype) * (weight > 0).astype(f.dtype)[:, None]
  far = jnp.where((weight > 0) & (other_counts > 0).any(), jnp.log(nearest) - jnp.log(own), 0)
  total = jnp.sum(jnp.maximum(far @ of / jnp.maximum(counts, 1), 0))
  found = jnp.minimum(1 - jnp.exp(-2 * total), total)
  return jnp.where(found == 0, 1, found) if form == "released" else found


def nearest_expert(distances, expert_of, known):
  """``(expert, distance)``: that with the least mean of ``distances [T]`` over its tasks, the places ``known [T]``;
  ``expert_of [T]``. Infinite where nothing is known."""
  of = (expert_of[None] == jnp.arange(known.shape[0])[:, None]) & known[None]
  count = jnp.sum(of, axis=1, dtype=distances.dtype)
  mean = jnp.sum(jnp.where(of, distances[None], 0), axis=1) / jnp.maximum(count, 1)
  mean = jnp.where(count > 0, mean, jnp.inf)
  expert = jnp.argmin(mean).astype(jnp.int32)
  return expert, mean[expert]


def par(
  model, spec: Spec, *, threshold, strength, temperature, form: str = "paper", inference: str = "told"
) -> Method:  # fmt: skip
  """PAR: ``CE(head_t(expert(x))) + strength sum_s KL(head_s(expert before) || head_s(expert))``, s its older tasks.

  When a task begins its rows are compared with the class means of each earlier task (:func:`distance_of`), on features
  of the network as the run began with it, such as pre-trained. Where the least mean distance to the tasks of an expert
  is at most ``threshold`` the task shares that expert, trains it with a head of its own, and holds what the old heads
  say of its rows, which stand; with fewer than half the rows of the expert's largest task it trains its head alone.
  Else it gets an expert of its own, begun as the model is. All other experts and heads stand, whatever momentum and
  decay the optimizer has, so answers of tasks whose expert is not shared again stay to the bit. A task that comes back
  trains its head alone.

  ``form`` 'paper': a distance of 0, of rows at least as near to the old means as to their own, is the nearest there is;
  'released': it counts as 1, the farthest. KL is within the old task's classes, of softmaxes over T (without T^2, as
  released) of networks in eval mode. ``inference`` is of :func:`cljax.methods.told.task_at_test`. A request clears the
  means of classes that go whole; others stay until retraining.

  Deviations: no architecture is searched: between the released thresholds 0.5 and 0.75 a new expert has the old one's,
  and here always; no rule for tasks of 25 rows or fewer; there is room for an expert of each of the stream's T tasks,
  of which those not needed stay as they began. Raises UsageError for a model without features. Spec 8.7; Wang et al.,
  2023.
  """
  own, width = heads.classifier(model, spec), width_of(model, spec, "par")
  tasks, classes, of_task = spec.num_tasks, spec.num_classes, jnp.asarray(spec.classes_of_task)
  all_leaves = frozenset(tree.paths(jax.eval_shape(model.init, jax.random.key(0))[0]))
  places = jnp.arange(tasks, dtype=jnp.int32)

  def begin(key, weights):
    del key
    return isolated.copied(weights, all_leaves, tasks), places

  def weights(params, expert_of, slot, train):
    del train
    return tree.map_named(lambda n, w: w[slot] if n in own else w[expert_of[slot]], params)

  def init(key, learner):
    del key
    zeros = lambda *s: jnp.zeros(s, jnp.float32)
    first = lambda t: jax.tree.map(lambda a: jnp.copy(a[0]), t)
    fixed = first(learner.params), first(learner.model_state.inner)
    nothing = tree.zeros_like(fixed[0])
    means, counts = zeros(tasks, classes, width), zeros(tasks, classes)
    return Relations(fixed, means, counts, zeros(tasks, tasks), zeros(tasks), nothing, jnp.zeros((), bool))

  def looked_at(fixed, task, key):
    """``(features [N, D], y [N], weight [N])`` of a task's rows."""
    size = min(BLOCK, task.rows.capacity)

    def block(start):
      rows = task.rows.batch(start, size)
      told = {"task": model.task_for(rows.task), "mask": None}
      out, _ = model.apply(*fixed, rows.x, train=False, key=key, **told)
      return flat(out.features), rows.y, rows.weight

    found = jax.lax.map(block, jnp.arange(0, task.rows.capacity, size, dtype=jnp.int32))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)

  def compared(state, slot, task, key):
    """The state that knows the task in the place ``slot``."""
    f, y, weight = looked_at(state.fixed, task, key)
    of = jax.nn.one_hot(y, classes, dtype=jnp.float32) * (weight > 0).astype(jnp.float32)[:, None]
    counts = of.sum(0)
    means = of.T @ jnp.where((weight > 0)[:, None], f, 0) / jnp.maximum(counts, 1)[:, None]
    one = lambda m, n: distance_of(f, y, weight, means, counts, m, n, form)
    line = jnp.where(places == slot, 0, jax.vmap(one)(state.means, state.counts))
    return state._replace(
      means=state.means.at[slot].set(means),
      counts=state.counts.at[slot].set(counts),
      distances=state.distances.at[slot].set(line).at[:, slot].set(line),
    )

  def start_task(key, learner, task):
    first, old = task.visit.first, learner.method_state
    met = learner.model_state.slots >= 0
    slot, model_state = isolated.opened(learner.model_state, task.id)
    state = compared(old, slot, task, key)
    known = (places < jnp.sum(met, dtype=jnp.int32)) & (state.counts > 0).any(1)
    expert, least = nearest_expert(state.distances[slot], model_state.kept, known)
    shares, rows = least <= threshold, task.count.astype(jnp.float32)
    expert = jnp.where(first, jnp.where(shares, expert, slot), model_state.kept[slot])
    few = shares & (rows < FEW * state.largest[expert])
    state = jax.tree.map(lambda a, b: jnp.where(first, a, b), state, old)
    largest = state.largest.at[expert].max(jnp.where(first, rows, 0))
    teacher = jax.tree.map(lambda w: w[expert], learner.params)
    state = state._replace(largest=largest, teacher=teacher, moves=first & shares & ~few)
    body = isolated.copy_of
    may = lambda n, w: body(slot, w) if n in own else body(expert, w) & first & ~few
    inner = jax.tree.map(lambda a: a.at[slot].set(jnp.where(first, a[expert], a[slot])), model_state.inner)
    model_state = model_state._replace(kept=model_state.kept.at[slot].set(expert), inner=inner)
    held = isolated.held(learner.opt_state, tree.map_named(may, learner.params))
    return learner._replace(model_state=model_state, opt_state=held, method_state=state)

  def old_heads(key, params, learner, batch, outputs):
    del outputs
    state, kept = learner.method_state, learner.model_state
    slot = isolated.place_of(kept.slots, batch.visit.task)
    expert = kept.kept[slot]
    linked = (kept.kept == expert) & (places != slot) & state.moves
    inside = (of_task[None] & (kept.slots[None] == places[:, None])[..., None]).any(1)
    named = {n: jax.lax.stop_gradient(w) for n, w in tree.by_path(params).items() if n in own}

    def said(body):
      def one(head, inner):
        told = {"task": model.task_for(batch.task), "mask": None}
        return model.apply(tree.edit_leaves(body, head), inner, batch.x, train=False, key=key, **told)[0].logits

      return jax.vmap(one)(named, kept.inner)

    now = said(jax.tree.map(lambda w: w[expert], params))
    before = jax.lax.stop_gradient(said(state.teacher))
    held = lambda a, b, m: losses.distillation(a, b, temperature, m) / temperature**2
    each = jax.vmap(held)(now, before, inside)
    return strength * losses.reduce(jnp.sum(jnp.where(linked[:, None], each, 0), axis=0), batch.weight)

  def end_task(key, learner, task):
    del key, task
    state = learner.method_state
    nothing = tree.zeros_like(state.teacher)
    return learner._replace(method_state=state._replace(teacher=nothing, moves=jnp.zeros((), bool)))

  def scrub(learner, request):
    state, gone = learner.method_state, request.classes
    means = jnp.where(gone[None, :, None], 0, state.means)
    return learner._replace(method_state=state._replace(means=means, counts=jnp.where(gone[None], 0, state.counts)))

  network = isolated.per_task(model, tasks, begin, weights)
  return Method(
    model=network, init=init, start_task=start_task, terms={"old_heads": old_heads}, finalize=isolated.hold(),
    end_task=end_task, scrub=scrub, **task_at_test(network, spec, inference),
  )  # fmt: skip


register(
  "par",
  Entry(
    par,
    {
      "threshold": Option(0.5, 0, 1),
      "strength": Option(1.0, 0),
      "temperature": Option(2.0, 1e-6),
      "form": Option("paper", choices=FORMS),
      **TOLD,
    },
    Access(task_boundaries=True, boundary_data=True, task_id_at_test=True, needs=("classes", "plain_inputs")),
    "Wang et al. 2023",
  ),
)
