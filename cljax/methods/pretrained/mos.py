"""MOS: parts of each task beside a frozen network, held together by merging, and found again for each row."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods import heads as classifiers
from cljax.methods.pretrained import gaussians, local
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads, isolated, stacks, tuning

LOOKS = 4  # how often the parts of a row are looked for


class Surgery(NamedTuple):
  """What :func:`mos` answers by."""

  gaussians: gaussians.Gaussians  # of features under the parts of each class's own place
  first: Any  # [C, D]: class means of features under the parts of the first place
  own: Any  # [C] int32: the place in whose task the class was met; -1 for none
  ended: Any  # int32: how many places have ended


def merged(parts, slot, share):
  """The parts, of which those of the place ``slot`` are ``(1 - share) p + share mean_(k < slot) p_k``; of the first
  place as they are."""

  def one(a):
    old = (jnp.arange(a.shape[0]) < slot).reshape(-1, *(1,) * (a.ndim - 1))
    mean = jnp.sum(jnp.where(old, a, jnp.zeros_like(a)), axis=0) / jnp.maximum(slot, 1).astype(a.dtype)
    share_of = jnp.asarray(share, a.dtype)
    return a.at[slot].set(jnp.where(slot > 0, (1 - share_of) * a[slot] + share_of * mean, a[slot]))

  return jax.tree.map(one, parts)


def retrieved(logits, own, begin):
  """``[B]`` int32: of each row the place where it stays, from ``begin [B]`` on: ``j <- own(argmax z(j))``; logits ``[T,
  B, C]`` of all places, own ``[C]``. With that of the fourth look it ends, at rest or not."""
  found = own[jnp.argmax(logits, axis=-1)]  # [T, B]: where each place sends each row
  rows = jnp.arange(logits.shape[1])
  return jax.lax.fori_loop(1, LOOKS, lambda _, j: found[j, rows], begin)


def mos(
  model, spec: Spec, *, strength, merge, head_rate, learning_rate, passes: int = 30, samples: int = 0,
  tuning: str = "parallel_adapter", rank: int = 16, layers: str = "",
) -> Method:  # fmt: skip
  """MOS: ``CE + strength CE(M M^T / 0.8, diag)`` on parts p_t of task t beside a frozen network; ``p_t <- (1 - merge)
  p_t + merge mean_(k < t) p_k`` after each step; ``softmax(W f_j(x) + b) + softmax(t cos(f_1(x), m))``, j found row by
  row.

  The rows of M are the class means so far and the features of the step; CE is over the task's classes. One linear
  classifier, which begins at 0, learns at ``head_rate`` times the parts' rate, of which other tasks' outputs stand.
  When a task ends its classes' features under its own parts give them a Gaussian, and, under the first task's, a mean m
  ``[D]``; from the second task on W and b then learn for ``passes`` on draws of all classes (``samples`` of each; 0:
  five batches), at ``learning_rate`` (:func:`cljax.methods.pretrained.gaussians.aligned`). A row begins at the place of
  the task of ``argmax_c cos(f_1, m_c)``, goes to that of ``argmax W f_j + b``, and on, until it stays or has looked
  four times. Parts: ``tuning``, of ``rank``, at ``layers`` (:func:`cljax.models.stacks.stack`).

  Old parts stand, to the bit, whatever momentum and decay; the network always. Merging is done once a step, and nothing
  is merged to answer: the released code merges in place in every block of a forward pass, old parts at test too, so
  that evaluating changes its model. Answers are logarithms of half that sum, of classes of tasks that have ended, -inf
  at others; before the first end the classifier's. A task that comes back changes nothing; a class that a later task
  has again is that task's. Keeps ``[C, D, D]`` numbers, and a row costs a pass for each task. A request clears what is
  kept of classes that go whole; Gaussians of others may hold its rows, and ``forget.name`` edits parameters as the last
  task's parts show them: retraining alone is exact. Deviations: parts beside all layers that ``layers`` finds, where
  the paper's are beside each block's perceptron; those of a new task begin anew (UNVERIFIED: code of others has them go
  on from the last task's). Raises UsageError for a model without features and for layers that find nothing. Spec B5;
  Sun et al., 2025.
  """
  stack = stacks.stack(model, spec.num_tasks, tuning, rank, layers, classifiers.classifier(model, spec))
  width, classes = heads.width_of(model, spec, "mos"), spec.num_classes
  zeros = lambda key: {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}
  network = stacks.with_head(model, spec, stack, "linear", zeros, heads.linear)

  def features(learner, slot, b, key):
    out = stack.outputs(learner.params["stack"], learner.model_state, slot, b.x, key, model.task_for(b.task))
    return heads.flat(out.features)

  def init(key, learner):
    del key, learner
    first = jnp.zeros((classes, width), jnp.float32)
    return Surgery(gaussians.none(classes, width), first, jnp.full(classes, -1, jnp.int32), jnp.int32(0))

  def start_task(key, learner, task):
    del key
    state, first = stacks.opened(learner.model_state, task.id), task.visit.first
    may = {
      "stack": {n: isolated.copy_of(state.slot, a) & first for n, a in learner.params["stack"].items()},
      "linear": jax.tree.map(lambda a: jnp.broadcast_to(first, a.shape), learner.params["linear"]),
    }
    return learner._replace(model_state=state, opt_state=isolated.held(learner.opt_state, may))

  def spread(key, params, learner, batch, outputs):
    del key, params
    known = learner.method_state.gaussians
    return strength * gaussians.apart(known, outputs.features, batch.weight)

  def after_step(key, learner, info):
    del key
    share = jnp.where(info.batch.visit.first, merge, 0.0)
    parts = merged(learner.params["stack"], learner.model_state.slot, share)
    return learner._replace(params={**learner.params, "stack": parts})

  def end_task(key, learner, task):
    slot, visit = learner.model_state.slot, task.visit

    def met(learner):
      state = learner.method_state
      known = gaussians.measured(state.gaussians, lambda b: features(learner, slot, b, key), task.rows, visit)
      found = gaussians.moments(lambda b: features(learner, 0, b, key), task.rows, classes, width)
      here = found.counts > 0
      first, own = jnp.where(here[:, None], found.means, state.first), jnp.where(here, slot, state.own)

      def level(head):
        return gaussians.aligned(
          tree.fold(key, "align"), head, known, gaussians.plain, learning_rate=learning_rate, passes=passes,
          samples=samples or 5 * spec.batch_size,
        )  # fmt: skip

      head = jax.lax.cond(slot > 0, level, lambda head: head, learner.params["linear"])
      kept = Surgery(known, first, own, jnp.maximum(state.ended, slot + 1))
      return learner._replace(params={**learner.params, "linear": head}, method_state=kept)

    return jax.lax.cond(visit.first, met, lambda learner: learner, learner)

  def predict(key, learner, x, task):
    state, told, params = learner.method_state, model.task_for(task), learner.params
    there = (state.own >= 0)[None]
    f = stacks.every(stack, params["stack"], learner.model_state, state.ended, x, key, told)
    near = jnp.where(there, jnp.matmul(heads.unit(f[0]), heads.unit(state.first).T, precision="highest"), -jnp.inf)
    every = jnp.where(there[None], jax.vmap(lambda f: heads.linear(params["linear"], f))(f), -jnp.inf)
    place = retrieved(every, jnp.maximum(state.own, 0), jnp.maximum(state.own, 0)[jnp.argmax(near, axis=-1)])
    final = every[place, jnp.arange(place.shape[0])]
    sharp = jnp.maximum(state.ended, 1).astype(jnp.float32) * near
    both = [jax.nn.log_softmax(z, axis=-1) for z in (final, sharp)]
    out, _ = network.apply(params, learner.model_state, x, train=False, key=key, task=told, mask=None)
    return jnp.where(there.any(), jnp.logaddexp(*both) - jnp.log(2.0), out.logits)

  def scrub(learner, request):
    state, gone = learner.method_state, request.classes
    first = jnp.where(gone[:, None], 0.0, state.first)
    kept = Surgery(gaussians.cleared(state.gaussians, gone), first, jnp.where(gone, -1, state.own), state.ended)
    return learner._replace(method_state=kept)

  pace = local.paced(spec, "linear", lambda name: head_rate if name.startswith("linear/") else 1.0)
  return Method(
    network, init=init, start_task=start_task, prepare=lambda key, l, batch: (l, local.closed(spec, batch)),
    terms={"apart": spread}, finalize=optax.chain(isolated.hold(), pace), after_step=after_step, end_task=end_task,
    predict=predict, scrub=scrub,
  )  # fmt: skip


register(
  "mos",
  Entry(
    mos,
    {
      "strength": Option(0.1, 0),
      "merge": Option(0.1, 0, 1),
      "head_rate": Option(0.1, 0),
      "learning_rate": Option(0.005, 0),
      "passes": Option(30, 0),
      "samples": Option(0, 0),
      "tuning": Option("parallel_adapter", choices=tuple(tuning.TUNINGS)),
      "rank": Option(16, 1, needs={"tuning": stacks.RANKED}),
      "layers": Option(""),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Sun et al. 2025",
  ),
)
