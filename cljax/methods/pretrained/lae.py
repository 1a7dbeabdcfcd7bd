"""LAE: parts beside a frozen network that learn at once, a slow mean of them, and the better answer of both."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods import heads as classifiers
from cljax.methods.pretrained import local
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads, stacks, tuning


class Offline(NamedTuple):
  """What :func:`lae` keeps."""

  parts: Any  # {path: [1, ...]}: the mean of the parts
  stale: Any  # bool: from a request to the next step, when the edited parts take the mean's place
  seen: Any  # [C] bool: labels that rows have had


class Warming(NamedTuple):
  """The state of :func:`warming`."""

  step: Any  # int32: steps of this visit so far
  until: Any  # float32: how many of them leave the parts alone


def warming() -> optax.GradientTransformationExtraArgs:
  """``u <- 0`` for the parts in the first ``until`` steps of a visit: the classifier learns alone."""

  def update(updates, state, params=None, **extra):
    del params, extra
    held = state.step.astype(jnp.float32) < state.until
    one = lambda name, u: jnp.where(held, jnp.zeros_like(u), u) if name.startswith("stack/") else u
    return tree.map_named(one, updates), state._replace(step=state.step + 1)

  return optax.GradientTransformationExtraArgs(lambda params: Warming(jnp.int32(0), jnp.float32(0)), update)


def better(first, second, seen):
  """``log max(softmax z, softmax z')`` of two models' logits ``[B, C]``, each over the labels that were ``seen [C]``;
  -inf at others. Over all where none was."""
  seen = (seen | ~seen.any())[None]
  log_p = [jax.nn.log_softmax(jnp.where(seen, z, -jnp.inf), axis=-1) for z in (first, second)]
  return jnp.maximum(*log_p)


def lae(
  model, spec: Spec, *, decay, frozen, tuning: str = "parallel_adapter", rank: int = 5, layers: str = ""
) -> Method:  # fmt: skip
  """LAE: parts p beside a frozen network learn by ``CE`` over the task's classes; ``p' <- decay p' + (1 - decay) p``
  after each step; ``argmax_c max(softmax_c f(x; p), softmax_c f(x; p'))``.

  Parts of any kind (``tuning``, of ``rank``, at ``layers``: :func:`cljax.models.stacks.stack`) and one linear
  classifier that both share, from 0, of which other tasks' outputs stand. In the first task p' is p; from the second on
  p' lags, and for the share ``frozen`` of a task's planned steps the classifier learns alone: no slope of p joins the
  optimizer's moments then, nor do these move p. With ``decay`` 0 both answers are one. A softmax is over all labels
  that rows have had; answers are logarithms of the maxima, -inf at other labels.

  The network stands to the bit and runs in eval mode. Keeps one copy of the parts. A request makes p' stale: until the
  next step the parts, as ``forget.name`` left them, stand in its place, and it goes on from that step's. Deviations:
  parts beside all layers that ``layers`` finds, where the paper's lie in the first five blocks; prefixes are no kind
  here. As in the authors' code p' begins when the second task does; a known port's begins with the network, and lags in
  the first task too. Raises UsageError for a model without features and for layers that find nothing. Spec F7; Gao et
  al., 2023.
  """
  stack = stacks.stack(model, 1, tuning, rank, layers, classifiers.classifier(model, spec))
  width = heads.width_of(model, spec, "lae")
  zeros = lambda key: {"kernel": jnp.zeros((width, spec.num_classes)), "bias": jnp.zeros(spec.num_classes)}
  network = stacks.with_head(model, spec, stack, "linear", zeros, heads.linear)

  def mean_of(learner):
    state = learner.method_state
    return jax.tree.map(lambda p, m: jnp.where(state.stale, p, m), learner.params["stack"], state.parts)

  def init(key, learner):
    del key
    return Offline(tree.copy(learner.params["stack"]), jnp.zeros((), bool), jnp.zeros(spec.num_classes, bool))

  def start_task(key, learner, task):
    del key
    # Rounded: 0.6 of 50 steps is a little above 30 in float32.
    until = jnp.where(task.visit.others > 0, jnp.round(frozen * task.steps.astype(jnp.float32)), 0.0)
    begun = lambda _: Warming(jnp.int32(0), until)
    return learner._replace(opt_state=tree.edit_nodes(learner.opt_state, Warming, begun)[0])

  def prepare(key, learner, batch):
    del key
    state = learner.method_state
    learner = learner._replace(method_state=state._replace(seen=state.seen | local.labels(spec, batch)))
    return learner, local.closed(spec, batch)

  def after_step(key, learner, info):
    del key
    d = jnp.where(info.batch.visit.others > 0, decay, 0.0)
    one = lambda m, p: d.astype(p.dtype) * m + (1.0 - d).astype(p.dtype) * p
    parts = jax.tree.map(one, mean_of(learner), learner.params["stack"])
    state = learner.method_state._replace(parts=parts, stale=jnp.zeros((), bool))
    return learner._replace(method_state=state)

  def predict(key, learner, x, task):
    told = {"train": False, "key": key, "task": network.task_for(task), "mask": None}

    def said(parts):
      return network.apply({**learner.params, "stack": parts}, learner.model_state, x, **told)[0].logits

    return better(said(learner.params["stack"]), said(mean_of(learner)), learner.method_state.seen)

  def scrub(learner, request):
    state = learner.method_state
    kept = state._replace(stale=jnp.ones((), bool), seen=state.seen & ~request.classes)
    return learner._replace(method_state=kept)

  return Method(
    network, init=init, start_task=start_task, prepare=prepare, after_step=after_step, predict=predict, scrub=scrub,
    transform=warming(), finalize=optax.chain(warming(), local.paced(spec, "linear")),
  )  # fmt: skip


register(
  "lae",
  Entry(
    lae,
    {
      "decay": Option(0.9999, 0, 1),
      "frozen": Option(0.6, 0, 1),
      "tuning": Option("parallel_adapter", choices=tuple(tuning.TUNINGS)),
      "rank": Option(5, 1, needs={"tuning": stacks.RANKED}),
      "layers": Option(""),
    },
    Access(task_boundaries=True, needs=("classes", "plain_inputs")),
    "Gao et al. 2023",
  ),
)
