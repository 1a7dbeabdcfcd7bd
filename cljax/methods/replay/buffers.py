"""Replay: a memory written after each step and read before the next (insert the pending rows, then sample)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import _callers
from cljax import memory as memories
from cljax.core.calls import since_0_2
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Batch, Spec, UsageError, Visit
from cljax.methods.registry import Entry, Option, register
from cljax.objectives.objective import prediction_of, reduced, squared_gap
from cljax.objectives.rows import grouped, present

POLICIES = ("reservoir", "ring", "class_balanced")
ACCESS = Access(stores_data=True)
INSERT = {"insert": Option("once", choices=("once", "every_pass"))}
# Of methods that store outputs with a row: those of the first pass are of a network that has hardly learned it.
INSERT_OUTPUTS = {"insert": INSERT["insert"]._replace(default="every_pass")}
BUFFER = {
  "capacity": Option(200, 1),
  "policy": Option("reservoir", choices=POLICIES),
  "replay_batch": Option(0, 0),
  **INSERT,
}


class Replay(NamedTuple):
  """A memory and the rows of the last step, not yet inserted (writing before reading spares a copy of the buffer)."""

  memory: Any
  pending: Any
  weight: Any  # [B], of the pending rows


def make_memory(spec: Spec, capacity: int, policy: str):
  """The memory of a policy; ``ring`` has a portion for each task, ``class_balanced`` a quota for each class."""
  if policy == "ring":
    return memories.ring(capacity, spec.num_tasks)
  if policy == "class_balanced":
    if not spec.objective.classes:
      raise UsageError(
        f"policy: class_balanced needs classes, which the objective {spec.objective.name!r} does not have"
      )
    return memories.class_balanced(capacity, spec.num_classes)
  return memories.reservoir(capacity)


def example_row(spec: Spec, **more):
  """One row as the memory stores it: the input as it was read, its label, id and task, and what the method adds."""
  integer, target = jnp.zeros((), jnp.int32), jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), spec.target)
  row = spec.row if spec.row is not None else jax.ShapeDtypeStruct(spec.row_shape, spec.row_dtype)
  x = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), row)
  return {"x": x, "y": target, "id": integer, "task": integer, **more}


def rows_of(spec: Spec, batch: Batch, **more):
  """The current rows of a batch (they stand first), as the memory stores them."""
  own = slice(0, spec.batch_size)
  x, y = jax.tree.map(lambda a: a[own], (batch.x, batch.y))
  return {"x": x, "y": y, "id": batch.id[own], "task": batch.task[own], **more}


def offered(spec: Spec, batch: Batch, insert: str):
  """``[B]``: the weight with which the current rows are offered to a memory.

  ``insert`` 'once': each row of the stream once, when the run comes to it first. 'every_pass': once an epoch, as
  released code does: over several epochs a reservoir then fills with copies, and leans to tasks of many steps.
  """
  weight = batch.weight[: spec.batch_size]
  return weight * batch.fresh[: spec.batch_size] if insert == "once" else weight


def start(memory, spec: Spec, row) -> Replay:
  pending = jax.tree.map(lambda a: jnp.zeros((spec.batch_size, *a.shape), a.dtype), row)
  pending["id"] = pending["id"] - 1  # of no row
  return Replay(memory.init(row), pending, jnp.zeros(spec.batch_size, jnp.float32))


def insert_pending(key, memory, state: Replay) -> Replay:
  """The pending rows go into the memory; nothing is pending afterwards."""
  filled = memory.add(fold(key, "add"), state.memory, state.pending, state.weight)
  return state._replace(memory=filled, weight=jnp.zeros_like(state.weight))


@since_0_2("the fourth is batch.visit, and a coefficient is the scale of append(batch, more, scale=)")
def drawn(spec: Spec, rows, weight, visit=None) -> Batch:
  """Stored rows as a batch, under the class mask that the loss of a step at ``visit`` uses for rows of their tasks.

  Without a visit the mask is left open, as a Reference's is. A slot that holds no row has id -1.
  """
  if visit is not None and not isinstance(visit, Visit):
    at = _callers.place()
    raise UsageError(f"visit: got {type(visit).__name__} ({at}); expected batch.visit, where 0.1 took batch.task[0]")
  mask = None if visit is None else spec.class_mask(rows["task"], visit.trained)
  return Batch(rows["x"], rows["y"], weight, jnp.where(weight > 0, rows["id"], -1), rows["task"], mask)


def append(batch: Batch, more: Batch, scale=None) -> Batch:
  """Rows of ``more`` behind those of ``batch``; ``extra`` and ``visit`` stay those of ``batch``.

  With a ``scale``, a number, their mean times it is added to the loss so far, as a group of its own; without, they
  become part of the mean over the current rows, whatever was added to that: so parts add up to the same in any order.
  Raises UsageError for rows that have groups: their share of the loss is ``scale``.
  """
  if more.group is not None:
    raise UsageError(f"more ({_callers.place()}): has a group; their share of the loss is given as scale=")
  if scale is not None:
    batch = grouped(batch)
    own = jnp.full(more.weight.shape, batch.scale.shape[0], jnp.int32)
    batch = batch._replace(scale=jnp.append(batch.scale, jnp.asarray(scale, jnp.float32)))
    more = more._replace(group=own)
  elif batch.group is not None:
    more = more._replace(group=jnp.zeros(more.weight.shape, jnp.int32))
  masks = [m for m in (batch.class_mask, more.class_mask) if m is not None]
  if len(masks) == 1:  # all classes take part in the softmax of rows without a mask
    whole = lambda b: jnp.ones((*b.weight.shape, masks[0].shape[-1]), bool) if b.class_mask is None else b.class_mask
    batch, more = batch._replace(class_mask=whole(batch)), more._replace(class_mask=whole(more))
  if more.fresh is None:
    more = more._replace(fresh=jnp.zeros_like(more.weight))  # stored rows were offered before
  joined = lambda a, b: jnp.concatenate([a, b.astype(a.dtype)])
  join = lambda a, b: None if a is None else jax.tree.map(joined, a, b)
  kept = ("extra", "visit", "scale")
  return batch._replace(**{f: join(getattr(batch, f), getattr(more, f)) for f in Batch._fields if f not in kept})


def places(batch: Batch, size: int):
  """``[size]`` int32: where the next ``size`` rows that are appended to ``batch`` will stand."""
  return batch.weight.shape[0] + jnp.arange(size, dtype=jnp.int32)


def at_places(outputs, at):
  """The rows of ``outputs [B, ...]``, a tree, at the consecutive places ``at``, in at least float32."""

  def one(a):
    found = jax.lax.dynamic_slice_in_dim(a, at[0], at.shape[0])
    return found.astype(jnp.promote_types(found.dtype, jnp.float32))

  return jax.tree.map(one, outputs)


def example_prediction(model, spec: Spec):
  """The prediction of one row as a memory stores it: zeros in float32, in the form that the model gives."""
  return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), prediction_of(spec.objective, model, spec))


def predictions_of(spec: Spec, info):
  """The predictions of a step's current rows in float32, as the memory stores them; 0 for rows that are absent."""
  own = jax.tree.map(lambda a: a[: spec.batch_size], (info.outputs.logits, info.batch.weight))
  made = jax.tree.map(lambda a: a.astype(jnp.float32), own[0])
  return present(info.batch._replace(weight=own[1]), made)


def append_with_logits(spec: Spec, batch: Batch, rows, weight, scale) -> Batch:
  """The batch with stored rows behind it as a group of its own; ``extra['logits']`` is what :func:`stored_gap` reads:
  their stored predictions, they themselves, and where they stand."""
  some = drawn(spec, rows, weight, batch.visit)
  there = (rows["logits"], some, places(batch, weight.shape[0]))
  return append(batch._replace(extra={**batch.extra, "logits": there}), some, scale=scale)


def stored_gap(spec: Spec, outputs, stored):
  """The mean squared gap to the predictions ``stored = (target, rows: Batch, places)``: over rows and all numbers of a
  row, or over the parts that its loss counts (tokens)."""
  target, rows, at = stored
  each, inside = squared_gap(spec.objective, at_places(outputs.logits, at), target, rows)
  return reduced(each, inside, rows)


def scrub_memory(memory):
  """``scrub`` for a method whose state is a :class:`Replay`: stored and pending rows of the request are erased."""

  def scrub(learner, request):
    state = learner.method_state
    kept = memory.remove(state.memory, lambda rows: request.names(rows["id"], rows["task"]))
    gone = request.names(state.pending["id"], state.pending["task"])
    clear = lambda a: jnp.where(gone.reshape((-1,) + (1,) * (a.ndim - 1)), jnp.zeros_like(a), a)
    pending = {**jax.tree.map(clear, state.pending), "id": jnp.where(gone, -1, state.pending["id"])}
    return learner._replace(method_state=Replay(kept, pending, jnp.where(gone, 0.0, state.weight)))

  return scrub


def er(
  model, spec: Spec, *, capacity: int, policy: str = "reservoir", replay_batch: int = 0, insert: str = "once"
) -> Method:
  """Experience replay: ``mean CE`` over the current rows and as many (``replay_batch``, 0: the same number) from
  memory.

  The memory stores inputs as they are read, and replayed rows are augmented afresh. Replay starts inside the first
  task. ``insert`` 'once' offers each row to the memory the first time the run comes to it; 'every_pass' in each epoch,
  as released code does. Spec A1; Chaudhry et al., 2019 (tiny episodic memories).
  """
  del model
  memory = make_memory(spec, capacity, policy)
  size = replay_batch or spec.batch_size

  def prepare(key, learner, batch):
    state = insert_pending(key, memory, learner.method_state)
    rows, weight = memory.sample(fold(key, "sample"), state.memory, min(size, capacity))
    return learner._replace(method_state=state), append(batch, drawn(spec, rows, weight, batch.visit))

  def after_step(key, learner, info):
    del key
    weight = offered(spec, info.batch, insert)
    state = learner.method_state._replace(pending=rows_of(spec, info.batch), weight=weight)
    return learner._replace(method_state=state)

  return Method(
    init=lambda key, learner: start(memory, spec, example_row(spec)),
    prepare=prepare,
    after_step=after_step,
    scrub=scrub_memory(memory),
  )


def derpp(
  model, spec: Spec, *, alpha, beta, capacity: int, policy: str = "reservoir", replay_batch: int = 0,
  insert: str = "every_pass",
) -> Method:  # fmt: skip
  """Dark Experience Replay++: ``mean CE(current) + alpha MSE(f(x1), z1) + beta mean CE(x2, y2)``, two independent
  draws.

  MSE is the mean over rows and all logits; of any objective with ``each``, over all numbers of a prediction, for text
  over the tokens that count. ``z`` are the predictions of the augmented current input in train mode before the update,
  never refreshed, in float32 (of text, L x V numbers a row); inputs are stored as they are read. ``beta = 0`` is DER.
  ``insert`` as in :func:`er`, but 'every_pass' by default: with 'once' the logits are those of the first epoch, and
  what they hold the network to is hardly learned (split digits, 10 epochs: 87.5 % for 94.3). Spec A2; Buzzega et al.,
  2020.
  """
  memory = make_memory(spec, capacity, policy)
  size = min(replay_batch or spec.batch_size, capacity)

  def prepare(key, learner, batch):
    state = insert_pending(key, memory, learner.method_state)
    one, seen_one = memory.sample(fold(key, "logits"), state.memory, size)
    two, seen_two = memory.sample(fold(key, "labels"), state.memory, size)
    batch = append_with_logits(spec, batch, one, seen_one, scale=0.0)
    batch = append(batch, drawn(spec, two, seen_two, batch.visit), scale=beta)
    return learner._replace(method_state=state), batch

  def term(key, params, learner, batch, outputs):
    del key, params, learner
    return alpha * stored_gap(spec, outputs, batch.extra["logits"])

  def after_step(key, learner, info):
    del key
    rows = rows_of(spec, info.batch, logits=predictions_of(spec, info))
    state = learner.method_state._replace(pending=rows, weight=offered(spec, info.batch, insert))
    return learner._replace(method_state=state)

  return Method(
    init=lambda key, learner: start(memory, spec, example_row(spec, logits=example_prediction(model, spec))),
    prepare=prepare,
    terms={"logits": term},
    after_step=after_step,
    scrub=scrub_memory(memory),
  )


register(
  "er",
  Entry(er, BUFFER, ACCESS._replace(needs=()), "Chaudhry et al. 2019"),
)
register(
  "derpp",
  Entry(
    derpp,
    {"alpha": Option(0.5, 0), "beta": Option(0.5, 0), **BUFFER, **INSERT_OUTPUTS},
    ACCESS._replace(needs=("each",)),
    "Buzzega et al. 2020",
  ),
)
