"""EASE: parts of each task beside a frozen network, and prototypes of all classes in the space of every task."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods import heads as classifiers
from cljax.methods.pretrained import gaussians, local
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads, isolated, stacks, tuning


class Subspaces(NamedTuple):
  """What :func:`ease` answers by."""

  means: Any  # [C, T, D]: prototypes of each class in each place's space, measured or made of others
  own: Any  # [C] int32: the place in whose task the class was met; -1 for none
  ended: Any  # int32: how many places have ended


def likeness(means, own, new):
  """``[C, C]``: ``softmax_n cos(mu_c, mu_n)`` over the ``new [C]`` classes n, both in c's own space; 0 at others."""

  def row(c):
    space = heads.unit(means[:, jnp.maximum(own[c], 0)])
    near = jnp.where(new, space @ space[c], -jnp.inf)
    return jnp.where(new, jnp.exp(near - jnp.max(jnp.where(new, near, -1.0))), 0.0)

  weight = jax.lax.map(row, jnp.arange(means.shape[0]))
  return weight / jnp.maximum(weight.sum(-1, keepdims=True), jnp.finfo(weight.dtype).tiny)


def joined(state: Subspaces, found, new, slot) -> Subspaces:
  """The state with the classes ``new [C]`` of the place ``slot``, whose prototypes ``found [C, T, D]`` are, 0 behind
  it; prototypes of old classes in that place's space are mixtures of theirs."""
  own = jnp.where(new, slot, state.own)
  means = jnp.where(new[:, None, None], found, state.means)
  mixed = jnp.matmul(likeness(means, own, new), means[:, slot], precision="highest")
  old = ~new & (own >= 0)
  means = means.at[:, slot].set(jnp.where(old[:, None], mixed, means[:, slot]))
  return Subspaces(means, own, jnp.maximum(state.ended, slot + 1))


def scores(state: Subspaces, features, others):
  """``[B, C]``: ``cos_own + others / (t - 1) sum_(other spaces) cos``; of features ``[T, B, D]``; -inf without a
  prototype."""
  near = jnp.einsum("jbd,cjd->bcj", heads.unit(features), heads.unit(state.means), precision="highest")
  places = jnp.arange(near.shape[-1])
  share = others / jnp.maximum(state.ended - 1, 1).astype(jnp.float32)
  weight = jnp.where(places[None] == state.own[:, None], 1.0, jnp.where(places < state.ended, share, 0.0)[None])
  return jnp.where((state.own >= 0)[None], jnp.einsum("bcj,cj->bc", near, weight, precision="highest"), -jnp.inf)


def ease(
  model, spec: Spec, *, others, tuning: str = "parallel_adapter", rank: int = 64, layers: str = ""
) -> Method:  # fmt: skip
  """EASE: ``argmax_c cos(f_a(x), mu_(c,a)) + others / (t - 1) sum_(j != a) cos(f_j(x), mu_(c,j))``, a the place of c's
  task among t tasks.

  f_j are the features of the frozen network with the parts of place j beside it (``tuning``, of ``rank``, at
  ``layers``: :func:`cljax.models.stacks.stack`), which its task trains alone, by a classifier ``s cos(f, w_c)`` over
  the task's classes that begins anew with each task. When it ends, prototypes of its classes are measured in all spaces
  so far, and those of an old class c in the new space are ``sum_n S_cn mu_(n,t)``, ``S_c = softmax_n cos(mu_(c,a),
  mu_(n,a))`` over the new classes n. Cosines without a temperature leave S nearly uniform, so that these are near the
  mean of the new prototypes. Parts stand behind their task, to the bit, whatever momentum and decay; the network
  always.

  Answers come of tasks that have ended: before the first, the classifier's. A task that comes back changes none. A
  class that a later task has again is that task's. Which classes are a task's is known, not counted: the released code
  takes all tasks but the first to be of one size. Keeps ``[C, T, D]`` prototypes, and a row costs a pass for each task.
  A request clears the prototypes of classes that go whole; mixtures and parts may hold their rows, and ``forget.name``
  edits parameters as the last task's parts show them: retraining alone is exact. Deviations: adapters stand beside
  layers, where the paper has one beside each block's perceptron; of the released code's options, its measuring of all
  later spaces anew, and the frozen network's own space, are left out. Raises UsageError for a model without features
  and for layers that find nothing. Spec F4; Zhou et al., 2024.
  """
  stack = stacks.stack(model, spec.num_tasks, tuning, rank, layers, classifiers.classifier(model, spec))
  width = heads.width_of(model, spec, "ease")

  def head(key):
    bound = width**-0.5
    drawn = jax.random.uniform(key, (width, spec.num_classes), jnp.float32, -bound, bound)
    return {"directions": drawn, "scale": jnp.ones((), jnp.float32)}

  def angles(head, f):
    return head["scale"] * (heads.unit(f) @ heads.unit(head["directions"], axis=0))

  network = stacks.with_head(model, spec, stack, "cosine", head, angles)

  def init(key, learner):
    del key, learner
    classes = spec.num_classes
    means = jnp.zeros((classes, spec.num_tasks, width), jnp.float32)
    return Subspaces(means, jnp.full(classes, -1, jnp.int32), jnp.int32(0))

  def start_task(key, learner, task):
    del key
    first, state = task.visit.first, stacks.opened(learner.model_state, task.id)
    fresh = head(jax.random.fold_in(tree.fold(learner.key, "cosine"), state.slot))
    params = {**learner.params, "cosine": fresh}
    may = {
      "stack": {n: isolated.copy_of(state.slot, a) & first for n, a in params["stack"].items()},
      "cosine": jax.tree.map(lambda a: jnp.ones(a.shape, bool), fresh),
    }
    return learner._replace(params=params, model_state=state, opt_state=isolated.held(learner.opt_state, may))

  def end_task(key, learner, task):
    here = learner.model_state

    def features(slot, b):
      out = stack.outputs(learner.params["stack"], here, slot, b.x, key, model.task_for(b.task))
      return heads.flat(out.features)

    def measure(slot, found):
      moments = gaussians.moments(lambda b: features(slot, b), task.rows, spec.num_classes, width)
      return found[0].at[:, slot].set(moments.means), moments.counts

    def met(state):
      start = jnp.zeros_like(state.means), jnp.zeros(spec.num_classes, jnp.float32)
      found, counts = jax.lax.fori_loop(0, here.slot + 1, measure, start)
      return joined(state, found, counts > 0, here.slot)

    state = learner.method_state
    return learner._replace(method_state=jax.lax.cond(task.visit.first, met, lambda state: state, state))

  def predict(key, learner, x, task):
    state, told = learner.method_state, model.task_for(task)
    features = stacks.every(stack, learner.params["stack"], learner.model_state, state.ended, x, key, told)
    out, _ = network.apply(learner.params, learner.model_state, x, train=False, key=key, task=told, mask=None)
    return jnp.where((state.own >= 0).any(), scores(state, features, others), out.logits)

  def scrub(learner, request):
    state, gone = learner.method_state, request.classes
    means = jnp.where(gone[:, None, None], 0.0, state.means)
    return learner._replace(method_state=state._replace(means=means, own=jnp.where(gone, -1, state.own)))

  return Method(
    network, init=init, start_task=start_task, prepare=lambda key, l, batch: (l, local.closed(spec, batch)),
    finalize=isolated.hold(), end_task=end_task, predict=predict, scrub=scrub,
  )  # fmt: skip


register(
  "ease",
  Entry(
    ease,
    {
      "others": Option(0.1, 0),
      "tuning": Option("parallel_adapter", choices=tuple(tuning.TUNINGS)),
      "rank": Option(64, 1, needs={"tuning": stacks.RANKED}),
      "layers": Option(""),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Zhou et al. 2024",
  ),
)
