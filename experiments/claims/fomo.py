"""Random forgetting and relearning against robust overfitting."""

import numpy as np

import cljax
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, mlp

CLAIM = Claim(
  methods=("fomo",),
  paper="Ramkumar et al. 2024",
  sentence="Adversarial training that forgets random weights and relearns them ends more robust than plain "
  "adversarial training, which overfits.",
  protocol="One task, all 10 digits, a quarter of the training rows (359); MLP 64-100-100-10, SGD 0.05, batch 32, "
  "100 epochs of the objective `adversarial` (3 steps of pgd within 0.15 of the pixel range); its robust_accuracy at "
  "the end (test rows moved by 10 steps), fomo (its stable model, the defaults) minus plain adversarial training, in "
  "points.",
)
ATTACK = {"radius": 0.15, "steps": 3, "test_steps": 10}


def measure(seeds):
  stream = digits("class", 1, task_fractions=(0.25,))

  def scores(name, epochs=100):
    result = cljax.run(
      stream, mlp(stream), name, objective="adversarial", objective_options=ATTACK, seeds=seeds,
      optimizer_options={"learning_rate": 0.05}, training=cljax.Recipe(batch_size=32, epochs=epochs),
      options=cljax.Options(on_divergence="freeze"),
    )  # fmt: skip
    both = (result.scores[score][:, -1, 0] for score in ("accuracy", "robust_accuracy"))
    return [np.where(result.alive, 100 * np.asarray(v, np.float64), np.nan) for v in both]

  (plain_clean, plain), (clean, robust) = scores("finetune"), scores("fomo")
  _, halfway = scores("finetune", 50)  # above the end, if plain training overfits
  return Measured(
    {"robust accuracy of fomo - plain": robust - plain},
    {
      "plain robust accuracy": plain,
      "plain robust accuracy after 50 epochs": halfway,
      "fomo robust accuracy": robust,
      "plain clean accuracy": plain_clean,
      "fomo clean accuracy": clean,
    },
  )
