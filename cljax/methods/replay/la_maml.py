"""La-MAML: each weight's rate is learned by how well steps on single rows serve the batch and the memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core.dtypes import wide
from cljax.core.method import Method
from cljax.core.tree import norm
from cljax.core.types import Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import ACCESS, BUFFER, er
from cljax.methods.replay.inner import loss_of, no_gradient, rows_at

RULES = ("la_maml", "sync", "c_maml")


class Rates(NamedTuple):
  """The learned rates ``alpha``, a tree like the parameters, before their relu."""

  alpha: Any


def clipped(tree, most):
  """``tree`` at a norm of ``most`` over all leaves, where it is longer; as it is where ``most`` is 0."""
  length = norm(tree)
  factor = jnp.where((most > 0) & (length > most), most / jnp.where(length > 0, length, 1), 1.0)
  return jax.tree.map(lambda g: (factor * g).astype(g.dtype), tree)


def moved(params, rates, slope):
  """``params - relu(rates) * slope``."""
  return jax.tree.map(lambda p, a, g: (p - jax.nn.relu(a) * g).astype(p.dtype), params, rates, slope)


def meta_gradients(row_loss, batch_loss, params, rates, blocks, there, second_order: bool):
  """The gradients by ``(params, rates)`` of ``mean_j batch_loss(fast_j)`` over the blocks of rows that are there.

  ``fast_0 = params``, ``fast_j = fast_(j-1) - relu(rates) * grad row_loss(fast_(j-1), blocks[j])``; ``blocks`` has the
  leading axis J, ``there [J]`` is 1 or 0. Not ``second_order``: the inner gradients count as constants.
  """

  def meta(params, rates):
    def step(fast, given):
      block, here = given
      slope = jax.grad(row_loss)(fast, block)
      fast = moved(fast, rates, slope if second_order else jax.lax.stop_gradient(slope))
      return fast, here * batch_loss(fast)

    losses = jax.lax.scan(step, params, (blocks, there))[1]
    return losses.sum() / jnp.maximum(there.sum(), 1)

  return jax.grad(meta, (0, 1))(params, rates)


def la_maml(
  model, spec: Spec, *, alpha, alpha_rate, clip, capacity: int, policy: str = "reservoir", replay_batch: int = 0,
  insert: str = "once", rule: str = "la_maml", second_order: bool = True, inner_batch: int = 1,
) -> Method:  # fmt: skip
  """La-MAML: ``L = mean_j l(batch, memory; fast_j)``, ``fast_j`` behind j rows of ``fast - relu(alpha) grad l(row)``;
  ``alpha <- alpha - alpha_rate grad_alpha L``, then ``theta <- theta - relu(alpha) grad_theta L``.

  Each weight has a rate, ``alpha`` at first; where it falls to 0 or below, the weight stands still, and for good. Rows
  are taken ``inner_batch`` at a time, in their order. ``rule`` 'la_maml': each weight's learned rate stands in the
  place of the run's in the update of the run's optimizer, plain SGD in the paper; 'sync': rates are learned for the
  inner steps alone, theta follows the run's rate; 'c_maml': they stay at ``alpha``. ``second_order=False`` takes inner
  gradients as constants. Both gradients are cut to a norm of ``clip`` each (0: not). A step of B rows takes
  ``B / inner_batch`` inner gradients and as many of the whole batch, through each other where second order. Memory and
  draws are those of ``er``. Inner steps are in eval mode, L in train mode; in a hybrid penalties add to grad_theta L,
  terms of other parts do not. Scrub erases stored rows; what rates owe to them stays.

  Errors: with 'la_maml' an optimizer without a rate. Deviation: no inner gradient is clipped; the released code means
  to and drops the result. Gupta et al. 2020; spec A10.
  """
  base = er(model, spec, capacity=capacity, policy=policy, replay_batch=replay_batch, insert=insert)
  steps = -(-spec.batch_size // inner_batch)
  learns = rule != "c_maml"

  def at_first(params):
    return jax.tree.map(lambda p: jnp.full(p.shape, alpha, wide(p.dtype)), params)

  def observe(key, learner, batch):
    params, model_state = learner.params, learner.model_state
    rates = learner.opt_state.penalty.alpha if learns else at_first(params)
    at = jnp.arange(steps * inner_batch).reshape(steps, inner_batch)
    own = rows_at(batch._replace(visit=None), jnp.minimum(at, spec.batch_size - 1))
    own = own._replace(weight=jnp.where(at < spec.batch_size, own.weight, 0.0))
    loss = lambda params, batch, train: loss_of(model, spec, model_state, key, params, batch, train)
    found = meta_gradients(
      lambda p, rows: loss(p, rows, False), lambda p: loss(p, batch, True), params, rates, own,
      (own.weight > 0).any(-1).astype(jnp.float32), second_order,
    )  # fmt: skip
    by_params, by_rates = (clipped(g, clip) for g in found)
    if learns:
      rates = jax.tree.map(lambda a, g: (a - alpha_rate * g).astype(a.dtype), rates, by_rates)
    return {"la_maml": (by_params, rates)}

  def update(updates, state, params=None, *, la_maml, **extra):
    del params, extra
    slope, rates = la_maml
    return jax.tree.map(lambda u, g: u + g.astype(u.dtype), updates, slope), Rates(rates) if learns else state

  def at_own_rates(updates, state, params=None, *, rate, la_maml, **extra):
    """What the optimizer made of the gradient at ``rate``, at each weight's own."""
    del params, extra
    share = lambda a: jnp.where(rate > 0, jax.nn.relu(a) / jnp.where(rate > 0, rate, 1), 0.0)
    return jax.tree.map(lambda u, a: (u * share(a)).astype(u.dtype), updates, la_maml[1]), state

  made = optax.GradientTransformationExtraArgs
  penalty = made(lambda params: Rates(at_first(params) if learns else ()), update)
  pull = made(lambda params: optax.EmptyState(), at_own_rates) if rule == "la_maml" else None
  return base._replace(gradient=no_gradient, observe=observe, penalty=penalty, pull=pull)


register(
  "la_maml",
  Entry(
    la_maml,
    {
      "alpha": Option(0.1, 0),
      "alpha_rate": Option(0.25, 0, needs={"rule": RULES[:2]}),
      "clip": Option(2.0, 0),
      **BUFFER,
      "rule": Option(RULES[0], choices=RULES),
      "second_order": Option(True),
      "inner_batch": Option(1, 1),
    },
    ACCESS._replace(needs=()),
    "Gupta et al. 2020",
  ),
)
