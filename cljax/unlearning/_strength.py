"""How far an edit goes: until the rows to forget are known no better than by who never saw them.

Of a row whose class goes whole that is chance, ``1 / K``. Of a row whose class stays nothing in the request tells it:
as a stated amount an ascent stops at ``3 / 4``, between certainty and where it would turn wrong, and a search at KEPT
of what the model gives the rows that it keeps, which it saw. Where there are no classes a loss has no chance and no
certainty to be measured by: an ascent stops where a row is ``3 / 4`` as likely as before the edit, losses being
negative log-likelihoods; there is no search. Of a row that was certain the two are the same.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.estimators.per_sample import sum_over_batches

KEPT = 0.9


def goes_whole(y, classes):
  """``[B]`` bool: the class of a row is one of ``classes [K]`` bool."""
  return jnp.asarray(classes)[y]


def row_bound(loss_fn, before, batch, classes, bound):
  """``[B]``: ``bound ln K`` for rows whose class goes whole, ``bound ln 4/3`` for the others; where there are none
  (``classes [0]``) ``bound ln 4/3`` above a row's loss under the parameters ``before``."""
  bound = jnp.asarray(bound, jnp.float32)
  if not len(classes):
    return jax.lax.stop_gradient(loss_fn(before, batch)).astype(jnp.float32) + bound * jnp.log(4.0 / 3.0)
  return bound * jnp.where(goes_whole(batch.y, classes), jnp.log(float(len(classes))), jnp.log(4.0 / 3.0))


def bounded(loss_fn, before, classes, bound):
  """``loss_fn`` with each row's loss cut off at :func:`row_bound`: beyond it a row has no gradient. Without ``classes``
  it is as it was."""
  if classes is None:
    return loss_fn

  def cut(params, batch):
    each = loss_fn(params, batch)
    return jnp.minimum(each, row_bound(loss_fn, before, batch, classes, bound).astype(each.dtype))

  return cut


def known(loss_fn, params, rows, batch: int = 64):
  """The mean ``exp(-loss)`` over rows: the probability that a label has, where the loss is cross-entropy."""

  def part(some, start):
    del start
    given = jnp.exp(-loss_fn(params, some).astype(jnp.float32))
    return jnp.stack([jnp.sum(jnp.where(some.weight > 0, some.weight * given, 0.0)), some.weight.sum()])

  total, count = sum_over_batches(rows, batch, jnp.zeros(2, jnp.float32), part)
  return total / jnp.where(count > 0, count, 1.0)


def share_whole(rows, classes, batch: int = 64):
  """The share of the rows whose class goes whole."""

  def part(some, start):
    del start
    mine = jnp.where(goes_whole(some.y, classes), some.weight, 0.0)
    return jnp.stack([mine.sum(), some.weight.sum()])

  mine, count = sum_over_batches(rows, batch, jnp.zeros(2, jnp.float32), part)
  return mine / jnp.where(count > 0, count, 1.0)


def level(loss_fn, params, forget, retain, classes, batch: int = 64):
  """What the rows to forget may still be :func:`known` by: ``s / K + (1 - s) KEPT known(retain)``, s the share of rows
  whose class goes whole."""
  share = share_whole(forget, classes, batch)
  return share / len(classes) + (1 - share) * KEPT * known(loss_fn, params, retain, batch)


def least(forgotten, start, search: int):
  """``(strength, found)``: ``start`` is doubled until ``forgotten(strength)`` holds, then the last interval is halved,
  ``search`` tries in all; the least strength at which it held, or the largest that was tried."""
  start = jnp.asarray(start)

  def body(i, carry):
    del i
    now, low, high, found = carry
    gone = forgotten(now)
    low, high, found = jnp.where(gone, low, now), jnp.where(gone, now, high), found | gone
    return jnp.where(found, (low + high) / 2, 2 * now), low, high, found

  zero = jnp.zeros_like(start)
  _, low, high, found = jax.lax.fori_loop(0, search, body, (start, zero, zero, jnp.asarray(False)))
  return jnp.where(found, high, low), found


def searched(edit, loss_fn, params, start, *, forget, retain, classes, search: int, batch: int = 64):
  """``edit(strength)`` at the :func:`least` strength that brings the rows to forget to their :func:`level`; at
  ``start`` without a search or without ``classes``."""
  if not search or classes is None:
    return edit(start)
  goal = level(loss_fn, params, forget, retain, classes, batch)
  return edit(least(lambda s: known(loss_fn, edit(s), forget, batch) <= goal, start, search)[0])
