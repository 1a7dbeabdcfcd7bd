"""Layers held within boxes of old activations keep old domains."""

from cljax import models
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("intact", "lwf"),
  paper="Krukowski et al. 2025",
  sentence="In domain-incremental learning without stored rows, holding what layers make of boxes of old activations "
  "ends at a better accuracy than plain training and than distillation.",
  protocol="Permuted digits, 4 tasks, MLP 64-100-100-10 with leaky ReLU, Adam 1e-3, batch 32, 5 epochs, the paper's "
  "weights. Final average accuracy of intact minus that of finetune, and minus that of lwf, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("permuted", tasks=4)
  shape = stream.dataset.train.x.shape[1:]
  model = models.mlp(shape, stream.num_classes, hidden=(100, 100), activation="leaky_relu")
  given = {"model": model, "optimizer": "adam", "learning_rate": 1e-3}
  runs = {
    "intact": train(stream, "intact", seeds, **given),
    "intact without drift": train(stream, "intact", seeds, **given, drift=0.0),
    "finetune": train(stream, "finetune", seeds, **given),
    "lwf": train(stream, "lwf", seeds, **given),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  mine = percent(runs["intact"])
  return Measured({f"accuracy of intact - {n}": mine - percent(runs[n]) for n in ("finetune", "lwf")}, figures)
