"""FOSTER: a second network is boosted beside the first while a task is learned, and both are compressed into one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay.buffers import example_row
from cljax.methods.replay.finetuning import on_stored
from cljax.models import growing
from cljax.models.heads import flat


class Foster(NamedTuple):
  memory: Any  # exemplars, rows as they were read
  counts: Any  # [C] float32: rows of each class that the current task trains on, exemplars among them
  rows: Any  # float32: how many rows the current task has
  head: Any  # the classifier of the one network at the end of the last task: {"kernel" [D, C], "bias" [C]}


def class_weights(counts, beta):
  """``[C]``: ``w_c ~ (1 - beta) / (1 - beta^n_c)``, of mean 1 over classes that have rows; 1 for others."""
  some = counts > 0
  each = jnp.where(some, (1.0 - beta) / (1.0 - beta ** jnp.where(some, counts, 1.0)), 0.0)
  mean = jnp.sum(each) / jnp.maximum(jnp.sum(some, dtype=jnp.float32), 1.0)
  return jnp.where(some, each / jnp.where(mean > 0, mean, 1.0), 1.0)


def balanced_distillation(logits, teacher, weights, temperature, inside=None):
  """``-sum_c q_c log softmax_c(z / T)`` of each row, ``q ~ softmax(teacher / T) w``, over the classes ``inside``."""
  q = jnp.exp(losses.masked_log_softmax(jax.lax.stop_gradient(teacher) / temperature, inside)) * weights[None]
  q = q if inside is None else jnp.where(inside, q, 0.0)
  q = q / jnp.maximum(jnp.sum(q, axis=-1, keepdims=True), 1e-12)
  return -jnp.sum(q * losses.masked_log_softmax(logits / temperature, inside), axis=-1)


def compressed(key, model, network, spec: Spec, memory, learner, task, weights, *, passes: int, rate, temperature):
  """The learner with one network, which goes on from where the old one stood and was taught what both say."""
  state, told = learner.method_state, lambda batch: {"task": model.task_for(batch.task), "mask": batch.weight}
  first = lambda grown: jax.tree.map(lambda a: a[0], grown)

  def loss(key, params, model_state, batch):
    both, _ = network.apply(learner.params, learner.model_state, batch.x, train=False, key=key, **told(batch))
    out, model_state = model.apply(params["network"], model_state, batch.x, train=True, key=key, **told(batch))
    z = flat(out.features) @ params["head"]["kernel"] + params["head"]["bias"][None]
    each = balanced_distillation(z, both.logits.astype(jnp.float32), weights, temperature, batch.class_mask)
    return losses.reduce(each, batch.weight), model_state

  stored, there = memory.contents(state.memory)
  rows = task.rows.as_read().batch(0, task.rows.capacity)
  joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b.astype(a.dtype)]), sets.stored_rows(rows), stored)
  union = memory._replace(contents=lambda _: (joined, jnp.concatenate([rows.weight, there])))
  student = {"network": first(learner.params["network"]), "head": state.head}
  start = learner._replace(params=student, model_state=first(learner.model_state.network))
  cosine = lambda p: rate * (1 + jnp.cos(jnp.pi * p.astype(jnp.float32) / passes)) / 2
  fitted = on_stored(
    key, start, spec, union, None, task.visit, loss,
    passes=passes, rate=cosine, trains=lambda name: True, size=spec.batch_size,
  )  # fmt: skip
  place = lambda grown, one: jax.tree.map(lambda a, b: a.at[0].set(b.astype(a.dtype)), grown, one)
  kernel = learner.params[growing.CLASSIFIER]["kernel"].at[0].set(fitted.params["head"]["kernel"])
  params = {
    **learner.params,
    "network": place(learner.params["network"], fitted.params["network"]),
    growing.CLASSIFIER: {"kernel": kernel, "bias": fitted.params["head"]["bias"]},
  }
  one = growing.GrownState(place(learner.model_state.network, fitted.model_state), jnp.int32(1), jnp.int32(0))
  return learner._replace(params=params, model_state=one)


def foster(
  model, spec: Spec, *, beta, compression_beta, strength, temperature, rate, capacity: int, replay_batch: int = 0,
  passes: int = 130,
) -> Method:  # fmt: skip
  """FOSTER: ``CE([f_old f] W / w) + CE(f V) + strength KL_T(old network || [f_old f] W over old classes)``, then one.

  While a task is learned a new network f, which begins as the old one, stands beside it; f_old stands still, in eval
  mode. ``w_c ~ (1 - beta) / (1 - beta^{n_c})``, of mean 1, n_c the rows of class c that the task trains on, counted:
  logits of classes with many rows are enlarged in training alone, answers are the plain ones. When it ends, the old
  network goes on from where it stood and takes on what both say: ``passes`` of SGD with momentum 0.9 at cosine rates
  from ``rate`` on ``-sum_c q_c log softmax_c(z_one / T)``, ``q ~ softmax(z / T) w`` by ``compression_beta``, over the
  task's rows and the exemplars. One network is left. The first task has the cross-entropy of one network. Means are
  over the union of rows and exemplars, as for :func:`cljax.methods.replay.icarl.icarl`, whose lists these are
  (herded on both networks' features). Old classes are those met before that the current task has not. Moments of the
  run's optimizer begin anew with each new network.

  Deviations: no factor T^2, as in the released code, whose weight decay, augmentation in the compression and aligning
  are left out. A request's rows leave the lists at once, counts and networks with the next task. Raises UsageError for
  a capacity below the number of lists and a model without features. Spec D7; Wang et al., 2022.
  """
  memory = sets.make_exemplars(spec, capacity)
  size, every = min(replay_batch or spec.batch_size, capacity), lambda name: True
  network = growing.growing(model, spec, "foster", 2, auxiliary=spec.num_classes)
  names = growing.names_of(model)
  one_head = lambda params: {**params[growing.CLASSIFIER], "kernel": params[growing.CLASSIFIER]["kernel"][0]}

  def init(key, learner):
    del key
    nothing = jnp.zeros(spec.num_classes, jnp.float32)
    return Foster(
      memory.init(example_row(spec)), nothing, jnp.float32(0), jax.tree.map(jnp.copy, one_head(learner.params))
    )

  def count(rows, there):
    return jnp.zeros(spec.num_classes, jnp.float32).at[rows].add((there > 0).astype(jnp.float32))

  def start_task(key, learner, task):
    state, slot = learner.method_state, task.visit.met.any().astype(jnp.int32)
    params, model_state = growing.opened(learner.params, learner.model_state, slot, every, names)
    head, (width, classes) = params[growing.CLASSIFIER], params[growing.AUXILIARY]["kernel"].shape
    fresh = growing.linear(fold(key, "new"), width, classes)["kernel"]
    kernel = head["kernel"].at[1].set(fresh)
    auxiliary = growing.linear(fold(key, "auxiliary"), width, classes)
    params = {**params, growing.CLASSIFIER: {**head, "kernel": kernel}, growing.AUXILIARY: auxiliary}
    opt_state = growing.at_rest(learner.opt_state, params, lambda name: slot > 0)
    stored, weight = memory.contents(state.memory)
    rows = task.rows.as_read().batch(0, task.rows.capacity)
    counts = count(stored["y"], weight) + count(rows.y, rows.weight)
    state = state._replace(
      counts=counts, rows=task.count.astype(jnp.float32), head=jax.tree.map(jnp.copy, one_head(params))
    )
    opt_state = growing.held_at(opt_state, slot, True)
    return learner._replace(params=params, model_state=model_state, opt_state=opt_state, method_state=state)

  def prepare(key, learner, batch):
    state = learner.method_state
    batch = sets.union(fold(key, "exemplars"), spec, memory, state.memory, batch, state.rows, size)
    # The rows' shares are the term's; the objective's own loss is not asked.
    extra = {**batch.extra, "share": sets.shares(batch)}
    return learner, batch._replace(scale=jnp.zeros_like(batch.scale), extra=extra)

  def term(key, params, learner, batch, outputs):
    del key
    state, share, old = learner.method_state, batch.extra["share"], sets.old_and_new(spec, batch.visit)[0]
    own, boosted = slice(0, share.shape[0]), learner.model_state.count > 1
    y, z = batch.y[own], outputs.logits[own].astype(jnp.float32)
    inside = None if batch.class_mask is None else batch.class_mask[own]
    w = jnp.where(boosted, class_weights(state.counts, beta), 1.0)
    each = losses.cross_entropy(z / w[None], y, inside)
    f = outputs.features[own].reshape(z.shape[0], 2, -1)
    said = f[:, 0] @ state.head["kernel"] + state.head["bias"][None]
    mine = f[:, 1] @ params[growing.AUXILIARY]["kernel"] + params[growing.AUXILIARY]["bias"][None]
    held = losses.distillation(z, said, temperature, old) / temperature**2
    each += jnp.where(boosted, losses.cross_entropy(mine, y, inside) + strength * held, 0.0)
    return jnp.sum(share * jnp.where(share != 0, each, 0.0))

  def end_task(key, learner, task):
    state = learner.method_state
    kept = sets.refill(network, spec, memory, state.memory, learner, task)
    weights, told = class_weights(state.counts, compression_beta), {"passes": passes, "rate": rate}
    into = (model, network, spec, memory)
    one = lambda learner: compressed(key, *into, learner, task, weights, temperature=temperature, **told)
    learner = jax.lax.cond(learner.model_state.count > 1, one, lambda learner: learner, learner)
    return learner._replace(method_state=state._replace(memory=kept))

  def scrub(learner, request):
    state = learner.method_state
    kept = memory.remove(state.memory, lambda rows: request.names(rows["id"], rows["task"]))
    return learner._replace(method_state=state._replace(memory=kept))

  return Method(
    model=network,
    init=init,
    start_task=start_task,
    prepare=prepare,
    terms={"foster": term},
    finalize=growing.hold_standing(every),
    end_task=end_task,
    scrub=scrub,
  )


register(
  "foster",
  Entry(
    foster,
    {
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "beta": Option(0.96, 0, 1, below=True),
      "compression_beta": Option(0.97, 0, 1, below=True),
      "strength": Option(1.0, 0),
      "temperature": Option(2.0, 1e-6),
      "passes": Option(130, 1),
      "rate": Option(0.1, 0),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Wang et al. 2022",
  ),
)
