"""How fast the forgotten rows come back: relearn time and the relearning attack, as loops in one program.

Both work under jit and vmap, over a population of models say, with ``learning_rate`` traced. An attack strong enough
to teach the retrained model makes everything look recoverable: fix ``learning_rate`` by the retrained model, and read
every number as a difference from that model's under the same attack and key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from cljax.core import tree
from cljax.core.types import Array, Params, Scalar, Tree, UsageError

SLACK = 1e-5  # nats above the original model's loss that still count as reached


class Relearned(NamedTuple):
  """``losses [epochs + 1]`` on all forget rows, before and after each epoch, and the final ``params``."""

  losses: Any
  params: Any


def relearn(
  loss_fn: Callable, params: Params, forget: Tree, key: Array, *, learning_rate: Scalar, epochs: int = 100,
  samples: int = 500, batch_size: int = 50,
) -> Relearned:  # fmt: skip
  """Fine-tunes on the forget rows by plain SGD: ``samples // batch_size`` steps an epoch, rows drawn with replacement.

  ``loss_fn(params, rows) -> scalar`` is the mean loss; ``forget`` is a pytree of arrays ``[N, ...]`` (a ``Batch``, a
  pair) of rows that exist (one of weight 0 would be drawn too), and ``rows`` is some of it or all. SCRUB's relearn
  time (Kurmanji et al. 2023; spec E3), with lr 0.1 by default there and 1e-3 in its runs. The batch size is not from
  the spec. The count of epochs follows by :func:`relearn_time`.
  """
  _positive(epochs=epochs, samples=samples, batch_size=batch_size)
  if samples < batch_size:
    raise UsageError(f"samples: is {samples}; expected at least batch_size, {batch_size}")
  n = _length(forget, "forget")
  order = jax.random.randint(key, (epochs, samples // batch_size, batch_size), 0, n)

  def epoch(params, steps):
    params, _ = jax.lax.scan(
      lambda p, at: (_descend(loss_fn, p, _take(forget, at), learning_rate), None), params, steps
    )
    return params, loss_fn(params, forget)

  before = loss_fn(params, forget)
  params, after = jax.lax.scan(epoch, params, order)
  return Relearned(jnp.concatenate([before[None], after]), params)


def epochs_to_reach(losses: jax.typing.ArrayLike, threshold: jax.typing.ArrayLike) -> Array:
  """The first index e with ``losses[..., e] <= threshold``, or the last index where none: int32 ``[...]``.

  ``losses [..., E + 1]`` before and after each of E epochs, so that 0 means at once. Whether the cap E was reached or
  only hit, ``losses[..., -1]`` tells. NaN losses never reach it.
  """
  losses = jnp.asarray(losses)
  if losses.ndim < 1 or not losses.shape[-1]:
    raise UsageError(f"losses: has shape {losses.shape}; expected [..., epochs + 1]")
  hit = losses <= jnp.asarray(threshold)[..., None]
  return jnp.where(hit.any(-1), hit.argmax(-1), losses.shape[-1] - 1).astype(jnp.int32)


def relearn_time(losses: jax.typing.ArrayLike, original_loss: jax.typing.ArrayLike) -> Array:
  """Epochs until ``L_f(theta) <= L_f(theta_0) + 1e-5``, of the losses that :func:`relearn` returns: int32 ``[...]``.

  0 for the original model. Fewer than the retrained model needs means that knowledge was kept. Hard to reach where the
  original model overfits the forget rows.
  """
  return epochs_to_reach(losses, jnp.asarray(original_loss) + SLACK)


def split_forget(n: int, few: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Positions of ``max(1, few * n)`` forget rows to attack with, and of the others to measure on: sorted, disjoint."""
  count = max(1, int(np.floor(few * n + 1e-9)))
  if not 0 < few < 1 or count >= n:
    raise UsageError(f"few: is {few} of {n} rows; expected a share in (0, 1) that leaves rows to measure on")
  order = np.random.default_rng(seed).permutation(n)
  return np.sort(order[:count]), np.sort(order[count:])


def relearning_attack(
  loss_fn: Callable, metric_fn: Callable, params: Params, few: Tree, held_out: Tree, key: Array, *,
  learning_rate: Scalar, steps: int = 20, batch_size: int | None = None,
) -> Array:  # fmt: skip
  """``metric_fn(params, held_out)`` before and after each of ``steps`` SGD steps on ``few``: ``[steps + 1, ...]``.

  ``few`` and ``held_out`` are disjoint sets of forget rows (:func:`split_forget`), pytrees of arrays ``[N, ...]``;
  ``loss_fn(params, rows) -> scalar``. Each step takes all of ``few``, or ``batch_size`` of them with replacement. After
  the relearning attacks on language models (MemoRa and the scripts of OpenUnlearning; spec E15). The baseline is the
  same attack on the retrained model: see :func:`recovery_gap`.
  """
  if steps < 0:
    raise UsageError(f"steps: is {steps}; expected 0 or more")
  n = _length(few, "few")
  _length(held_out, "held_out")
  if batch_size is None:
    order = jnp.broadcast_to(jnp.arange(n), (steps, n))
  else:
    _positive(batch_size=batch_size)
    order = jax.random.randint(key, (steps, batch_size), 0, n)

  def step(params, at):
    params = _descend(loss_fn, params, _take(few, at), learning_rate)
    return params, metric_fn(params, held_out)

  before = jnp.asarray(metric_fn(params, held_out))
  after = jax.lax.scan(step, params, order)[1]
  return jnp.concatenate([before[None], after])


def recovery_gap(ours: ArrayLike, reference: ArrayLike) -> np.ndarray:
  """``ours - reference`` of two attack curves ``[steps + 1, ...]`` of :func:`relearning_attack`: same shape.

  The reference is the retrained model. Of an accuracy, above 0 where the attack finds more than it teaches that model;
  the first entry is what forgetting left undone from the start.
  """
  a, b = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
  if a.shape != b.shape or not a.ndim:
    raise UsageError(f"reference: has shape {b.shape}; ours has {a.shape}; expected [steps + 1, ...]")
  return a - b


def _descend(loss_fn, params, rows, learning_rate):
  return tree.axpy(-learning_rate, jax.grad(loss_fn)(params, rows), params)


def _take(rows, at):
  return jax.tree.map(lambda v: jnp.asarray(v)[at], rows)


def _length(rows, name: str) -> int:
  lengths = {jnp.shape(v)[:1] for v in jax.tree.leaves(rows)}
  if len(lengths) != 1 or lengths == {()} or lengths == {(0,)}:
    raise UsageError(f"{name}: has arrays of lengths {sorted(lengths)}; expected one length of 1 or more")
  return lengths.pop()[0]


def _positive(**values):
  for name, value in values.items():
    if value < 1:
      raise UsageError(f"{name}: is {value}; expected 1 or more")
