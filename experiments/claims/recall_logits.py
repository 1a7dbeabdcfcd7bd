"""What old outputs said of new rows, regressed on, keeps a network without stored rows from forgetting."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("recall_logits", "lwf"),
  paper="Knauer et al. 2022",
  sentence="Without stored rows, regressing on the old outputs recorded before a task, with labels among new classes "
  "alone, ends at a better accuracy than plain training and than distillation of softmaxes.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs, strengths "
  "at their defaults (1). Final average accuracy of recall_logits minus that of finetune, and minus that of lwf, in "
  "points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  runs = {name: train(stream, name, seeds) for name in ("recall_logits", "lwf", "finetune")}
  more = {
    "by deviation": {"divide": "deviation"}, "by variance": {"divide": "variance"},
    "combined": {"labels": "combined"}, "regression": {"target": "regression"},
  }  # fmt: skip
  runs |= {f"recall_logits, {name}": train(stream, "recall_logits", seeds, **given) for name, given in more.items()}
  mine = percent(runs["recall_logits"])
  return Measured(
    {f"accuracy of recall_logits - {other}": mine - percent(runs[other]) for other in ("finetune", "lwf")},
    {
      **{f"{name} accuracy": percent(run) for name, run in runs.items()},
      "recall_logits forgetting": forgetting(runs["recall_logits"]),
    },
  )
