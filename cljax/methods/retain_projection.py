"""Forgetting that watches the retain gradient: steps projected off it, or penalised where they oppose it."""

from __future__ import annotations

import jax
import optax

from cljax import losses, projectors, tree
from cljax.method import Method
from cljax.methods import rows as picking
from cljax.methods.forgetting import EDITS
from cljax.methods.registry import Entry, Option, register
from cljax.tree import fold
from cljax.types import Spec


def mean_loss(model, learner, batch):
  """``params -> mean cross-entropy`` of a batch in eval mode (BatchNorm frozen)."""

  def loss(params):
    state, mask = learner.model_state, batch.weight
    outputs, _ = model.apply(params, state, batch.x, train=False, key=learner.key, task=None, mask=mask)
    return losses.reduce(losses.cross_entropy(outputs.logits, batch.y, batch.class_mask), batch.weight)

  return loss


def drawn(key, request, size: int):
  """Random batches of the rows to forget and of those to keep."""
  return (picking.random(fold(key, n), getattr(request, n), size) for n in ("forget", "retain"))


def geometric_disentanglement(
  model,
  spec: Spec,
  *,
  forget_weight,
  retain_weight,
  learning_rate,
  constraint: str = "descent",
  history: int = 8,
  steps: int = 50,
  batch: int = 64,
) -> Method:
  """Gradient ascent off the retain gradients: ``theta += P(rate a g_f) - rate b g_r``, g of mean CE on random batches.

  P is the nearest update that lowers ('descent') or keeps ('orthogonal') the retain loss of this batch and the
  ``history`` before it to first order; a and b are ``forget_weight`` and ``retain_weight`` (b = 0: ascent alone). The
  metric is that of SGD, so Euclidean. Spec B15: the second release (QP, history 8) is the default; its back-tracking
  is left out, and the forget loss is cross-entropy where the paper plugs into any. arXiv 2511.17100.
  """
  del spec
  projector = projectors.geometric_disentanglement("retain", constraint, history)

  def forget(key, learner, request, tools):
    del key, tools

    def body(i, carry):
      params, state = carry
      key = jax.random.fold_in(fold(learner.key, "geometric_disentanglement"), i)
      g_f, g_r = (jax.grad(mean_loss(model, learner, rows))(params) for rows in drawn(key, request, batch))
      update, state = projector.update(
        tree.scale(learning_rate * forget_weight, g_f), state, params, references={"retain": g_r}
      )
      update = tree.axpy(-learning_rate * retain_weight, g_r, update)
      return optax.apply_updates(params, update), state

    start = (learner.params, projector.init(learner.params))
    return learner._replace(params=jax.lax.fori_loop(0, steps, body, start)[0])

  return Method(forget=forget)


def adaptive_orthogonality(
  model,
  spec: Spec,
  *,
  forget_weight,
  retain_weight,
  strength,
  gamma,
  learning_rate,
  steps: int = 50,
  batch: int = 64,
) -> Method:
  """SGD on ``b L_r - a L_f + strength AO``, ``AO = 1[<u, v> < 0] ((1 - cos(u, v)) / 2)^gamma``, u = -g_f, v = g_r.

  a and b are ``forget_weight`` and ``retain_weight``. AO is differentiated through both gradients, over all layers (the
  released code's is a constant, which trains nothing). Of AGT^AO this is the penalty: the base is GradDiff where the
  paper has NPO, and its adversarial perturbation of hidden states is left out. Spec B16; arXiv 2602.01703.
  """
  del spec

  def forget(key, learner, request, tools):
    del key

    def objective(key, params, learner, step):
      del step
      of_forget, of_retain = (mean_loss(model, learner, rows) for rows in drawn(key, request, batch))
      ascent = lambda p: -of_forget(p)
      conflict = projectors.adaptive_orthogonality(ascent, of_retain, gamma)(params)
      value = retain_weight * of_retain(params) + forget_weight * ascent(params) + strength * conflict
      return value, learner.model_state

    return tools.train(fold(learner.key, "adaptive_orthogonality"), learner, objective, steps, learning_rate)

  return Method(forget=forget)


register(
  "geometric_disentanglement",
  Entry(
    geometric_disentanglement,
    {
      "forget_weight": Option(0.05, 0),
      "retain_weight": Option(0.95, 0),
      "learning_rate": Option(0.05, 0),
      "constraint": Option("descent", choices=("descent", "orthogonal")),
      "history": Option(8, 0),
      "steps": Option(50, 0),
      "batch": Option(64, 1),
    },
    EDITS,
    "arXiv 2511.17100",
    test={"steps": 3},
    exactness="approximate",
  ),
)
register(
  "adaptive_orthogonality",
  Entry(
    adaptive_orthogonality,
    {
      "forget_weight": Option(0.05, 0),
      "retain_weight": Option(0.95, 0),
      "strength": Option(1.0, 0),
      "gamma": Option(1.0, 0),
      "learning_rate": Option(0.05, 0),
      "steps": Option(50, 0),
      "batch": Option(64, 1),
    },
    EDITS,
    "arXiv 2602.01703",
    test={"steps": 3},
    exactness="approximate",
  ),
)
