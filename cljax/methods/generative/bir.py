"""Brain-inspired replay: the classifier has connections back to its inputs, by which it makes up earlier classes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Model, Spec, UsageError
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.generative.dgr import far, refuse_other_inputs, share_of
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads, splitting
from cljax.objectives.rows import along, eaten, grouped, keys, stored

PRIORS, GATES, TARGETS = ("classes", "normal"), ("class", "task"), ("soft", "hard")


class Replayed(NamedTuple):
  """The network with its feedback connections at the last boundary, which makes up and says what is replayed."""

  before: Teacher
  ready: Any  # bool: a task was learned since the connections began


class Made(NamedTuple):
  """Replayed values, one for each row of the step."""

  value: Any  # [B, ...]
  target: Any  # [B, C], what the network of before says of them
  task: Any  # [B]


class Parts(NamedTuple):
  """A network of which ``value`` are what is replayed: its inputs, or what a layer is given.

  ``value(params, model_state, x, key, task)``; ``answer(params, model_state, value, **told) -> (Outputs, state)``.
  """

  shape: tuple
  network: Model
  value: Any
  answer: Any
  below: Any  # whether a leaf stands still, or None


def parts_of(model: Model, spec: Spec, layer: str) -> Parts:
  """The whole network, or (``layer``) the one that stands below a layer: :func:`cljax.models.splitting.split`."""
  if not layer:
    refuse_other_inputs(spec, "bir")
    whole = lambda params, state, value, **told: model.apply(params, state, stored(value, spec.scale), **told)
    return Parts(spec.shown.shape, model, lambda p, s, x, key, task: eaten(x, spec.scale), whole, None)
  cut = splitting.split(model, spec, layer, "bir")

  def value(params, model_state, x, key, task):
    return jax.lax.stop_gradient(cut.lower(params, model_state, x, key, task))

  def answer(params, model_state, value, **told):
    return cut.upper(params, model_state, value.astype(cut.value.dtype), **told)

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    told = {"train": train, "key": key, "task": task, "mask": mask}
    return answer(params, model_state, value(params, model_state, x, key, task), **told)

  network = Model(model.init, apply, by_task=model.by_task, check_rows=model.check_rows)
  return Parts(cut.value.shape, network, value, answer, cut.below)


def feedback_layers(key, features: int, latent: int, width: int, size: int, num_classes: int):
  """Connections from ``features`` to a code and from it back to ``size`` numbers, and a mode of the code's prior for
  each class, drawn from N(0, 1) as its log-variance is."""
  normal = lambda name: jax.random.normal(fold(key, name), (num_classes, latent))
  return {
    "code": heads.dense_layers(fold(key, "code"), (features, 2 * latent)),
    "decoder": heads.dense_layers(fold(key, "decoder"), (latent, width, width, size)),
    "prior": {"mean": normal("mean"), "log_variance": normal("log_variance")},
  }


def gated(layers, z, gates):
  """``[B, D]``: what dense layers make of ``z [B, L]``, each hidden one's sums multiplied with ``gates [B, H]``, a list
  of one for each, before the ReLU."""
  for i, layer in enumerate(layers[f"layer_{i}"] for i in range(len(layers))):
    z = z @ layer["kernel"] + layer["bias"][None]
    z = jax.nn.relu(z * gates[i]) if i < len(gates) else z
  return z


def log_normal(z, mean, log_variance):
  """``log N(z; m, v)`` over the last axis, without its constant ``-log(2 pi) / 2`` for each number."""
  return -0.5 * jnp.sum(log_variance + jnp.square(z - mean) * jnp.exp(-log_variance), axis=-1)


def code_divergence(z, mean, log_variance, modes, target):
  """``[B]``: ``log q(z) - log sum_c t_c N(z; m_c, v_c)``, q = N(mean, variance), of one code ``z [B, L]`` a row: in the
  mean over z the divergence of q from the mixture. modes ``{"mean", "log_variance"} [C, L]``, target t ``[B, C]``."""
  spread = lambda a: a[None]
  each = log_normal(z[:, None], spread(modes["mean"]), spread(modes["log_variance"]))
  return log_normal(z, mean, log_variance) - jax.nn.logsumexp(each, axis=-1, b=target)


def said_of(logits, allowed, temperature, kind: str):
  """``[B, C]``: the softmax over ``allowed [B, C]`` of ``logits / temperature``; 'hard': 1 at the largest. 0 at others:
  the probabilities of new classes are padded with 0."""
  allowed = allowed | ~allowed.any(-1, keepdims=True)
  logits = jnp.where(allowed, logits.astype(jnp.float32), -jnp.inf)
  if kind == "hard":
    return jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
  return jax.nn.softmax(logits / temperature, axis=-1)


def bir(
  model, spec: Spec, *, proportion, temperature, latent: int = 100, width: int = 400, likelihood: str = "bernoulli",
  prior: str = "classes", gates: str = "class", targets: str = "soft", layer: str = "",
) -> Method:  # fmt: skip
  """Brain-inspired replay: ``1/t (mean CE + G(current)) + (1 - 1/t) (mean KD + G(made up))``, of one network.

  t counts the tasks met, the current one among them. The network's features lead to a code by a layer to its mean and
  log-variance, and from it a decoder of two hidden layers of ``width`` back to D inputs: ``G = mean (-log p(x | z) +
  log q(z | x) - log p(z)) / D``, one z a row, is learned with the classifier by the run's optimizer; p(x | z) as for
  ``dgr`` (``likelihood``). What is made up, as many rows as the step has, is of the network as the last boundary left
  it. Its parts, each of which can be left out: a mode of p(z) for each class, ``N(m_c, v_c)``, learned (``prior``
  'normal': ``N(0, 1)``); of the decoder's hidden units a share ``proportion``, drawn once for each class, is shut when
  it is made (``gates`` 'task': for each task, where tasks share classes; 0: none); KD ``-T^2 sum_c p_c log
  softmax(z / T)_c``, p the softmax over T of the network of before over the classes of the tasks met, 0 at others,
  which also weighs the modes and the gates of made-up rows (``targets`` 'hard': labels); and internal replay: with a
  ``layer`` what the module of that name is given is made up (:func:`cljax.models.splitting.split`), likelihood
  'gaussian', and what lies below stands as it began, as a pre-trained network does.

  Classes are drawn alike among those of tasks met (of each task, where tasks share them), with a task that has them:
  where each task has its own softmax, or head, that one says the row (the released code takes each, which is this in
  the mean). Made-up rows go through the network in a pass of their own, of which BatchNorm's running statistics count
  nothing. With all parts left out this is ``dgr`` with a shared trunk. The released code's defaults: share 0.1 on
  MNIST, 0.7 on CIFAR-100, in class-incremental streams. Deviations: the log-variance has a bias; the prior's mixture is
  not cut at 1e-40. No row can be taken out of the connections, so a request throws them away, with their copy: they
  begin anew, and until the next boundary nothing is replayed; moments of the optimizer stay. Raises UsageError for
  inputs that are no array of real numbers, a layer at which the network can not be cut, 'bernoulli' with one, and a
  model without features. Spec A18; van de Ven et al., 2020.
  """
  if layer and likelihood != "gaussian":
    raise UsageError(f"method.likelihood: got {likelihood!r} with method.layer={layer!r}; expected 'gaussian'")
  shape, inner, value_of, answer, below = parts_of(model, spec, layer)
  features, size = heads.width_of(inner, spec, "bir"), math.prod(shape)
  begin = lambda key: feedback_layers(key, features, latent, width, size, spec.num_classes)
  network, table = heads.beside(inner, "feedback", begin), jnp.asarray(spec.classes_of_task)
  contexts = spec.num_classes if gates == "class" else spec.num_tasks
  apart, places = spec.active == "task" or model.by_task, jnp.arange(spec.batch_size)
  heat = temperature if targets == "soft" else 1.0

  def gates_of(learner, target, task):
    """``[B, H]`` for each hidden layer."""
    context = target if gates == "class" else jax.nn.one_hot(task, spec.num_tasks)
    chance = jax.random.uniform(fold(learner.key, "gates"), (2, contexts, width))
    return [context @ (c >= proportion).astype(jnp.float32) for c in chance]

  def normal(key):
    return jax.vmap(lambda k: jax.random.normal(k, (latent,)))(keys(key, places))

  def made(learner, visit):
    key, before = fold(jax.random.fold_in(learner.key, learner.step), "bir"), learner.method_state.before
    pairs = table & visit.met[:, None]
    draw = lambda key, chance: jax.random.categorical(key, chance).astype(jnp.int32)
    often = jnp.log(pairs.sum(0).astype(jnp.float32))
    label = jax.vmap(lambda k: draw(k, often))(keys(fold(key, "class"), places))
    having = jnp.where(pairs, 0.0, -jnp.inf).T[label]
    task = jax.vmap(draw)(keys(fold(key, "task"), places), having)
    feedback, z = before.params["feedback"], normal(fold(key, "code"))
    if prior == "classes":
      modes = feedback["prior"]
      z = modes["mean"][label] + jnp.exp(0.5 * modes["log_variance"][label]) * z
    shut = gates_of(learner, jax.nn.one_hot(label, spec.num_classes), task)
    value = gated(feedback["decoder"], z, shut).reshape(-1, *shape)
    value = jax.nn.sigmoid(value) if likelihood == "bernoulli" else value
    told = {"task": model.task_for(task), "mask": None}
    said, _ = answer(before.params["network"], before.model_state, value, train=False, key=key, **told)
    allowed = table[task] if apart else jnp.broadcast_to((table & visit.met[:, None]).any(0), said.logits.shape)
    return Made(value, said_of(said.logits, allowed, temperature, targets), task)

  def unlikely(key, learner, feedback, f, value, target, task):
    """``[B]``: the bound on ``-log p(x)`` of rows with these features, over the numbers of x."""
    mean, log_variance = jnp.split(gated(feedback["code"], heads.flat(f), []), 2, axis=-1)
    z = mean + jnp.exp(0.5 * log_variance) * normal(fold(key, "noise"))
    back = gated(feedback["decoder"], z, gates_of(learner, target, task))
    if prior == "classes":
      off = code_divergence(z, mean, log_variance, feedback["prior"], target)
    else:
      off = losses.gaussian_kl(mean, log_variance)
    return (far(back, value.astype(jnp.float32), likelihood) + off) / size

  def prepare(key, learner, batch):
    del key
    batch = grouped(batch)
    return learner, batch._replace(scale=batch.scale * share_of(batch.visit, learner.method_state.ready))

  def term(key, params, learner, batch, outputs):
    own, share = slice(0, spec.batch_size), share_of(batch.visit, learner.method_state.ready)
    weight, task, state = batch.weight[own], batch.task[own], learner.model_state
    bound = lambda name, *rows: losses.reduce(unlikely(fold(key, name), learner, params["feedback"], *rows), weight)
    value = value_of(params["network"], state, batch.x[own], key, model.task_for(task))
    value = jnp.where(along(weight > 0, value), value, jnp.zeros((), value.dtype))
    current = bound("own", outputs.features[own], value, jax.nn.one_hot(batch.y[own], spec.num_classes), task)

    rows = made(learner, batch.visit)
    told = {"task": model.task_for(rows.task), "mask": (weight > 0).astype(jnp.float32)}
    said, _ = answer(params["network"], state, rows.value, train=True, key=fold(key, "model"), **told)
    log_p = losses.masked_log_softmax(said.logits / heat, spec.class_mask(rows.task, batch.visit.trained))
    held = losses.reduce(-jnp.square(heat) * jnp.sum(rows.target * log_p, axis=-1), weight)
    again = held + bound("made", said.features, rows.value, rows.target, rows.task)
    return share * current + (1.0 - share) * again

  def end_task(key, learner, task):
    del key, task
    before = Teacher(tree.copy(learner.params), tree.copy(learner.model_state))
    return learner._replace(method_state=Replayed(before, jnp.ones((), bool)))

  def scrub(learner, request):
    asked, fresh = jnp.asarray(request.named).any(), begin(fold(learner.key, "feedback"))
    anew = lambda p: {**p, "feedback": jax.tree.map(lambda f, a: jnp.where(asked, f, a), fresh, p["feedback"])}
    state = learner.method_state
    before = state.before._replace(params=anew(state.before.params))
    return learner._replace(params=anew(learner.params), method_state=Replayed(before, state.ready & ~asked))

  def after_forget(learner, before):
    state = learner.method_state
    followed = tree.follow(state.before.params, before, learner.params)
    return learner._replace(method_state=state._replace(before=state.before._replace(params=followed)))

  def init(key, learner):
    del key
    return Replayed(Teacher(tree.copy(learner.params), tree.copy(learner.model_state)), jnp.zeros((), bool))

  return Method(
    network, init, prepare=prepare, terms={"replay": term}, end_task=end_task, scrub=scrub, after_forget=after_forget,
    finalize=splitting.hold(lambda name: below(name.removeprefix("network/")), True) if below else None,
  )  # fmt: skip


register(
  "bir",
  Entry(
    bir,
    {
      "latent": Option(100, 1),
      "width": Option(400, 1),
      "likelihood": Option("bernoulli", choices=("bernoulli", "gaussian")),
      "prior": Option(PRIORS[0], choices=PRIORS),
      "proportion": Option(0.1, 0, 1, below=True),
      "gates": Option(GATES[0], choices=GATES),
      "targets": Option(TARGETS[0], choices=TARGETS),
      "temperature": Option(2.0, 1e-6, needs={"targets": ("soft",)}),
      "layer": Option(""),
    },
    Access(task_boundaries=True, needs=("classes", "plain_inputs")),
    "van de Ven et al. 2020",
  ),
)
