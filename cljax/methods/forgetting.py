"""Methods that answer Forget events. They train as finetune does; compose them with a learner through the forget
section."""

from __future__ import annotations

import jax

from cljax import estimators, losses, unlearning
from cljax.method import Method
from cljax.methods import rows as picking
from cljax.methods.registry import Entry, Option, register
from cljax.tree import fold
from cljax.types import Access, Spec

EDITS = Access(forgets=True, forget_data=True, retain_data=True)


def retrain(model, spec: Spec) -> Method:
  """Exact retraining: the events so far are replayed from initialisation with the deleted rows at weight 0. Spec A1.

  With nothing deleted it gives the original learner to the bit: same seed, same batches.
  """
  del model, spec
  return Method()


def ssd(model, spec: Spec, *, alpha, dampening, importance: str = "empirical", importance_batch: int = 64) -> Method:
  """Selective synaptic dampening: ``theta_i *= min(dampening I_D/I_f, 1)`` where ``I_f > alpha I_D``; no training.

  Importance is the per-sample empirical Fisher, as the paper defines it. The released code squares the gradient of a
  mini-batch mean (64 for D, 128 for D_f in one script), which couples alpha to the batch size:
  ``importance='batched'``. I_D is over all rows learned and not deleted before, the forget rows included: where these
  are a share s of them, ``I_f <= I_D / s``, so an alpha of 1/s or more selects nothing. Spec B1; Foster et al., 2024.
  """
  del spec

  def forget(key, learner, request, tools):
    del tools
    fisher = lambda rows, label: estimators.fisher_diagonal(
      model,
      learner.params,
      learner.model_state,
      rows,
      kind=importance,
      key=fold(key, label),
      batch_size=importance_batch,
    )
    of_forget, of_retain = fisher(request.forget, "forget"), fisher(request.retain, "retain")
    share = request.forget.count / (request.forget.count + request.retain.count)
    of_all = jax.tree.map(lambda f, r: share * f + (1 - share) * r, of_forget, of_retain)
    params = unlearning.dampen(learner.params, of_forget, of_all, alpha=alpha, dampening=dampening)
    return learner._replace(params=params)

  return Method(forget=forget)


def graddiff(
  model, spec: Spec, *, forget_weight, retain_weight, learning_rate, steps: int = 50, batch: int = 64
) -> Method:
  """GradDiff: SGD on ``retain_weight L_retain - forget_weight L_forget``, random batches of each. Spec A4.

  The defaults are NegGrad+'s weights, 0.05 and 0.95; GradDiff has 1 and 1. The model is in eval mode (BatchNorm
  frozen), as in the SCRUB notebook. The ascent term has no fixed point: large weights or many steps destroy the model.
  """
  del spec

  def forget(key, learner, request, tools):
    del key

    def objective(key, params, learner, step):
      del step

      def mean_loss(name, rows):
        chosen = picking.random(fold(key, name), rows, batch)
        outputs, _ = model.apply(params, learner.model_state, chosen.x, train=False, key=key, task=None, mask=None)
        per_row = losses.cross_entropy(outputs.logits, chosen.y, chosen.class_mask)
        return losses.reduce(per_row, chosen.weight)

      value = retain_weight * mean_loss("retain", request.retain) - forget_weight * mean_loss("forget", request.forget)
      return value, learner.model_state

    return tools.train(fold(learner.key, "graddiff"), learner, objective, steps, learning_rate)

  return Method(forget=forget)


register("retrain", Entry(retrain, {}, Access(forgets=True, prefix=True), "spec A1", exactness="exact"))
register(
  "ssd",
  Entry(
    ssd,
    {
      "alpha": Option(10.0, 0),
      "dampening": Option(1.0, 0),
      "importance": Option("empirical", choices=("exact", "sampled", "empirical", "batched")),
      "importance_batch": Option(64, 1),
    },
    EDITS,
    "Foster et al. 2024",
    exactness="approximate",
  ),
)
register(
  "graddiff",
  Entry(
    graddiff,
    {
      "forget_weight": Option(0.05, 0),
      "retain_weight": Option(0.95, 0),
      "learning_rate": Option(0.05, 0),
      "steps": Option(50, 0),
      "batch": Option(64, 1),
    },
    EDITS,
    "Liu et al. 2022; NegGrad+ of Kurmanji et al. 2023",
    test={"steps": 3},
    exactness="approximate",
  ),
)
