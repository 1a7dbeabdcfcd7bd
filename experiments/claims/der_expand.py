"""A new extractor for each task, with old ones standing, keeps more than one network that is held by distillation."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("der_expand", "wa", "icarl"),
  paper="Yan et al. 2021",
  sentence="Growing the network by an extractor a task, and fitting the classifier anew on the exemplars, ends at a "
  "better accuracy than one network that is held by distillation (wa, icarl), with as many exemplars.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, those met in the softmax (the paper's network grows), "
  "MLP 64-100-100-10, SGD 0.05 (icarl 0.5, whose loss is a mean over outputs), batch 32, 10 epochs, 100 "
  "exemplars; final average accuracy of der_expand minus that of wa and that of icarl, in points. For the "
  "reader also der_expand without the auxiliary loss, and without the second stage.",
  seeds=5,
)


def measure(seeds):
  stream, given = digits("class", active="seen"), {"epochs": 10, "capacity": 100}
  runs = {
    "der_expand": train(stream, "der_expand", seeds, **given),
    "wa": train(stream, "wa", seeds, **given),
    "icarl": train(stream, "icarl", seeds, learning_rate=0.5, **given),
    "without the auxiliary loss": train(stream, "der_expand", seeds, auxiliary=0.0, **given),
    "without the second stage": train(stream, "der_expand", seeds, stage="none", **given),
  }
  figures = {f"{name}, accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name}, forgetting": forgetting(run) for name, run in runs.items()}
  over = lambda name: percent(runs["der_expand"]) - percent(runs[name])
  return Measured({f"accuracy of der_expand - {name}": over(name) for name in ("wa", "icarl")}, figures)
