"""Learners whose structure makes forgetting exact: shards of their own models, side networks that can be dropped."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import losses, models
from cljax import memory as memories
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Model, Outputs, Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import (
  INSERT_OUTPUTS,
  drawn,
  example_prediction,
  example_row,
  grouped,
  offered,
  predictions_of,
  rows_of,
)
from cljax.methods.slots import no_slots, slot_of
from cljax.objectives.objective import of_rows, reduced, squared_gap
from cljax.unlearning.sharding import shard_of


def sisa(model: Model, spec: Spec, *, shards: int = 4) -> Method:
  """SISA without slices: ``shards`` models, each trained on the rows whose id hashes to it; predicts by mean softmax.

  A shard's loss is the mean over its own rows of the batch, so no gradient crosses shards (clipping by a global norm
  would couple them). A request replays the past without its rows: shards that lose none end with the very bits they
  had. The replay here recomputes all shards, each of which also sees (at weight 0) the others' rows;
  ``cljax.unlearning.sisa_cost`` predicts the cost of retraining only those that a request touches. Slices, which save
  a part of that, are left out. Without classes it predicts the mean of the shards' predictions. Raises UsageError for a
  model with statistics of batches (BatchNorm): they mix shards. Bourtoule et al., 2021.
  """
  if jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))[1]):
    raise UsageError("model: sisa needs one without BatchNorm, whose statistics mix the rows of all shards")
  each = jnp.arange(shards)

  def init(key):
    return jax.vmap(lambda i: model.init(jax.random.fold_in(key, i)))(each)

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    def one(p, i):
      own = None if key is None else jax.random.fold_in(key, i)
      return model.apply(p, model_state, x, train=train, key=own, task=task, mask=mask)[0].logits

    logits = jax.vmap(one, out_axes=1)(params, each)
    if spec.objective.classes:
      vote = jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=1) - jnp.log(float(shards))
    else:
      vote = jax.tree.map(lambda a: a.mean(1), logits)
    return Outputs(vote, None, (logits,)), model_state

  def prepare(key, learner, batch):
    del key
    batch = grouped(batch)  # the shards' losses stand for it
    return learner, batch._replace(scale=jnp.zeros_like(batch.scale))

  def loss(key, params, learner, batch, outputs):
    del key, params, learner

    def one(logits, own):
      each, inside = spec.objective.each(logits, batch)
      rows = batch._replace(weight=jnp.where(own, batch.weight, 0.0), group=None, scale=None)
      return reduced(each, inside, rows)

    own = shard_of(batch.id, shards)[None] == each[:, None]
    return jax.vmap(one, in_axes=(1, 0))(outputs.hidden[0], own).sum()

  return Method(model=Model(init, apply, by_task=model.by_task), prepare=prepare, terms={"shards": loss})


class SideNetworks(NamedTuple):
  """What CLPU-DER++ keeps beside its networks."""

  memory: Any  # a reservoir for each task that is learned for good, in the order in which they are met; leading axis T
  slots: Any  # [T] int32: the reservoir of each task, -1 for none
  alive: Any  # [temporary] bool: the side network is in use
  steps: Any  # int32: steps taken on the main network; noise depends on these alone
  first: Any  # the optimizer's first state, for a side network to start from
  parked: Any  # the main network's optimizer state while a side network is trained
  own: Any = ()  # a reservoir for each temporary task, which is what the main network learns it from, once it stays
  merging: Any = ()  # bool: the main network takes in a temporary task


def clpu_derpp(
  model: Model, spec: Spec, *, alpha, beta, temporary: tuple = (), permanent: tuple = (), capacity: int = 200,
  replay_batch: int = 32, insert: str = "every_pass",
) -> Method:  # fmt: skip
  """CLPU-DER++: tasks in ``temporary`` are learned in networks of their own, so forgetting them is dropping those.

  Other tasks: ``CE + 1/|prev| sum_prev [alpha MSE(z, z_mem) + beta CE]`` on the main network, a reservoir of
  ``capacity`` rows (x, y, z) for each task, ``replay_batch`` rows split over the tasks, MSE over the task's own
  classes. ``insert`` as for ``derpp``. A temporary task starts a fresh network and a fresh optimizer, trains by CE
  alone, and stores no row. A request that names any row of a temporary task drops its whole network (to zeros) and
  hands the task to the main one, which never saw it: with or without such a task, the main network has the same bits,
  as long as batches are the same and the model draws no noise of its own (dropout follows the step). A request for a
  row of any other task is refused: the run ends with a UsageError. Needs the task at test.

  A temporary task that is in ``permanent`` too becomes permanent where the stream has it again: while it is temporary
  it fills a reservoir of its own with rows and its side network's z; when it comes back its network is dropped and the
  main one learns ``alpha MSE + beta CE`` of this reservoir alone beside the replay of the tasks before, for as many
  steps as the event has; the rows of the event are not looked at. A stream in which one does not come again leaves it
  temporary, and the run says so. From then on it is as any other task, and requests
  for it are refused. One that was forgotten in between has no reservoir and is learned from its rows.

  Deviations: reservoirs are unbiased (the release overwrites the last slot); side networks are in eval mode at test; a
  task that is made permanent is drawn as many rows a step as one that is replayed. Spec B10; Liu et al., 2022
  (2203.12817). Raises UsageError for a task that the stream does not have, and for a permanent one that is not
  temporary.
  """
  wrong = [t for t in temporary if not isinstance(t, int) or not 0 <= t < spec.num_tasks]
  if wrong or len(set(temporary)) < len(temporary):
    raise UsageError(f"temporary: got {temporary}; expected different tasks from 0 to {spec.num_tasks - 1}")
  if len(set(permanent)) < len(permanent) or not set(permanent) <= set(temporary):
    raise UsageError(f"permanent: got {permanent}; expected different tasks among the temporary ones, {temporary}")
  sides = jnp.arange(len(temporary), dtype=jnp.int32)
  stays = jnp.zeros(spec.num_tasks, bool).at[jnp.asarray(permanent, jnp.int32)].set(True)
  side_of = jnp.full(spec.num_tasks, -1, jnp.int32).at[jnp.asarray(temporary, jnp.int32)].set(sides)
  every, own_classes = jnp.arange(spec.num_tasks, dtype=jnp.int32), jnp.asarray(spec.classes_of_task)
  memory = memories.reservoir(capacity)
  share = min(capacity, max(1, replay_batch // max(1, spec.num_tasks - len(temporary) + len(permanent) - 1)))

  def side(task):
    """The side network of a task, -1 for the main one; of one that became permanent, the one that it had."""
    return jnp.int32(-1) if task is None or not temporary else side_of[task]

  def now_of(task, model_state):
    """As ``side``, -1 for a task that became permanent."""
    slot = side(task)
    return slot if not permanent else jnp.where(model_state["promoted"][jnp.maximum(slot, 0)], -1, slot)

  def network(pair, slot):
    """The main one (slot -1) or a side network, out of ``{"main": ..., "side": [temporary, ...]}``."""
    if not temporary:
      return pair["main"]
    return jax.tree.map(lambda m, s: jnp.where(slot < 0, m, s[jnp.maximum(slot, 0)]), pair["main"], pair["side"])

  def only(pair, slot, other):
    """``pair`` in the network of ``slot``, ``other`` in the rest."""
    mine = lambda a: (sides == slot).reshape(-1, *(1,) * (a.ndim - 1))
    beside = jax.tree.map(lambda a, b: jnp.where(mine(a), a, b), pair["side"], other["side"])
    main = jax.tree.map(lambda a, b: jnp.where(slot < 0, a, b), pair["main"], other["main"])
    return {**other, "main": main, "side": beside}

  def init_model(key):
    many = jax.vmap(lambda i: model.init(jax.random.fold_in(key, i)))
    main, own = model.init(key), many(sides) if temporary else ({}, {})
    params, state = ({"main": m, "side": s} for m, s in zip(main, own, strict=True))
    return params, {**state, "promoted": jnp.zeros(len(temporary), bool)} if permanent else state

  def apply(params, model_state, x, *, task=None, **given):
    slot = now_of(task, model_state)
    out, new = model.apply(network(params, slot), network(model_state, slot), x, task=task, **given)
    spread = jax.tree.map(lambda a, s: jnp.broadcast_to(a, s.shape), new, model_state["side"]) if temporary else {}
    return out, only({"main": new, "side": spread}, slot, model_state)

  def init(key, learner):
    del key
    row = example_row(spec, z=example_prediction(model, spec))
    stacked = jax.tree.map(lambda a: jnp.stack([a] * spec.num_tasks), memory.init(row))
    first, alive = tree.copy(learner.opt_state.optimizer), jnp.zeros(len(temporary), bool)
    state = SideNetworks(stacked, no_slots(spec), alive, jnp.zeros((), jnp.int32), first, tree.copy(first))
    if permanent:
      own = jax.tree.map(lambda a: jnp.stack([a] * len(temporary)), memory.init(row))
      state = state._replace(own=own, merging=jnp.zeros((), bool))
    return state

  def with_optimizer(learner, state):
    return learner._replace(opt_state=learner.opt_state._replace(optimizer=state))

  def start_task(key, learner, task):
    del key
    if permanent:
      learner = promoted(learner, task)
    slot, state = now_of(task.id, learner.model_state), learner.method_state
    now = learner.opt_state.optimizer
    pick = lambda a, b: jax.tree.map(lambda u, v: jnp.where(slot >= 0, u, v), a, b)
    if temporary:
      # Never used, or dropped and learned again.
      params, model_state = model.init(jax.random.fold_in(tree.fold(learner.key, "side"), slot))
      fresh = (sides == slot) & ~state.alive
      place = lambda pair, new: {**pair, "side": jax.tree.map(
        lambda a, n: jnp.where(fresh.reshape(-1, *(1,) * n.ndim), n[None], a), pair["side"], new
      )}  # fmt: skip
      learner = learner._replace(
        params=place(learner.params, params), model_state=place(learner.model_state, model_state)
      )
    _, slots = slot_of(state.slots, task.visit)
    slots, alive = jnp.where(slot < 0, slots, state.slots), state.alive | (sides == slot)
    state = state._replace(slots=slots, alive=alive, parked=pick(now, state.parked))
    return with_optimizer(learner._replace(method_state=state), pick(state.first, now))

  def promoted(learner, task):
    """A temporary task that is met again moves to the main network; its rows and z to the memory of those that stay."""
    place, state = jnp.maximum(side(task.id), 0), learner.method_state
    before = learner.model_state["promoted"]
    moves = stays[task.id] & task.visit.met[task.id] & ~before[place]
    merging = moves & state.alive[place]
    gone = (sides == place) & moves
    slot, slots = slot_of(state.slots, task.visit)
    taken = jax.tree.map(lambda a, o: a.at[slot].set(jnp.where(merging, o[place], a[slot])), state.memory, state.own)
    state = state._replace(
      memory=taken, own=cleared(state.own, gone), slots=jnp.where(merging, slots, state.slots),
      alive=state.alive & ~gone, merging=merging,
    )  # fmt: skip
    learner = dropped_sides(learner._replace(method_state=state), gone)
    return learner._replace(model_state={**learner.model_state, "promoted": before | gone})

  def prepare(key, learner, batch):
    """The main network takes a temporary task in from its memory alone."""
    del key
    there = jnp.where(learner.method_state.merging, 0.0, batch.weight)
    return learner, batch._replace(weight=there, fresh=jnp.where(there > 0, batch.fresh, 0.0))

  def end_task(key, learner, task):
    del key
    slot, state = now_of(task.id, learner.model_state), learner.method_state
    pick = lambda a, b: jax.tree.map(lambda u, v: jnp.where(slot >= 0, u, v), a, b)
    learner = with_optimizer(learner, pick(state.parked, learner.opt_state.optimizer))
    return learner._replace(method_state=state._replace(parked=pick(state.first, state.parked)))

  def noise(learner, name):
    return tree.fold(jax.random.fold_in(tree.fold(learner.key, "clpu_derpp"), learner.method_state.steps), name)

  def replayed(key, params, learner, batch, outputs):
    del key, outputs
    state, current = learner.method_state, batch.visit.task
    keys = jax.vmap(lambda slot: jax.random.fold_in(noise(learner, "sample"), slot))(every)
    rows, weight = jax.vmap(lambda k, s: memory.sample(k, s, share))(keys, state.memory)
    mine = every == state.slots[current]
    before = ~mine & (weight.sum(1) > 0) & (now_of(current, learner.model_state) < 0)
    flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), rows)
    asked = before | (mine & state.merging) if permanent else before
    weight = jnp.where(asked[:, None], weight, 0.0).reshape(-1)
    given = {"train": True, "key": noise(learner, "model"), "task": model.task_for(flat["task"]), "mask": weight}
    x = spec.view(flat["x"], flat["task"])
    z = model.apply(params["main"], learner.model_state["main"], x, **given)[0].logits
    old = drawn(spec, flat, weight, batch.visit)
    if spec.objective.classes:
      inside = own_classes[flat["task"]]
      off = jnp.sum(jnp.where(inside, jnp.square(z - flat["z"]), 0.0), -1) / jnp.maximum(
        inside.sum(-1, dtype=jnp.float32), 1.0
      )
    else:
      off = of_rows(*squared_gap(spec.objective, z, flat["z"], old))
    per_row = alpha * off + beta * of_rows(*spec.objective.each(z, old))
    each = jax.vmap(losses.reduce)(per_row.reshape(-1, share), weight.reshape(-1, share))
    total = losses.reduce(each, before.astype(each.dtype))
    return total + jnp.sum(jnp.where(mine & state.merging, each, 0.0)) if permanent else total

  def after_step(key, learner, info):
    state, current = learner.method_state, info.batch.visit.task
    slot = jnp.maximum(state.slots[current], 0)
    rows = rows_of(spec, info.batch, z=predictions_of(spec, info))
    main = now_of(current, learner.model_state) < 0
    weight = jnp.where(main, offered(spec, info.batch, insert), 0.0)
    if permanent:
      place, kept = (
        jnp.maximum(side(current), 0),
        jnp.where(main | ~stays[current], 0.0, offered(spec, info.batch, insert)),
      )
      # Not by the main network's clock, which stands still; nothing of this draw reaches that network.
      new = memory.add(tree.fold(key, "own"), jax.tree.map(lambda a: a[place], state.own), rows, kept)
      state = state._replace(own=jax.tree.map(lambda a, b: a.at[place].set(b), state.own, new))
    own = jax.tree.map(lambda a: a[slot], state.memory)
    own = memory.add(noise(learner, "add"), own, rows, weight)
    stored = jax.tree.map(lambda a, b: a.at[slot].set(b), state.memory, own)
    state = state._replace(memory=stored, steps=state.steps + main.astype(jnp.int32))
    return learner._replace(method_state=state)

  def still(updates, state, params=None, *, task, visit=None, **extra):
    """The network of the task alone moves, whatever momentum or decay the optimizer has."""
    del params, extra
    slot = side(task)
    if permanent:  # as ``promoted`` has it
      slot = jnp.where(stays[task] & visit.met[task], -1, slot)
    return only(updates, slot, tree.zeros_like(updates)), state

  def touched_by(request):
    rows = request.forget.batch(0, request.forget.capacity)
    return jnp.zeros(spec.num_tasks, bool).at[rows.task].max(rows.weight > 0)

  def permits(learner, request):
    kept = side_of < 0
    if permanent:
      kept = kept | learner.model_state["promoted"][jnp.maximum(side_of, 0)]
    return ~(touched_by(request) & kept).any()

  def cleared(trees, gone):
    """Leaves ``[temporary, ...]`` with zeros where ``gone [temporary]``."""
    return jax.tree.map(lambda a: jnp.where(gone.reshape(-1, *(1,) * (a.ndim - 1)), jnp.zeros_like(a), a), trees)

  def dropped_sides(learner, gone):
    # Weight decay brings a side network's weights into its moments while others are trained.
    beside = lambda path: next((k.key for k in path if getattr(k, "key", "") in ("main", "side")), "") == "side"
    dropped = lambda tree_: jax.tree_util.tree_map_with_path(
      lambda path, a: cleared(a, gone) if beside(path) else a, tree_
    )
    learner = learner._replace(params=dropped(learner.params), model_state=dropped(learner.model_state))
    return with_optimizer(learner, dropped(learner.opt_state.optimizer))

  def forget(key, learner, request, tools):
    del key
    touched = touched_by(request)
    if not temporary:
      return learner
    gone = touched[jnp.asarray(temporary, jnp.int32)]
    state = learner.method_state
    state = state._replace(alive=state.alive & ~gone, own=cleared(state.own, gone))
    return dropped_sides(learner._replace(method_state=state), gone)

  def scrub(learner, request):
    state = learner.method_state
    clean = jax.vmap(lambda s: memory.remove(s, lambda rows: request.names(rows["id"], rows["task"])))
    own = clean(state.own) if permanent else ()
    return learner._replace(method_state=state._replace(memory=clean(state.memory), own=own))

  def predict(key, learner, x, task):
    slot = side(task)
    if temporary:
      slot = jnp.where(learner.method_state.alive[jnp.maximum(slot, 0)], slot, -1)
    params, state = network(learner.params, slot), network(learner.model_state, slot)
    return model.apply(params, state, x, train=False, key=key, task=model.task_for(task), mask=None)[0].logits

  def remarks(outlook):
    once = [t for t in permanent if outlook.tasks.count(t) < 2]
    if not once:
      return []
    told = ", ".join(map(str, once))
    return [f"method.permanent: got {permanent}; in this stream {told} does not come again, and so stays temporary"]

  method = Method(
    model=models.by_row(Model(init_model, apply), spec.num_tasks), init=init, start_task=start_task,
    end_task=end_task, after_step=after_step, terms={"replayed": replayed}, forget=forget, permits=permits,
    scrub=scrub, predict=predict,
    remarks=remarks,
    refusal="clpu_derpp forgets tasks in 'temporary' only; the request names rows of a task that was learned for good",
    finalize=optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), still),
  )  # fmt: skip
  return method._replace(prepare=prepare) if permanent else method


register(
  "sisa",
  Entry(
    sisa,
    {"shards": Option(4, 1)},
    Access(forgets=True, prefix=True, needs=("each", "plain_inputs")),
    "Bourtoule et al. 2021",
    exactness="exact",
  ),
)
register(
  "clpu_derpp",
  Entry(
    clpu_derpp,
    {
      "alpha": Option(0.5, 0),
      "beta": Option(1.0, 0),
      "temporary": Option(()),
      "permanent": Option(()),
      "capacity": Option(200, 1),
      "replay_batch": Option(32, 1),
      **INSERT_OUTPUTS,
    },
    Access(
      stores_data=True,
      task_boundaries=True,
      task_id_at_test=True,
      forgets=True,
      forget_data=True,
      needs=("each", "plain_inputs"),
    ),
    "Liu et al. 2022",
    exactness="exact",
  ),
)
