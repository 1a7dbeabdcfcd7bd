"""HiDe-Prompt: prefixes of each task, which a classifier of the plain network finds, under an aligned classifier."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.pretrained import gaussians, local
from cljax.methods.prompts.tuning import Asked, prompted, uniform
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads, isolated
from cljax.models.prompts import Prompts, places_of


class Hierarchy(NamedTuple):
  """What :func:`hide_prompt` answers by."""

  slots: Any  # [T] int32: the place of each task among those met; -1 for those that were not
  shown: gaussians.Gaussians  # of features with the prefixes of each class's own place
  bare: gaussians.Gaussians  # of features without
  finder: Any  # {"kernel" [D, C], "bias" [C]}: the classifier of features without prefixes
  own: Any  # [C] int32: the place in whose task the class was met; -1 for none


def blended(prefixes, slot, share):
  """``(1 - share) e + share mean_(k < slot) e_k`` of leaves ``[T, ...]``, e the place ``slot``'s; the first's as it is.
  The old ones take no slope."""

  def one(a):
    old = (jnp.arange(a.shape[0]) < slot).reshape(-1, *(1,) * (a.ndim - 1))
    mean = jnp.sum(jnp.where(old, jax.lax.stop_gradient(a), 0), axis=0) / jnp.maximum(slot, 1).astype(a.dtype)
    return jnp.where(slot > 0, (1 - share) * a[slot] + share * mean, a[slot])

  return jax.tree.map(one, prefixes)


def hide_prompt(
  model, spec: Spec, *, strength, merge, head_rate, learning_rate, passes: int = 30, samples: int = 0,
  length: int = 5, blocks: int = 5,
) -> Method:  # fmt: skip
  """HiDe-Prompt: ``CE(W f(x; p_t) + b) + strength CE(M M^T / 0.8, diag)``, ``p_t = (1 - merge) e_t + merge mean_(k < t)
  e_k`` the prefixes of task t on a frozen network; at test ``W f(x; p_j) + b``, j the task of ``argmax V f(x) + v``.

  e_t are ``length`` keys and values ``[D]`` in each of the first ``blocks`` blocks, which begin as the last task's, the
  first's of U(-1, 1). The rows of M are the class means so far and the features of the step; CE is over the task's
  classes. W and b begin at 0 and learn at ``head_rate`` times the prefixes' rate; other tasks' outputs stand. When a
  task ends p_t stands in e_t's place, and its classes' features have Gaussians with p_t and without. V and v then learn
  on draws of the latter, and from the second task on W and b on draws of the former
  (:func:`cljax.methods.pretrained.gaussians.aligned`): ``passes``, with ``samples`` of each class (0: five batches), at
  ``learning_rate``. Old prefixes stand, whatever momentum and decay, and the network to the bit, in eval mode.

  Answers are of classes of tasks that have ended, -inf at others; before the first end those of the task that is
  learned. A task that comes back changes nothing; a class that a later task has again is that task's. Keeps ``2 [C, D,
  D]`` numbers. A request clears what is kept of classes that go whole; Gaussians of others, and V, may hold its rows,
  and ``forget.name`` edits parameters as the last task's prefixes show them: retraining alone is exact.

  Deviations: Gaussians, where the released default has ten centroids of a class; V learns on draws alone, which is the
  paper's loss, where the released code first trains it on rows; a pass takes the draws of all classes, where that code
  leaves out as many as the new ones have; keys, values and rows have names, where its prefixes are reshaped across them
  as in ports of DualPrompt. Raises UsageError for a model that takes no prompts or has no features. Wang et al., 2023.
  """
  places = places_of(model, "hide_prompt")
  layers, width, classes = min(blocks, places.blocks), places.width, spec.num_classes

  def init_prompts(key):
    return {n: uniform(key, n, spec.num_tasks, layers, length, width) for n in ("keys", "values")}

  def prefixes(chosen):
    """Of ``{"keys", "values"}``, ``[B, layers, length, D]``."""
    return Prompts(prefixes={b: (chosen["keys"][:, b], chosen["values"][:, b]) for b in range(layers)})

  def of_task(trained, asked: Asked):
    e = blended(trained, asked.task, merge)
    return prefixes({n: jnp.broadcast_to(a[None], (asked.query.shape[0], *a.shape)) for n, a in e.items()})

  network = prompted(model, spec, "hide_prompt", init_prompts, of_task)
  features = heads.width_of(model, spec, "hide_prompt")

  def looked(learner, x, key, task, **more):
    state, told = learner.model_state, {"task": model.task_for(task), "mask": None}
    return heads.flat(model.apply(state["frozen"], state["inner"], x, train=False, key=key, **told, **more)[0].features)

  def of_rows(learner, x, key, task, slot):
    return looked(learner, x, key, task, prompts=prefixes({n: a[slot] for n, a in learner.params["prompts"].items()}))

  def init(key, learner):
    del key, learner
    zero = {"kernel": jnp.zeros((features, classes)), "bias": jnp.zeros(classes)}
    slots, own = jnp.full(spec.num_tasks, -1, jnp.int32), jnp.full(classes, -1, jnp.int32)
    return Hierarchy(slots, gaussians.none(classes, features), gaussians.none(classes, features), zero, own)

  def start_task(key, learner, task):
    del key
    state, first, params = learner.method_state, task.visit.first, learner.params
    slot = isolated.place_of(state.slots, task.id)
    last = lambda a: a.at[slot].set(jnp.where(first & (slot > 0), a[jnp.maximum(slot - 1, 0)], a[slot]))
    params = {**params, "prompts": jax.tree.map(last, params["prompts"])}
    may = {
      "prompts": jax.tree.map(lambda a: isolated.copy_of(slot, a) & first, params["prompts"]),
      "linear": jax.tree.map(lambda a: jnp.broadcast_to(first, a.shape), params["linear"]),
    }
    return learner._replace(
      params=params,
      model_state={**learner.model_state, "task": slot},
      opt_state=isolated.held(learner.opt_state, may),
      method_state=state._replace(slots=state.slots.at[task.id].set(slot)),
    )

  def spread(key, params, learner, batch, outputs):
    del key, params
    return strength * gaussians.apart(learner.method_state.shown, outputs.features, batch.weight)

  def end_task(key, learner, task):
    slot, visit = learner.model_state["task"], task.visit
    how = {"learning_rate": learning_rate, "passes": passes, "samples": samples or 5 * spec.batch_size}

    def met(learner):
      state, params = learner.method_state, learner.params
      e = blended(params["prompts"], slot, merge)
      params = {**params, "prompts": {n: a.at[slot].set(e[n]) for n, a in params["prompts"].items()}}
      learner = learner._replace(params=params)
      at = lambda b: jnp.broadcast_to(slot, b.weight.shape)
      shown = gaussians.measured(
        state.shown, lambda b: of_rows(learner, b.x, key, b.task, at(b)), task.rows, visit
      )  # fmt: skip
      bare = gaussians.measured(state.bare, lambda b: looked(learner, b.x, key, b.task), task.rows, visit)
      level = lambda name, head, known: gaussians.aligned(tree.fold(key, name), head, known, gaussians.plain, **how)
      finder = level("finder", state.finder, bare)
      head = jax.lax.cond(slot > 0, lambda h: level("align", h, shown), lambda h: h, params["linear"])
      own = jnp.where((shown.counts > 0) & (shown.order == visit.seen.sum(dtype=jnp.int32)), slot, state.own)
      kept = Hierarchy(state.slots, shown, bare, finder, own)
      return learner._replace(params={**params, "linear": head}, method_state=kept)

    return jax.lax.cond(visit.first, met, lambda learner: learner, learner)

  def predict(key, learner, x, task):
    state, there = learner.method_state, (learner.method_state.own >= 0)[None]
    near = jnp.where(there, heads.linear(state.finder, looked(learner, x, key, task)), -jnp.inf)
    found = jnp.where(there.any(), jnp.maximum(state.own, 0)[jnp.argmax(near, axis=-1)], learner.model_state["task"])
    logits = heads.linear(learner.params["linear"], of_rows(learner, x, key, task, found))
    return jnp.where(there | ~there.any(), logits, -jnp.inf)

  def scrub(learner, request):
    state, gone = learner.method_state, request.classes
    cleared = {n: gaussians.cleared(getattr(state, n), gone) for n in ("shown", "bare")}
    return learner._replace(method_state=state._replace(own=jnp.where(gone, -1, state.own), **cleared))

  pace = local.paced(spec, "linear", lambda name: head_rate if name.startswith("linear/") else 1.0)
  return Method(
    network, init=init, start_task=start_task, prepare=lambda key, l, batch: (l, local.closed(spec, batch)),
    terms={"apart": spread}, finalize=optax.chain(isolated.hold(), pace), end_task=end_task, predict=predict,
    scrub=scrub,
  )  # fmt: skip


register(
  "hide_prompt",
  Entry(
    hide_prompt,
    {
      "strength": Option(0.1, 0),
      "merge": Option(0.01, 0, 1),
      "head_rate": Option(0.1, 0),
      "learning_rate": Option(0.005, 0),
      "passes": Option(30, 0),
      "samples": Option(0, 0),
      "length": Option(5, 1),
      "blocks": Option(5, 1),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Wang et al. 2023",
    network="vit",
  ),
)
