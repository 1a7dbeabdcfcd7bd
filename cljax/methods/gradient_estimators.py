"""Methods that estimate the gradient from losses alone: forward passes, no backpropagation."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from cljax import losses, optimizers
from cljax.core.method import Method
from cljax.core.tree import fold, size
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import grouped

NOWHERE = 0.25  # rate x steps, of exact steps; split digits are at chance at 0.05 and as finetune's at 0.5


def zeroth_order(
  model, spec: Spec, *, epsilon, alpha, learning_rate, update: str = "sgd", estimator: str = "two_point",
  queries: int = 0, sparsity: int = 0, smoothing: str = "none", switch_step: int = 0, shrink: bool = True,
) -> Method:  # fmt: skip
  """ZeroFlow's forward-only training: ``g = mean_q (L(t + e z) - L(t - e z)) / (2 e) * z``, ``z ~ N(0, I)``.

  Owns the ``gradient``; the run's optimizer takes the step, so ZO-Adam is this under Adam. ``estimator``: 'two_point',
  'one_sided' or 'forward' (``(grad L . z) z`` by one Jacobian-vector product). ``update``: 'sgd' (g), 'sign' (sign g,
  as the paper prints), 'scalar_sign' (sign of the quotient times z, as the code does), 'conserve' (the one of 0, g, -g
  whose SGD step of ``learning_rate``, give the run's own, has the lowest loss). ``queries``: how many z are averaged
  (0: 20, or 1 with 'forward' and 'scalar_sign', which take one; the paper and its code: 1). ``shrink``: g times
  ``q / (q + d + 1)``, q queries and d coordinates that move: ``E |g|^2 = (q + d + 1) / q |grad L|^2``, so that a rate
  which is safe with exact gradients is safe with these (unshrunk SGD with one query diverges at rates above about
  ``2 / (d curvature)``). It makes SGD slow, in proportion, and hardly touches Adam, with which the paper has its best
  results, unless Adam has seen exact gradients before a switch: its second moments forget their size slowly, so give
  False there. Signs have no size to shrink.
  ``sparsity``: percent of the coordinates that never move, a mask fixed for the seed. ``smoothing`` 'history':
  ``h <- (1 - alpha) g + alpha h``. ``switch_step``: that many steps of the run are first-order before (the hybrid).
  A run whose SGD steps go nearly nowhere, or are above the safe rate, says so.
  Regularization gradients and references are first-order still. Raises UsageError: 'forward' with another update, more
  queries or sparsity; 'scalar_sign' with more queries. Spec 5.4; Feng et al., 2025.
  """
  del model, spec
  queries = queries or (1 if estimator == "forward" or update == "scalar_sign" else 20)
  if estimator == "forward" and (update != "sgd" or queries != 1 or sparsity):
    raise UsageError(
      f"method.estimator: 'forward' takes update 'sgd', queries 1 and sparsity 0; got {update!r}, {queries}, {sparsity}"
    )
  if update == "scalar_sign" and queries != 1:
    raise UsageError(f"method.queries: got {queries}; update 'scalar_sign' takes 1")

  def estimate(sparsity_key, key, loss_fn, params):
    scale = queries / (queries + (1 - sparsity / 100) * size(params) + 1) if shrink else 1.0

    def shrunk(found):
      return found[0], jax.tree.map(lambda g: (scale * g).astype(g.dtype), found[1]) if shrink else found[1]

    if estimator == "forward":
      return shrunk(optimizers.forward_gradient(key, loss_fn, params))
    drawn = {"sparsity": sparsity / 100, "sparsity_key": sparsity_key} if sparsity else {}
    options = {"epsilon": epsilon, "queries": queries, "one_sided": estimator == "one_sided", **drawn}
    if update == "conserve":
      return shrunk(optimizers.zo_conserve(key, loss_fn, params, scale * learning_rate, **options))
    if update == "sgd":
      return shrunk(optimizers.zo_sgd(key, loss_fn, params, **options))
    return optimizers.zo_sign(key, loss_fn, params, scalar_sign=update == "scalar_sign", **options)

  def gradient(key, loss_fn, learner):
    mine = functools.partial(estimate, fold(learner.key, "sparsity"))
    if not switch_step:
      return mine(key, loss_fn, learner.params)
    return optimizers.hybrid(key, loss_fn, learner.params, learner.step, switch_step, mine)

  def remarks(outlook):
    """Of SGD alone, at curvature 1: Adam's steps have a size of their own."""
    coordinates, steps = (1 - sparsity / 100) * outlook.weights, max(0, outlook.steps - switch_step)
    if outlook.optimizer not in ("sgd", "momentum", "nesterov") or not steps:
      return []
    rate, least = outlook.learning_rate, queries / (queries + coordinates + 1)
    safe = {"sign": 2 * queries**0.5 / coordinates, "scalar_sign": 2 / coordinates}.get(update, 2 * least)
    shrinks = shrink and update in ("sgd", "conserve")
    told = f"optimizer.learning_rate: got {rate:g}; zeroth_order with {queries} queries and {coordinates:,.0f} weights"
    if update != "conserve" and rate * (least if shrinks else 1) > safe:
      return [
        f"{told} diverges under {outlook.optimizer} above about {2 if shrinks else safe:.2g} / curvature; give less, "
        "or optimizer.name=adam optimizer.learning_rate=0.001"
      ]
    way = rate * steps * (least if shrinks else 1)
    if shrinks and way < NOWHERE:
      return [
        f"{told} goes rate x steps = {way:.2g} in {steps} shrunk steps of {outlook.optimizer}; learning takes about "
        "1 / curvature: give a rate of up to 2 / curvature, more steps, or optimizer.name=adam "
        "optimizer.learning_rate=0.001"
      ]
    return []

  penalty = optimizers.history(alpha) if smoothing == "history" else None
  return Method(gradient=gradient, penalty=penalty, remarks=remarks)


def evolution_strategy(
  model, spec: Spec, *, sigma, population: int = 30, antithetic: bool = False, reward: str = "loss"
) -> Method:
  """Evolution strategy: the step ``(a/N) sum_i z_i e_i``, z the standardised rewards at ``theta + sigma e_i``.

  Owns the ``gradient``, the negative of that sum without its factor a, which is the run's SGD learning rate (sigma / 2
  in the published code). The ``reward`` is minus the batch loss, or the share of right 'answers' (the largest logit of
  the rows' classes), as the paper scores decoded ones: needs classes; other parts' terms count beside either. Spec 5.5;
  Qiu et al., 2025; Abdi et al., 2026.
  """
  del model
  hooks: dict[str, Any] = {}
  if reward == "answers":
    if not spec.objective.classes:
      raise UsageError(f"method.reward: got 'answers', which needs classes; {spec.objective.name!r} has none")

    def prepare(key, learner, batch):
      """The rows stay, their own loss counts nothing."""
      del key
      batch = grouped(batch)
      return learner, batch._replace(scale=jnp.zeros_like(batch.scale))

    def wrong(key, params, learner, batch, outputs):
      del key, params, learner
      logits = outputs.logits
      if batch.class_mask is not None:
        logits = jnp.where(batch.class_mask, logits, -jnp.inf)
      return losses.reduce((jnp.argmax(logits, -1) != batch.y).astype(jnp.float32), batch.weight)

    hooks = {"prepare": prepare, "terms": {"wrong": wrong}}

  def gradient(key, loss_fn, learner):
    return optimizers.evolution_strategy(
      key, loss_fn, learner.params, sigma=sigma, population=population, antithetic=antithetic
    )

  return Method(gradient=gradient, **hooks)


register(
  "zeroth_order",
  Entry(
    zeroth_order,
    {
      "epsilon": Option(1e-3, 1e-12),
      "alpha": Option(0.2, 0, 1, needs={"smoothing": ("history",)}),
      "learning_rate": Option(0.1, 0, needs={"update": ("conserve",)}),
      "update": Option("sgd", choices=("sgd", "sign", "scalar_sign", "conserve")),
      "estimator": Option("two_point", choices=("two_point", "one_sided", "forward")),
      "queries": Option(0, 0),
      "sparsity": Option(0, 0, 99),
      "smoothing": Option("none", choices=("none", "history")),
      "switch_step": Option(0, 0),
      "shrink": Option(True),
    },
    Access(needs=()),
    "Feng et al. 2025",
  ),
)
register(
  "evolution_strategy",
  Entry(
    evolution_strategy,
    {
      "sigma": Option(1e-3, 1e-12),
      "population": Option(30, 2),
      "antithetic": Option(False),
      "reward": Option("loss", choices=("loss", "answers")),
    },
    Access(needs=()),
    "Abdi et al. 2026",
  ),
)
