"""MRN: an expert of each task learns alone and stands; a router, fitted on stored rows, weighs what they say."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Model, Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay.buffers import example_row
from cljax.methods.replay.finetuning import on_stored
from cljax.models import growing, heads, isolated

EXPERTS, ROUTER = "experts", "router"


class Routed(NamedTuple):
  """The state of :func:`mrn`."""

  memory: Any  # exemplars, rows as they were read
  known: Any  # int32: how many places the router was fitted for


def closed(model: Model, table) -> Model:
  """The model whose logits are -inf at classes that are not the task's; ``table [T, C]`` bool."""

  def apply(params, model_state, x, *, task=None, **told):
    out, model_state = model.apply(params, model_state, x, task=task, **told)
    return out._replace(logits=jnp.where(table[task][None], out.logits, -jnp.inf)), model_state

  return Model(model.init, apply)


def domains(router, features, known):
  """``[B, T]``: logits of the places, of features ``[B, T D]``; -inf of those that the router does not know."""
  h = jax.nn.relu(heads.linear(router["hidden"], features))
  return jnp.where((jnp.arange(router["out"]["bias"].shape[0]) < known)[None], heads.linear(router["out"], h), -jnp.inf)


def mixed(route, logits):
  """``[B, C]``: ``sum_i r_i z_i`` of routes ``[B, T]`` and what each expert says, ``[B, T, C]``, 0 where it is -inf."""
  return jnp.einsum("bt,btc->bc", route, jnp.where(jnp.isfinite(logits), logits, 0.0), precision="highest")


def mrn(
  model, spec: Spec, *, capacity: int, strength, rate, passes: int = 30, width: int = 32, route: str = "soft"
) -> Method:  # fmt: skip
  """MRN: ``z(x) = sum_i r_i(x) z_i(x)``, z_i the logits of task i's expert at its own classes, 0 at others.

  Each task trains a network of its own, which begins as ``model.init`` gives it, by the losses of its rows over its own
  classes, and BatchNorm of its own; all others stand, whatever momentum and weight decay the optimizer has, so their
  answers stay to the bit. When a task ends its exemplars are stored (lists of one length by herding,
  :func:`cljax.methods.replay.exemplars.refill`), and the router is made anew and fitted on all of them: ``passes`` of
  SGD at ``rate`` with momentum 0.9 on ``strength CE(z, y) + CE(g, place)``, ``r = softmax(g)``, g a network of
  ``width`` ReLU units of the features of all experts, each of norm 1. ``route`` 'hard': at test the likeliest expert
  alone. Within a task the tasks before it answer. A task that comes back trains its expert on. All experts have their
  place from the start; an answer costs a pass of each.

  Deviations: the router is a network of one hidden layer, not two blocks of gated ones over places and channels, for
  features here are vectors; SGD, where the released code has Adam under one cycle. A request's rows leave the lists at
  once and the router with its next fit; experts know nothing of it. Raises UsageError for a capacity below the number
  of lists and a model without features. Spec B24; Zheng et al., "MRN: Multiplexed routing network for incremental
  multilingual text recognition", 2023.
  """
  tasks, classes = spec.num_tasks, spec.num_classes
  table, memory = jnp.asarray(spec.classes_of_task), sets.make_exemplars(spec, capacity)
  size = heads.width_of(model, spec, "mrn")

  def begin(key, weights):
    experts = jax.tree.map(lambda a: jnp.repeat(a[None], tasks, axis=0), weights)
    return {EXPERTS: experts, ROUTER: fresh(tree.fold(key, ROUTER))}, ()

  def fresh(key):
    linear = lambda name, inputs, outputs: growing.linear(tree.fold(key, name), inputs, outputs)
    return {"hidden": linear("hidden", tasks * size, width), "out": linear("out", width, tasks)}

  def weights(params, kept, slot, train):
    del kept, train
    return jax.tree.map(lambda a: a[slot], params[EXPERTS])

  network = isolated.per_task(closed(model, table), tasks, begin, weights)

  def look(learner, x):
    """``[B, T D + T C]``: features and logits of the experts, by their places."""
    slots = learner.model_state.slots
    order = jnp.argsort(jnp.where(slots < 0, tasks, slots), stable=True).astype(jnp.int32)

    def one(task):
      told = {"train": False, "key": learner.key, "task": task, "mask": None}
      out, _ = network.apply(learner.params, learner.model_state, x, **told)
      return heads.unit(heads.flat(out.features)), out.logits.astype(jnp.float32)

    features, logits = (jnp.moveaxis(a, 0, 1) for a in jax.lax.map(one, order))
    return jnp.concatenate([a.reshape(a.shape[0], -1) for a in (features, logits)], axis=1)

  def parts(said):
    return said[:, : tasks * size], said[:, tasks * size :].reshape(-1, tasks, classes)

  def fitted(key, learner, visit):
    """The router that all exemplars give."""
    slots, known = learner.model_state.slots, (learner.model_state.slots >= 0).sum(dtype=jnp.int32)
    open_ = (table & visit.seen[:, None]).any(0)
    rows, there = memory.contents(learner.method_state.memory)
    shown = {**rows, "x": sets.of_stored(spec, rows, lambda x, task: look(learner, x))}

    def loss(key, router, model_state, batch):
      del key
      features, logits = parts(batch.x)
      g = domains(router, features, known)
      answers = mixed(jax.nn.softmax(g, axis=-1), logits)
      said = losses.cross_entropy(answers, batch.y, jnp.broadcast_to(open_[None], answers.shape))
      there = jnp.broadcast_to((jnp.arange(tasks) < known)[None], g.shape)
      place = losses.cross_entropy(g, jnp.maximum(slots[batch.task], 0), there)
      return losses.reduce(strength * said + place, batch.weight), model_state

    return on_stored(
      tree.fold(key, "fit"), learner._replace(params=fresh(tree.fold(key, ROUTER))), spec,
      memory._replace(contents=lambda _: (shown, there)), None, visit, loss, passes=passes, rate=rate,
      trains=lambda name: True, size=spec.batch_size, shows=lambda x, task: x,
    ).params  # fmt: skip

  def start_task(key, learner, task):
    del key
    slot, state = isolated.opened(learner.model_state, task.id)
    may = tree.map_named(lambda n, a: isolated.copy_of(slot, a) & n.startswith(EXPERTS), learner.params)
    return learner._replace(model_state=state, opt_state=isolated.held(learner.opt_state, may))

  def end_task(key, learner, task):
    state = learner.method_state
    kept = sets.refill(network, spec, memory, state.memory, learner, task)
    known = (learner.model_state.slots >= 0).sum(dtype=jnp.int32)
    learner = learner._replace(method_state=Routed(kept, known))
    return learner._replace(params={**learner.params, ROUTER: fitted(key, learner, task.visit)})

  def predict(key, learner, x, task):
    del key, task
    known = jnp.maximum(learner.method_state.known, 1)
    features, logits = parts(look(learner, x))
    g = domains(learner.params[ROUTER], features, known)
    weight = jax.nn.softmax(g, axis=-1)
    if route == "hard":
      weight = jax.nn.one_hot(jnp.argmax(g, axis=-1), tasks, dtype=weight.dtype)
    slots = learner.model_state.slots
    answers = (table & ((slots >= 0) & (slots < known))[:, None]).any(0)
    return jnp.where((answers | ~answers.any())[None], mixed(weight, logits), -jnp.inf)

  def scrub(learner, request):
    state = learner.method_state
    kept = memory.remove(state.memory, lambda rows: request.names(rows["id"], rows["task"]))
    return learner._replace(method_state=state._replace(memory=kept))

  return Method(
    model=network,
    init=lambda key, learner: Routed(memory.init(example_row(spec)), jnp.int32(0)),
    start_task=start_task,
    finalize=isolated.hold(),
    end_task=end_task,
    predict=predict,
    scrub=scrub,
  )


register(
  "mrn",
  Entry(
    mrn,
    {
      "capacity": Option(200, 1),
      "strength": Option(15.0, 0),
      "rate": Option(0.01, 0),
      "passes": Option(30, 1),
      "width": Option(32, 1),
      "route": Option("soft", choices=("soft", "hard")),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Zheng et al. 2023",
  ),
)
