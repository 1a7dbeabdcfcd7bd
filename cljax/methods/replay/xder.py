"""X-DER: stored logits that learn of later classes, and outputs of classes to come that are prepared for them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay import stored
from cljax.methods.replay.buffers import append, at_places, drawn, example_row, grouped, places
from cljax.methods.views import second_view
from cljax.objectives.rows import eaten
from cljax.objectives.rows import stored as as_stored

VIEW = (0.2, 0.4, 0.2)  # least area of a cut, strength of colours, how often grey: as for scr
FORMS = ("guarded", "released")


def transplanted(kept, now, y, columns, gamma, form: str = "guarded"):
  """``[B, C]``: stored logits ``kept`` whose ``columns [C]`` are those of ``now``, held below the label's logit z_y.

  Where the largest of them is above ``z_y > 0`` they are scaled by ``gamma z_y / max``. Where ``z_y <= 0`` there is no
  such factor (the released code's is negative and flips their signs: ``form`` 'released'): they are moved down together
  until the largest is ``z_y``.
  """
  label = jnp.take_along_axis(kept, y[:, None], axis=-1)
  top = jnp.max(jnp.where(columns[None], now, -jnp.inf), axis=-1, keepdims=True)
  above = columns.any() & (top > label)
  factor = gamma * label / jnp.where(above & (top != 0), top, 1.0)
  scaled = factor * now
  if form == "guarded":
    scaled = jnp.where(label > 0, scaled, now - jnp.where(above, top - label, 0.0))
  return jnp.where(columns[None], jnp.where(above, scaled, now), kept)


def largest(z, which):
  """``[B]``: of the outputs ``which`` the largest; -inf where there is none."""
  return jnp.max(jnp.where(which, z, -jnp.inf), axis=-1)


def hinge(bad, good, margin, there):
  """``mean of bad + margin - good`` over the rows where that is above 0; 0 where it is nowhere."""
  gap = bad + margin - good
  hit = there & (gap > 0)
  return jnp.sum(jnp.where(hit, gap, 0.0)) / jnp.maximum(jnp.sum(hit, dtype=jnp.float32), 1.0)


def contrast(key, model, spec: Spec, params, model_state, batch, at, later, temperature):
  """The mean over the tasks ``later [T]`` bool and the rows at places ``at [n]`` of SupCon of two views' outputs of the
  task's classes, the sum of a row's two; 0 without a later task."""
  x, y, weight, task = (a[at] for a in (batch.x, batch.y, batch.weight, batch.task))
  plain = eaten(x, spec.scale).astype(jnp.float32)
  told = {"task": model.task_for(task), "mask": (weight > 0).astype(jnp.float32)}

  def view(name):
    shown = as_stored(second_view(fold(key, name), plain, *VIEW, True), spec.scale)
    out, _ = model.apply(params, model_state, shown, train=True, key=fold(key, "model"), **told)
    return out.logits.astype(jnp.float32)

  a, b = view("first"), view("second")

  def of_one(mask):
    there = lambda z: jnp.where(mask[None], z, 0.0)
    return losses.reduce(losses.supcon(there(a), there(b), y, weight, temperature), weight)

  each = jax.vmap(of_one)(jnp.asarray(spec.classes_of_task))
  return 2 * jnp.sum(jnp.where(later, each, 0.0)) / jnp.maximum(jnp.sum(later, dtype=jnp.float32), 1.0)


def stored_at_end(key, model, spec: Spec, memory, learner, task, gamma, form: str):
  """The memory when a task ends: rows of it drawn uniformly, with the logits of now, old heads held down; and rows
  of old classes learn of the current and later heads."""

  def said(x, row_task):
    told = {"task": model.task_for(row_task), "mask": None}
    out, _ = model.apply(learner.params, learner.model_state, x, train=False, key=learner.key, **told)
    return out.logits.astype(jnp.float32)

  state, (old, _) = learner.method_state, sets.old_and_new(spec, task.visit)
  there = state.group >= 0
  now = sets.of_stored(spec, state.rows, said)
  chosen = there & old[state.rows["y"]]
  renewed = transplanted(state.rows["logits"], now, state.rows["y"], ~old, gamma, form)
  renewed = jnp.where(chosen[:, None], renewed, state.rows["logits"])
  state = state._replace(rows={**state.rows, "logits": renewed, "times": jnp.zeros_like(state.rows["times"])})
  here = lambda start, block: task.rows.batch(start, block)
  new = sets.in_blocks(lambda *at: said(here(*at).x, here(*at).task), task.rows.capacity)
  rows = task.rows.as_read().batch(0, task.rows.capacity)
  inside = rows.weight > 0
  new = transplanted(new, new, rows.y, old, gamma, form)
  fresh = {**sets.stored_rows(rows), "logits": jnp.where(inside[:, None], new, 0.0), "times": jnp.zeros(inside.shape)}
  rank = sets.drawn_ranks(fold(key, "rows"), sets.list_of(spec, rows, inside))
  return memory.add(state, fresh, sets.list_of(spec, rows, inside), rank, inside)


def xder(
  model, spec: Spec, *, alpha, beta, gamma, lambd, eta, margin, temperature, capacity: int, replay_batch: int = 0,
  consistency: bool = True, form: str = "guarded",
) -> Method:  # fmt: skip
  """X-DER: ``CE(current, its own classes) + alpha MSE(f(x1), z1) + beta CE(x2, classes met before) + lambd S + eta H``.

  x1 and x2 are two draws of stored rows, z all their stored logits. The heads of a task are its classes; those of the
  current and of later ones are not what they were when an old row was stored: each time such a row is drawn its stored
  logits of these are replaced by those of now with probability 1 / (times it was drawn in this task), and at each
  task's end, by :func:`transplanted`. S, over each later task's heads: SupCon of two views
  (:func:`cljax.methods.views.second_view`) of the current rows and x1, at ``temperature``, the sum of a row's
  two, their mean over tasks and rows; needs pictures, ``consistency=False`` leaves it out. H: of current rows, the
  probability of the likeliest old class is to lie ``margin`` below that of the likeliest new one (gradients of the new
  ones alone), and of all rows the largest logit of later tasks below that of the row's own task, each the mean over
  the rows that are not so. Rows are stored when a task ends, ``M // K`` of each class, drawn uniformly, with the logits
  of then (eval mode, no augmentation), of which those of old classes are held down likewise. Labels compete within
  the current task alone, so the outputs of later tasks must be there: their number is known ahead.

  Deviations: S is of the rows of the step, not of a third draw; what is left of M after ``M // K`` is not used; the
  logits at the end are of rows without augmentation; views as for ``scr``; the similarity distillation of later code is
  left out. Raises UsageError for a capacity below one for each class of each task, and without pictures for
  ``consistency``. Spec A14; Boschini et al., 2022.
  """
  if consistency and len(spec.shown.shape if hasattr(spec.shown, "shape") else ()) != 3:
    raise UsageError("method.consistency: got True, which needs pictures [H, W, C]; expected False for other inputs")
  memory, of_task = sets.make_exemplars(spec, capacity), jnp.asarray(spec.classes_of_task)
  # Heads of tasks to come are trained too: all must be known from the start, so a run cannot be extended by tasks.
  claimed = jnp.asarray(spec.classes_of_task.any(0))
  size = min(replay_batch or spec.batch_size, capacity)

  def prepare(key, learner, batch):
    state, own = learner.method_state, slice(0, spec.batch_size)
    new, met = of_task[batch.visit.task], (of_task & batch.visit.met[:, None]).any(0)
    given = jnp.ones((*batch.weight.shape, spec.num_classes), bool) if batch.class_mask is None else batch.class_mask
    batch = grouped(batch._replace(class_mask=given.at[own].set(given[own] & new[None])))
    first, one, weight = stored.draw_among(fold(key, "logits"), memory, state, size)
    second, two, other = stored.draw_among(fold(key, "labels"), memory, state, size)
    logits, labels = (drawn(spec, r, w, batch.visit) for r, w in ((one, weight), (two, other)))
    under = jnp.broadcast_to(met, (labels.weight.shape[0], spec.num_classes))
    labels = labels._replace(class_mask=under if labels.class_mask is None else under & labels.class_mask)
    extra: dict[str, Any] = {"slots": (first, second), "logits": one["logits"], "kept": (one, two)}
    extra["places"] = places(batch, 2 * size)
    batch = append(batch, logits, scale=0.0)
    batch = append(batch, labels, scale=beta)
    return learner, batch._replace(extra={**batch.extra, **extra})

  def replayed(batch, outputs):
    """Outputs of both draws, their labels and tasks, and which of them are there and not in the first draw already."""
    at, (first, second) = batch.extra["places"], batch.extra["slots"]
    z = at_places(outputs.logits, at)
    y, task, weight = (jax.lax.dynamic_slice_in_dim(a, at[0], 2 * size) for a in (batch.y, batch.task, batch.weight))
    again = jnp.concatenate([jnp.zeros(size, bool), (second[:, None] == first[None]).any(1)])
    return z, y, task, (weight > 0) & ~again

  def term(key, params, learner, batch, outputs):
    visit, own = batch.visit, slice(0, spec.batch_size)
    old, new = sets.old_and_new(spec, visit)
    seen = (of_task & visit.seen[:, None]).any(0)
    z, _, task, fresh = replayed(batch, outputs)
    total = alpha * losses.reduce(
      losses.logit_mse(z[:size], batch.extra["logits"]), batch.weight[batch.extra["places"][:size]]
    )
    now, there = outputs.logits[own].astype(jnp.float32), batch.weight[own] > 0
    p = jnp.where(seen[None], jnp.exp(losses.masked_log_softmax(now, seen)), 0.0)
    past = hinge(jax.lax.stop_gradient(largest(p, old)), largest(p, new), margin, there)
    every, which = jnp.concatenate([now, z]), jnp.concatenate([there, fresh])
    heads = jnp.concatenate([jnp.broadcast_to(new, now.shape), of_task[task]])
    total += eta * (past + hinge(largest(every, ~seen & claimed), largest(every, heads), margin, which))
    if consistency:
      at = jnp.concatenate([jnp.arange(spec.batch_size, dtype=jnp.int32), batch.extra["places"][:size]])
      views = key, model, spec, params, learner.model_state, batch, at
      total += lambd * contrast(*views, ~visit.seen, temperature)
    return total

  def after_step(key, learner, info):
    """Stored logits of drawn rows of old classes learn of the current and later heads."""
    batch, state = info.batch, learner.method_state
    old, _ = sets.old_and_new(spec, batch.visit)
    z, y, _, fresh = replayed(batch, info.outputs)
    one, two = batch.extra["kept"]
    kept, times = (jnp.concatenate([one[f], two[f]]) for f in ("logits", "times"))
    chosen = fresh & old[y]
    times = times + chosen.astype(jnp.float32)
    coin = jax.random.uniform(fold(key, "refresh"), times.shape)
    renewed = jnp.where((chosen & (coin * times < 1))[:, None], transplanted(kept, z, y, ~old, gamma, form), kept)
    slots = state.group.shape[0]
    at = jnp.where(fresh, jnp.concatenate(batch.extra["slots"]), slots)
    return learner._replace(method_state=stored.with_numbers(state, at, logits=renewed, times=times))

  def end_task(key, learner, task):
    return learner._replace(method_state=stored_at_end(key, model, spec, memory, learner, task, gamma, form))

  def scrub(learner, request):
    kept = memory.remove(learner.method_state, lambda rows: request.names(rows["id"], rows["task"]))
    return learner._replace(method_state=kept)

  row = example_row(spec, logits=jnp.zeros(spec.num_classes, jnp.float32), times=jnp.zeros((), jnp.float32))
  return Method(
    init=lambda key, learner: memory.init(row),
    prepare=prepare,
    terms={"xder": term},
    after_step=after_step,
    end_task=end_task,
    scrub=scrub,
  )


register(
  "xder",
  Entry(
    xder,
    {
      "alpha": Option(0.3, 0),
      "beta": Option(0.8, 0),
      "gamma": Option(0.85, 0, 1),
      "lambd": Option(0.1, 0, needs={"consistency": (True,)}),
      "eta": Option(0.1, 0),
      "margin": Option(0.3, 0),
      "temperature": Option(5.0, 1e-6, needs={"consistency": (True,)}),
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "consistency": Option(True),
      "form": Option(FORMS[0], choices=FORMS),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Boschini et al. 2022",
  ),
)
