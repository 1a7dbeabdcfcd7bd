"""What the pure calls share: descent on an objective, and the mean loss of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from cljax import losses
from cljax.core import rows as picking
from cljax.core.dtypes import lenient, wide
from cljax.core.rows import among_the_others as among_the_others
from cljax.core.tree import fold
from cljax.core.types import Outputs
from cljax.objectives.objective import of_rows, row_loss


def key_of(key, name: str):
  """The caller's key (0 where there is none), folded with the method's name."""
  return fold(jax.random.key(0) if key is None else key, name)


def outputs_of(apply_fn, params, batch) -> Outputs:
  """What ``apply_fn(params, batch)`` gives, logits or :class:`Outputs`, as Outputs."""
  out = apply_fn(params, batch)
  return out if isinstance(out, Outputs) else Outputs(out)


def mean_loss(loss_fn, params, batch):
  """``sum_b weight_b loss_fn(params, batch)_b / sum_b weight_b``, and 0 where all weights are 0."""
  return losses.reduce(loss_fn(params, batch), batch.weight)


def cross_entropy(apply_fn, learned=None):
  """``loss_fn(params, batch) -> [B]``: the cross-entropy of what ``apply_fn`` gives, or the loss of the objective
  ``learned``."""
  if learned is not None:
    return row_loss(learned, lambda params, batch: outputs_of(apply_fn, params, batch))
  return lambda params, batch: losses.cross_entropy(
    outputs_of(apply_fn, params, batch).logits, batch.y, batch.class_mask
  )


def divergence(apply_fn, params, teacher_params, batch, temperature=1.0, learned=None):
  """``T^2 KL_T(teacher || model)`` per row of the batch, ``[B]``, or the mean ``divergence`` of a row's parts under the
  objective ``learned``."""
  own, teacher = (outputs_of(apply_fn, p, batch).logits for p in (params, teacher_params))
  if learned is not None:
    return of_rows(learned.divergence(own, teacher, batch, temperature), learned.each(own, batch)[1])
  return losses.kl_divergence(own, teacher, temperature, batch.class_mask)


def share_of(forget, retain, fraction=1.0):
  """The share of the forget rows in ``forget`` together with ``fraction`` of ``retain``."""
  f, r = (jnp.asarray(rows.count).astype(jnp.float32) for rows in (forget, retain))
  return f / jnp.maximum(f + fraction * r, 1.0)


def drawn(key, size: int, **sets):
  """A random batch of ``size`` rows of each set, in the order given; each has noise of its own."""
  return tuple(picking.random(fold(key, name), rows, size) for name, rows in sets.items())


def descent(key, objective, optimizer):
  """``(init, body)`` of optimizer steps on ``objective(key, params, step) -> scalar``; the carry is (params, state)."""
  optimizer = lenient(optimizer)

  def body(i, carry):
    params, state = carry
    value, grads = jax.value_and_grad(lambda p: objective(jax.random.fold_in(key, i), p, i))(params)
    updates, state = optimizer.update(grads, state, params, value=value)
    return optax.apply_updates(params, updates), state

  return lambda params: (params, optimizer.init(params)), body


def moved2(params, before):
  """``|params - before|^2``, in at least float32."""
  gap = lambda p, q: p.astype(wide(p.dtype)) - q.astype(wide(q.dtype))
  return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(jax.tree.map(gap, params, before)))


def if_asked(forget, after, params):
  """``after``, or ``params`` to the bit where there is no row to forget."""
  return jax.tree.map(lambda a, p: jnp.where(forget.count > 0, a, p), after, params)


def minimize(key, objective, params, *, steps, optimizer, forget=None):
  """``steps`` optimizer steps on ``objective(key, params, step) -> scalar`` from ``params``; returns parameters.

  ``optimizer`` is any optax transformation, started afresh; 0 steps give ``params`` to the bit, and so does ``forget``,
  where it is given, without a row.
  """
  init, body = descent(key, objective, optimizer)
  after = jax.lax.fori_loop(0, steps, body, init(params))[0]
  return after if forget is None else if_asked(forget, after, params)
