"""GDumb: a greedy class-balanced memory, and a network that is trained anew on it alone when a task ends."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import memory as memories
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Batch, Spec, UsageError
from cljax.memory import slots
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import drawn, example_row, offered, rows_of
from cljax.objectives.objective import reduced

MOMENTUM, DECAY, CLIP, LEAST = 0.9, 1e-6, 10.0, 0.01  # of the released code; LEAST: the last rate over the first


class _Fit(NamedTuple):
  params: Any
  model_state: Any
  velocity: Any


def restart_rate(learning_rate, at):
  """SGDR of pass ``at``, cycles of T = 1, 2, 4, ... passes: ``low + (high - low) (1 + cos(pi t / T)) / 2``; low =
  high / 100."""
  cycle = jnp.floor(jnp.log2(at + 1.0) + 1e-6)
  length = 2.0**cycle
  inside = (at + 1.0 - length) / length
  return learning_rate * (LEAST + (1 - LEAST) * (1 + jnp.cos(jnp.pi * inside)) / 2)


def mix_boxes(key, x, other, share: float = 0.5):
  """``(x [B, H, W, C], kept)``: with probability ``share``, for the whole batch, a box of each picture is that of
  ``other``; its area is ``1 - lam``, lam ~ U(0, 1), before it is cut at the border. ``kept``: the part that stayed."""
  height, width = x.shape[1:3]
  lam, row, column, coin = jax.random.uniform(key, (4,))
  half = jnp.sqrt(1.0 - lam) / 2
  span = lambda at, n: (jnp.clip(jnp.floor(n * (at - half)), 0, n), jnp.clip(jnp.floor(n * (at + half)), 0, n))
  (top, bottom), (left, right) = span(row, height), span(column, width)
  i, j = jnp.arange(height, dtype=jnp.float32)[:, None], jnp.arange(width, dtype=jnp.float32)[None]
  box = (i >= top) & (i < bottom) & (j >= left) & (j < right) & (coin < share)
  mixed = jnp.where(box[None, :, :, None], other, x)
  return mixed, 1.0 - jnp.sum(box, dtype=jnp.float32) / (height * width)


def gdumb(
  model, spec: Spec, *, learning_rate, capacity: int, passes: int = 256, batch_size: int = 16, cut_mix: bool = False
) -> Method:
  """GDumb: the stream's steps train nothing; when a task ends, a fresh network is trained on the memory alone.

  The memory is :func:`cljax.memory.first_come_balanced`, offered each row once. The network begins at the same
  parameters of this seed each time; ``passes`` of SGD (momentum 0.9, weight decay 1e-6, gradients clipped to norm 10)
  in batches of ``batch_size``, each pass shuffled, rates by SGDR from ``learning_rate`` to a hundredth with cycles of
  1, 2, 4, ... passes. Rows are taken in the order of their ids: the result is one of the stored set and the seed, not
  of the order of the stream. ``cut_mix``: half of the batches are mixed (alpha 1), as the paper has it for pictures
  ``[H, W, C]``.

  The run's optimizer, its augmentation and its epochs have no part; its steps cost what they do elsewhere, for their
  loss is told. Deviations: trained when a task ends, not when a prediction is asked (the same where evaluation is at
  the ends); the warm-up pass of the released code is left out. A request's rows leave the memory at once, and the
  network with the next training. Its accuracies do not speak of forgetting. Raises UsageError for ``cut_mix`` without
  pictures. Spec A3; Prabhu et al., 2020.
  """
  if cut_mix and len(spec.shown.shape if hasattr(spec.shown, "shape") else ()) != 3:
    raise UsageError("method.cut_mix: got True, which mixes pictures; expected inputs [H, W, C], or False")
  memory, learned = memories.first_come_balanced(capacity, spec.num_classes), spec.objective
  size = min(batch_size, capacity)

  def gradient(key, loss_fn, learner):
    del key
    loss, (outputs, _) = loss_fn(learner.params)
    return (loss, (outputs, learner.model_state)), jax.tree.map(jnp.zeros_like, learner.params)

  def after_step(key, learner, info):
    weight = offered(spec, info.batch, "once")
    return learner._replace(method_state=memory.add(key, learner.method_state, rows_of(spec, info.batch), weight))

  def mixed(key, x, y, weight):
    """Inputs, labels of the other picture, and the part of the own one; an absent row has itself for another."""
    other = jax.random.permutation(fold(key, "other"), x.shape[0])
    other = jnp.where((weight > 0) & (weight[other] > 0), other, jnp.arange(x.shape[0]))
    x, kept = mix_boxes(fold(key, "box"), x, x[other])
    return x, y[other], kept

  def loss_of(key, params, model_state, batch: Batch):
    x = spec.view(batch.x, batch.task)
    x, other, kept = mixed(key, x, batch.y, batch.weight) if cut_mix else (x, batch.y, 1.0)

    def apply(key, params, batch):
      told = {"task": model.task_for(batch.task), "mask": batch.weight}
      return model.apply(params, model_state, batch.x, train=True, key=fold(key, "model"), **told)

    each, inside, outputs, moved = learned.loss(key, apply, params, batch._replace(x=x))
    loss = reduced(each, inside, batch)
    if cut_mix:
      each, inside = learned.each(outputs.logits, batch._replace(x=x, y=other))
      loss = kept * loss + (1 - kept) * reduced(each, inside, batch)
    return loss, moved

  def fit(key, stored, visit, fresh):
    """``passes`` over the stored rows from the fresh parameters."""
    rows, weight = memory.contents(stored)
    by_id = jnp.lexsort((rows["id"], weight == 0))
    steps = (stored.count + size - 1) // size

    def one_pass(p, fitted):
      pass_key = jax.random.fold_in(fold(key, "pass"), p)
      bits = jax.random.bits(fold(pass_key, "order"), (capacity,), jnp.uint32)
      order = by_id[jnp.lexsort((bits, jnp.arange(capacity) >= stored.count))]
      rate = restart_rate(learning_rate, p.astype(jnp.float32))

      def step(i, fitted: _Fit):
        at = i * size + jnp.arange(size)
        inside = at < stored.count
        at = jnp.where(inside, order[jnp.minimum(at, capacity - 1)], capacity)
        batch = drawn(spec, slots.read(rows, at), inside.astype(jnp.float32), visit)
        loss = lambda params: loss_of(jax.random.fold_in(pass_key, i), params, fitted.model_state, batch)
        grads, model_state = jax.grad(loss, has_aux=True)(fitted.params)
        cut = jnp.minimum(1.0, CLIP / jnp.maximum(optax.global_norm(grads), 1e-12))
        move = lambda v, g, w: MOMENTUM * v + cut * g + DECAY * w
        velocity = jax.tree.map(move, fitted.velocity, grads, fitted.params)
        params = jax.tree.map(lambda w, v: (w - rate * v).astype(w.dtype), fitted.params, velocity)
        return _Fit(params, model_state, velocity)

      return jax.lax.fori_loop(0, steps, step, fitted)

    return jax.lax.fori_loop(0, passes, one_pass, fresh)

  def end_task(key, learner, task):
    del key  # of the step: the result is one of the stored rows and the seed
    own = fold(learner.key, "gdumb")
    params, model_state = model.init(fold(own, "init"))
    fresh = _Fit(params, model_state, jax.tree.map(jnp.zeros_like, params))
    fitted = fit(own, learner.method_state, task.visit, fresh)
    return learner._replace(params=fitted.params, model_state=fitted.model_state)

  def scrub(learner, request):
    kept = memory.remove(learner.method_state, lambda rows: request.names(rows["id"], rows["task"]))
    return learner._replace(method_state=kept)

  return Method(
    init=lambda key, learner: memory.init(example_row(spec)),
    gradient=gradient,
    finalize=optax.set_to_zero(),  # of the optimizer's weight decay and momentum too
    after_step=after_step,
    end_task=end_task,
    scrub=scrub,
  )


register(
  "gdumb",
  Entry(
    gdumb,
    {
      "capacity": Option(200, 1),
      "learning_rate": Option(0.05, 0),
      "passes": Option(256, 1),
      "batch_size": Option(16, 1),
      "cut_mix": Option(False),
    },
    Access(stores_data=True, task_boundaries=True, needs=("classes", "each")),
    "Prabhu et al. 2020",
  ),
)
