"""What methods of a copy of the network for each task share: exemplars, the copy that a task opens, and the auxiliary
classifier, which tells the task's classes from one another and from all old ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from cljax import losses
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay.buffers import example_row
from cljax.methods.replay.finetuning import on_stored
from cljax.methods.replay.wa import aligned
from cljax.methods.slots import no_slots, slot_of
from cljax.models import growing


class Grown(NamedTuple):
  """The state of methods that open a copy for each task."""

  memory: Any  # exemplars, rows as they were read
  slots: Any  # [T] int32: the copy of each task
  rows: Any  # float32: how many rows the current task has


def own_class(y, new):
  """``[B]`` int32: the labels among ``new [C]``, C for all others: the places of the auxiliary classifier."""
  return jnp.where(new[y], y, new.shape[0])


def hooks(model, spec: Spec, owner: str, memory, size: int, strength, copied: Callable[[str], bool], shared: str):
  """``(network, fields)``: the network that grows and all fields of the method but ``end_task``.

  ``shared``: when the layers of which there is one train: 'first', in the first task alone, or 'always'. The loss is
  the objective's plus ``strength`` times the auxiliary cross-entropy, in tasks that have old classes, each the mean
  over the union of the task's rows and the exemplars.
  """
  number, always = spec.num_tasks, shared == "always"
  network = growing.growing(model, spec, owner, number, copied, spec.num_classes + 1, through=always)
  names = growing.names_of(model)

  def init(key, learner):
    del key, learner
    return Grown(memory.init(example_row(spec)), no_slots(spec), jnp.float32(0))

  def start_task(key, learner, task):
    state = learner.method_state
    slot, slots = slot_of(state.slots, task.visit)
    params, model_state = growing.opened(learner.params, learner.model_state, slot, copied, names)
    width = params[growing.AUXILIARY]["kernel"].shape[0]
    params = {**params, growing.AUXILIARY: growing.linear(fold(key, "auxiliary"), width, spec.num_classes + 1)}
    begins = lambda name: name.startswith(growing.AUXILIARY)
    opt_state = growing.at_rest(learner.opt_state, params, begins)
    opt_state = growing.held_at(opt_state, slot, always | (slot == 0))
    state = state._replace(slots=slots, rows=task.count.astype(jnp.float32))
    return learner._replace(params=params, model_state=model_state, opt_state=opt_state, method_state=state)

  def prepare(key, learner, batch):
    state = learner.method_state
    batch = sets.union(fold(key, "exemplars"), spec, memory, state.memory, batch, state.rows, size)
    return learner, batch._replace(extra={**batch.extra, "share": sets.shares(batch)})

  def term(key, params, learner, batch, outputs):
    del key
    (old, new), share = sets.old_and_new(spec, batch.visit), batch.extra["share"]
    own, head = slice(0, share.shape[0]), params[growing.AUXILIARY]
    f = growing.current_features(outputs, learner.model_state, number)[own]
    logits = f @ head["kernel"] + head["bias"][None]
    each = losses.cross_entropy(logits, own_class(batch.y[own], new), jnp.append(new, True))
    return jnp.where(old.any(), strength, 0.0) * jnp.sum(share * jnp.where(share != 0, each, 0.0))

  def scrub(learner, request):
    state = learner.method_state
    kept = memory.remove(state.memory, lambda rows: request.names(rows["id"], rows["task"]))
    return learner._replace(method_state=state._replace(memory=kept))

  fields = {
    "model": network,
    "init": init,
    "start_task": start_task,
    "prepare": prepare,
    "terms": {"auxiliary": term},
    "finalize": growing.hold_standing(copied),
    "scrub": scrub,
  }
  return network, fields


def refill(network, spec: Spec, memory, learner, task):
  """The learner with its lists made anew."""
  state = learner.method_state
  kept = sets.refill(network, spec, memory, state.memory, learner, task)
  return learner._replace(method_state=state._replace(memory=kept))


def realigned(learner, old, new):
  """The classifier's weights of new classes at the mean norm of old ones', over copies in use."""
  head = learner.params[growing.CLASSIFIER]
  used = jnp.arange(head["kernel"].shape[0]) < learner.model_state.count
  kernel = aligned(jnp.where(used[:, None, None], head["kernel"], 0.0), old, new)[0]
  kernel = jnp.where(used[:, None, None], kernel, head["kernel"])
  return learner._replace(params={**learner.params, growing.CLASSIFIER: {**head, "kernel": kernel}})


def refitted(key, network, spec: Spec, memory, learner, visit, *, passes: int, rate, temperature, size: int):
  """The learner with a classifier made anew and fitted on the exemplars, whose lists are of one length: ``passes`` of
  SGD on ``CE(z / T)`` over features in eval mode, which stand."""
  rows, there = memory.contents(learner.method_state.memory)

  def features(x, task):
    told = {"task": network.task_for(task), "mask": None}
    out, _ = network.apply(learner.params, learner.model_state, x, train=False, key=key, **told)
    return out.features

  shown = {**rows, "x": sets.of_stored(spec, rows, features)}
  slots, width, classes = learner.params[growing.CLASSIFIER]["kernel"].shape

  def loss(key, head, model_state, batch):
    del key
    z = batch.x @ head["kernel"].reshape(-1, classes) + head["bias"][None]
    each = losses.cross_entropy(z / temperature, batch.y, batch.class_mask)
    return losses.reduce(each, batch.weight), model_state

  fresh = growing.classifier(fold(key, "classifier"), slots, width, classes)
  fitted = on_stored(
    fold(key, "refit"), learner._replace(params=fresh), spec, memory._replace(contents=lambda _: (shown, there)), None,
    visit, loss, passes=passes, rate=rate, trains=lambda name: True, size=size, shows=lambda x, task: x,
  )  # fmt: skip
  return learner._replace(params={**learner.params, growing.CLASSIFIER: fitted.params})
