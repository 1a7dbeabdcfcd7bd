"""Silent units for each task reduce forgetting, and with a penalty most of what is left."""

import cljax
from cljax import methods
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("xdg", "si"),
  paper="Masse et al. 2018",
  sentence="Silencing a random part of the units for each task lessens forgetting, and with synaptic intelligence it "
  "ends at a better accuracy than either alone.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.5 (at lower rates plain training "
  "does not forget here), batch 32, 5 epochs, 80 % of the units silent (the paper's number), SI at its "
  "defaults. Forgetting of finetune minus that of xdg; final average accuracy of xdg with SI minus those of "
  "SI and of xdg, in points.",
)


def both(model, spec):
  return cljax.compose(xdg=methods.make("xdg", model, spec), si=methods.make("si", model, spec))


def measure(seeds):
  stream = digits("task")
  runs = {
    name: train(stream, how, seeds, learning_rate=0.5)
    for name, how in (("finetune", "finetune"), ("xdg", "xdg"), ("si", "si"), ("xdg with si", both))
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} right after learning": learned(run) for name, run in runs.items()}
  return Measured(
    {
      "forgetting of finetune - xdg": forgetting(runs["finetune"]) - forgetting(runs["xdg"]),
      "accuracy of xdg with si - si": percent(runs["xdg with si"]) - percent(runs["si"]),
      "accuracy of xdg with si - xdg": percent(runs["xdg with si"]) - percent(runs["xdg"]),
    },
    figures,
  )
