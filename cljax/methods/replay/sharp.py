"""SHARP: hidden values of the last task are replayed into a network whose mature units stand and read no young ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax import memory as memories
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.masks.gates import layers_of, sizes
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import drawn, grouped
from cljax.methods.replay.exemplars import in_blocks
from cljax.models import isolated, splitting

FIRST = ("train", "frozen")


class Grown(NamedTuple):
  """What is kept between steps."""

  memory: Any  # hidden values of rows of the last task that ended
  mature: Any  # {layer: [n] bool} of the layers above the cut
  done: Any  # [C] bool: classes of tasks that ended
  fixed: Any  # bool: whether what lies below the cut stands


def covering(mass, share):
  """``[C, n]`` bool: of each class the fewest units that hold ``share`` of its activation ``mass [C, n]``; none where
  there is none."""
  order = jnp.argsort(-mass, axis=-1)
  ranked = jnp.take_along_axis(mass, order, axis=-1)
  before = jnp.cumsum(ranked, axis=-1) - ranked
  total = mass.sum(-1, keepdims=True)
  taken = (before < share * total) & (ranked > 0)
  return jnp.zeros_like(taken).at[jnp.arange(mass.shape[0])[:, None], order].set(taken)


def sharp(
  model, spec: Spec, *, share, capacity: int, replay_batch: int = 0, layer: str = "auto", first_task: str = "train"
) -> Method:
  """SHARP: ``mean CE(F(v), y)``, v what G gives of the step's rows, and stored ones of rows of the last task alone.

  G: what comes before ``layer`` (:func:`cljax.models.splitting.split`), F the rest; G stands from the end of the first
  task on, or (``first_task`` 'frozen') always. When a task ends, v of its rows take the place of all that is stored, at
  most ``capacity``, as many of each class; and of each of its classes the fewest units of each layer of F that hold
  ``share`` of its activation are mature from then on. Weights into mature units stand, those from young ones among them
  are dropped, and the same for the outputs of the task's classes: so the mature part answers as it did, to the bit,
  whatever momentum and decay the optimizer has. Young units read mature ones. Outputs of a class that a later task has
  too learn again there. Where all units are mature a task has its outputs alone to learn.

  UNVERIFIED where it goes beyond the sketch in the spec. Deviations: the released network is sparse from the start,
  grows connections to young units in place of those that it drops, learns by a contrastive loss and answers by nearest
  neighbours; it stores 8-bit values, and units mature in phases. A request's rows leave the memory; which units are
  mature stays (retraining clears it), and stored values stay those of G as it was before an edit. Raises UsageError for
  a model whose units form no chain, that keeps a state, or that can not be cut. Spec A9; Gurbuz et al., 2023.
  """
  layers = layers_of(model, "sharp")
  if jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))[1]):
    raise UsageError("method.name: 'sharp' needs a network that keeps no state, such as the zoo's mlp or cnn")
  cut = splitting.split(model, spec, layer, "sharp")
  last, of_task = model.units[-1].out_kernel, jnp.asarray(spec.classes_of_task)
  above = {i: unit for i, unit in layers.items() if not cut.below(unit.in_kernel)}
  count = sizes(model, above)
  writes = {name: i for i, unit in above.items() for name in (unit.in_kernel, unit.in_bias)}
  head = last.rpartition("/")[0] + "/"
  memory = memories.class_balanced(capacity, spec.num_classes)
  size, integer = min(replay_batch or spec.batch_size, capacity), jnp.zeros((), jnp.int32)
  row = {"x": jnp.zeros(cut.value.shape, cut.value.dtype), "y": integer, "id": integer, "task": integer}

  def init(key, learner):
    del key, learner
    mature = {i: jnp.zeros(n, bool) for i, n in count.items()}
    return Grown(memory.init(row), mature, jnp.zeros(spec.num_classes, bool), jnp.asarray(first_task == "frozen"))

  def start_task(key, learner, task):
    del key
    state = learner.method_state
    stands = state.done & ~of_task[task.id]

    def may(name, w):
      if name in writes:
        return jnp.broadcast_to(~state.mature[writes[name]], w.shape)
      if name.startswith(head):
        return jnp.broadcast_to(~stands, w.shape)
      return jnp.broadcast_to(~state.fixed if cut.below(name) else ~state.done.any(), w.shape)

    held = isolated.held(learner.opt_state, tree.map_named(may, learner.params))
    return learner._replace(opt_state=held)

  def prepare(key, learner, batch):
    rows, weight = memory.sample(tree.fold(key, "sample"), learner.method_state.memory, size)
    old, batch = drawn(spec, rows, weight, batch.visit), grouped(batch)
    new, more = (jnp.sum(b.weight > 0, dtype=jnp.float32) for b in (batch, old))
    batch = batch._replace(scale=batch.scale * new / jnp.maximum(new + more, 1))
    return learner, batch._replace(extra={**batch.extra, "values": old})

  def term(key, params, learner, batch, outputs):
    del outputs
    old = batch.extra["values"]
    told = {"task": model.task_for(old.task), "mask": (old.weight > 0).astype(jnp.float32)}
    out, _ = cut.upper(params, learner.model_state, old.x, train=True, key=tree.fold(key, "model"), **told)
    each = jnp.where(old.weight > 0, losses.cross_entropy(out.logits, old.y, old.class_mask), 0)
    rows = jnp.sum(batch.weight > 0, dtype=jnp.float32) + jnp.sum(old.weight > 0, dtype=jnp.float32)
    return jnp.sum(each) / jnp.maximum(rows, 1)

  def hidden_of(learner, rows):
    told = {"task": model.task_for(rows.task), "mask": None}
    out, _ = model.apply(learner.params, learner.model_state, rows.x, train=False, key=learner.key, **told)
    flat = lambda h: jnp.abs(h.astype(jnp.float32)).reshape(h.shape[0], -1, h.shape[-1]).sum(1)
    return {i: flat(out.hidden[unit.hidden]) for i, unit in above.items()}

  def dropped(params, mature, done):
    """The parameters in which mature units and outputs of classes that are done read no young units."""
    named, edits, young = tree.by_path(params), {}, None
    for i, unit in above.items():
      if young is not None:
        gone = young[:, None] & mature[i][None]
        edits[unit.in_kernel] = jnp.where(gone, jnp.zeros_like(named[unit.in_kernel]), named[unit.in_kernel])
      young = ~mature[i]
    if young is not None:
      edits[last] = jnp.where(young[:, None] & done[None], jnp.zeros_like(named[last]), named[last])
    return tree.edit_leaves(params, edits)

  def end_task(key, learner, task):
    state, rows = learner.method_state, task.rows.batch(0, task.rows.capacity)
    block = lambda start, number: task.rows.batch(start, number)
    lower = lambda *at: cut.lower(learner.params, learner.model_state, block(*at).x, learner.key, block(*at).task)
    stored = {"x": in_blocks(lower, task.rows.capacity), "y": rows.y, "id": rows.id, "task": rows.task}
    kept = memory.add(tree.fold(key, "rows"), memory.init(row), stored, (rows.weight > 0).astype(jnp.float32))
    here = (rows.weight > 0).astype(jnp.float32)[:, None]
    of = jax.nn.one_hot(rows.y, spec.num_classes, dtype=jnp.float32) * here
    mature = dict(state.mature)
    for i in above:
      h = in_blocks(lambda *at, i=i: hidden_of(learner, block(*at))[i], task.rows.capacity)
      mature[i] |= covering(of.T @ jnp.where(here > 0, h, 0), share).any(0)
    done = state.done | (of_task[task.id] & (of.sum(0) > 0))
    state = Grown(kept, mature, done, jnp.ones((), bool))
    return learner._replace(params=dropped(learner.params, mature, done), method_state=state)

  def scrub(learner, request):
    state = learner.method_state
    kept = memory.remove(state.memory, lambda rows: request.names(rows["id"], rows["task"]))
    return learner._replace(method_state=state._replace(memory=kept))

  return Method(
    init=init, start_task=start_task, prepare=prepare, terms={"values": term}, finalize=isolated.hold(),
    end_task=end_task, scrub=scrub,
  )  # fmt: skip


register(
  "sharp",
  Entry(
    sharp,
    {
      "share": Option(0.95, 0, 1, above=True),
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "layer": Option("auto"),
      "first_task": Option("train", choices=FIRST),
    },
    Access(row_ids=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Gurbuz et al. 2023",
  ),
)
