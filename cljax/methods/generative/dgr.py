"""Deep generative replay: a generator makes up inputs of earlier tasks, and the solver of before says their labels."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.registry import Entry, Option, register
from cljax.models.generating import perceptron, vae
from cljax.objectives.rows import eaten, grouped, keys, stored


class Generator(NamedTuple):
  """The generator that is trained, and its optimizer's state."""

  params: Any
  moments: Any


class Before(NamedTuple):
  """What the last boundary left, which makes and labels what is replayed."""

  solver: Teacher
  decoder: Any  # of the generator
  ready: Any  # bool: a task was learned since the generator began


class Made(NamedTuple):
  """Replayed rows, one for each row of the step, and the share of the step's own rows in the loss."""

  x: Any  # [B, ...] as a model eats them
  y: Any  # [B]
  task: Any  # [B]
  share: Any  # 1 / t


def share_of(visit, ready):
  """``1 / t``, t the tasks met with the current one; 1 while there is no generator of earlier ones."""
  return jnp.where(ready, 1.0 / (1.0 + visit.others.astype(jnp.float32)), 1.0)


def far(back, x, likelihood: str):
  """``[B]``: ``-log p(x | z)`` of reconstructions (logits under 'bernoulli', which cuts x to [0, 1]), a sum over the
  numbers of a row; under 'gaussian' ``(x - r)^2 / 2``. Both ``[B, ...]``, float32."""
  flat = lambda a: a.reshape(a.shape[0], -1)
  if likelihood == "bernoulli":
    return losses.binary_cross_entropy(flat(back), jnp.clip(flat(x), 0.0, 1.0))
  return jnp.sum(jnp.square(flat(back) - flat(x)), -1) / 2


def unlikely(out, x, likelihood: str):
  """``[B]``: ``-log p(x | z) + KL(q(z | x) || N(0, 1))``, of what an autoencoder gives."""
  return far(out["reconstruction"], x, likelihood) + losses.gaussian_kl(out["mean"], out["log_variance"])


def refuse_other_inputs(spec: Spec, owner: str) -> None:
  """UsageError, named by ``owner``, for inputs that no generator makes up."""
  shown = spec.shown
  if not hasattr(shown, "shape") or (spec.scale is None and not jnp.issubdtype(shown.dtype, jnp.floating)):
    raise UsageError(f"method.name: {owner!r} makes rows up; expected inputs that are one array of real numbers")


def dgr(model, spec: Spec, *, rate, latent: int = 100, width: int = 400, likelihood: str = "bernoulli") -> Method:
  """Deep generative replay: ``1/t mean CE(current) + (1 - 1/t) mean CE(made up, labels of the solver before)``.

  t counts the tasks met, the current one among them; as many rows are made up as the step has: ``z ~ N(0, 1)`` through
  the decoder as the last boundary left it. Their label is the argmax of the solver that it left, in eval mode, over the
  classes of the tasks met; where each task has its own softmax, or head, over those of one such task, drawn for each
  row (the released code takes every head, which is this in the mean). The generator, a variational autoencoder of two
  hidden layers of ``width`` and ``latent`` numbers of code, learns beside the solver what the model sees of the step's
  rows and the same made-up ones, with the same two weights, by an Adam of its own at ``rate``: a sum over numbers of
  x's binary cross-entropy ('bernoulli': x in [0, 1], and cut to it) or of ``(x - r)^2 / 2`` ('gaussian'), plus
  ``KL(q(z | x) || N(0, 1))``. The generator is part of the bytes that the method keeps.

  Made-up rows go through the solver in a pass of their own, of which BatchNorm's running statistics count nothing. No
  row can be taken out of a generator, so a request throws it away: until the next boundary nothing is replayed. Raises
  UsageError for inputs that are no array of real numbers. Shin et al., 2017; spec A18.
  """
  refuse_other_inputs(spec, "dgr")
  shape, table = spec.shown.shape, jnp.asarray(spec.classes_of_task)
  net, adam = vae(shape, latent, (width, width)), optax.adam(rate)
  apart = spec.active == "task" or model.by_task

  def made(learner, visit):
    before, places = learner.method_state, jnp.arange(spec.batch_size)
    key = fold(jax.random.fold_in(learner.key, learner.step), "dgr")
    z = jax.vmap(lambda k: jax.random.normal(k, (latent,)))(keys(fold(key, "code"), places))
    x = perceptron(before.decoder, z).reshape(-1, *shape)
    x = jax.nn.sigmoid(x) if likelihood == "bernoulli" else x
    chance = jnp.where(visit.met, 0.0, -jnp.inf)
    task = jax.vmap(lambda k: jax.random.categorical(k, chance))(keys(fold(key, "task"), places)).astype(jnp.int32)
    told = {"task": model.task_for(task), "mask": None}
    said, _ = model.apply(*before.solver, stored(x, spec.scale), train=False, key=key, **told)
    allowed = table[task] if apart else (table & visit.met[:, None]).any(0)[None]
    y = jnp.argmax(jnp.where(allowed, said.logits, -jnp.inf), axis=-1).astype(jnp.int32)
    return Made(x, y, task, share_of(visit, before.ready))

  def init(key, learner):
    del key
    solver = Teacher(tree.copy(learner.params), tree.copy(learner.model_state))
    decoder = jax.tree.map(jnp.zeros_like, net.init(learner.key)[0]["decoder"])
    return Before(solver, decoder, jnp.zeros((), bool))

  def start_task(key, learner, task):
    del key, task
    params = net.init(fold(learner.key, "generator"))[0]
    choose = lambda new, old: jnp.where(learner.method_state.ready, old, new)
    begin = lambda g: jax.tree.map(choose, Generator(params, adam.init(params)), g)
    return learner._replace(opt_state=tree.edit_nodes(learner.opt_state, Generator, begin)[0])

  def prepare(key, learner, batch):
    del key
    batch = grouped(batch)
    return learner, batch._replace(scale=batch.scale * share_of(batch.visit, learner.method_state.ready))

  def term(key, params, learner, batch, outputs):
    del outputs
    rows, weight = made(learner, batch.visit), batch.weight[: spec.batch_size]
    told = {"task": model.task_for(rows.task), "mask": (weight > 0).astype(jnp.float32)}
    x = stored(rows.x, spec.scale)
    said, _ = model.apply(params, learner.model_state, x, train=True, key=fold(key, "model"), **told)
    each = losses.cross_entropy(said.logits, rows.y, spec.class_mask(rows.task, batch.visit.trained))
    return jnp.where(rows.share < 1, (1.0 - rows.share) * losses.reduce(each, weight), 0.0)

  def observe(key, learner, batch):
    rows, own = made(learner, batch.visit), slice(0, spec.batch_size)
    weight = batch.weight[own]
    x = jnp.where((weight > 0).reshape(-1, *(1,) * len(shape)), eaten(batch.x[own], spec.scale), 0.0)

    def loss(params):
      both = zip(("own", "made"), (x, rows.x), (rows.share, 1.0 - rows.share), strict=True)
      said = lambda name, x: net.apply(params, {}, x, train=True, key=fold(key, name))[0].logits
      return sum(s * losses.reduce(unlikely(said(name, x), x, likelihood), weight) for name, x, s in both)

    return {"dgr_gradient": jax.grad(loss)(generator_of(learner.opt_state).params)}

  def end_task(key, learner, task):
    del key, task
    solver = Teacher(tree.copy(learner.params), tree.copy(learner.model_state))
    decoder = tree.copy(generator_of(learner.opt_state).params["decoder"])
    return learner._replace(method_state=Before(solver, decoder, jnp.ones((), bool)))

  def scrub(learner, request):
    asked = jnp.asarray(request.named).any()
    clear = lambda t: jax.tree.map(lambda a: jnp.where(asked, jnp.zeros_like(a), a), t)
    state = learner.method_state
    state = state._replace(decoder=clear(state.decoder), ready=state.ready & ~asked)
    opt_state = tree.edit_nodes(learner.opt_state, Generator, clear)[0]
    return learner._replace(method_state=state, opt_state=opt_state)

  def after_forget(learner, before):
    state = learner.method_state
    followed = tree.follow(state.solver.params, before, learner.params)
    return learner._replace(method_state=state._replace(solver=state.solver._replace(params=followed)))

  return Method(
    init=init, start_task=start_task, prepare=prepare, terms={"replay": term}, observe=observe,
    finalize=trained(net, adam), end_task=end_task, scrub=scrub, after_forget=after_forget,
  )  # fmt: skip


def generator_of(opt_state) -> Generator:
  """The one that an optimizer state holds."""
  here = lambda node: isinstance(node, Generator)
  (found,) = filter(here, jax.tree.leaves(opt_state, is_leaf=here))
  return found


def trained(net, adam) -> optax.GradientTransformationExtraArgs:
  """Leaves updates as they are, and takes a step of the generator by the gradient that it is told."""

  def init(params):
    del params
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(net.init, jax.random.key(0))[0])
    return Generator(zeros, adam.init(zeros))

  def update(updates, state, params=None, *, dgr_gradient, **extra):
    del params, extra
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
      moved, moments = adam.update(dgr_gradient, state.moments, state.params)
    return updates, Generator(optax.apply_updates(state.params, moved), moments)

  return optax.GradientTransformationExtraArgs(init, update)


register(
  "dgr",
  Entry(
    dgr,
    {
      "rate": Option(1e-3, 0),
      "latent": Option(100, 1),
      "width": Option(400, 1),
      "likelihood": Option("bernoulli", choices=("bernoulli", "gaussian")),
    },
    Access(task_boundaries=True, needs=("classes", "plain_inputs")),
    "Shin et al. 2017",
  ),
)
