"""Replay in flat minima ends higher."""

import cljax
from cljax import methods
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("c_flat", "er"),
  paper="Bian et al. 2024",
  sentence="A method of continual learning ends higher with C-Flat's gradient than with its own, and than with SAM's.",
  protocol="Split digits, 5 tasks of 2 classes, class-incremental, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; er "
  "with 200 rows, composed with c_flat at its defaults, radius 0.2 and strength 0.2, and with surrogate='sam'. Final "
  "average accuracy of er with c_flat minus that of er, and of er with sam, in points.",
)


def flat(**options):
  def make(model, spec):
    parts = {"c_flat": methods.make("c_flat", model, spec, **options), "er": methods.make("er", model, spec)}
    return cljax.compose(**parts)

  return make


def measure(seeds):
  stream = digits("class")
  runs = {
    "er": train(stream, "er", seeds),
    "er with sam": train(stream, flat(surrogate="sam"), seeds),
    "er with c_flat": train(stream, flat(), seeds),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  best = percent(runs["er with c_flat"])
  others = {f"accuracy of c_flat - {name}": best - percent(runs[name]) for name in ("er", "er with sam")}
  return Measured(others, figures)
