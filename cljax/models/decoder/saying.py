"""What a model of tokens goes on to say, greedily or by draws."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.checks import check_count, check_look_up, check_scalar
from cljax.core.types import Array, Model, Outputs, Params, UsageError


def chosen(key: Array, logits: Array, temperature, top_k: int, top_p) -> Array:
  """A token ``[B]`` of each row's ``logits [B, V]``, drawn from those that ``top_k`` and ``top_p`` leave."""
  z = logits.astype(jnp.float32) / temperature
  order = jnp.argsort(-z, axis=-1, stable=True)
  best = jnp.take_along_axis(z, order, -1)
  before = jnp.cumsum(jax.nn.softmax(best, -1), -1) - jax.nn.softmax(best, -1)
  open_ = (before < top_p) & (jnp.arange(z.shape[-1]) < (top_k or z.shape[-1]))
  open_ = open_.at[:, 0].set(True)
  own = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(z.shape[0], dtype=jnp.uint32))
  place = jax.vmap(jax.random.categorical)(own, jnp.where(open_, best, -jnp.inf))
  return jnp.take_along_axis(order, place[:, None], -1)[:, 0].astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("apply", "new", "greedy", "top_k", "stop", "pad", "cached"))
def _said(params, state, token, mask, key, temperature, top_p, *, apply, new, greedy, top_k, stop, pad, cached):
  rows, given = token.shape
  call = functools.partial(apply, train=False, key=None)

  def pick(logits, step):
    if greedy:
      return jnp.argmax(logits, -1).astype(jnp.int32)
    return chosen(jax.random.fold_in(key, step), logits, temperature, top_k, top_p)

  last = given - 1 - jnp.argmax(mask[:, ::-1], 1)  # of each row, its last token
  at_last = lambda logits: jnp.take_along_axis(logits, last[:, None, None], 1)[:, 0]
  whole = jnp.concatenate([token, jnp.zeros((rows, new), jnp.int32)], 1)
  there = jnp.concatenate([mask, jnp.zeros((rows, new), bool)], 1)
  said, over = jnp.full((rows, new), pad, jnp.int32), jnp.zeros(rows, bool)

  def written(step, said, over, best):
    said = said.at[:, step].set(jnp.where(over, pad, best))
    return said, over | (best == stop) if stop is not None else over

  if cached:
    first = call(params, state, {"token": token, "mask": mask, "cache": {"there": jnp.zeros_like(there)}})[0]
    best = pick(at_last(first.logits), 0)

    def step(carry):
      i, best, cache, said, over = carry
      out = call(params, state, {"token": best[:, None], "mask": jnp.ones((rows, 1), bool), "cache": cache})[0]
      new_best = pick(out.logits[:, 0], i)
      return i + 1, new_best, out.cache, *written(i, said, over, new_best)

    go = lambda carry: (carry[0] < new) & ~carry[-1].all()
    start = (jnp.int32(1), best, first.cache, *written(0, said, over, best))
    return jax.lax.while_loop(go, step, start)[-2]

  def again(carry):
    i, whole, there, said, over = carry
    logits = call(params, state, {"token": whole, "mask": there})[0].logits
    place = jnp.where(i == 0, last, given + i - 1)
    best = pick(jnp.take_along_axis(logits, place[:, None, None], 1)[:, 0], i)
    whole = jax.lax.dynamic_update_slice(whole, best[:, None], (0, given + i))
    there = jax.lax.dynamic_update_slice(there, jnp.ones((rows, 1), bool), (0, given + i))
    return i + 1, whole, there, *written(i, said, over, best)

  go = lambda carry: (carry[0] < new) & ~carry[-1].all()
  return jax.lax.while_loop(go, again, (jnp.int32(0), whole, there, said, over))[-2]


def generate(
  model: Model,
  params: Params,
  prompt: Any,
  new: int = 32,
  *,
  mask: Any = None,
  model_state: Any = None,
  temperature: float = 0.0,
  top_k: int = 0,
  top_p: float = 1.0,
  key: Array | None = None,
  stop: int | None = None,
  pad: int | None = None,
  cached: bool = True,
) -> Array:
  """The next ``new`` tokens ``[B, new]`` int32 behind each row of ``prompt [B, L]``, one compiled program a shape.

  ``temperature`` 0: the argmax of the logits. Above 0 draws from ``softmax(logits / temperature)`` of the ``top_k``
  likeliest (0: all) and of the fewest that together have ``top_p``, by ``key``; a row's draws are its own. ``mask [B,
  L]``: 0 where the prompt is padded, on either side. ``stop``: the token behind which a row says ``pad`` (default: the
  stop token again); all rows over, it ends. ``cached``: keys and values of earlier tokens are kept
  (:func:`cljax.models.decoder`); else, and with a model that keeps none, all is computed again for each token. Raises
  UsageError for numbers outside their range, tokens that the model does not have, rows without a token, more tokens
  than positions, and draws without a key.
  """
  check_count("new", new)
  check_scalar("generate", "temperature", temperature)
  check_scalar("generate", "top_p", top_p, 0.0, 1.0, above=True)
  check_count("top_k", top_k, 0)
  prompt = np.asarray(prompt)
  if prompt.ndim != 2 or not prompt.size:
    raise UsageError(f"prompt: has shape {prompt.shape}; expected tokens [B, L], at least one a row")
  there = np.ones(prompt.shape, bool) if mask is None else np.asarray(mask) > 0
  if there.shape != prompt.shape or not there.any(1).all():
    raise UsageError(f"mask: has shape {there.shape} for a prompt {prompt.shape}; expected at least one token a row")
  if temperature and key is None:
    raise UsageError(f"key: not given; temperature {temperature:g} draws tokens")
  state = {} if model_state is None else model_state
  shaped = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  room = {"token": shaped, "mask": shaped, "cache": {"there": jax.ShapeDtypeStruct((1, 1), bool)}}
  try:
    seen = jax.eval_shape(lambda p, s, x: model.apply(p, s, x, train=False, key=None)[0], params, state, room)
  except (TypeError, AttributeError, KeyError):  # a model of other inputs
    seen = Outputs(None)
  if getattr(seen.logits, "ndim", 0) != 3:
    raise UsageError("model: generate needs one that gives logits [B, L, V] for {'token': [B, L], 'mask': [B, L]}")
  check_look_up("prompt", prompt, seen.logits.shape[-1], "tokens")
  return _said(
    params, state, jnp.asarray(prompt, jnp.int32), jnp.asarray(there), jax.random.key(0) if key is None else key,
    jnp.float32(temperature or 1.0), jnp.float32(top_p), apply=model.apply, new=new, greedy=not temperature,
    top_k=top_k, stop=stop, pad=(stop or 0) if pad is None else pad, cached=cached and seen.cache is not None,
  )  # fmt: skip
