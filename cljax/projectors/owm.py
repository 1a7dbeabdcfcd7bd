"""Orthogonal Weights Modification: gradients through a running inverse of the correlations of batches' mean inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import layers, tree
from cljax.core import layout as kernel_layout
from cljax.core.checks import check
from cljax.core.opt_state import edit_states
from cljax.core.types import OptState, Scalar
from cljax.projectors import _common as common
from cljax.projectors import _kernels


class OWMState(NamedTuple):
  """``projections``: for each kernel path ``P [d, d]``, symmetric, its eigenvalues in (0, 1]; ``d`` is the kernel's
  inputs, and one more where it has a bias."""

  projections: dict[str, Any]


def owm(
  alpha: Scalar = 1.0,
  decay: Scalar = 1.0,
  skip: Callable[[str], bool] | None = None,
  biases: bool = True,
  layout: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """OWM: ``P G`` for every kernel ``G [d_in, c_out]``; ``P = (I + sum_j r_j r_j^T / alpha_j)^-1``, ``r_j`` the mean
  inputs of each batch so far.

  Each update that is given ``layer_inputs={kernel path: [n, d_in]}`` takes them into P first (:func:`owm_extend`), then
  projects, in the first task as in every other: so what a layer did on the mean inputs it saw stays as it is, the
  better the smaller alpha. P starts at I and is never exactly a projection. Without ``layer_inputs`` P stays.

  Args:
    alpha: above 0, may be traced: smaller protects more.
    decay: alpha is ``alpha * decay ** progress`` where updates are given ``progress=`` from 0 to 1, so that the last
      batches of a task, whose inputs are its own too, weigh most; 1 leaves it as it is, and the order of batches is
      then irrelevant. The released code has 1e-5 for convolutions and 1e-4, .01, .1 for three dense layers; 1 for
      shuffled MNIST.
    skip: ``skip(path)`` is true for leaves left alone.
    biases: a layer's bias is the last row of its kernel, whose input is 1: the released networks have none. The bias
      is the leaf called 'bias' beside the kernel. False leaves biases alone.
    layout: as of :func:`gpm`.

  Linear: behind momentum, Adam or weight decay it holds for what is applied. A step costs ``2 d^2 (n + c_out)``
  operations a kernel. Raises UsageError: no kernel; complex parameters; alpha not above 0; inputs missing or of another
  width; kernels other than the state's. Zeng et al., 2019; spec S11.3.
  """
  kernel_layout.check("owm", layout)
  check("alpha", alpha, "numbers above 0", lambda v: v > 0)
  check("decay", decay, "numbers above 0", lambda v: v > 0)

  def bias_of(name, leaves):
    return layers.bias_of(name, leaves, layout) if biases else None

  def init(params):
    if tree.is_placeholder(params):
      return OWMState(jnp.zeros(()))  # type: ignore[arg-type]
    found, leaves = {}, tree.by_path(params)
    for name, x in _kernels.chosen("owm", params, skip, layout).items():
      bias = bias_of(name, leaves)
      d = kernel_layout.fan_in(x.shape, layout) + (bias is not None)
      found[name] = jnp.eye(d, dtype=common.wide(x))
    return OWMState(found)

  def update(grads, state, params=None, *, layer_inputs=None, progress=None, **extra):
    del params, extra
    leaves = tree.by_path(grads)
    joins = {n: bias_of(n, leaves) for n in state.projections}
    sizes = {n: (len(p) - (joins[n] is not None), None) for n, p in state.projections.items()}
    _kernels.check_names("owm", grads, sizes, skip, layout)
    if layer_inputs is not None:
      now = alpha if progress is None else alpha * decay**progress
      widened = {n: layers.with_one(jnp.asarray(layer_inputs[n]), joins[n] is not None)
                 for n in state.projections if n in layer_inputs}  # fmt: skip
      state = owm_extend(state, widened, now)
    out = dict(leaves)
    for name, p in state.projections.items():
      g = layers.joined(name, leaves, joins[name], layout).astype(p.dtype)
      out |= layers.parted(layers.product(p, g), name, leaves, joins[name], layout)
    return tree.map_named(lambda name, g: out[name], grads), state

  return optax.GradientTransformationExtraArgs(init, update)


def owm_extend(opt_state: OptState, layer_inputs: dict[str, Any], alpha: Scalar) -> OptState:
  """``P <- P - P r r^T P / (alpha + r^T P r)`` for each row ``r`` of ``layer_inputs {kernel path: [n, d]}``, at once.

  The same as row by row, in any order: ``P <- (P^-1 + R^T R / alpha)^-1``. A dense layer has one row, its batch's mean
  input; a convolution one for each location, the mean patch; with a 1 behind it where the kernel has a bias. P is made
  symmetric again, for rounding drifts. Rows of zeros change nothing (of a bias's 1 too: it is the caller's). Raises
  UsageError for a missing path, a wrong width or no :class:`OWMState`.
  """

  def one(p, rows):
    rows = rows.astype(p.dtype)
    if rows.shape[0] > rows.shape[1]:  # R^T R is all that counts
      rows = jnp.linalg.qr(rows, mode="r")
    passed = layers.product(rows, p)  # [n, d]
    inner = layers.product(passed, rows.T)
    floor = jnp.finfo(p.dtype).eps * jnp.trace(inner) if len(rows) > 1 else 0.0  # Cholesky fails below rounding
    inner = 0.5 * (inner + inner.T) + (jnp.asarray(alpha, p.dtype) + floor) * jnp.eye(len(rows), dtype=p.dtype)
    p = p - layers.product(passed.T, jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(inner), passed))
    return 0.5 * (p + p.T)

  def extend(state: OWMState) -> OWMState:
    widths = {n: p.shape[0] for n, p in state.projections.items()}
    return OWMState({n: one(p, _kernels.rows(layer_inputs, n, widths[n])) for n, p in state.projections.items()})

  return edit_states(opt_state, OWMState, extend, "owm_extend")
