"""Replay through feedback, by modes and gates of classes and soft targets, beats replay of a separate generator."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("bir", "dgr", "finetune"),
  paper="van de Ven et al. 2020",
  sentence="Over tasks of new classes, without stored rows, replay through the network's own feedback connections with "
  "modes and gates of classes and soft targets ends at a better accuracy than deep generative replay and than plain "
  "training.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, Adam 0.001, batch 32, 20 epochs; "
  "decoder 100-100-64 and 20 numbers of code for both, share of shut units 0.1, the generator of dgr with Adam 0.001. "
  "Final average accuracy of bir minus that of dgr, and of finetune, in points. For the reader: bir without each of "
  "its parts.",
)
ARMS: dict[str, dict[str, Any]] = {
  "bir": {},
  "bir, one mode": {"prior": "normal"},
  "bir, no gates": {"proportion": 0.0},
  "bir, hard targets": {"targets": "hard"},
}


def measure(seeds):
  stream = digits("class")
  given = {"epochs": 20, "optimizer": "adam", "learning_rate": 1e-3}
  sizes = {"latent": 20, "width": 100}
  runs = {name: train(stream, "bir", seeds, **given, **sizes, **arm) for name, arm in ARMS.items()}
  runs["dgr"] = train(stream, "dgr", seeds, **given, **sizes)
  runs["finetune"] = train(stream, "finetune", seeds, **given)
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  over = {f"accuracy of bir - {other}": percent(runs["bir"]) - percent(runs[other]) for other in ("dgr", "finetune")}
  return Measured(over, figures)
