"""Adaptive orthogonality: a penalty on forget and retain gradients that oppose each other."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.checks import check
from cljax.core.types import Scalar
from cljax.projectors import _common as common


def _penalty(forget, retain, gamma):
  inner = common.dot(forget, retain)
  squares = common.dot(forget, forget) * common.dot(retain, retain)
  conflict = (inner < 0) & (squares > 0)
  cosine = inner / jnp.sqrt(jnp.where(conflict, squares, 1))
  # The inner where keeps the derivative of the power finite where there is no conflict.
  return jnp.where(conflict, jnp.where(conflict, (1 - cosine) / 2, 1.0) ** gamma, 0.0)


def adaptive_orthogonality(forget_loss: Callable, retain_loss: Callable, gamma: Scalar = 1.0) -> Callable:
  """``params -> 1[<g_f, g_r> < 0] ((1 - cos(g_f, g_r)) / 2)^gamma`` with ``g = grad loss(params)``.

  0 when aligned, 1 when opposite; it jumps to ``2^-gamma`` just past orthogonality. Differentiable through both
  gradients (the released code computes it from detached gradients, where it is a constant and trains nothing). Where
  only a few layers matter, let the losses be functions of those. The paper has gamma 1, its code 2. arXiv 2602.01703.
  """
  check("gamma", gamma, "> 0", lambda v: v > 0)
  return lambda params: _penalty(jax.grad(forget_loss)(params), jax.grad(retain_loss)(params), gamma)


def adaptive_orthogonality_grad(forget_loss: Callable, retain_loss: Callable, gamma: Scalar = 1.0) -> Callable:
  """``params -> (penalty, gradient)`` by two Hessian-vector products, ``H_f dA/dg_f + H_r dA/dg_r``.

  Forward over reverse: the memory of one gradient, and equal to ``jax.grad`` of :func:`adaptive_orthogonality`.
  """
  check("gamma", gamma, "> 0", lambda v: v > 0)

  def value_and_grad(params):
    gradients = jax.grad(forget_loss), jax.grad(retain_loss)
    forget, retain = (g(params) for g in gradients)
    value, (along_f, along_r) = jax.value_and_grad(_penalty, argnums=(0, 1))(forget, retain, gamma)
    products = [jax.jvp(g, (params,), (along,))[1] for g, along in zip(gradients, (along_f, along_r), strict=True)]
    return value, tree.add(*products)

  return value_and_grad
