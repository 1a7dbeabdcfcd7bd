"""The point whose lines to the old and to the new optimum have a low loss forgets less than plain training."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("mc_sgd", "finetune", "agem", "er"),
  paper="Mirzadeh et al. 2021",
  sentence="Ending each task at the point that is linearly connected with the optima of before and of the task alone "
  "ends at a better accuracy than plain training, and than A-GEM with the same stored rows.",
  protocol="Rotated digits, 5 tasks of all 10 classes over 180 degrees, MLP 64-100-100-10, SGD 0.05, batch 32, 5 "
  "epochs, 200 stored rows; 100 steps of the search at 0.01 (the defaults). Final average accuracy of mc_sgd minus "
  "those of finetune and agem, in points. For the reader: er.",
)


def measure(seeds):
  stream = digits("rotated")
  runs = {name: train(stream, name, seeds) for name in CLAIM.methods}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  effects = {f"accuracy of mc_sgd - {n}": percent(runs["mc_sgd"]) - percent(runs[n]) for n in ("finetune", "agem")}
  return Measured(effects, figures)
