"""What prompt methods share: a frozen network with trained prompts and a classifier, and what holds all else still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Model, Spec, UsageError
from cljax.methods.pretrained import local
from cljax.methods.registry import Option
from cljax.models import heads
from cljax.models.prompts import Places, Prompts, each_row, places_of

OTHERS, SELECTION = ("closed", "open"), ("row", "batch")
ACCESS = Access(task_boundaries=True, needs=("classes", "plain_inputs"))
OPTIONS = {"others": Option("closed", choices=OTHERS)}


class Asked(NamedTuple):
  """What prompts are chosen by: queries ``[B, D]``, which of the rows are there, the tasks learned so far, the task
  that is learned, whether a step asks, and what the method keeps in the model state."""

  query: Any
  there: Any  # [B] bool
  open: Any  # [T] bool
  task: Any  # int32
  train: bool
  kept: Any = ()


def query_of(outputs):
  """``[B, D]``: the features of the network without prompts, which :func:`prompted` gives behind the hidden ones."""
  return outputs.hidden[-1]


def likeness(query, keys):
  """``[B, M]``: cosines of ``query [B, D]`` and ``keys [M, D]``."""
  return heads.unit(query) @ heads.unit(keys).T


def chosen(like, count: int, selection: str, there):
  """``[B, count]`` int32: of each row the ``count`` places of the largest of ``like [B, M]``; with 'batch' for all rows
  those that most of the rows that are ``there`` would take (of ties the first)."""
  best = jax.lax.top_k(like, count)[1]
  if selection == "row":
    return best
  votes = jnp.sum(jax.nn.one_hot(best, like.shape[-1]) * there.astype(jnp.float32)[:, None, None], axis=(0, 1))
  return jnp.broadcast_to(jax.lax.top_k(votes, count)[1][None], best.shape)


def uniform(key, name: str, *shape: int):
  """``U(-1, 1)``."""
  return jax.random.uniform(tree.fold(key, name), shape, jnp.float32, -1.0, 1.0)


class Kept(NamedTuple):
  """What a method keeps in the model state of :func:`prompted`, and what it does with it."""

  start: Any
  answer: Callable  # (trained, asked, logits [B, C]) -> logits
  renew: Callable  # (trained, asked) -> what is kept, of a step


def blocks_of_own(places: Places, general_blocks: int, expert_blocks: int) -> tuple[int, ...]:
  """The blocks behind the first ``general_blocks``, at most ``expert_blocks``; UsageError where none is left."""
  experts = tuple(range(general_blocks, min(general_blocks + expert_blocks, places.blocks)))
  if not experts:
    raise UsageError(
      f"method.general_blocks: got {general_blocks}; the network has {places.blocks} blocks, of which at least 1 has "
      "to be left for each task's own"
    )
  return experts


def two_kinds(general, own, at, experts: tuple[int, ...]) -> Prompts:
  """Prefixes of keys and values: ``general {"keys", "values"} [G, L, D]`` of all rows in the first G blocks, and of
  ``own [M, E, L, D]`` those of the places ``at [B]`` in the blocks ``experts``."""
  both, count = ("keys", "values"), at.shape[0]
  found = {b: tuple(each_row(general[p][b], count) for p in both) for b in range(general["keys"].shape[0])}
  return Prompts(prefixes=found | {b: tuple(own[p][at, i] for p in both) for i, b in enumerate(experts)})


def prompted(
  model: Model, spec: Spec, owner: str, init: Callable, prompts: Callable, kept: Kept | None = None
) -> Model:  # fmt: skip
  """The model in eval mode and frozen, with ``prompts(trained, asked: Asked) -> Prompts`` and a linear classifier.

  ``params`` are ``{"prompts": init(key), "linear": {"kernel" [D, C], "bias" [C]}}``, the classifier beginning at 0;
  ``model_state`` has the network's own parameters and state, ``frozen`` and ``inner``, which nothing changes, the
  ``open`` tasks and the ``task`` of :class:`Asked`, and what is ``kept``, which each step renews. Outputs have the
  query behind the hidden activations.
  """
  places_of(model, owner)
  width = heads.width_of(model, spec, owner)

  def begin(key):
    frozen, inner = model.init(key)
    head = {
      n: jnp.zeros(s, jnp.float32) for n, s in (("kernel", (width, spec.num_classes)), ("bias", spec.num_classes))
    }
    state = {"frozen": frozen, "inner": inner, "open": jnp.zeros(spec.num_tasks, bool), "task": jnp.int32(0)}
    if kept is not None:
      state["kept"] = kept.start
    return {"prompts": init(tree.fold(key, "prompts")), "linear": head}, tree.copy(state)

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    told = {"train": False, "key": key, "task": task, "mask": mask}
    look = lambda **more: model.apply(model_state["frozen"], model_state["inner"], x, **told, **more)[0]
    query = jax.lax.stop_gradient(heads.flat(look().features))
    there = jnp.ones(query.shape[0], bool) if mask is None else mask > 0
    asked = asked_with(query, there, model_state, train)
    out = look(prompts=prompts(params["prompts"], asked))
    logits = heads.linear(params["linear"], out.features)
    if kept is not None:
      logits = kept.answer(params["prompts"], asked, logits)
      model_state = {**model_state, "kept": kept.renew(params["prompts"], asked)} if train else model_state
    return out._replace(logits=logits, hidden=(*out.hidden, query)), model_state

  return Model(begin, apply, by_task=model.by_task, check_rows=model.check_rows)


def asked_with(query, there, model_state, train: bool) -> Asked:
  return Asked(query, there, model_state["open"], model_state["task"], train, model_state.get("kept", ()))


def asked_in(learner, batch, outputs) -> Asked:
  """What a step asked by, in its terms."""
  return asked_with(query_of(outputs), batch.weight > 0, learner.model_state, True)


def pull(strength, likeness_of: Callable) -> Callable:
  """The term ``-strength mean_i likeness_of(trained, asked) [B]``, which draws keys to the queries they answered."""

  def term(key, params, learner, batch, outputs):
    del key
    return -strength * losses.reduce(likeness_of(params["prompts"], asked_in(learner, batch, outputs)), batch.weight)

  return term


def among_labels(network: Model, spec: Spec) -> Method:
  """The network's answers, -inf at labels of which ``method_state [C]`` says that no row has had them; a request that
  takes a class whole makes it one of these again."""

  def predict(key, learner, x, task):
    told = {"task": network.task_for(task), "mask": None}
    out, _ = network.apply(learner.params, learner.model_state, x, train=False, key=key, **told)
    return local.among(learner.method_state, out.logits)

  return Method(
    network,
    init=lambda key, learner: jnp.zeros(spec.num_classes, bool),
    predict=predict,
    scrub=lambda learner, request: learner._replace(method_state=learner.method_state & ~request.classes),
  )


def tuned(network: Model, spec: Spec, others: str, own: Callable = lambda name: False, fresh=None) -> Method:
  """The hooks of a method whose model is :func:`prompted`; its terms are its own.

  ``others`` 'closed': the classes of other tasks take no part in the softmax of a step's rows, and their outputs move
  by nothing, neither momentum nor weight decay. Prompts of which ``own(name)`` holds have a leading axis of tasks; only
  those of the current task move. ``fresh(key, trained, open, task) -> trained`` begins a task that is met for the first
  time, ``open`` being the tasks before it. Answers are -inf for labels that no row has had.
  """
  table = jnp.asarray(spec.classes_of_task)

  def start_task(key, learner, task):
    del key
    state = learner.model_state
    params = learner.params
    if fresh is not None:
      drawn = jax.random.fold_in(tree.fold(learner.key, "fresh"), task.visit.others)
      old, new = params["prompts"], fresh(drawn, params["prompts"], task.visit.met, task.id)
      params = {**params, "prompts": jax.tree.map(lambda a, b: jnp.where(task.visit.first, a, b), new, old)}
    state = {**state, "open": task.visit.seen, "task": task.id}
    return learner._replace(params=params, model_state=state)

  def prepare(key, learner, batch):
    del key
    labels = jax.nn.one_hot(batch.y, spec.num_classes, dtype=bool) & (batch.weight > 0)[:, None]
    if others == "closed":
      mask = table[batch.task]
      batch = batch._replace(class_mask=mask if batch.class_mask is None else mask & batch.class_mask)
    return learner._replace(method_state=learner.method_state | labels.any(0)), batch

  def update(updates, state, params=None, *, visit, **extra):
    del params, extra

    def one(name, u):
      if name.startswith("linear/"):
        return jnp.where(table[visit.task], u, jnp.zeros_like(u)) if others == "closed" else u
      if not own(name):
        return u
      mine = jnp.arange(spec.num_tasks) == visit.task
      return jnp.where(mine.reshape(-1, *(1,) * (u.ndim - 1)), u, jnp.zeros_like(u))

    return tree.map_named(one, updates), state

  return among_labels(network, spec)._replace(
    start_task=start_task,
    prepare=prepare,
    finalize=optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update),
  )
