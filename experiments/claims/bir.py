"""Brain-inspired replay: one network that replays through its own feedback, class by class, forgets less than DGR."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("bir", "dgr", "finetune"),
  paper="van de Ven et al. 2020",
  sentence="Over tasks of new classes, without stored rows, replay through the network's own feedback with a mode for "
  "each class, gates and soft targets ends at a better accuracy than plain training, and than deep generative replay.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, Adam 0.001, batch 32, 20 epochs; "
  "decoder 20-100-100-64, a tenth of its units shut for each class, temperature 2; dgr with a generator of the same "
  "sizes. Final average accuracy of bir minus those of finetune and dgr, in points.",
)


def measure(seeds):
  stream = digits("class")
  given = {"epochs": 20, "optimizer": "adam", "learning_rate": 1e-3}
  sizes = {"latent": 20, "width": 100}
  runs = {name: train(stream, name, seeds, **given, **(sizes if name != "finetune" else {})) for name in CLAIM.methods}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  effects = {f"accuracy of bir - {n}": percent(runs["bir"]) - percent(runs[n]) for n in ("finetune", "dgr")}
  return Measured(effects, figures)
