"""Edits of weights by their place in the network: freezing, depth scaling, block-wise averaging, random forgetting."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cljax.core.calls import since_0_2
from cljax.core.checks import check_scalar
from cljax.core.tree import is_placeholder, paths
from cljax.core.types import Array, Params, Scalar, Tree, UsageError


def matching(params, patterns, owner: str) -> list[bool]:
  """Which leaves match a pattern: a glob of the path or of one of its parents, such as ``layers/0`` or ``*/bias``.

  It ends at a path border: ``layers/1`` is not ``layers/10``; ``*`` also matches ``/``. Raises UsageError for a pattern
  that matches nothing.
  """
  names = paths(params)

  def hit(name, pattern):
    parts = name.split("/")
    return any(fnmatch.fnmatchcase("/".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))

  for pattern in patterns:
    if not any(hit(n, pattern) for n in names):
      raise UsageError(f"{owner}: pattern {pattern!r} matches no parameter; the paths are {', '.join(names)}")
  return [any(hit(n, p) for p in patterns) for n in names]


@since_0_2("several patterns are one tuple: freeze(('embed', 'head'), active)")
def freeze(patterns: str | Sequence[str], active: Scalar = 1) -> optax.GradientTransformationExtraArgs:
  """Zero updates for the leaves that match: their tensors stay to the bit. Stands last in a chain.

  patterns: a path prefix or glob, or several, such as ``('embed', 'layers/0')``. active: 0 lets all updates pass;
  traced if wanted (Spurious Forgetting freezes from the second task on):
  ``inject_hyperparams(freeze)('embed', active=schedule)``, or a factory inside the trace. Tied embeddings freeze the
  head too. Raises UsageError for no pattern, an ``active`` that is no number, and at init for a pattern that matches
  nothing. Zheng et al. 2025.
  """
  globs = (patterns,) if isinstance(patterns, str) else tuple(patterns)
  if not globs or not all(isinstance(g, str) for g in globs):
    raise UsageError(f"freeze: give at least one path or glob of parameters to freeze; patterns is {patterns!r}")
  if isinstance(active, str) or callable(active):
    raise UsageError(f"freeze: active is {active!r}; give a number, and several patterns as one tuple")

  def init(params):
    if not is_placeholder(params):
      matching(params, globs, "freeze")
    return optax.EmptyState()

  def update(updates, state, params=None, **extra):
    del params, extra
    leaves, treedef = jax.tree.flatten(updates)
    frozen = matching(updates, globs, "freeze")
    # -0.0 is the zero that changes no bit: -0.0 + 0.0 would be 0.0.
    hold = lambda u: jnp.where(jnp.asarray(active).astype(bool), jnp.full_like(u, -0.0), u)
    return jax.tree.unflatten(treedef, [hold(u) if f else u for u, f in zip(leaves, frozen, strict=True)]), state

  return optax.GradientTransformationExtraArgs(init, update)


def _block_of(params, blocks, owner) -> list[int | None]:
  hits = [matching(params, [b], owner) for b in blocks]
  out: list[int | None] = []
  for i, name in enumerate(paths(params)):
    own = [k for k, h in enumerate(hits) if h[i]]
    if len(own) > 1:
      raise UsageError(f"{owner}: {name!r} is in two blocks, {blocks[own[0]]!r} and {blocks[own[1]]!r}")
    out.append(own[0] if own else None)
  return out


def lines(pretrained: Params, finetuned: Params, blocks: Sequence[str], alpha: Scalar, beta: Scalar) -> Params:
  """LiNeS: ``pretrained + scale * (finetuned - pretrained)``, scale ``alpha + beta l / (L - 1)`` in block l, alpha
  elsewhere.

  blocks: path prefixes or globs, shallowest first. ``alpha=1, beta=0`` is ``finetuned``; a single task uses
  ``beta = 1 - alpha``. Leaves outside the blocks, a head too, get alpha (as the published code). Raises UsageError for
  a block that matches nothing or overlaps another. Wang et al. 2025.
  """
  index = _block_of(finetuned, blocks, "lines")
  last = max(len(blocks) - 1, 1)
  scales = [alpha if k is None else alpha + beta * k / last for k in index]
  mix = lambda a, b, s: jnp.where(s == 1, b, a + s * (b - a)).astype(b.dtype)
  leaves = zip(jax.tree.leaves(pretrained), jax.tree.leaves(finetuned), scales, strict=True)
  return jax.tree.unflatten(jax.tree.structure(finetuned), [mix(*v) for v in leaves])


def heterogeneous_averaging(base: Params, tuned: Params, blocks: Sequence[str], ratios: ArrayLike) -> Params:
  """``ratios[k] * tuned + (1 - ratios[k]) * base`` in block k; the mean ratio elsewhere.

  ratios ``[K]`` weigh the *tuned* model, as the paper's equation does; its code's README weighs the base. ``ratios``
  may be traced and learned (maximize a likelihood, then ``project_ratios``). One block is vanilla averaging. Raises
  UsageError for blocks as ``lines``, or another number of ratios. Lin et al. 2024.
  """
  if jnp.shape(ratios) != (len(blocks),):
    raise UsageError(f"ratios: has shape {jnp.shape(ratios)}; {len(blocks)} blocks need ({len(blocks)},)")
  ratios = jnp.asarray(ratios)
  weigh = [jnp.mean(ratios) if k is None else ratios[k] for k in _block_of(tuned, blocks, "heterogeneous_averaging")]
  leaves = zip(jax.tree.leaves(base), jax.tree.leaves(tuned), weigh, strict=True)
  return jax.tree.unflatten(jax.tree.structure(tuned), [(r * t + (1 - r) * b).astype(t.dtype) for b, t, r in leaves])


def project_ratios(ratios: ArrayLike, mean: Scalar) -> Array:
  """The nearest ``[K]`` to ``ratios`` with entries in [0, 1] and the given mean: ``clip(ratios + shift, 0, 1)``, by
  bisection.

  Raises UsageError for a mean outside [0, 1].
  """
  check_scalar("project_ratios", "mean", mean, 0, 1)
  ratios = jnp.asarray(ratios)

  def halve(_, ends):
    low, high = ends
    middle = (low + high) / 2
    over = jnp.mean(jnp.clip(ratios + middle, 0, 1)) > mean
    return jnp.where(over, low, middle), jnp.where(over, middle, high)

  low, high = jax.lax.fori_loop(0, 60, halve, (-jnp.max(ratios), 1 - jnp.min(ratios)))
  return jnp.clip(ratios + (low + high) / 2, 0, 1)


def fomo_forget(
  key: Array, params: Params, fresh: Params, fraction: Scalar, patterns: str | Sequence[str] = ()
) -> Params:
  """Random forgetting: ``round(fraction * n)`` uniformly drawn weights of each matching tensor take ``fresh``'s values.

  patterns: paths or globs of the (later) layers; none means all. fraction in [0, 1], traced if wanted: about 0.035 is
  UNVERIFIED, as is the schedule (relearn, then consolidate with ``ema``). Untouched weights stay to the bit. Raises
  UsageError for a fraction outside [0, 1] or a pattern that matches nothing. Ramkumar et al. 2024.
  """
  check_scalar("fomo_forget", "fraction", fraction, 0, 1)
  chosen = matching(params, patterns, "fomo_forget") if patterns else [True] * len(jax.tree.leaves(params))
  out = []
  for i, (p, f, yes) in enumerate(zip(jax.tree.leaves(params), jax.tree.leaves(fresh), chosen, strict=True)):
    if not yes:
      out.append(p)
      continue
    drawn = jax.random.uniform(jax.random.fold_in(key, i), (p.size,))
    rank = jnp.argsort(jnp.argsort(drawn)).reshape(p.shape)
    out.append(jnp.where(rank < jnp.round(fraction * p.size).astype(rank.dtype), f, p).astype(p.dtype))
  return jax.tree.unflatten(jax.tree.structure(params), out)


def path_mask(params: Params, patterns: str | Sequence[str]) -> Tree:
  """A tree of Python bools, for ``optax.masked``: true where a path prefix or glob matches."""
  flags = matching(params, patterns, "path_mask")
  return jax.tree.unflatten(jax.tree.structure(params), flags)
