"""Holding how prototypes relate to rows keeps tasks without stored rows."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("prd", "lwf"),
  paper="Asadi et al. 2023",
  sentence="Without stored rows, features learned by contrast, with the relations of old prototypes to new rows held, "
  "end at a better accuracy than distilled outputs, and than the same training without these relations.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 10 epochs, the "
  "paper's coefficients; views are cut to 0.6 of the area at least and not mirrored, as digits are not. Final average "
  "accuracy of prd minus that of lwf, and minus that of prd with distillation=0, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("task")
  given = {"epochs": 10}
  mine = {**given, "least_area": 0.6, "flip": False}
  runs = {
    "prd": train(stream, "prd", seeds, **mine),
    "prd without relations": train(stream, "prd", seeds, **mine, distillation=0.0),
    "prd, relation=classes": train(stream, "prd", seeds, **mine, relation="classes"),
    "lwf": train(stream, "lwf", seeds, **given),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  effects = {
    f"accuracy of prd - {n}": percent(runs["prd"]) - percent(runs[n]) for n in ("lwf", "prd without relations")
  }
  return Measured(effects, figures)
