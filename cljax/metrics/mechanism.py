"""Why a model forgets: drift of outputs and features, interference of gradients, sharpness of the old loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from numpy.typing import ArrayLike

from cljax.core import tree
from cljax.core.types import Array, Params, Tree, UsageError


def forward_kl(base_logits: ArrayLike, logits: ArrayLike, weight: ArrayLike | None = None) -> float:
  """``E_x KL(p_base(.|x) || p(.|x)) = mean_x sum_y p_base log(p_base / p)`` in nats, of logits ``[B, ..., C]``.

  On inputs of the new task this is the predictor of forgetting of "RL's Razor" (Shenfeld, Pari & Agrawal 2025,
  arXiv 2509.04259; read in a summary). ``weight [B, ...]`` (default ones); infinite where the model rules out a class
  that the base allows (a logit of -inf).
  """
  p, q = _log_softmax(base_logits), _log_softmax(logits)
  if p.shape != q.shape:
    raise UsageError(f"logits: has shape {q.shape}; base_logits has {p.shape}")
  with np.errstate(invalid="ignore"):
    each = np.where(p == -np.inf, 0.0, np.exp(p) * (p - q)).sum(-1)
  if weight is None:
    return float(each.mean())
  weight = np.asarray(weight, np.float64)
  if weight.shape != each.shape or not weight.sum() > 0:
    raise UsageError(f"weight: has shape {weight.shape}, sum {weight.sum()}; expected {each.shape} with a sum above 0")
  return float(np.where(weight > 0, weight * each, 0.0).sum() / weight.sum())


class Interference(NamedTuple):
  """``cosine`` of two gradients, and the ``conflict``: share of parameters whose gradients have opposite signs."""

  cosine: Any
  conflict: Any


def gradient_interference(old: Tree, new: Tree) -> Interference:
  """``cos(g_old, g_new)`` and the share of parameters with ``g_old g_new < 0``, of two gradient trees.

  To first order a step ``-lr g_new`` changes the old loss by ``-lr g_old . g_new``. Leaf by leaf, so it works under jit
  and on sharded trees. The cosine of a zero gradient is 0. Source: arXiv 2601.18699, of which only
  secondary notes were read.
  """
  tree.match(new, old, "new")
  inner, norms = tree.dot(old, new), tree.norm(old) * tree.norm(new)
  opposed = sum(jnp.sum(a * b < 0) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True))
  return Interference(jnp.where(norms > 0, inner / jnp.where(norms > 0, norms, 1.0), 0.0), opposed / tree.size(old))


def moved_share(before: Params, after: Params, dtype: DTypeLike = "bfloat16") -> float:
  """The share of parameters that differ in two trees as ``dtype`` has them: ``mean 1[b(theta) != b(theta')]``.

  A step that is small beside a weight is lost in the few bits in which large models are kept; so one method's weights
  stay where another's all move (Abdi et al. 2026). Raises UsageError where the trees do not match.
  """
  tree.match(after, before, "after")
  rounded = lambda a: np.asarray(jnp.asarray(a).astype(dtype))
  pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
  return float(sum((rounded(a) != rounded(b)).sum() for a, b in pairs) / tree.size(before))


def linear_cka(X: np.ndarray | Array, Y: np.ndarray | Array) -> float:
  """``||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)`` of column-centred features ``[B, D]`` and ``[B, E]``.

  Of the same rows. In ``[0, 1]``; 1 for rotated or rescaled features, but not for a general linear map (Kornblith et
  al. 2019). NaN where one of them is constant. The drift of a layer is ``1 - CKA`` (:func:`cka_drift`).
  """
  X, Y = np.asarray(X, np.float64), np.asarray(Y, np.float64)
  if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y):
    raise UsageError(f"Y: has shape {Y.shape}; X has {X.shape}; expected [B, D] and [B, E]")
  X, Y = X - X.mean(0), Y - Y.mean(0)
  scale = np.linalg.norm(X.T @ X) * np.linalg.norm(Y.T @ Y)
  return float(np.linalg.norm(Y.T @ X) ** 2 / scale) if scale > 0 else float("nan")


def cka_drift(before: np.ndarray | Array, after: np.ndarray | Array) -> float:
  """``1 - CKA`` of the features of the same rows before and after training."""
  return 1.0 - linear_cka(before, after)


def sharpness(loss_fn: Callable[[Params], Array], params: Params, key: Array, steps: int = 50) -> Array:
  """``lambda_max`` of the Hessian of ``loss_fn(params) -> scalar`` by power iteration, ``2 * steps`` Hessian products.

  Power iteration finds the eigenvalue of largest magnitude; where that one is negative it is not the largest. So a
  first run finds that magnitude ``|mu|`` and a second iterates ``H + |mu| I``, where the largest eigenvalue dominates.
  The estimate is a Rayleigh quotient, so at most ``lambda_max`` up to rounding. Works under jit.
  """

  def product(v):
    return jax.jvp(jax.grad(loss_fn), (params,), (v,))[1]

  def unit(v):
    n = tree.norm(v)
    return tree.scale(1.0 / jnp.where(n > 0, n, 1.0), v)

  def iterate(v, shift):
    step = lambda _, v: unit(tree.axpy(shift, v, product(v)))
    v = jax.lax.fori_loop(0, steps, step, v)
    return tree.dot(v, product(v))

  start = unit(_normal(key, params))
  mu = iterate(start, 0.0)
  top = iterate(start, jnp.abs(mu))  # from noise again: where the first run ended is orthogonal to what is sought
  return jnp.maximum(mu, top)


def mean_curvature(loss_fn: Callable[[Params], Array], params: Params, key: Array, samples: int = 16) -> Array:
  """``Tr(H) / d`` of ``loss_fn(params) -> scalar`` by Hutchinson's estimator with ``samples`` random sign vectors."""

  def one(i):
    v = jax.tree.map(jnp.sign, _normal(jax.random.fold_in(key, i), params))
    return tree.dot(v, jax.jvp(jax.grad(loss_fn), (params,), (v,))[1])

  return jax.lax.map(one, jnp.arange(samples)).mean() / tree.size(params)


def _normal(key, like):
  leaves, structure = jax.tree.flatten(like)
  noise = [jax.random.normal(jax.random.fold_in(key, i), v.shape, v.dtype) for i, v in enumerate(leaves)]
  return jax.tree.unflatten(structure, noise)


def _log_softmax(logits) -> np.ndarray:
  z = np.asarray(logits, np.float64)
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))
