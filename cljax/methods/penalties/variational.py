"""Mean-field Gaussian learners: the posterior of one task is the prior of the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import optimizers
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.opt_state import edit_states
from cljax.core.types import Access, Model, Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.optimizers import MeanField


def gaussian(model: Model, deviation) -> Model:
  """The same network with a Gaussian over each parameter; its parameters are a ``MeanField``.

  Training draws one set of weights for the whole batch (reparameterisation); evaluation uses the means. All standard
  deviations start at ``deviation``. ``capture`` and ``units`` are dropped: the leaves are not what the layers hold.
  """

  def init(key):
    params, state = model.init(key)
    return optimizers.mean_field(params, deviation), state

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    weights = optimizers.mean_field_sample(tree.fold(key, "weights"), params) if train else params.mean
    return model.apply(weights, model_state, x, train=train, key=key, task=task, mask=mask)

  return Model(init, apply, by_task=model.by_task)


def standard_prior(params: MeanField, deviation) -> MeanField:
  """``N(0, deviation^2)`` for each parameter, the prior of the first task."""
  return optimizers.mean_field(tree.zeros_like(params.mean), deviation)


def averaged(model: Model, samples: int):
  """``predict`` with the mean probability of ``samples`` draws of the weights; None (the means) where 0."""

  def predict(key, learner, x, task):
    task = model.task_for(task)

    def one(i):
      weights = optimizers.mean_field_sample(jax.random.fold_in(key, i), learner.params)
      out, _ = model.apply(weights, learner.model_state, x, train=False, key=key, task=task, mask=None)
      return jax.nn.log_softmax(out.logits)

    return jax.nn.logsumexp(jax.lax.map(one, jnp.arange(samples)), axis=0) - jnp.log(samples)

  return predict if samples else None


class VclState(NamedTuple):
  prior: MeanField
  rows: Any  # float32, of the current task: the bound is divided by it


class NaturalState(NamedTuple):
  rows: Any  # as VclState's


def natural_steps(rows: int) -> optax.GradientTransformationExtraArgs:
  """:func:`cljax.optimizers.natural_gradient` by the rows of the current task, ``rows`` before :func:`begun`."""
  inner = optimizers.natural_gradient(1.0)

  def init(params):
    inner.init(params)
    return NaturalState(jnp.float32(rows))

  def update(updates, state, params=None, **extra):
    steps, _ = inner.update(updates, optax.EmptyState(), params, **extra)
    return jax.tree.map(lambda s: (state.rows * s).astype(s.dtype), steps), state

  return optax.GradientTransformationExtraArgs(init, update)


def begun(learner, task, natural: bool):
  """A learner at the start of a task, whose rows the bound and its natural gradient are of from now on."""
  rows = jnp.maximum(task.count, 1).astype(jnp.float32)
  if natural:
    state = edit_states(learner.opt_state, NaturalState, lambda _: NaturalState(rows), "natural_gradient")
    learner = learner._replace(opt_state=state)
  return learner._replace(method_state=learner.method_state._replace(rows=rows))


def vcl(model, spec: Spec, *, strength, deviation, prior_deviation, natural: bool = False, samples: int = 0) -> Method:
  """Variational continual learning: ``mean E_q[-log p(y | x, theta)] + strength KL(q || q_old) / n``, q mean-field.

  ``q_old`` is the posterior after the last task, ``N(0, prior_deviation^2)`` in the first; n the rows of the current
  task that are still there; ``strength`` 1 is the bound itself. ``natural``: steps along the natural gradient of the
  bound (natural-gradient VCL), for which SGD with a rate of about 0.01 is meant. Without coresets. Predicts with the
  means, or with ``samples`` draws. Deviations move slowly under SGD: Adam, as in the paper, or ``natural``. Spec 3.1;
  Nguyen et al., 2018; Tseran et al., 2018. Under another objective ``L`` is its loss: the bound where that is a row's
  minus log likelihood (text: reduction 'sum'); ``samples`` needs classes.
  """
  if samples and not spec.objective.classes:
    raise UsageError(f"method.samples: got {samples}, which needs classes; {spec.objective.name!r} has none")

  def term(key, params, learner, batch, outputs):
    del key, batch, outputs
    state = learner.method_state
    return strength * optimizers.mean_field_kl(params, state.prior) / state.rows

  def renewed(learner, prior):
    return learner._replace(method_state=learner.method_state._replace(prior=prior))

  return Method(
    model=gaussian(model, deviation),
    init=lambda key, learner: VclState(standard_prior(learner.params, prior_deviation), jnp.float32(spec.task_rows)),
    start_task=lambda key, learner, task: begun(learner, task, natural),
    terms={"kl": term},
    transform=natural_steps(spec.task_rows) if natural else None,
    end_task=lambda key, learner, task: renewed(learner, tree.copy(learner.params)),
    after_forget=lambda learner, before: renewed(
      learner, tree.follow(learner.method_state.prior, before, learner.params)
    ),
    predict=averaged(model, samples),
  )


class Adaptive(NamedTuple):
  """CLAW's parameters: the posterior, and for each kernel and output neuron ``[n]`` (empty for other leaves) the
  amount of adaptation before ``tanh``, and the log-odds that it is adapted."""

  posterior: MeanField
  amount: Any
  odds: Any


class ClawState(NamedTuple):
  prior: MeanField
  odds: Any  # the prior's log-odds
  rows: Any  # as VclState's


def _per_neuron(params, value):
  return jax.tree.map(lambda p: jnp.full(p.shape[-1] if p.ndim > 1 else 0, value, jnp.float32), params)


def _adapted(params: Adaptive, limit):
  """The means with every neuron's expected adaptation: ``mean (1 + p limit tanh(amount))``."""

  def one(m, a, o):
    if m.ndim < 2:
      return m
    share = 1 + jax.nn.sigmoid(o) * limit * jnp.tanh(a)
    return (m.astype(share.dtype) * share.reshape((1,) * (m.ndim - 1) + share.shape)).astype(m.dtype)

  return jax.tree.map(one, params.posterior.mean, params.amount, params.odds)


def claw_model(model: Model, deviation, probability, limit) -> Model:
  """:func:`gaussian` whose kernels are ``mean (1 + a b) + noise``, ``a`` Bernoulli and ``|b| <= limit`` per neuron."""

  def init(key):
    params, state = model.init(key)
    odds = _per_neuron(params, jnp.log(probability) - jnp.log1p(-probability))
    return Adaptive(optimizers.mean_field(params, deviation), _per_neuron(params, 0.0), odds), state

  def draw(key, params: Adaptive):
    leaves, structure = jax.tree.flatten(params.posterior.mean)
    rest = zip(leaves, jax.tree.leaves(params.amount), jax.tree.leaves(params.odds), strict=True)
    moved = [
      optimizers.claw_adapt(jax.random.fold_in(key, i), m, a, jax.nn.sigmoid(o), limit) if m.ndim > 1 else m
      for i, (m, a, o) in enumerate(rest)
    ]
    return params.posterior._replace(mean=jax.tree.unflatten(structure, moved))

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    if train:
      weights = optimizers.mean_field_sample(tree.fold(key, "weights"), draw(tree.fold(key, "adapt"), params))
    else:
      weights = _adapted(params, limit)
    return model.apply(weights, model_state, x, train=train, key=key, task=task, mask=mask)

  return Model(init, apply, by_task=model.by_task)


def bernoulli_kl(odds, prior_odds):
  """``KL(Bernoulli(sigmoid(odds)) || Bernoulli(sigmoid(prior_odds)))`` in nats, summed over two equal trees."""

  def one(o, q):
    p, log = jax.nn.sigmoid(o), jax.nn.log_sigmoid
    return jnp.sum(p * (log(o) - log(q)) + (1 - p) * (log(-o) - log(-q)))

  return sum(jax.tree.leaves(jax.tree.map(one, odds, prior_odds)))


def claw(model, spec: Spec, *, strength, deviation, prior_deviation, probability, limit) -> Method:
  """CLAW: VCL whose neurons each learn whether, and by which share up to ``limit``, to adapt: ``w = mean (1 + a b)``.

  Bound: as ``vcl``, with ``KL(a || a_old)`` added, a relaxed Bernoulli that starts at ``probability``. When a task
  ends, the expected adaptation goes into the means, which become the prior, and adaptation starts at 0 again; outputs
  do not change by that. ``limit`` 0 is VCL. Deviation: one fixed ``limit`` in place of a learned one, since ``limit
  tanh(amount)`` is learned for each neuron anyway. The paper's own text was not available: the whole method is a
  reconstruction (UNVERIFIED). Spec 8.8; Adel et al., 2020.
  """

  def init(key, learner):
    del key
    params = learner.params
    prior = standard_prior(params.posterior, prior_deviation)
    return ClawState(prior, tree.copy(params.odds), jnp.float32(spec.task_rows))

  def term(key, params, learner, batch, outputs):
    del key, batch, outputs
    state = learner.method_state
    divergence = optimizers.mean_field_kl(params.posterior, state.prior) + bernoulli_kl(params.odds, state.odds)
    return strength * divergence / state.rows

  def end_task(key, learner, task):
    del key, task
    posterior = learner.params.posterior._replace(mean=_adapted(learner.params, limit))
    params = learner.params._replace(posterior=posterior, amount=tree.zeros_like(learner.params.amount))
    state = learner.method_state._replace(prior=tree.copy(posterior), odds=tree.copy(params.odds))
    return learner._replace(params=params, method_state=state)

  def after_forget(learner, before):
    state, after = learner.method_state, learner.params
    prior = tree.follow(state.prior, before.posterior, after.posterior)
    odds = tree.follow(state.odds, before.odds, after.odds)
    return learner._replace(method_state=state._replace(prior=prior, odds=odds))

  return Method(
    model=claw_model(model, deviation, probability, limit), init=init, terms={"kl": term}, end_task=end_task,
    after_forget=after_forget, start_task=lambda key, learner, task: begun(learner, task, False),
  )  # fmt: skip


GAUSSIAN = {"strength": Option(1.0, 0), "deviation": Option(0.05, 1e-6), "prior_deviation": Option(1.0, 1e-6)}

register(
  "vcl",
  Entry(
    vcl,
    {**GAUSSIAN, "natural": Option(False), "samples": Option(0, 0)},
    Access(task_boundaries=True, needs=("each",)),
    "Nguyen et al. 2018",
  ),
)
register(
  "claw",
  Entry(
    claw,
    {**GAUSSIAN, "probability": Option(0.5, 1e-3, 0.999), "limit": Option(0.5, 0)},
    Access(task_boundaries=True, needs=("each",)),
    "Adel et al. 2020",
  ),
)
