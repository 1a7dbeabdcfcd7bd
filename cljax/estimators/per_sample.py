"""Sums over rows of a function of per-sample gradients, without materialising them where the layers allow it.

A model's ``capture`` hands out each layer's input ``x`` and, by a zero probe added to the layer's output, its output
gradient ``d``. One sample's gradient is then a sum of outer products of the two; for a dense layer on ``[B, d_in]`` it
is a single one, so that squares and absolute values split: ``sum_b w_b (x_b d_b)^2 = (x*x)^T (w d*d)``.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from cljax.core import rows as picking
from cljax.core import tree
from cljax.core.dtypes import wide
from cljax.core.types import Batch, Model, Rows, UsageError

_TRANSPARENT = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2", "core_call")


def times_read(jaxpr, var) -> int:
  """How many operations read a variable, looking through calls."""
  total = 0
  for eqn in jaxpr.eqns:
    places = [i for i, v in enumerate(eqn.invars) if v is var]
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr")))
    if places and eqn.primitive.name in _TRANSPARENT and inner is not None:
      inner = getattr(inner, "jaxpr", inner)
      total += sum(times_read(inner, inner.invars[i]) for i in places)
    else:
      total += len(places)
  return total


def _capture(model: Model, *args):
  assert model.capture is not None
  return model.capture(*args)


def _outer(call) -> bool:
  """Whether one sample's kernel gradient is one outer product."""
  return call.spec.unfold is not None and call.output.ndim == 2 and set(call.spec.leaves) <= {"kernel", "bias"}


def _sound_at(model: Model, params, model_state, x, count_uses: bool) -> tuple[bool, bool]:
  """Whether the captured layers account for every use of every parameter, for a batch of this size; and whether no
  gradient of a row need be made, each being one outer product."""
  names, size = tree.paths(params), jax.tree.leaves(x)[0].shape[0]
  own_uses: dict[str, int] = {}
  sound, outer = True, True

  def run(params, model_state, x):
    nonlocal sound, outer
    logits, calls = _capture(model, params, model_state, x, None)
    leaves = dict(zip(names, jax.tree.leaves(params), strict=True))
    for call in calls.values():
      whole = call.spec.calls == 1 and call.input is not None and call.output is not None
      if not whole or call.input.shape[:1] != (size,) or call.output.shape[:1] != (size,):
        sound = False
        continue
      outer = outer and _outer(call)
      # the layer reads the very parameters that were passed in, not something made from them
      sound = sound and all(call.params[n] is leaves.get(path) for n, path in call.spec.leaves.items())
      if not count_uses:
        continue
      local = jax.make_jaxpr(call.spec.local)(call.params, call.input)
      for (_, path), var in zip(sorted(call.spec.leaves.items()), local.jaxpr.invars, strict=False):
        sound = sound and path not in own_uses
        own_uses[path] = times_read(local.jaxpr, var)
    return logits

  try:
    traced = jax.make_jaxpr(run)(params, model_state, x).jaxpr
  except Exception:  # a layer inside scan, vmap or remat leaks its tracers; whatever it is, the plain way still works
    return False, False
  if not count_uses:
    return sound, sound and outer
  uses = {n: times_read(traced, v) for n, v in zip(names, traced.invars, strict=False)}
  sound = sound and uses == own_uses
  return sound, sound and outer


@functools.lru_cache(maxsize=64)
def _sound(model: Model, treedef, leaves) -> tuple[bool, bool]:
  params, model_state, x = jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(s, d) for s, d in leaves])
  sized = lambda n: jax.tree.map(lambda a: jax.ShapeDtypeStruct((n, *a.shape[1:]), a.dtype), x)
  # two sizes: an axis that only happens to be as long as the batch is found out
  first = _sound_at(model, params, model_state, sized(3), count_uses=True)
  second = _sound_at(model, params, model_state, sized(5), count_uses=False) if first[0] else first
  return first[0] and second[0], first[1] and second[1]


def _judged(model: Model, params, model_state, x) -> tuple[bool, bool]:
  if model.capture is None or model.by_task:  # what a row's task chooses is no layer's own
    return False, False
  leaves, treedef = jax.tree.flatten((params, model_state, x))
  return _sound(model, treedef, tuple((jnp.shape(v), jnp.result_type(v)) for v in leaves))


def splits(model: Model, params, model_state, x) -> bool:
  """Whether per-sample gradients may be read off the model's captured layers.

  False without ``capture``, or where a layer is called twice, its input or output is not one array with a leading batch
  axis, a parameter is read outside its layer (tied weights), or a layer sits inside ``scan``, ``vmap`` or ``remat``.
  Decided on shapes alone, at trace time. Assumes, as all per-sample gradients do, that rows do not mix in eval mode.
  """
  return _judged(model, params, model_state, x)[0]


def rows_at_once(model: Model, params, model_state, rows: Rows, batch_size: int, many: bool = False) -> int:
  """Of how many rows the sums are made at once: speed and memory only.

  Up to 256 where no row's gradient is made and there are not ``many`` cotangents a row: larger products, and fewer
  passes over the sums, which are as large as the parameters: 1.4 times as fast as batches of 64 on a 784-256-256-10
  network. At most 16 on CPU where layers have positions: a few rows' patches and outputs stay in cache, 1.5 times as
  fast as 64 on a small convolutional network and a small ViT (8 and 32 are nearly as good).
  """
  x = jax.eval_shape(lambda: rows.batch(0, 1).x)
  sound, outer = _judged(model, params, model_state, x)
  if sound and not outer and jax.default_backend() == "cpu":
    calls = jax.eval_shape(lambda x: _capture(model, params, model_state, x, None)[1], x)
    return min(16, batch_size) if any(c.output.ndim > 2 for c in calls.values()) else batch_size
  return batch_size * max(1, min(256, rows.capacity) // batch_size) if outer and not many else batch_size


def _layer_sums(call, d, weight, phi) -> dict[str, Any]:
  """``sum_b weight_b phi(g_b)`` for the parameters of one layer, by name."""
  batch = d.shape[0]
  if call.spec.unfold is None or not set(call.spec.leaves) <= {"kernel", "bias"}:

    def one(x, d):
      out, pull = jax.vjp(lambda p: call.spec.local(p, x[None]), call.params)
      return pull(d[None].astype(out.dtype))[0]

    grads = jax.vmap(one)(call.input, d)
  else:
    d = d.reshape(batch, -1, d.shape[-1])
    grads = {"kernel": jnp.einsum("bpi,bpo->bio", call.spec.unfold(call.input).astype(d.dtype), d)}
    if "bias" in call.params:
      grads["bias"] = d.sum(1)
  each = {n: phi(g.astype(wide(g.dtype))) for n, g in grads.items()}
  return {n: jnp.tensordot(weight.astype(g.dtype), g, 1).reshape(call.params[n].shape) for n, g in each.items()}


def _widened(predictions):
  """In at least float32; of a model that gives several arrays, each."""
  return jax.tree.map(lambda v: v.astype(wide(v.dtype)), predictions)


def _as(cotangent, predictions):
  return jax.tree.map(lambda c, v: c.astype(v.dtype), cotangent, predictions)


def _captured(model: Model, params, model_state, batch: Batch, cotangents, phi):
  abstract = jax.eval_shape(lambda: _capture(model, params, model_state, batch.x, None)[1])
  probe = {n: jnp.zeros(c.output.shape, c.output.dtype) for n, c in abstract.items()}
  logits, vjp, calls = jax.vjp(lambda q: _capture(model, params, model_state, batch.x, q), probe, has_aux=True)

  def one(weight_and_cotangent):
    weight, cotangent = weight_and_cotangent
    d = {n: v.astype(wide(v.dtype)) for n, v in vjp(_as(cotangent, logits))[0].items()}
    outer = {n: weight.astype(d[n].dtype)[:, None] * phi(d[n]) for n, c in calls.items() if _outer(c)}
    other = {n: _layer_sums(c, d[n], weight, phi) for n, c in calls.items() if not _outer(c)}
    return outer, other

  many = cotangents(_widened(logits), batch)
  if many[0].shape[0] == 1:
    outer, other = one(jax.tree.map(lambda v: v[0], many))
  elif not all(_outer(c) for c in calls.values()) or many[0].shape[0] > 128:
    zero = tree.zeros_like(jax.eval_shape(one, jax.tree.map(lambda v: v[0], many)))
    outer, other = jax.lax.scan(lambda sums, v: (tree.add(sums, one(v)), None), zero, many)[0]
  else:
    outer, other = jax.tree.map(lambda v: v.sum(0), jax.vmap(one)(many))
  sums: dict[str, Any] = {}
  for n, c in calls.items():
    if n in outer:
      x = phi(c.input.reshape(c.input.shape[0], -1).astype(outer[n].dtype))
      found = {"kernel": (x.T @ outer[n]).reshape(c.params["kernel"].shape), "bias": outer[n].sum(0)}
    else:
      found = other[n]
    sums |= {path: found[k] for k, path in c.spec.leaves.items()}
  return jax.tree.unflatten(jax.tree.structure(params), [sums[p] for p in tree.paths(params)])


def _one_by_one(model: Model, params, model_state, batch: Batch, cotangents, phi):
  """The same sums by a gradient per row, in turn: on CPU, ``vmap`` of the gradient is some 20 times slower."""

  def one(sums, row):
    row = jax.tree.map(lambda v: v[None], row)

    task = row.task if model.by_task else row.task[0]

    def logits(p):
      return model.apply(p, model_state, row.x, train=False, key=None, task=task)[0].logits

    out, vjp = jax.vjp(logits, params)

    def add(sums, weight_and_cotangent):
      weight, cotangent = weight_and_cotangent
      more = lambda s, g: s + weight[0].astype(s.dtype) * phi(g.astype(s.dtype))
      return jax.tree.map(more, sums, vjp(_as(cotangent, out))[0]), None

    return jax.lax.scan(add, sums, cotangents(_widened(out), row))[0], None

  return jax.lax.scan(one, wide_zeros(params), batch)[0]


def per_sample_sums(model: Model, params, model_state, batch: Batch, cotangents, phi):
  """``sum_k sum_b w_kb phi(g_kb)`` like ``params`` in at least float32, ``g_kb`` being row ``b``'s gradient of
  ``cotangent_kb . logits_b``.

  ``cotangents(logits [B, C], batch) -> (w [K, B], cotangent [K, B, C])``; ``phi`` is ``square`` or ``abs``
  (elementwise, and multiplicative). The model runs in eval mode. Models whose layers cannot be captured are served row
  by row.
  """
  if splits(model, params, model_state, batch.x):
    return _captured(model, params, model_state, batch, cotangents, phi)
  return _one_by_one(model, params, model_state, batch, cotangents, phi)


def wide_zeros(like):
  """Zeros in the shapes of ``like`` and at least float32, to sum in."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, wide(x.dtype)), like)


def sum_over_batches(rows: Rows, batch_size: int, like, fn):
  """``sum fn(batch, start)`` over batches of ``batch_size`` rows up to the (traced) count; ``like`` has its shapes.

  The sum is made in the dtypes of ``like``, at least float32, whatever those of ``fn``.
  """
  zero = wide_zeros(like)
  batches = (jnp.asarray(rows.count, jnp.int32) + batch_size - 1) // batch_size

  def body(i, sums):
    batch = rows.batch(i * batch_size, batch_size)
    there = lambda v: jnp.where((batch.weight > 0).reshape(-1, *(1,) * (v.ndim - 1)), v, jnp.zeros((), v.dtype))
    # a weight of 0 does not silence an infinity in a row that is not there
    part = fn(batch._replace(x=jax.tree.map(there, batch.x)), i)
    return jax.tree.map(lambda s, v: s + v.astype(s.dtype), sums, part)

  return jax.lax.fori_loop(0, batches, body, zero)


def thinned(rows: Rows, samples: int | None, key) -> Rows:
  """At most ``samples`` rows, drawn without replacement; all of them where ``samples`` is None.

  ``key`` None stands for ``jax.random.key(0)``. No stride over the rows: ordered data has periods of its own.
  """
  if samples is None or samples >= rows.capacity:
    return rows
  if samples < 1:
    raise UsageError(f"samples: got {samples}; must be at least 1")
  return picking.subset(tree.fold(jax.random.key(0) if key is None else key, "samples"), rows, samples)


def check_batch_size(batch_size) -> None:
  if not isinstance(batch_size, int) or batch_size < 1:
    raise UsageError(f"batch_size: got {batch_size!r}; must be an integer of at least 1")
