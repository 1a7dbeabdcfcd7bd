"""WSN: the mask and the weights of each task's subnetwork, learned together; weights in old masks stand."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods import heads
from cljax.methods.registry import Entry, Option, register
from cljax.methods.told import TOLD, task_at_test
from cljax.models import isolated, top_mask


class Tickets(NamedTuple):
  """What the network of :func:`wsn` keeps."""

  masks: Any  # {kernel: [T, ...] bool}: those of finished tasks
  done: Any  # [T] bool: the places that have one
  used: Any  # {kernel: bool}: weights in any of them


def wsn(model, spec: Spec, *, share, inference: str = "told") -> Method:
  """WSN: ``f_t(x) = f(x; W m_t)``, m_t the ``share`` of each kernel with the largest ``|s|``; W and s are learned.

  The slope goes straight through m_t to s, as in edge-popup. There is one s for all tasks, which is not begun anew. A
  finished task's mask is stored; the weights in any of them stand, those outside the mask of the step too, whatever
  momentum and weight decay the optimizer has, so old answers stay to the bit. Biases and BatchNorm's scales learn in
  the first task alone (the paper's layers have none); each task has a classifier and BatchNorm statistics of its own.
  A task that comes back keeps its mask and trains its classifier alone. Keeps a byte for each weight and task (the
  paper's bits are coded). ``inference`` is of :func:`cljax.methods.told.task_at_test`. Spec D3; Kang et al., 2022.
  """
  own = heads.classifier(model, spec)
  kernels = isolated.kernels_of(jax.eval_shape(model.init, jax.random.key(0))[0], own)

  def begin(key, weights):
    found = {n: a for n, a in tree.by_path(weights).items() if n in kernels}
    bound = lambda a: 1 / math.sqrt(math.prod(a.shape[:-1]))
    draw = lambda n, a: jax.random.uniform(tree.fold(key, n), a.shape, jnp.float32, -bound(a), bound(a))
    masks = {n: jnp.zeros((spec.num_tasks, *a.shape), bool) for n, a in found.items()}
    used = {n: jnp.zeros(a.shape, bool) for n, a in found.items()}
    params = {
      "network": isolated.copied(weights, own, spec.num_tasks),
      "scores": {n: draw(n, a) for n, a in found.items()},
    }
    return params, Tickets(masks, jnp.zeros(spec.num_tasks, bool), used)

  def largest(scores):
    return top_mask(scores, 1.0 - share)

  def mask_of(params, kept, slot, name):
    return jnp.where(kept.done[slot], kept.masks[name][slot].astype(jnp.float32), largest(params["scores"][name]))

  def weights(params, kept, slot, train):
    del train

    def one(name, w):
      if name in own:
        return w[slot]
      if name not in kernels:
        return w
      stands = jnp.where(kept.used[name], jax.lax.stop_gradient(w), w)
      return stands * mask_of(params, kept, slot, name).astype(w.dtype)

    return tree.map_named(one, params["network"])

  def start_task(key, learner, task):
    del key
    first = task.visit.first
    slot, state = isolated.opened(learner.model_state, task.id)

    def one(name, w):
      if name in own:
        return isolated.copy_of(slot, w)
      if name in kernels:
        return ~state.kept.used[name] & first
      return jnp.broadcast_to(first & (slot == 0), w.shape)

    may = {
      "network": tree.map_named(one, learner.params["network"]),
      "scores": jax.tree.map(lambda s: jnp.broadcast_to(first, s.shape), learner.params["scores"]),
    }
    return learner._replace(model_state=state, opt_state=isolated.held(learner.opt_state, may))

  def selected(updates, state, params=None, **extra):
    """``u <- 0`` outside the mask of the step."""
    del extra
    inside = lambda name, u: jnp.where(largest(params["scores"][name]) > 0, u, jnp.zeros_like(u))
    made = tree.map_named(lambda n, u: inside(n, u) if n in kernels else u, updates["network"])
    return {**updates, "network": made}, state

  def end_task(key, learner, task):
    del key
    state = learner.model_state
    slot, kept = isolated.place_of(state.slots, task.id), state.kept
    masks = {n: m.at[slot].set(mask_of(learner.params, kept, slot, n) > 0) for n, m in kept.masks.items()}
    used = {n: u | masks[n][slot] for n, u in kept.used.items()}
    kept = Tickets(masks, kept.done.at[slot].set(True), used)
    return learner._replace(model_state=state._replace(kept=kept))

  network = isolated.per_task(model, spec.num_tasks, begin, weights)
  chosen = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), selected)
  return Method(
    model=network,
    start_task=start_task,
    finalize=optax.chain(isolated.hold(), chosen),
    end_task=end_task,
    **task_at_test(network, spec, inference),
  )


register(
  "wsn",
  Entry(
    wsn,
    {"share": Option(0.5, 0, 1, above=True), **TOLD},
    Access(task_boundaries=True, task_id_at_test=True),
    "Kang et al. 2022",
  ),
)
