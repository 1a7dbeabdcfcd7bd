"""Relevance mapping: each task learns how relevant every weight is to it; relevant weights stand."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods import heads
from cljax.methods.registry import Entry, Option, register
from cljax.methods.told import TOLD, task_at_test
from cljax.models import isolated


def almost_round(a):
  """``sigmoid(100 (a - 1/2))``: .5 at .5, .993 at .55."""
  return jax.nn.sigmoid(100.0 * (a - 0.5))


def relevance_mapping(model, spec: Spec, *, strength, overlap: bool = True, inference: str = "told") -> Method:
  """RMN: ``f_t(x) = f(x; W rho(A_t))``, ``rho(a) = sigmoid(100 (a - 1/2))``; loss plus ``strength sum rho(A_t)``.

  A_t, like each kernel, is learned for the task, from U(0, 1); at test ``rho`` is rounded. When a task ends the weights
  with ``A_t > 1/2`` stand, whatever momentum and weight decay the optimizer has, so old answers stay to the bit; the
  others learn on. Without ``overlap`` (the paper's disjoint form) a later task takes none of them up. Each task has a
  classifier, biases and BatchNorm of its own. A_t of other tasks, and of a task that comes back, are held; that task
  trains what is its own alone. ``inference`` is of :func:`cljax.methods.told.task_at_test`.

  The training loop and the default strength are UNVERIFIED: the layers were read in a port by others. Spec B10;
  Kaushik et al., 2021.
  """
  named = jax.eval_shape(model.init, jax.random.key(0))[0]
  kernels = isolated.kernels_of(named, heads.classifier(model, spec))
  own = frozenset(n for n in tree.paths(named) if n not in kernels)

  def begin(key, weights):
    found = {n: a for n, a in tree.by_path(weights).items() if n in kernels}
    draw = lambda n, a: jax.random.uniform(tree.fold(key, n), (spec.num_tasks, *a.shape), jnp.float32)
    params = {
      "network": isolated.copied(weights, own, spec.num_tasks), "relevance": {n: draw(n, a) for n, a in found.items()},
    }  # fmt: skip
    return params, {n: jnp.zeros(a.shape, bool) for n, a in found.items()}

  def weights(params, used, slot, train):
    del used

    def one(name, w):
      if name in own:
        return w[slot]
      a = params["relevance"][name][slot]
      part = almost_round(a) if train else (a > 0.5).astype(jnp.float32)
      return w * part.astype(w.dtype)

    return tree.map_named(one, params["network"])

  def start_task(key, learner, task):
    del key
    first = task.visit.first
    slot, state = isolated.opened(learner.model_state, task.id)
    used, relevance = state.kept, learner.params["relevance"]
    barred = {n: jnp.zeros_like(u) if overlap else u & first for n, u in used.items()}
    begun = {n: a.at[slot].set(jnp.where(barred[n], 0.0, a[slot])) for n, a in relevance.items()}

    def one(name, w):
      return isolated.copy_of(slot, w) if name in own else ~used[name] & first

    may = {
      "network": tree.map_named(one, learner.params["network"]),
      "relevance": {n: isolated.copy_of(slot, a) & first & ~barred[n][None] for n, a in relevance.items()},
    }
    return learner._replace(
      params={**learner.params, "relevance": begun},
      model_state=state,
      opt_state=isolated.held(learner.opt_state, may),
    )

  def few(key, params, learner, batch, outputs):
    del key, outputs
    slot = isolated.place_of(learner.model_state.slots, batch.visit.task)
    return strength * tree.total([jnp.sum(almost_round(a[slot])) for a in params["relevance"].values()])

  def end_task(key, learner, task):
    del key
    state = learner.model_state
    slot, relevance = isolated.place_of(state.slots, task.id), learner.params["relevance"]
    used = {n: u | (relevance[n][slot] > 0.5) for n, u in state.kept.items()}
    return learner._replace(model_state=state._replace(kept=used))

  network = isolated.per_task(model, spec.num_tasks, begin, weights)
  return Method(
    model=network,
    start_task=start_task,
    terms={"few": few},
    finalize=isolated.hold(),
    end_task=end_task,
    **task_at_test(network, spec, inference),
  )


register(
  "relevance_mapping",
  Entry(
    relevance_mapping,
    {"strength": Option(1e-5, 0), "overlap": Option(True), **TOLD},
    Access(task_boundaries=True, task_id_at_test=True),
    "Kaushik et al. 2021",
  ),
)
