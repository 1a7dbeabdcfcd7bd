"""A hypernetwork: the weights of each task are made from its embedding, and those of old tasks are held in place."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Model, Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.told import TOLD, task_at_test
from cljax.models import isolated

EMBEDDINGS, HIDDEN, OUT = "embeddings", "hidden", "out"


class Before(NamedTuple):
  """What a task of :func:`hypernetwork` begins with."""

  params: Any
  others: Any  # [T] bool: the places of other tasks met


def made(params, e):
  """``{name: leaf}``, the weights for the embedding ``e [E]``: ``relu(e A + a) B + b`` for each leaf."""
  h = jax.nn.relu(e @ params[HIDDEN]["kernel"] + params[HIDDEN]["bias"])
  return {n: jnp.tensordot(h.astype(o["kernel"].dtype), o["kernel"], 1) + o["bias"] for n, o in params[OUT].items()}


def hyper_network(model: Model, spec: Spec, size: int, width: int) -> Model:
  """The network whose weights for a task in place t are :func:`made` of ``embeddings[t]``.

  Parameters: ``embeddings [T, E]`` from N(0, 1), ``hidden``, E by H, and ``out {leaf: {"kernel" [H, ...], "bias"
  [...]}}``, whose biases are the model's initial weights and whose kernels have their spread over sqrt(H).
  """
  named = jax.eval_shape(model.init, jax.random.key(0))[0]

  def begin(key, weights):
    normal = lambda name, shape: jax.random.normal(tree.fold(key, name), shape, jnp.float32)
    spread = lambda w: (jnp.std(w.astype(jnp.float32)) * width**-0.5).astype(w.dtype)
    out = {
      n: {"kernel": normal(n, (width, *w.shape)).astype(w.dtype) * spread(w), "bias": w}
      for n, w in tree.by_path(weights).items()
    }
    hidden = {"kernel": normal(HIDDEN, (size, width)) * (2 / size) ** 0.5, "bias": jnp.zeros(width, jnp.float32)}
    return {EMBEDDINGS: normal(EMBEDDINGS, (spec.num_tasks, size)), HIDDEN: hidden, OUT: out}, ()

  def weights(params, kept, slot, train):
    del kept, train
    each = made(params, params[EMBEDDINGS][slot])  # its order is that of sorted names, which need not be the tree's
    return tree.map_named(lambda n, _: each[n], named)

  return isolated.per_task(model, spec.num_tasks, begin, weights)


def hypernetwork(
  model, spec: Spec, *, strength, lookahead, size: int = 8, width: int = 32, inference: str = "told"
) -> Method:  # fmt: skip
  """Task-conditioned hypernetwork: ``CE(f(x; H(e_t))) + strength / K sum_j |H*(e_j*) - H(e_j; theta + delta)|^2``.

  All weights for task t come from H, one hidden layer of ``width`` units, and the task's embedding e_t of ``size``
  numbers, both learned. j goes over the K other tasks met before; H* and e* are as they were when the task began, so
  what they made is asked for again, whatever it was learned on, without any stored row. ``delta = -lookahead g``, g the
  slope of the first part, is not differentiated; 0 leaves it out, as the paper finds to do about as well. Embeddings of
  other tasks are held; BatchNorm has statistics of each task.

  Keeps a copy of the parameters while a task is learned, and makes the weights of all T places at each step.
  ``inference`` is of :func:`cljax.methods.told.task_at_test`. Deviations: H makes all weights at once (the chunked
  form, which compresses, is left out), and adds to the model's initial weights, so that the first task begins near
  them; delta is a step of plain SGD, not of the optimizer. von Oswald et al., 2020.
  """
  network = hyper_network(model, spec, size, width)

  def start_task(key, learner, task):
    del key
    slot, state = isolated.opened(learner.model_state, task.id)
    may = tree.map_named(
      lambda n, a: isolated.copy_of(slot, a) if n == EMBEDDINGS else jnp.ones(a.shape, bool), learner.params
    )
    held = isolated.held(learner.opt_state, may)
    others = (jnp.arange(spec.num_tasks) < (state.slots >= 0).sum(dtype=jnp.int32)) & (
      jnp.arange(spec.num_tasks) != slot
    )
    before = Before(tree.copy(learner.params), others)
    return learner._replace(model_state=state, opt_state=held, method_state=before)

  def moved(params, kept, others):
    """``1/K sum_j |H*(e_j*) - H(e_j)|^2`` over the places ``others [T]`` bool."""

    def one(now, was):
      new, old = made(params, now), made(kept, was)
      return tree.total([jnp.sum(jnp.square((new[n] - old[n]).astype(jnp.float32))) for n in new])

    each = jax.vmap(one)(kept[EMBEDDINGS], kept[EMBEDDINGS])
    count = others.sum(dtype=jnp.int32).astype(jnp.float32)
    return jnp.sum(jnp.where(others, each, 0.0)) / jnp.maximum(count, 1.0)

  def gradient(key, loss_fn, learner):
    del key
    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(learner.params)
    before = learner.method_state
    ahead = jax.tree.map(lambda p, g: p - jnp.asarray(lookahead, p.dtype) * g.astype(p.dtype), learner.params, grads)
    value, more = jax.value_and_grad(lambda p: strength * moved(p, *before))(ahead)
    return (loss + value, aux), tree.add(grads, more)

  def after_forget(learner, before):
    state = learner.method_state
    return learner._replace(method_state=state._replace(params=tree.follow(state.params, before, learner.params)))

  return Method(
    model=network,
    init=lambda key, learner: Before(tree.copy(learner.params), jnp.zeros(spec.num_tasks, bool)),
    start_task=start_task,
    gradient=gradient,
    finalize=isolated.hold(),
    after_forget=after_forget,
    **task_at_test(network, spec, inference),
  )


register(
  "hypernetwork",
  Entry(
    hypernetwork,
    {
      "strength": Option(0.01, 0),
      "lookahead": Option(0.0, 0),
      "size": Option(8, 1),
      "width": Option(32, 1),
      **TOLD,
    },
    Access(task_boundaries=True, task_id_at_test=True),
    "von Oswald et al. 2020",
  ),
)
