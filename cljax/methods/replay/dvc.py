"""DVC: two views of a row are to say the same and all rows many things; replay of rows whose gradients grow most."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec, UsageError
from cljax.methods import views as second
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import stored
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
from cljax.models import heads
from cljax.models.generating import perceptron
from cljax.objectives.rows import of_terms_alone

RETRIEVALS = ("interference", "uniform")
UNITS = 128  # of the hidden layer that reads two views


def probabilities(logits, class_mask=None):
  """``[B, C]``: the softmax over the classes of the mask, 0 at others, in float32."""
  p = jnp.exp(losses.masked_log_softmax(logits.astype(jnp.float32), class_mask))
  return p if class_mask is None else jnp.where(class_mask, p, 0.0)


def gradient_size(logits, features, y, class_mask=None):
  """``|p - 1_y|_1 |f|_1`` of each row, ``[B]``: the sum of the absolute values of the gradient of its cross-entropy in
  the weights of the layer that makes the logits ``[B, C]`` of the features ``[B, D]``."""
  error = probabilities(logits, class_mask) - jax.nn.one_hot(y, logits.shape[-1])
  return jnp.sum(jnp.abs(error), axis=-1) * jnp.sum(jnp.abs(heads.flat(features)), axis=-1)


def agreement(p, weight):
  """``(mean over three of sum_c m_c log m_c, mean_i mean_c (|q - p|_c + |q - p'|_c) / 2)`` of the probabilities ``p [3,
  B, C]``, p of a row's first view, p' of its second and q of both; m their means over the rows of positive weight.
  Both are 0 where there is no row."""
  weight = weight.astype(jnp.float32)
  there, total = (weight > 0)[None, :, None], jnp.sum(weight)
  p = jnp.where(there, p, 0.0)
  mean = jnp.einsum("b,vbc->vc", weight, p) / jnp.where(total > 0, total, 1.0)
  entropy = -jnp.sum(mean * jnp.log(jnp.where(mean > 0, mean, 1.0)), axis=-1)
  gap = jnp.mean(jnp.abs(p[2][None] - p[:2]), axis=(0, 2))
  return -jnp.mean(entropy), losses.reduce(gap, weight)


def dvc(
  model, spec: Spec, *, entropy, consistency, beta, virtual_rate, least_area, jitter, grey, capacity: int,
  policy: str = "reservoir", replay_batch: int = 10, candidates: int = 50, retrieval: str = "interference",
  insert: str = "once", views: bool = True, flip: bool = True,
) -> Method:  # fmt: skip
  """DVC: ``L(current) + beta L(stored)``, ``L = mean CE of both views - entropy H + consistency mean |q - p|``.

  :func:`agreement`: p are the softmaxes of the two views of a row, q that of a network of two layers on both views'
  logits, ``2 C`` to 128 to C, which is of training alone; H the mean entropy of the means of p, p' and q over the rows,
  so that the information between views is large where all classes are answered and the views agree. The first view is
  the row as the run shows it, the second one of :func:`cljax.methods.views.second_view`. What is replayed are, of
  ``candidates`` rows drawn uniformly from all stored ones, the ``replay_batch`` of the largest growth of
  :func:`gradient_size` from theta to ``theta - virtual_rate grad L(current)``, of the rows as they were read, in eval
  mode; ``retrieval`` 'uniform': drawn. ``views`` False: L is the mean CE of rows as the run shows them, retrieval
  alone. ``consistency``: the released runs have 2 for CIFAR-10, 4 for CIFAR-100.

  A step costs a gradient of the current rows and two passes over the candidates more. Written from the released code;
  the paper's own symbols are UNVERIFIED. Deviations: both losses make one step, as there, but the second view of the
  virtual step is another than the step's, and candidates are scored in eval mode; values of second views are not cut to
  [0, 1], their hue is turned in YIQ; second views go through the network in a pass of their own, of which BatchNorm's
  running statistics count nothing; logarithms have no eps. Raises UsageError for inputs that are no pictures ``[H, W,
  C]`` where there are views, a ``replay_batch`` above ``candidates``, and a model without features. Gu et al., 2022.
  """
  if views:
    second.refuse_other_inputs(spec, "dvc", ", or method.views=False")
  wanted = replay_batch or spec.batch_size
  if retrieval != "uniform" and wanted > candidates:
    of_step = "" if replay_batch else f" (train.batch_size, {spec.batch_size})"
    raise UsageError(
      f"method.replay_batch: got {replay_batch}{of_step}, above method.candidates, which is {candidates}; expected at "
      "most that"
    )
  heads.width_of(model, spec, "dvc")
  widths = (2 * spec.num_classes, UNITS, spec.num_classes)
  network = heads.beside(model, "both", lambda key: heads.dense_layers(key, widths)) if views else model
  memory, count = make_memory(spec, capacity, policy), min(candidates, capacity)
  size = min(wanted, capacity if retrieval == "uniform" else count)
  how = {"least_area": least_area, "jitter": jitter, "grey": grey, "flip": flip}

  def loss_of(key, params, learner, batch, first):
    """``(rows) -> L`` of those of the batch whose first views have the logits ``first``."""
    mask, each = batch.class_mask, losses.cross_entropy(first, batch.y, batch.class_mask)
    if not views:
      return lambda rows: losses.reduce(each, jnp.where(rows, batch.weight, 0.0))
    other = second.second_pass(key, network, spec, params, learner, batch, **how).logits
    both = perceptron(params["both"], jnp.concatenate([first, other], axis=-1).astype(jnp.float32))
    each = (each + losses.cross_entropy(other, batch.y, mask)) / 2
    p = jnp.stack([probabilities(z, mask) for z in (first, other, both)])

    def loss(rows):
      weight = jnp.where(rows, batch.weight, 0.0)
      negative, gap = agreement(p, weight)
      return losses.reduce(each, weight) + entropy * negative + consistency * gap

    return loss

  def sizes(learner, params, rows, key):
    told = {"task": model.task_for(rows.task), "mask": None}
    x = spec.view(rows.x, rows.task)
    out, _ = network.apply(params, learner.model_state, x, train=False, key=key, **told)
    return gradient_size(out.logits, out.features, rows.y, rows.class_mask)

  def growth(key, learner, own, rows):
    """``[C]``: of each candidate row."""
    own = own._replace(x=spec.view(own.x, own.task))

    def loss(params):
      out = second.outputs_again(key, network, params, learner.model_state, own, own.x)
      return loss_of(key, params, learner, own, out.logits)(own.weight > 0)

    grads = jax.grad(loss)(learner.params)
    moved = jax.tree.map(lambda p, g: (p - virtual_rate * g).astype(p.dtype), learner.params, grads)
    return sizes(learner, moved, rows, key) - sizes(learner, learner.params, rows, key)

  def prepare(key, learner, batch):
    state = insert_pending(key, memory, learner.method_state)
    if retrieval == "uniform":
      rows, weight = memory.sample(fold(key, "sample"), state.memory, size)
    else:
      _, rows, weight = stored.draw_among(fold(key, "sample"), memory, state.memory, count)
      own, some = stored.own_rows(spec, batch), drawn(spec, rows, weight, batch.visit)
      score = growth(fold(key, "virtual"), learner, own, some)
      rows, weight = stored.highest(rows, weight, score, size)
    return learner._replace(method_state=state), of_terms_alone(append(batch, drawn(spec, rows, weight, batch.visit)))

  def term(key, params, learner, batch, outputs):
    loss = loss_of(key, params, learner, batch, outputs.logits)
    new = jnp.arange(batch.weight.shape[0]) < spec.batch_size
    return loss(new) + beta * loss(~new)

  def after_step(key, learner, info):
    del key
    state = learner.method_state._replace(pending=rows_of(spec, info.batch), weight=offered(spec, info.batch, insert))
    return learner._replace(method_state=state)

  return Method(
    model=network if views else None,
    init=lambda key, learner: start(memory, spec, example_row(spec)),
    prepare=prepare,
    terms={"dvc": term},
    after_step=after_step,
    scrub=scrub_memory(memory),
  )


register(
  "dvc",
  Entry(
    dvc,
    {
      "entropy": Option(1.0, 0, needs=second.SEEN_TWICE),
      "consistency": Option(2.0, 0, needs=second.SEEN_TWICE),
      "beta": Option(1.0, 0),
      "virtual_rate": Option(0.1, 0, needs={"retrieval": ("interference",)}),
      "candidates": Option(50, 1, needs={"retrieval": ("interference",)}),
      "retrieval": Option(RETRIEVALS[0], choices=RETRIEVALS),
      **second.VIEWS,
      **BUFFER,
      "replay_batch": Option(10, 0),
    },
    ACCESS._replace(needs=("classes", "plain_inputs")),
    "Gu et al. 2022",
  ),
)
