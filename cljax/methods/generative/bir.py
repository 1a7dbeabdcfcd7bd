"""Brain-inspired replay: the solver's own features are the code of a generator, which makes rows up class by class."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec
from cljax.losses.supervised import masked_log_softmax
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.generative.dgr import refuse_other_inputs, share_of
from cljax.methods.generative.feedback import feedback
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads
from cljax.objectives.rows import along, eaten, grouped, keys, stored


class Before(NamedTuple):
  """The network and its feedback as the last boundary left them, and whether they make rows up."""

  network: Teacher
  ready: Any  # bool


class Made(NamedTuple):
  """Made-up rows, one for each row of the step."""

  x: Any  # [B, ...] as a model eats them
  y: Any  # [B]: the class that each was made of
  task: Any  # [B]
  logits: Any  # [B, C]: what the network of before says of it
  old: Any  # [B, C] bool: the classes among which it says so


def padded(logits, said, temperature, old, mask=None):
  """``[B]``: ``T^2 KL`` of the softmax over all classes of ``mask`` (None: all there are) from that of ``said`` over
  the ``old`` ones alone, which leaves the others the probability 0; both at temperature T."""
  log_q = masked_log_softmax(jax.lax.stop_gradient(said) / temperature, old)
  log_p = masked_log_softmax(logits / temperature, mask)
  return temperature**2 * jnp.sum(jnp.where(old, jnp.exp(log_q) * (log_q - log_p), 0.0), -1)


def drawn_among(key, open_):
  """``[B]`` int32: for each row one of the places that are open in ``open_ [B, K]`` bool, uniformly; each row has a
  draw of its own."""
  one = lambda k, o: jax.random.categorical(k, jnp.where(o, 0.0, -jnp.inf))
  return jax.vmap(one)(keys(key, jnp.arange(open_.shape[0])), open_).astype(jnp.int32)


def bir(
  model, spec: Spec, *, strength, shut, temperature, latent: int = 100, width: int = 400,
  likelihood: str = "bernoulli", gates: str = "class", modes: bool = True, targets: str = "soft",
) -> Method:  # fmt: skip
  """Brain-inspired replay: ``1/t (CE + G)(current) + (1 - 1/t) (T^2 KL(before || now) + G)(made up)``.

  G is ``strength (-log p(x | z) + log q(z | x) - log p(z | y))`` of a row, as in :func:`cljax.methods.dgr` but that the
  network is the encoder: its features give the code's mean and log variance, and a decoder of two hidden layers of
  ``width`` gives x back (:func:`cljax.methods.generative.feedback.feedback`). The prior has a mode for each class,
  learned; the divergence is that of the one z that is drawn. The share ``shut`` of the decoder's hidden units is shut,
  the same ones for all rows of a class (``gates='class'``) or of a task. A made-up row is of a class of a task met
  before, both drawn uniformly, and goes by its mode and gates through the decoder of the last boundary; its target is
  the softmax at ``temperature`` T of the network of then over the classes of tasks met (of its own task, where tasks
  have softmaxes or heads of their own), 0 for all others. t as in ``dgr``. The run's optimizer trains all of it.

  ``modes=False``: the prior N(0, 1), its divergence in closed form. ``targets='hard'``: the cross-entropy of the
  target's argmax. With ``shut`` 0 besides it is ``dgr`` with a shared trunk. Replay of hidden features is this on a
  stream of a frozen network's features. ``strength`` and the modes' start are UNVERIFIED. A request throws the feedback
  away, as in ``dgr``. Raises UsageError for inputs that are no array of real numbers and a model without features. Van
  de Ven et al., 2020; spec A18.
  """
  refuse_other_inputs(spec, "bir")
  shape, table = spec.shown.shape, jnp.asarray(spec.classes_of_task)
  kinds = spec.num_classes if gates == "class" else spec.num_tasks
  generator = feedback(
    heads.width_of(model, spec, "bir"), spec.num_classes, kinds, math.prod(shape), latent=latent, width=width,
    likelihood=likelihood, modes=modes, shut=shut,
  )  # fmt: skip
  network = heads.beside(model, "feedback", generator.init)
  apart = spec.active == "task" or model.by_task
  kind = lambda y, task: y if gates == "class" else task

  def made(learner, visit, shuts):
    before, size = learner.method_state.network, spec.batch_size
    key = fold(jax.random.fold_in(learner.key, learner.step), "bir")
    met = visit.met | ~visit.met.any()  # of the first task nothing is counted
    task = drawn_among(fold(key, "task"), jnp.broadcast_to(met, (size, spec.num_tasks)))
    y = drawn_among(fold(key, "class"), table[task])
    x = generator.make(fold(key, "code"), shuts, before.params["feedback"], y, kind(y, task)).reshape(size, *shape)
    told = {"task": model.task_for(task), "mask": None}
    said, _ = network.apply(*before, stored(x, spec.scale), train=False, key=key, **told)
    old = table[task] if apart else jnp.broadcast_to((table & met[:, None]).any(0), said.logits.shape)
    return Made(x, y, task, said.logits, old)

  def prepare(key, learner, batch):
    del key
    batch = grouped(batch)
    return learner, batch._replace(scale=batch.scale * share_of(batch.visit, learner.method_state.ready))

  def term(key, params, learner, batch, outputs):
    own, shuts = slice(0, spec.batch_size), generator.gates(fold(learner.key, "gates"))
    weight, share = batch.weight[own], share_of(batch.visit, learner.method_state.ready)
    x = eaten(batch.x[own], spec.scale)
    x, y = jnp.where(along(weight > 0, x), x, 0.0), batch.y[own]
    unlikely = lambda name, *row: strength * generator.unlikely(fold(key, name), shuts, params["feedback"], *row)
    new = unlikely("own", outputs.features[own], x, y, kind(y, batch.task[own]))
    rows = made(learner, batch.visit, shuts)
    told = {"task": model.task_for(rows.task), "mask": (weight > 0).astype(jnp.float32)}
    at = stored(rows.x, spec.scale)
    out, _ = network.apply(params, learner.model_state, at, train=True, key=fold(key, "model"), **told)
    old = unlikely("made", out.features, rows.x, rows.y, kind(rows.y, rows.task))
    mask = spec.class_mask(rows.task, batch.visit.trained)
    if targets == "soft":
      gap = padded(out.logits, rows.logits, temperature, rows.old, mask)
    else:
      gap = losses.cross_entropy(out.logits, jnp.argmax(jnp.where(rows.old, rows.logits, -jnp.inf), -1), mask)
    replayed = jnp.where(share < 1, (1.0 - share) * losses.reduce(gap + old, weight), 0.0)
    return share * losses.reduce(new, weight) + replayed

  def copied(learner, ready):
    network = Teacher(tree.copy(learner.params), tree.copy(learner.model_state))
    return learner._replace(method_state=Before(network, jnp.asarray(ready)))

  def scrub(learner, request):
    asked = jnp.asarray(request.named).any()
    fresh = lambda params: {
      **params, "feedback": jax.tree.map(
        lambda new, old: jnp.where(asked, new, old), generator.init(fold(learner.key, "feedback")), params["feedback"]
      )
    }  # fmt: skip
    before = learner.method_state
    network = before.network._replace(params=fresh(before.network.params))
    state = Before(network, before.ready & ~asked)
    return learner._replace(params=fresh(learner.params), method_state=state)

  def after_forget(learner, before):
    state = learner.method_state
    followed = tree.follow(state.network.params, before, learner.params)
    return learner._replace(method_state=state._replace(network=state.network._replace(params=followed)))

  return Method(
    network, lambda key, learner: copied(learner, False).method_state, prepare=prepare, terms={"replay": term},
    end_task=lambda key, learner, task: copied(learner, True), scrub=scrub, after_forget=after_forget,
  )  # fmt: skip


register(
  "bir",
  Entry(
    bir,
    {
      "strength": Option(1.0, 0),
      "shut": Option(0.1, 0, 1, below=True),
      "temperature": Option(2.0, 1e-6, needs={"targets": ("soft",)}),
      "latent": Option(100, 1),
      "width": Option(400, 1),
      "likelihood": Option("bernoulli", choices=("bernoulli", "gaussian")),
      "gates": Option("class", choices=("class", "task")),
      "modes": Option(True),
      "targets": Option("soft", choices=("soft", "hard")),
    },
    Access(task_boundaries=True, needs=("classes", "plain_inputs")),
    "van de Ven et al. 2020",
  ),
)
