"""Discrete key-value bottleneck: frozen features choose, by frozen keys, the few values that a row reads and moves."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import rows as picking
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Model, Outputs, Spec
from cljax.methods.prototypes.frozen import over
from cljax.methods.registry import Entry, Option, register
from cljax.models.heads import flat, width_of

LEAST = 1e-30  # of a key's count, below which it stays where it is


class Keyed(NamedTuple):
  """The model state of a network behind which values are read by keys; nothing of it is trained."""

  frozen: Any  # the network's own parameters
  inner: Any  # and state
  projections: Any  # [K, D, d]
  keys: Any  # [K, N, d]
  ready: Any  # bool: whether the keys were fitted

  @property
  def reveals(self) -> str:
    """Why edits are refused beside it."""
    return "keys, of which one that few rows are near to is the projection of their features"


class Moving(NamedTuple):
  """Keys that are averaged along rows: counts ``[K, N]`` and sums ``[K, N, d]``, and the keys ``[K, N, d]``."""

  counts: Any
  sums: Any
  keys: Any


def projected(projections, f):
  """``[B, K, d]``: features ``f [B, D]`` under each of the ``projections [K, D, d]``."""
  return jnp.einsum("bi,kid->bkd", f, projections, precision="highest")


def nearest(keys, h):
  """``[B, K]`` int32: of each projection ``h [B, K, d]`` the nearest of its ``keys [K, N, d]``; of ties the first."""
  products = jnp.einsum("bkd,knd->bkn", h, keys, precision="highest")
  return jnp.argmin(jnp.sum(jnp.square(keys), axis=-1)[None] - 2.0 * products, axis=-1).astype(jnp.int32)


def renewed(state: Moving, h, weight, decay) -> Moving:
  """The keys after rows ``h [B, K, d]`` of ``weight [B]``: counts and sums of what is nearest to each, averaged with
  ``decay``; a key is its sum over its count. van den Oord et al., 2017."""
  hits = jax.nn.one_hot(nearest(state.keys, h), state.keys.shape[1], dtype=jnp.float32) * weight[:, None, None]
  counts = decay * state.counts + (1.0 - decay) * hits.sum(0)
  sums = decay * state.sums + (1.0 - decay) * jnp.einsum("bkn,bkd->knd", hits, h, precision="highest")
  moved = sums / jnp.maximum(counts, LEAST)[..., None]
  return Moving(counts, sums, jnp.where((counts > LEAST)[..., None], moved, state.keys))


def keys_of(key, features, projections, rows, number: int, decay, passes: int):
  """``[K, N, d]``: keys that begin at the projections of N drawn ``rows`` (where there are fewer, some of them twice)
  and are :func:`renewed` along all of them, ``passes`` times; ``features(batch) -> [B, D]``. No label is read."""
  some = picking.random(key, rows, number) if number > rows.capacity else picking.sample(key, rows, number)
  count = jnp.maximum((some.weight > 0).sum(dtype=jnp.int32), 1)
  begin = jnp.moveaxis(projected(projections, features(some)), 0, 1)
  begin = begin[:, jnp.arange(number, dtype=jnp.int32) % count]
  state = Moving(jnp.ones(begin.shape[:2], jnp.float32), begin, begin)
  step = lambda s, b: renewed(s, projected(projections, features(b)), (b.weight > 0).astype(jnp.float32), decay)
  return jax.lax.fori_loop(0, passes, lambda i, s: over(rows, step, s), state).keys


def key_value_bottleneck(
  model, spec: Spec, *, decay, codebooks: int = 32, pairs: int = 64, width: int = 8, passes: int = 10
) -> Method:  # fmt: skip
  """``z = 1/K sum_k V_k[argmin_n |R_k f(x) - K_kn|]``, K ``codebooks`` of ``pairs`` keys of ``width`` numbers.

  f are the features of the network, which stands as ``model.init`` gives it, such as pre-trained, and runs in eval
  mode; R_k ``[D, width]`` are drawn once (Glorot's normal). Keys are fitted to the rows of the first task when it
  begins, without their labels (:func:`keys_of`, averages with ``decay`` over ``passes`` passes), and stand from then
  on. The values ``V [K, N, C]``, 0 at first, are all that is trained; z are the logits. A step moves those values alone
  that one of its rows reads, at most B K of them, whatever momentum and weight decay the optimizer has, so rows that
  share no key do not interfere. Keeps ``K N (C + width) + K D width`` numbers.

  Deviations: the paper has 256 codebooks of 4096 pairs (UNVERIFIED), the default is for small networks; keys from the
  first task, where it also has other data; no learned decoder behind the values. Requests are answered by
  ``forget.name=retrain``: a key that few rows are near to is made of their features. Raises UsageError for a model
  without features. Spec B14; Träuble et al., "Discrete key-value bottleneck", 2023.
  """
  features = width_of(model, spec, "key_value_bottleneck")

  def init(key):
    frozen, inner = model.init(key)
    spread = (2.0 / (features + width)) ** 0.5
    drawn = spread * jax.random.normal(tree.fold(key, "projections"), (codebooks, features, width), jnp.float32)
    state = Keyed(frozen, inner, drawn, jnp.zeros((codebooks, pairs, width), jnp.float32), jnp.zeros((), bool))
    return {"values": jnp.zeros((codebooks, pairs, spec.num_classes), jnp.float32)}, tree.copy(state)

  def look(state: Keyed, x, task, key):
    out, _ = model.apply(state.frozen, state.inner, x, train=False, key=key, task=task, mask=None)
    f = jax.lax.stop_gradient(flat(out.features))
    return f, nearest(state.keys, projected(state.projections, f))

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    del train, mask
    f, at = look(model_state, x, task, key)
    read = params["values"][jnp.arange(codebooks, dtype=jnp.int32)[None], at]
    return Outputs(jnp.mean(read, axis=1), f), model_state

  def observe(key, learner, batch):
    """``read [K, N]`` bool: the values that rows of the step read."""
    at = look(learner.model_state, batch.x, model.task_for(batch.task), key)[1]
    hits = jax.nn.one_hot(at, pairs, dtype=bool) & (batch.weight > 0)[:, None, None]
    return {"read": hits.any(0)}

  def local(updates, state, params=None, *, read, **extra):
    del params, extra
    return jax.tree.map(lambda u: jnp.where(read[..., None], u, jnp.zeros_like(u)), updates), state

  def start_task(key, learner, task):
    state = learner.model_state

    def fitted(state):
      of = lambda batch: look(state, batch.x, model.task_for(batch.task), learner.key)[0]
      keys = keys_of(tree.fold(key, "keys"), of, state.projections, task.rows, pairs, decay, passes)
      return state._replace(keys=keys, ready=jnp.ones((), bool))

    return learner._replace(model_state=jax.lax.cond(state.ready, lambda state: state, fitted, state))

  network = Model(init, apply, by_task=model.by_task, check_rows=model.check_rows)
  hold = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), local)
  return Method(network, start_task=start_task, observe=observe, finalize=hold)


register(
  "key_value_bottleneck",
  Entry(
    key_value_bottleneck,
    {
      "codebooks": Option(32, 1),
      "pairs": Option(64, 1),
      "width": Option(8, 1),
      "decay": Option(0.95, 0, 1),
      "passes": Option(10, 0),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Träuble et al. 2023",
  ),
)
