"""Facts of a decoder edited in closed form, in one tensor: ROME, r-ROME, and of several facts MEMIT and EMMET."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cljax.core import tree
from cljax.core.checks import check_scalar
from cljax.core.types import Model, Params, UsageError
from cljax.edits.facts import Fact, ValueSearch, check_layers, check_search, searched, seen

NARROW = ValueSearch(radius=0.75)  # MEMIT's, of the residual stream


def _solved(moment: ArrayLike, keys: np.ndarray) -> np.ndarray:
  """``C^-1 keys^T [m, B]`` in float64, keys ``[B, m]``; UsageError for another shape, or a moment that is singular."""
  c = np.asarray(moment, np.float64)
  m = keys.shape[-1]
  if c.shape != (m, m):
    raise UsageError(f"moment: has shape {c.shape}; keys of {m} numbers need ({m}, {m})")
  try:
    half = np.linalg.cholesky((c + c.T) / 2)
  except np.linalg.LinAlgError:
    raise UsageError("moment: is not positive definite; take it over more tokens, or with a ridge") from None
  return np.linalg.solve(half.T, np.linalg.solve(half, keys.T))


def _wide(keys: ArrayLike, residuals: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  k, r = np.asarray(keys, np.float64), np.asarray(residuals, np.float64)
  if k.ndim != 2 or r.ndim != 2 or len(k) != len(r) or not len(k):
    raise UsageError(f"keys: have shape {k.shape}, residuals {r.shape}; expected [B, m] and [B, d], B at least 1")
  return k, r


def rank_one_update(moment: ArrayLike, key: ArrayLike, residual: ArrayLike, along: ArrayLike) -> np.ndarray:
  """``u r^T / (u^T k)`` with ``u = C^-1 along``, ``[m, d]`` float64: what is added to a kernel so that key k gains r.

  moment C ``[m, m]``, key k and along ``[m]``, residual r ``[d]``. With ``along = key`` it is the least change of
  outputs, ``tr(D^T C D)``, under ``k^T D = r^T``. With another (ROME's mean key) it holds at k too, but grows without
  bound where ``u^T k`` nears 0. Raises UsageError for shapes, a moment that is not positive definite, ``u^T k = 0``.
  """
  k, r = _wide(np.atleast_2d(key), np.atleast_2d(residual))
  way = np.atleast_2d(np.asarray(along, np.float64))
  if way.shape != k.shape or len(k) != 1:
    raise UsageError(f"along: has shape {np.shape(along)}, key {np.shape(key)}; expected [m] of both")
  u = _solved(moment, way)[:, 0]
  share = float(u @ k[0])
  if not share:
    raise UsageError("key: C^-1 along is orthogonal to it; no rank-one change reaches it")
  return np.outer(u, r[0]) / share


def least_squares_update(
  moment: ArrayLike, keys: ArrayLike, residuals: ArrayLike, strength: float = 0.0
) -> np.ndarray:  # fmt: skip
  """``C^-1 K^T (K C^-1 K^T + s I)^-1 R``, ``[m, d]`` float64, keys K ``[B, m]``, residuals R ``[B, d]``.

  ``strength`` s = 0: the least ``tr(D^T C D)`` under ``K D = R`` (EMMET; of one key ROME). Above 0: the D of least
  ``|K D - R|^2 + s tr(D^T C D)``, in MEMIT's words ``(s C + K^T K)^-1 K^T R``. EMMET's released code scales C by a and
  adds g: that is s = a g. Raises UsageError for shapes, a negative strength, a moment that is not positive definite,
  and at 0 for keys that depend on one another (two facts of one subject share their key).
  """
  check_scalar("least_squares_update", "strength", strength)
  k, r = _wide(keys, residuals)
  ways = _solved(moment, k)
  gram = k @ ways
  gram = (gram + gram.T) / 2
  if not strength and np.linalg.matrix_rank(gram, hermitian=True) < len(k):
    raise UsageError(f"keys: the {len(k)} depend on one another; strength above 0 allows it, or give other subjects")
  return ways @ np.linalg.solve(gram + strength * np.eye(len(k)), r)


def _added(params: Params, layer: str, update: np.ndarray) -> Params:
  """The parameters with ``update`` added to a layer's kernel; all others are the same arrays."""
  name = f"{layer}/kernel"
  kernel = tree.leaf(params, name)
  new = jnp.asarray(np.asarray(kernel, np.float64) + update, kernel.dtype)
  return tree.edit_leaves(params, {name: new})


def _of_one(model, params, fact, moment, layer, model_state, search, mean: bool) -> Params:
  check_layers(model, params, [layer])
  check_search(search)
  state = {} if model_state is None else model_state
  keys, outputs, log_p = seen(model, params, state, fact, layer)
  delta = searched(model, params, state, fact, layer, outputs[0], log_p, search)
  value = np.asarray(outputs[0] + delta, np.float64)
  k, v = (np.asarray(a, np.float64)[:-1] for a in (keys, outputs))
  at, now = (k.mean(0), v.mean(0)) if mean else (k[0], v[0])
  return _added(params, layer, rank_one_update(moment, at, value - now, k.mean(0)))


def rome(
  model: Model, params: Params, fact: Fact, moment: ArrayLike, layer: str, *, model_state: Any = None,
  search: ValueSearch = ValueSearch(),
) -> Params:  # fmt: skip
  """ROME as released: ``W + (v* - W k) (C^-1 k*)^T / ((C^-1 k*)^T k)``, k the prompt's key, k* the mean over contexts.

  ``layer``: the path of an MLP's output projection, such as ``layers_0/mlp/down_proj``; its kernel ``[m, d]`` (W^T)
  alone changes. ``moment [m, m]``: :func:`key_moments` of the network before its first edit. ``v*``: the layer's output
  at the prompt plus what :class:`ValueSearch` found. Computed on the host in float64, so not under ``jit``. Where k and
  k* differ much, a change can be far too large (the "disabling" edits): :func:`r_rome`. Which block holds facts is to
  be tried: an early one of a small decoder. An adapter is folded in first (``Model.plain``). Raises UsageError for a
  layer that is none, a model that shows no layers, and as :func:`rank_one_update`. Meng et al. 2022.
  """
  return _of_one(model, params, fact, moment, layer, model_state, search, mean=False)


def r_rome(
  model: Model, params: Params, fact: Fact, moment: ArrayLike, layer: str, *, model_state: Any = None,
  search: ValueSearch = ValueSearch(),
) -> Params:  # fmt: skip
  """ROME with one key: ``W + (v* - W k*) (C^-1 k*)^T / (k*^T C^-1 k*)``, the mean k* over contexts in each place.

  Arguments and errors are those of :func:`rome`, with which it agrees for a fact without contexts. Gupta et al. 2024.
  """
  return _of_one(model, params, fact, moment, layer, model_state, search, mean=True)


@functools.partial(jax.jit, static_argnames=("apply", "block"))
def _stream(params, state, x, place, *, apply, block):
  hidden = apply(params, state, x, train=False, key=None)[0].hidden
  return hidden[block][0, place[0]].astype(jnp.float32)


def _block(layer: str) -> int:
  found = re.search(r"_(\d+)/", layer)
  if found is None:
    raise UsageError(f"layers: got {layer!r}; expected a path that numbers its block, such as layers_0/mlp/down_proj")
  return int(found.group(1))


def _mean_key(keys) -> np.ndarray:
  """Half the prompt's key, half the mean of those of its contexts; the prompt's where there is none."""
  k = np.asarray(keys, np.float64)[:-1]
  return k[0] if len(k) == 1 else (k[0] + k[1:].mean(0)) / 2


def _of_several(model, params, facts, moments, layers, model_state, search, strength) -> Params:
  facts, layers = list(facts), list(layers)
  if not facts or not layers:
    raise UsageError(f"facts: got {len(facts)} facts and {len(layers)} layers; expected one of each or more")
  check_layers(model, params, layers)
  check_search(search)
  blocks = [_block(layer) for layer in layers]
  if sorted(set(blocks)) != blocks:
    raise UsageError(f"layers: are of the blocks {blocks}; expected them from the first to the last, one of a block")
  missing = [layer for layer in layers if layer not in moments]
  if missing:
    raise UsageError(f"moments: lack {', '.join(missing)}; they have {', '.join(moments) or 'none'}")
  state = {} if model_state is None else model_state
  read = lambda params, fact: _stream(
    params, state, fact.x, jnp.asarray(fact.place), apply=model.apply, block=blocks[-1]
  )
  goals = []
  for fact in facts:
    base, log_p = read(params, fact), seen(model, params, state, fact, layers[-1])[2]
    goals.append(base + searched(model, params, state, fact, layers[-1], base, log_p, search))
  for i, layer in enumerate(layers):
    keys = np.stack([_mean_key(seen(model, params, state, fact, layer)[0]) for fact in facts])
    gaps = [np.asarray(goal - read(params, fact), np.float64) for goal, fact in zip(goals, facts, strict=True)]
    update = least_squares_update(moments[layer], keys, np.stack(gaps) / (len(layers) - i), strength)
    params = _added(params, layer, update)
  return params


def memit(
  model: Model, params: Params, facts: Sequence[Fact], moments: Mapping[str, ArrayLike], layers: Sequence[str], *,
  strength: float = 20_000.0, model_state: Any = None, search: ValueSearch = NARROW,
) -> Params:  # fmt: skip
  """MEMIT: at each layer i of I ``W + R/(I - i) K^T (s C + K K^T)^-1``, keys K and residuals R read anew at each.

  R is what the residual stream behind the last layer's block lacks of ``z = h + delta`` of each fact
  (:class:`ValueSearch`), K the keys at the layer, half the prompt's and half its contexts'. ``strength`` s counts
  tokens, C being a mean; the released 20,000 is of large networks. ``layers``: paths as of :func:`rome`, shallowest
  first; ``moments``: one for each by its path. Facts want distinct subjects: two of one share their key. Only these
  layers' kernels change. Raises UsageError for layers out of order or without moment, and as :func:`rome`. Meng et al.
  2023.
  """
  return _of_several(model, params, facts, moments, layers, model_state, search, strength)


def emmet(
  model: Model, params: Params, facts: Sequence[Fact], moments: Mapping[str, ArrayLike], layers: Sequence[str], *,
  gamma: float = 0.0, model_state: Any = None, search: ValueSearch = NARROW,
) -> Params:  # fmt: skip
  """EMMET: ``W + R (K^T C^-1 K + g I)^-1 K^T C^-1``: all values hold exactly at ``gamma`` g = 0.

  Arguments and errors are those of :func:`memit`, of which it is the limit as ``strength`` nears 0, and to which it is
  equal at ``strength = gamma``. The released code scales C by a = 1000 (1 for Llama-2) and takes g = 0.1 on batches:
  here ``gamma = 100`` (0.1), so that it is no equality there. Gupta et al. 2024.
  """
  return _of_several(model, params, facts, moments, layers, model_state, search, gamma)
