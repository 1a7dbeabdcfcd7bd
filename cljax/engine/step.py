"""One training step, and the hooks around it, as pure functions of one learner. No population, no jit, no host here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import regularizers
from cljax.core import tree
from cljax.core.method import Method, _keep, _keep_batch
from cljax.core.opt_state import without_moments
from cljax.core.rows import among_the_others
from cljax.core.types import (
  Batch,
  Learner,
  Model,
  Request,
  Rows,
  Spec,
  StepInfo,
  Task,
  Tools,
  Visit,
  Withheld,
)
from cljax.engine import evaluation_parameters, layerwise, presentations
from cljax.engine.access import check_access, check_tasks, mixed_rows
from cljax.engine.holding import held, select
from cljax.engine.order import OptState as OptState
from cljax.engine.order import chain
from cljax.objectives import objective
from cljax.objectives.rows import eaten


class Data(NamedTuple):
  """The training or evaluation rows on the device: raw inputs, raw labels, row ids, label table and view tables."""

  x: Any  # [N, ...]
  y: Any  # [N] int32 dataset classes
  id: Any  # [N] int32 position in the training split
  labels: Any  # [T, classes] int32
  tables: tuple


class StreamPosition(NamedTuple):
  """Where in the stream a step stands, all traced: the visit, its first step, its number of steps, and the stream's.

  ``rows``: at a boundary that is given only some of its task's rows, how many there are; else None.
  """

  visit: Visit
  start: Any
  steps: Any
  total: Any
  rows: Any = None


class LearnerFns(NamedTuple):
  """What the engine compiles: pure functions of one learner."""

  init: Callable
  step: Callable
  step_on_batch: Callable
  start_task: Callable | None
  end_task: Callable | None
  predict: Callable
  forget: Callable | None
  scrub: Callable | None
  method: Method
  objective: objective.Objective
  evaluated: Callable = lambda learner: learner  # the learner with the parameters that evaluation uses
  records: bool = False  # whether a step also returns the bits of its presentations


def labelled(learned, labels, y, row_task):
  """Stored targets as their tasks ``row_task [B]`` label them: class numbers go through the table, others stay."""
  return labels[row_task, y] if learned.classes else y


def shown_rows(learned, data: Data, x, y, row_task, view_apply):
  """Stored rows ``x, y [B]`` as their tasks ``row_task [B]`` show and label them under the objective ``learned``."""
  return view_apply(data.tables, x, row_task), labelled(learned, data.labels, y, row_task)


def zero_absent_rows(batch: Batch) -> Batch:
  """Input and label 0 and id -1 where the weight is 0: a deleted row, or the row that pads a batch, must not reach
  anything that a method stores."""
  here = batch.weight > 0
  real = lambda a: jnp.where(here.reshape(-1, *(1,) * (a.ndim - 1)), a, jnp.zeros((), a.dtype))
  x, y = jax.tree.map(real, (batch.x, batch.y))
  return batch._replace(x=x, y=y, id=jnp.where(here, batch.id, -1))


# What the host says of a row of a step: whether it is there, and whether the run offers it for the first time.
ABSENT, FRESH, AGAIN = 0, 1, 2


def weighed(batch: Batch, offered) -> Batch:
  """The batch with ``weight`` and ``fresh`` from ``offered [B]``: ABSENT, FRESH or AGAIN."""
  return batch._replace(weight=(offered != ABSENT).astype(jnp.float32), fresh=(offered == FRESH).astype(jnp.float32))


def rescaled(model: Model, scale: float | None) -> Model:
  """The model on raw inputs: ``apply(x) = model.apply(float32(x) * scale)``, so that memories may hold the stored
  dtype; None leaves inputs as they are (tokens). Of a dict the entry 'x' alone is scaled."""
  if scale is None:
    return model

  raw = lambda x: eaten(x, scale)

  def apply(params, model_state, x, **kwargs):
    return model.apply(params, model_state, raw(x), **kwargs)

  capture = None
  if model.capture is not None:
    inner = model.capture

    def capture(params, model_state, x, *args, **kwargs):
      return inner(params, model_state, raw(x), *args, **kwargs)

  with_activation = None
  if model.with_activation is not None:
    rebuild = model.with_activation
    with_activation = lambda activation: rescaled(rebuild(activation), scale)

  return model._replace(apply=apply, capture=capture, with_activation=with_activation)


def state_between_tasks(learner: Learner):
  """What a learner keeps between tasks beside its parameters and the optimizer's own state."""
  state = learner.opt_state
  return learner.method_state, state.penalty, state.transform, state.pull, state.finalize


def build(
  name: str, method: Method, model: Model, spec: Spec, optimizer, recipe, view_apply, augment, place=None, record=False
) -> LearnerFns:
  """Assembles the pure functions of one learner. ``model`` is the one given to the factory; ``method.model`` wins.

  ``place``, a :class:`cljax.engine.mesh.Placement`, lays the rows of each batch and the learner over a mesh.
  ``record``: a step returns the bits of :mod:`cljax.engine.presentations` behind the others.
  """
  check_access(name, method, spec)
  check_tasks(method, model, spec)
  given, model, access = model, method.model or model, method.access
  mixed = mixed_rows(method)
  tx, projects = chain(method, optimizer), method.projects if layerwise.applies(method, optimizer) else None
  optimizer = evaluation_parameters.adapted(optimizer)

  def gather(data: Data, index, row_task, weight, visit) -> Batch:
    """Rows as they were read."""
    mask = spec.class_mask(row_task, visit.trained)
    x, y = jax.tree.map(lambda a: a[index], (data.x, data.y))
    y = labelled(spec.objective, data.labels, y, row_task)
    return Batch(x, y, weight.astype(jnp.float32), data.id[index], row_task, mask)

  def viewed(tables, batch: Batch) -> Batch:
    return batch._replace(x=view_apply(tables, batch.x, batch.task))

  def withhold_undeclared(batch: Batch) -> Batch:
    if access.stores_data:
      return batch
    ids = batch.id if access.row_ids else Withheld("Batch.id (Access.stores_data or row_ids)")
    return batch._replace(x=Withheld("Batch.x (Access.stores_data)"), id=ids)

  def task_loss(key, params, learner, batch, visit, train=True, mixed=True):
    """``mixed``: whether the batch may hold rows of several tasks; else all are of the current one."""

    def apply(key, params, batch):
      task = visit.task if access.task_boundaries else None
      if model.by_task:
        task = batch.task if mixed else visit.task
      return model.apply(
        params,
        learner.model_state,
        batch.x,
        train=train,
        key=tree.fold(key, "model"),
        task=task,
        mask=(batch.weight > 0).astype(jnp.float32),
      )

    each, inside, outputs, model_state = spec.objective.loss(key, apply, params, batch)
    return objective.reduced(each, inside, batch), outputs, model_state

  def reference_loss(name, key, learner, visit, tables):
    """``(loss(params, batch), batch)`` of a reference."""
    ref, ref_key = method.references[name], tree.fold(key, "reference/" + name)
    batch = ref.batch(ref_key, learner)
    if batch.class_mask is None:
      batch = batch._replace(class_mask=spec.class_mask(batch.task, visit.trained))

    def loss(params, batch):
      batch = batch if place is None else place.rows(batch)
      batch = viewed(tables, batch._replace(x=augment(tree.fold(ref_key, "augment"), batch.x)))
      each = ref.loss or (lambda k, p, lrn, b: task_loss(k, p, lrn, b, visit)[0])
      return each(ref_key, params, learner, batch)

    return loss, batch

  def reference_gradients(key, learner, visit, tables):
    grads = {}
    for name in method.references:
      loss, batch = reference_loss(name, key, learner, visit, tables)
      one = lambda batch, loss=loss: jax.grad(loss)(learner.params, batch)
      stacked = batch.weight.ndim == 2  # K references
      grads[name] = jax.lax.map(one, batch) if stacked else one(batch)
    return grads

  def step(learner: Learner, data: Data, where: StreamPosition, alive, index, row_task, offered):
    """One step on rows ``index [B]``, ``offered [B]`` as in :func:`weighed`; returns ``(learner, alive, loss)``."""
    batch = weighed(gather(data, index, row_task, offered, where.visit), offered)
    return step_on_batch(learner, where, alive, batch, data.tables)

  def step_on_batch(learner, where, alive, batch, tables):
    """A member that is dead stays as it is: its rows are absent, so that its memories take none, and all else is held.
    The loss that killed it is returned once; after that NaN."""
    before, was_alive, visit = learner, alive, where.visit
    there = jnp.where(alive, batch.weight, 0.0)
    batch = zero_absent_rows(batch._replace(weight=there, fresh=batch.fresh * there))
    key, offered = jax.random.fold_in(learner.key, learner.step), batch
    if method.prepare is not _keep_batch:
      learner, ready = method.prepare(
        tree.fold(key, "prepare"), learner, withhold_undeclared(batch._replace(visit=visit))
      )
      batch = ready._replace(
        x=batch.x if isinstance(ready.x, Withheld) else ready.x,
        id=batch.id if isinstance(ready.id, Withheld) else ready.id,
      )
    prepared = batch._replace(visit=None, scale=None)  # of no row
    shown = prepared if place is None else place.rows(prepared)
    shown = viewed(tables, shown._replace(x=augment(tree.fold(key, "augment"), shown.x)))
    shown = shown._replace(visit=visit, scale=batch.scale)

    def loss_fn(params):
      loss, outputs, model_state = task_loss(key, params, learner, shown, visit, mixed=mixed)
      for term_name, term in method.terms.items():
        loss = loss + term(tree.fold(key, term_name), params, learner, shown, outputs)
      return loss, (outputs, model_state)

    in_backward: dict[str, Any] = {}
    if projects is not None:
      states, project = projects(learner)
      (loss, (outputs, model_state)), grads, names = layerwise.value_and_grad(loss_fn, learner.params, states, project)
      in_backward = {"projected": names}
    elif method.averaged is not None and layerwise.averages(method):
      name, epsilon = method.averaged
      ref_loss, rows = reference_loss(name, key, learner, visit, tables)
      (loss, (outputs, model_state)), grads, fired = layerwise.against_reference(
        loss_fn, lambda p: ref_loss(p, rows), learner.params, epsilon
      )
      in_backward = {"fired": fired}
    elif method.gradient is None:
      (loss, (outputs, model_state)), grads = jax.value_and_grad(loss_fn, has_aux=True)(learner.params)
    else:
      (loss, (outputs, model_state)), grads = method.gradient(tree.fold(key, "gradient"), loss_fn, learner)
    alive = alive & jnp.isfinite(loss)
    # A select on a scalar fuses into the optimizer's loop and leaves the bits of a healthy run alone.
    grads = jax.tree.map(lambda g: jnp.where(alive, g, jnp.zeros_like(g)), grads)
    extra: dict[str, Any] = {"value": loss, "progress": _progress(learner.step, where, recipe), **in_backward}
    if access.task_boundaries:
      extra["task"], extra["visit"] = visit.task, visit
    if method.references and "fired" not in in_backward:
      extra["references"] = reference_gradients(key, learner, visit, tables)
    if method.observe is not None:
      extra |= method.observe(tree.fold(key, "observe"), learner, shown)
    updates, opt_state = tx.update(grads, learner.opt_state, learner.params, **extra)
    params = optax.apply_updates(learner.params, updates)
    learner = learner._replace(step=learner.step + 1, params=params, model_state=model_state, opt_state=opt_state)
    if method.after_step is not _keep:
      info = StepInfo(withhold_undeclared(batch._replace(visit=visit)), outputs, grads, updates, loss)
      learner = method.after_step(tree.fold(key, "after_step"), learner, info)
    learner = held(alive, learner, before)
    loss = jnp.where(was_alive, loss, jnp.nan)
    learner = learner if place is None else place.learner(learner)
    said = (presentations.bits(offered, shown, outputs.logits),) if record else ()
    return learner, alive, loss, *said

  def init(key) -> Learner:
    params, model_state = model.init(tree.fold(key, "model"))
    learner = Learner(jnp.zeros((), jnp.int32), tree.fold(key, "learner"), params, model_state, tx.init(params), ())
    return learner._replace(method_state=method.init(tree.fold(key, "method"), learner))

  def rows_of(data, index, row_task, count, visit, gone=None) -> Rows:
    """Rows of a task or a request; the classes ``gone [C]`` take no part in their softmax. On a mesh each block of
    them is cut as a batch is, where its size allows it: what is summed over rows is summed over devices."""
    capacity = index.shape[0]

    def lay(batch):
      return batch if place is None or batch.weight.shape[0] % place.shares else place.rows(batch)

    def read(start, size):
      at = start + jnp.arange(size)
      inside = at < count
      at = jnp.minimum(at, capacity - 1)
      batch = zero_absent_rows(among_the_others(gather(data, index[at], row_task[at], inside, visit), gone))
      return lay(batch)

    shown = lambda start, size: zero_absent_rows(viewed(data.tables, read(start, size)))
    return Rows(capacity, count, shown, read, None if place is None else lay)

  def boundary(hook, label):
    def run(learner, alive, data, where: StreamPosition, index, row_task, count):
      """``hook`` on a living member, whose evaluated parameters it sees; a dead one stays as it is."""
      key = tree.fold(jax.random.fold_in(learner.key, learner.step), label)
      rows: Any = Withheld("Task.rows (Access.boundary_data)")
      if access.boundary_data:
        rows = rows_of(data, index, row_task, count, where.visit)
      task = Task(where.visit, rows, count if where.rows is None else where.rows, where.steps)
      new = at_evaluated(learner, lambda inner: hook(key, inner, task))
      return select(alive, new, learner)

    return run

  def evaluated(learner: Learner) -> Learner:
    return learner._replace(params=evaluation_parameters.of(learner.opt_state.optimizer, learner.params))

  def at_evaluated(learner: Learner, hook) -> Learner:
    """``hook`` on the learner with its evaluated parameters; what it changes in them moves the trained ones too."""
    if not evaluation_parameters.differ(learner.opt_state.optimizer):
      return hook(learner)
    shown = evaluated(learner)
    new = hook(shown)
    return new._replace(**evaluation_parameters.moved(learner, new, shown.params))

  def start(key, learner, task):
    if recipe.reset_per_task:
      learner = reset_optimizer(learner)
    return method.start_task(key, learner, task)

  def reset_optimizer(learner):
    fresh = tx.init(learner.params).optimizer
    return learner._replace(opt_state=learner.opt_state._replace(optimizer=fresh))

  def predict(learner, x, task):
    learner = evaluated(learner)
    key = tree.fold(learner.key, "predict")
    if method.predict is not None:
      shown = task if access.task_id_at_test or given.by_task else Withheld("task (Access.task_id_at_test)")
      return method.predict(key, learner, x, shown)
    shown = task if access.task_id_at_test or model.by_task else None
    outputs, _ = model.apply(learner.params, learner.model_state, x, train=False, key=key, task=shown, mask=None)
    return outputs.logits

  def forget(learner, data, where, forget_rows, retain_rows, named, classes, groups, gone=None):
    """``forget_rows`` and ``retain_rows`` are ``(index, row_task, count)``; undeclared data is withheld.

    Returns ``(learner, permitted)``: whether the method may answer the request (``Method.permits``). Classes that are
    ``gone`` take no part in the softmax of the rows to forget: no loss of these, rising or falling, brings one back.
    """
    answer = method.forget
    assert answer is not None
    key = jax.random.fold_in(learner.key, learner.step)
    # No step lies between requests in a row: each but the first draws by its place among them too.
    key = tree.fold(jnp.where(where.steps > 1, jax.random.fold_in(key, where.steps), key), "forget")
    seen: list[Any] = []
    gone_there = gone if spec.objective.classes else None
    none = None if gone_there is None else jnp.zeros_like(gone_there)  # both sides have masks, or neither
    for rows, allowed, label, without in (
      (forget_rows, access.forget_data, "forget", gone_there),
      (retain_rows, access.retain_data, "retain", none),
    ):
      hidden = Withheld(f"Request.{label} (Access.{label}_data)")
      seen.append(rows_of(data, rows[0], rows[1], rows[2], where.visit, without) if allowed else hidden)
    request = Request(seen[0], seen[1], named, classes, groups, gone)
    permitted = jnp.asarray(True) if method.permits is None else method.permits(learner, request)

    def edit(learner):
      before = learner.params
      learner = answer(key, learner, request, Tools(reset_optimizer))
      state_between_tasks = regularizers.follow_edit((learner.opt_state, learner.method_state), before, learner.params)
      held = state_between_tasks[0]
      own = {f: without_moments(getattr(held, f)) for f in held._fields if f != "optimizer"}  # gradients of the rows
      learner = learner._replace(opt_state=held._replace(**own), method_state=state_between_tasks[1])
      return method.after_forget(learner, before) if method.after_forget is not None else learner

    return at_evaluated(learner, edit), permitted

  def scrub(learner, named, classes):
    assert method.scrub is not None
    unseen = Withheld("Request rows are not given to scrub")
    return method.scrub(learner, Request(unseen, unseen, named, classes))

  needs_start = recipe.reset_per_task or method.start_task is not _keep
  return LearnerFns(
    init=init,
    step=step,
    step_on_batch=step_on_batch,
    start_task=boundary(start, "start_task") if needs_start else None,
    end_task=boundary(method.end_task, "end_task") if method.end_task is not _keep else None,
    predict=predict,
    forget=forget if method.forget is not None else None,
    scrub=scrub if method.scrub is not None else None,
    method=method,
    objective=spec.objective,
    evaluated=evaluated,
    records=record,
  )


def _progress(step, where: StreamPosition, recipe):
  if recipe.schedule_over == "stream":
    return step.astype(jnp.float32) / jnp.maximum(where.total, 1).astype(jnp.float32)
  return (step - where.start).astype(jnp.float32) / jnp.maximum(where.steps, 1).astype(jnp.float32)
