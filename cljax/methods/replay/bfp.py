"""Backward feature projection: new features must go over into the old network's by a linear map that is learned beside
them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import ACCESS, BUFFER, INSERT_OUTPUTS, derpp, er
from cljax.models import heads


class Mapping(NamedTuple):
  """``A [d, d]``, ``b [d]`` and the momentum of each."""

  weights: Any
  velocity: Any


class BFPState(NamedTuple):
  """The base's replay, the network at the end of the last task, and the map."""

  replay: Any
  teacher: Teacher
  map: Mapping


def gap(weights, new, old, there):
  """``mean_n |h_n A + b - h'_n| / sqrt(d)`` over the rows of positive weight ``there [B]``; h, h' ``[B, d]``."""
  said = new @ weights["kernel"] + weights["bias"][None]
  return losses.reduce(heads.distance(said, old) / new.shape[-1] ** 0.5, (there > 0).astype(jnp.float32))


def started(key, width: int, begin: str) -> Mapping:
  """A map at its start: 'random' uniform in ``+-1/sqrt(d)``, or the identity; at rest."""
  if begin == "random":
    draw = lambda name, *shape: jax.random.uniform(fold(key, name), shape, jnp.float32, -1.0, 1.0) / width**0.5
    weights = {"kernel": draw("kernel", width, width), "bias": draw("bias", width)}
  else:
    weights = {"kernel": jnp.eye(width, dtype=jnp.float32), "bias": jnp.zeros(width, jnp.float32)}
  return Mapping(weights, jax.tree.map(jnp.zeros_like, weights))


def bfp(
  model, spec: Spec, *, strength, alpha, beta, map_rate, map_momentum, capacity: int, base: str = "derpp",
  projection: str = "linear", map_start: str = "random", policy: str = "reservoir", replay_batch: int = 0,
  insert: str = "every_pass",
) -> Method:  # fmt: skip
  """BFP: the loss of ``base`` plus ``strength mean_n |h(x_n) A + b - h_old(x_n)| / sqrt(d)`` from the second task on.

  h are the features ``[B, d]`` of current and replayed rows, h_old those of the network at the end of the last task, in
  eval mode; A ``[d, d]`` and b ``[d]`` are drawn anew when a task starts and follow the same loss by SGD of their own
  (``map_rate``, ``map_momentum``) in the same step. So features may move as far as what was linearly separable stays
  so: old classes that w separates are separated by ``A w``. ``map_start='identity'`` spares the first steps a random
  map. ``projection='identity'`` has no map: feature distillation. ``base``: 'derpp' (its ``alpha``, ``beta``) or 'er',
  which does not read these; ``strength=0`` is the base.

  Deviations: logits are held to those stored with the rows, as in DER++; the released code's default holds them to the
  old network's. The map's slope is taken on rows before augmentation, in train mode: the same as the term's where
  nothing is augmented. One layer, the features; no map of two layers (BFP-2). After a request the old network follows
  the edit of the parameters, the map stays what it learned, which is no exact deletion. Raises UsageError for a model
  without features. Spec 7.2; Gu et al., 2023.
  """
  width = heads.width_of(model, spec, "bfp")
  options: dict[str, Any] = {"capacity": capacity, "policy": policy, "replay_batch": replay_batch, "insert": insert}
  inner = derpp(model, spec, alpha=alpha, beta=beta, **options) if base == "derpp" else er(model, spec, **options)
  erased = inner.scrub or (lambda learner, request: learner)
  linear = projection == "linear"

  def of(learner):
    return learner._replace(method_state=learner.method_state.replay)

  def back(learner, state, **parts):
    return learner._replace(method_state=state._replace(replay=learner.method_state, **parts))

  def features(params, model_state, x, task, train, key, mask):
    told = {"task": model.task_for(task), "mask": mask}
    return heads.flat(model.apply(params, model_state, x, train=train, key=key, **told)[0].features)

  def old_features(teacher, x, task, key):
    return features(teacher.params, teacher.model_state, x, task, False, key, None)

  def start_task(key, learner, task):
    del task
    state = learner.method_state
    begun = started(fold(key, "map"), width, map_start if linear else "identity")
    return learner._replace(method_state=state._replace(map=begun))

  def prepare(key, learner, batch):
    state = learner.method_state
    moved, batch = inner.prepare(key, of(learner), batch)
    there = (batch.weight > 0).astype(jnp.float32)
    now, later = state.map, state.map
    if linear:
      x = spec.view(batch.x, batch.task)
      new = features(learner.params, learner.model_state, x, batch.task, True, fold(key, "model"), there)
      old = old_features(state.teacher, x, batch.task, key)
      slope = jax.grad(lambda weights: strength * gap(weights, new, old, there))(now.weights)
      velocity = jax.tree.map(lambda v, s: map_momentum * v + s, now.velocity, slope)
      stepped = jax.tree.map(lambda w, v: w - map_rate * v, now.weights, velocity)
      later = jax.tree.map(lambda a, b: jnp.where(batch.visit.met.any(), a, b), Mapping(stepped, velocity), now)
    batch = batch._replace(extra={**batch.extra, "map": now.weights})
    return back(moved, state, map=later), batch

  def term(key, params, learner, batch, outputs):
    del params
    old = old_features(learner.method_state.teacher, batch.x, batch.task, key)
    far = gap(batch.extra["map"], heads.flat(outputs.features), old, batch.weight)
    return strength * jnp.where(batch.visit.met.any(), far, 0.0)

  def inner_term(fn):
    return lambda key, params, learner, batch, outputs: fn(key, params, of(learner), batch, outputs)

  def end_task(key, learner, task):
    del key, task
    teacher = Teacher(tree.copy(learner.params), tree.copy(learner.model_state))
    return learner._replace(method_state=learner.method_state._replace(teacher=teacher))

  def after_forget(learner, before):
    state = learner.method_state
    followed = state.teacher._replace(params=tree.follow(state.teacher.params, before, learner.params))
    return learner._replace(method_state=state._replace(teacher=followed))

  def init(key, learner):
    teacher = Teacher(tree.copy(learner.params), tree.copy(learner.model_state))
    return BFPState(inner.init(key, learner), teacher, started(key, width, "identity"))

  return Method(
    init=init,
    start_task=start_task,
    prepare=prepare,
    terms={**{name: inner_term(fn) for name, fn in inner.terms.items()}, "projection": term},
    after_step=lambda key, learner, info: back(inner.after_step(key, of(learner), info), learner.method_state),
    end_task=end_task,
    after_forget=after_forget,
    scrub=lambda learner, request: back(erased(of(learner), request), learner.method_state),
  )


DERPP = {"base": ("derpp",)}
LINEAR = {"projection": ("linear",)}
register(
  "bfp",
  Entry(
    bfp,
    {
      "strength": Option(1.0, 0),
      "alpha": Option(0.2, 0, needs=DERPP),
      "beta": Option(0.5, 0, needs=DERPP),
      "map_rate": Option(0.1, 0, needs=LINEAR),
      "map_momentum": Option(0.9, 0, 1, needs=LINEAR),
      "base": Option("derpp", choices=("derpp", "er")),
      "projection": Option("linear", choices=("linear", "identity")),
      "map_start": Option("random", choices=("random", "identity"), needs=LINEAR),
      **BUFFER,
      **INSERT_OUTPUTS,
    },
    ACCESS._replace(task_boundaries=True, needs=("each", "plain_inputs")),
    "Gu et al. 2023",
  ),
)
