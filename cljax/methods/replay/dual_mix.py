"""DualMix: mixtures of views of new and stored rows, whose labels lean to the class that has fewer rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec, UsageError
from cljax.methods import views as second
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  append,
  drawn,
  example_row,
  insert_pending,
  make_memory,
  offered,
  rows_of,
  scrub_memory,
  start,
)
from cljax.methods.replay.er_ace import labels_of
from cljax.methods.replay.pcr import counts

LABELS = ("adaptive", "plain")


def partners(key, there):
  """``[B]`` int32: another row for each that is ``there [B]`` bool, each once, by a circle of all of them in a random
  order; a row that is alone, or is not there, has itself."""
  places = jnp.arange(there.shape[0], dtype=jnp.int32)
  order = jnp.lexsort((jax.random.bits(key, there.shape, jnp.uint32), ~there)).astype(jnp.int32)
  count = there.sum(dtype=jnp.int32)
  next_ = order[jnp.where(places + 1 < count, places + 1, 0)]
  return places.at[order].set(jnp.where(places < count, next_, order))


def label_share(lam, count, other_count, new, other_new, ratio, shift):
  """``[B]``: the weight of the first label in a mixture that has ``lam`` of the first input.

  ``max(0, lam - shift (1 - 1 / r))`` where the first class is new, the other old, and ``r = count / other_count`` is
  at least ``ratio`` (and 1); the mirror of it where the other is the new one; else lam.
  """

  def leaned(weight, many, few, meant):
    r = many / jnp.maximum(few, 1.0)
    return jnp.where(meant & (r >= jnp.maximum(ratio, 1.0)), jnp.maximum(weight - shift * (1 - 1 / r), 0.0), weight)

  first = leaned(lam, count, other_count, new & ~other_new)
  return 1.0 - leaned(1.0 - first, other_count, count, other_new & ~new)


def dual_mix(
  model, spec: Spec, *, beta, concentration, ratio, shift, least_area, jitter, grey, capacity: int,
  policy: str = "reservoir", replay_batch: int = 0, insert: str = "once", labels: str = "adaptive", views: bool = True,
  flip: bool = True,
) -> Method:  # fmt: skip
  """DualMix: ``mean CE(rows) + beta mean (l CE(f(x), y_i) + (1 - l) CE(f(x), y_j))``, x a mixture of rows i and j.

  ``x = lam a(x_i) + (1 - lam) a(x_j)``. Rows are the current ones and as many from memory, as for
  :func:`cljax.methods.replay.er`; j is another of them, each once, ``lam ~ Beta(concentration, concentration)`` for
  each pair, a(x) views, one of a row where it is i and another where it is j (EnMix). ``labels`` 'adaptive' (AdpMix): l
  is :func:`label_share` of lam where one class is of a current row and the other is not, by how many rows of the step
  each has: mixtures teach more of the class that has fewer. 'plain': l is lam. ``views`` False mixes rows as they are,
  of any form but tokens. ``beta=0`` is experience replay.

  Mixtures go through the network in a pass of their own, of which BatchNorm's running statistics count nothing.
  Deviations: written from the abstract; the form of l, that mixtures come beside the rows and the numbers (``beta``,
  ``concentration``, ``ratio``, ``shift``) are readings (UNVERIFIED); views as for :func:`cljax.methods.replay.pcr.pcr`.
  Raises UsageError for inputs that are no pictures ``[H, W, C]`` where there are views, and for tokens. Spec A14;
  arXiv 2303.07864.
  """
  if views:
    second.refuse_other_inputs(spec, "dual_mix", ", or method.views=False")
  elif not hasattr(spec.shown, "shape") or (spec.scale is None and jnp.issubdtype(spec.shown.dtype, jnp.integer)):
    raise UsageError("method.name: 'dual_mix' mixes inputs; expected one array of numbers, not tokens or several")
  memory, classes = make_memory(spec, capacity, policy), spec.num_classes
  size = min(replay_batch or spec.batch_size, capacity)
  how = {"least_area": least_area, "jitter": jitter, "grey": grey, "flip": flip}

  def prepare(key, learner, batch):
    state = insert_pending(key, memory, learner.method_state)
    rows, weight = memory.sample(fold(key, "sample"), state.memory, size)
    return learner._replace(method_state=state), append(batch, drawn(spec, rows, weight, batch.visit))

  def term(key, params, learner, batch, outputs):
    del outputs
    total = batch.weight.shape[0]
    there = batch.weight > 0
    other = partners(fold(key, "other"), there)
    lam = jax.random.beta(fold(key, "lam"), concentration, concentration, (total,))
    shown = (lambda name, x: second.shown_again(fold(key, name), spec, x, **how)) if views else (lambda name, x: x)
    part = lam.reshape(-1, *(1,) * (batch.x.ndim - 1))
    x = part * shown("one", batch.x) + (1 - part) * shown("two", batch.x)[other]
    logits = second.outputs_again(key, model, params, learner.model_state, batch, x).logits
    share = lam
    if labels == "adaptive":
      count, own = counts(batch.y, batch.weight, classes), slice(0, spec.batch_size)
      new = labels_of(batch.y[own], batch.weight[own], classes)[batch.y]
      of = count[batch.y]
      share = label_share(lam, of, of[other], new, new[other], ratio, shift)
    mask = None if batch.class_mask is None else batch.class_mask | batch.class_mask[other]
    each = share * losses.cross_entropy(logits, batch.y, mask)
    each += (1 - share) * losses.cross_entropy(logits, batch.y[other], mask)
    return beta * losses.reduce(each, batch.weight)

  def after_step(key, learner, info):
    del key
    state = learner.method_state._replace(pending=rows_of(spec, info.batch), weight=offered(spec, info.batch, insert))
    return learner._replace(method_state=state)

  return Method(
    init=lambda key, learner: start(memory, spec, example_row(spec)),
    prepare=prepare,
    terms={"mixtures": term},
    after_step=after_step,
    scrub=scrub_memory(memory),
  )


register(
  "dual_mix",
  Entry(
    dual_mix,
    {
      "beta": Option(1.0, 0),
      "concentration": Option(1.0, 0, above=True),
      "labels": Option(LABELS[0], choices=LABELS),
      "ratio": Option(1.0, 1, needs={"labels": ("adaptive",)}),
      "shift": Option(0.5, 0, 1, needs={"labels": ("adaptive",)}),
      **second.VIEWS,
      **BUFFER,
    },
    ACCESS._replace(needs=("classes", "plain_inputs")),
    "DualMix, arXiv 2303.07864",
  ),
)
