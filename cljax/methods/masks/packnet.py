"""PackNet: each task owns the largest of the weights that earlier ones left free."""

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
from cljax.models.masks import smallest


def packnet(
  model, spec: Spec, *, prune, retrain, shares: str = "fixed", inference: str = "told"
) -> Method:  # fmt: skip
  """PackNet: ``f_t(x) = f(x; W [owner <= t])``; task t trains the free weights and keeps the largest of them.

  When ``1 - retrain`` of a task's steps are done (or the task ends), in each kernel the ``round(prune n)`` smallest of
  the n weights that it trains are set to 0 and are free again; what it keeps is trained for the steps that are left and
  then stands. ``shares`` 'even' prunes ``1 - 1 / (T - t)``, so that each of the stream's T tasks gets the same number.
  Owners are by the order in which tasks are met. Biases and BatchNorm's scales learn in the first task alone; each task
  has a classifier and BatchNorm statistics of its own. Weights that a task does not own move by nothing: what holds
  them is behind momentum and weight decay. A task that comes back trains its classifier alone. ``inference`` is of
  :func:`cljax.methods.told.task_at_test`: 'told' needs streams that tell the task at test, 'entropy' needs none.

  Keeps two bytes a weight for owners and one for what may move. Deviations: BatchNorm has statistics of each task (the
  released code fixes them after the first); of weights tied at the cut all are pruned, as there. Spec D1; Mallya and
  Lazebnik, 2018.
  """
  own, free = heads.classifier(model, spec), spec.num_tasks
  named = jax.eval_shape(model.init, jax.random.key(0))[0]
  kernels = isolated.kernels_of(named, own)

  def begin(key, weights):
    del key
    owner = {n: jnp.full(a.shape, free, jnp.int16) for n, a in tree.by_path(weights).items() if n in kernels}
    return isolated.copied(weights, own, spec.num_tasks), owner

  def weights(params, owner, slot, train):
    del train

    def one(name, w):
      if name in own:
        return w[slot]
      if name not in owner:
        return w
      place = slot.astype(owner[name].dtype)
      stands = jnp.where(owner[name] == place, w, jax.lax.stop_gradient(w))
      return jnp.where(owner[name] <= place, stands, jnp.zeros_like(w))

    return tree.map_named(one, params)

  def movable(params, owner, slot, first):
    def one(name, w):
      if name in own:
        return isolated.copy_of(slot, w)
      if name in owner:
        return (owner[name] == slot.astype(owner[name].dtype)) & first
      return jnp.broadcast_to(first & (slot == 0), w.shape)

    return tree.map_named(one, params)

  def share(slot):
    left = (spec.num_tasks - slot).astype(jnp.float32)
    return 1.0 - 1.0 / left if shares == "even" else prune

  def cut(learner, slot):
    """The learner whose task in the place ``slot`` has given back its smallest weights."""
    owner, edits = dict(learner.model_state.kept), {}
    for name, w in tree.by_path(learner.params).items():
      if name in owner:
        ours = owner[name] == slot.astype(owner[name].dtype)
        count = jnp.round(share(slot) * ours.sum(dtype=jnp.int32).astype(jnp.float32)).astype(jnp.int32)
        gone = smallest(jnp.abs(w), ours, count)
        edits[name] = jnp.where(gone, jnp.zeros_like(w), w)
        owner[name] = jnp.where(gone, jnp.asarray(free, jnp.int16), owner[name])
    params = tree.edit_leaves(learner.params, edits)
    learner = learner._replace(params=params, model_state=learner.model_state._replace(kept=owner))
    may = movable(params, owner, slot, jnp.bool_(True))
    return learner._replace(opt_state=isolated.held(learner.opt_state, may))

  def start_task(key, learner, task):
    del key
    first = task.visit.first
    slot, state = isolated.opened(learner.model_state, task.id)
    take = lambda o: jnp.where(first & (o == free), slot.astype(o.dtype), o)
    owner = {n: take(o) for n, o in state.kept.items()}
    may = movable(learner.params, owner, slot, first)
    return learner._replace(
      model_state=state._replace(kept=owner),
      opt_state=isolated.held(learner.opt_state, may),
      method_state=isolated.first_phase(1.0 - retrain, task),
    )

  network = isolated.per_task(model, spec.num_tasks, begin, weights)
  return Method(
    model=network,
    start_task=start_task,
    finalize=isolated.hold(),
    **isolated.two_phases(cut),
    **task_at_test(network, spec, inference),
  )


register(
  "packnet",
  Entry(
    packnet,
    {
      "prune": Option(0.5, 0, 1, needs={"shares": ("fixed",)}),
      "shares": Option("fixed", choices=("fixed", "even")),
      "retrain": Option(1 / 3, 0, 1, below=True),
      **TOLD,
    },
    Access(task_boundaries=True, task_id_at_test=True),
    "Mallya and Lazebnik 2018",
  ),
)
