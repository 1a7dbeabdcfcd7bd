"""Classification of the worst inputs near each row."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.types import UsageError
from cljax.objectives.objective import Objective, Score
from cljax.objectives.registry import OBJECTIVES, Number, Text, Whole, offered

ATTACKS = ("pgd", "fgsm")


@offered(
  attack=Text("pgd", ATTACKS),
  radius=Number(0.1),
  steps=Whole(10),
  test_steps=Whole(20),
  low=Number(0.0),
  high=Number(1.0),
)
def adversarial(model, spec, *, attack: str, radius, steps: int, test_steps: int, low, high) -> Objective:
  """Adversarial training: ``-log p(y | x')``, x' the input within ``radius`` of x (largest norm) of the largest loss.

  x' is found by :func:`cljax.losses.pgd` in ``steps`` steps, or :func:`cljax.losses.fgsm`, at the parameters of the
  step, from x as the model is shown it (its view and augmentation applied), in the units that the model eats and within
  ``low`` to ``high``. Scores: accuracy, robust_accuracy (of x' by ``test_steps`` steps of pgd against what the run
  predicts by, such as a stable model), both higher. ``radius`` 0 is classification. All else is classification's:
  ``each``, Fisher information and divergence are of the prediction that is given, and rows that a method replays by its
  own forward pass are not perturbed; those that it appends to the batch are. Madry et al., 2018. Raises UsageError for
  inputs that are no array of real numbers (tokens, a dict).
  """
  plain = OBJECTIVES["classification"].make(model, spec)
  each = plain.each
  assert each is not None
  scale = getattr(spec, "scale", None)
  units = 1.0 if scale is None else scale

  def worst(loss_fn, x, steps: int, attack: str = "pgd"):
    if isinstance(x, dict) or (scale is None and not jnp.issubdtype(x.dtype, jnp.floating)):
      told = "a dict" if isinstance(x, dict) else str(x.dtype)
      raise UsageError(f"objective.name: 'adversarial' moves inputs, which are {told}; expected real numbers")
    given = {"radius": radius / units, "low": low / units, "high": high / units}
    return losses.fgsm(loss_fn, x, **given) if attack == "fgsm" else losses.pgd(loss_fn, x, steps=steps, **given)

  def loss(key, apply, params, batch):
    fixed = jax.lax.stop_gradient(params)
    of = lambda x: each(apply(key, fixed, batch._replace(x=x))[0].logits, batch)[0]
    return plain.loss(key, apply, params, batch._replace(x=worst(of, batch.x, steps, attack)))

  def robust(key, predict, batch):
    of = lambda x: each(predict(batch._replace(x=x)), batch)[0]
    return plain.scores["accuracy"].fn(key, predict, batch._replace(x=worst(of, batch.x, test_steps)))

  scores = {**plain.scores, "robust_accuracy": Score(robust, bits=True)}
  return plain._replace(name="adversarial", loss=loss, scores=scores)
