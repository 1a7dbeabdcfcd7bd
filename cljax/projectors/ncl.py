"""Natural continual learning: updates in the metric of the old tasks' precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from cljax.core import layers, tree
from cljax.core import layout as kernel_layout
from cljax.core.checks import check_scalar
from cljax.core.opt_state import edit_states
from cljax.core.types import OptState, Scalar, UsageError
from cljax.projectors import _common as common
from cljax.projectors import _kernels


class NCLState(NamedTuple):
  """For each kernel path the inverse factors ``inputs [d, d]`` and ``outputs [c, c]``, symmetric; I before the first
  boundary."""

  inputs: dict[str, Any]
  outputs: dict[str, Any]


def ncl(
  skip: Callable[[str], bool] | None = None, biases: bool = True, layout: str | None = None
) -> optax.GradientTransformationExtraArgs:
  """NCL's metric: ``L^-1 [G; g] R^-1 / n`` for every kernel G and its bias g, ``L (x) R`` the precision of old tasks.

  :func:`ncl_end_task` takes the factors in, such as those of ``cljax.regularizers.kfac_ewc(strength, prior=1 / n)``,
  with which in front of the optimizer the step is Kao's ``theta <- theta - rate [Lambda^-1 grad + strength (theta -
  mu)] / n``. Before the first boundary ``Lambda = I / n`` and updates pass. It changes the way to an optimum, not the
  optimum: what is flat for old tasks is fast, what is steep stands still.

  ``skip``, ``biases`` and ``layout`` as of :func:`owm`. Linear: the published code has it behind momentum. Raises
  UsageError: no kernel; complex parameters; kernels other than the state's. Kao et al., 2021; spec S11.2.
  """
  kernel_layout.check("ncl", layout)

  def init(params):
    if tree.is_placeholder(params):
      return NCLState(jnp.zeros(()), jnp.zeros(()))  # type: ignore[arg-type]
    leaves = tree.by_path(params)
    eye = lambda layer, size: jnp.eye(size, dtype=common.wide(leaves[layer.kernel]))
    found = layers.found("ncl", params, skip, biases, layout)
    return NCLState({l.kernel: eye(l, l.inputs) for l in found}, {l.kernel: eye(l, l.outputs) for l in found})

  def update(grads, state, params=None, **extra):
    del params, extra
    leaves = tree.by_path(grads)
    own = {n: layers.bias_of(n, leaves, layout) if biases and n in leaves else None for n in state.inputs}
    sizes = {n: (len(p) - (own[n] is not None), len(state.outputs[n])) for n, p in state.inputs.items()}
    _kernels.check_names("ncl", grads, sizes, skip, layout)
    out = dict(leaves)
    for name, left in state.inputs.items():
      g = layers.joined(name, leaves, own[name], layout).astype(left.dtype)
      out |= layers.parted(layers.product(left, g, state.outputs[name]), name, leaves, own[name], layout)
    return tree.map_named(lambda name, g: out[name], grads), state

  return optax.GradientTransformationExtraArgs(init, update)


def ncl_end_task(
  opt_state: OptState, inputs: dict[str, Any], outputs: dict[str, Any], rows: Scalar, damping: Scalar = 1e-6
) -> OptState:
  """The metric of the precisions ``inputs (x) outputs``: ``(L + pi sqrt(a) I)^-1 (x) (R + sqrt(a) / pi I)^-1 / rows``.

  ``a`` is ``damping``, ``pi^2 = (tr L / d) / (tr R / c)``: towards plain descent as it grows, up to scale. Precisions
  are of a mean over rows, the prior's ``1 / rows`` in them. Both inverses by eigenvalues, those below 0 as 0.
  Raises UsageError: no :class:`NCLState`, a kernel without factors or of another size.
  """
  check_scalar("ncl_end_task", "damping", damping)

  def inverse(m, more):
    values, vectors = jnp.linalg.eigh(m)
    least = jnp.finfo(m.dtype).tiny
    return layers.product(vectors / jnp.maximum(jnp.maximum(values, 0) + more, least)[None], vectors.T)

  def end(state: NCLState) -> NCLState:
    lefts, rights = {}, {}
    for name, old in state.inputs.items():
      if name not in inputs or name not in outputs:
        raise UsageError(f"ncl_end_task: {name!r} has no factors; give them, or exclude the kernel by skip=")
      left, right = jnp.asarray(inputs[name]).astype(old.dtype), jnp.asarray(outputs[name]).astype(old.dtype)
      if left.shape != old.shape or right.shape != state.outputs[name].shape:
        want = f"{old.shape} and {state.outputs[name].shape}"
        raise UsageError(f"ncl_end_task: {name!r} has factors {left.shape} and {right.shape}; expected {want}")
      means = jnp.trace(left) / len(left), jnp.trace(right) / len(right)
      pi = jnp.sqrt(means[0] / jnp.where(means[1] > 0, means[1], 1))
      root, share = jnp.sqrt(jnp.asarray(damping, old.dtype)), 1 / jnp.sqrt(jnp.asarray(rows, old.dtype))
      lefts[name] = share * inverse(left, pi * root)
      rights[name] = share * inverse(right, root / jnp.where(pi > 0, pi, 1))
    return NCLState(lefts, rights)

  return edit_states(opt_state, NCLState, end, "ncl_end_task")
