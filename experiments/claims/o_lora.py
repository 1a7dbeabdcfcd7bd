"""Pairs that are held orthogonal to older ones forget less than pairs that are not."""

from experiments.claims import Claim, Measured
from experiments.claims._pretrained import downstream, pretrained
from experiments.claims._runs import forgetting, learned, percent, train

CLAIM = Claim(
  methods=("o_lora",),
  paper="Wang et al. 2023",
  sentence="Low-rank pairs of new tasks that are held orthogonal to those of old ones end at a better accuracy than "
  "pairs that are learned one after another without that.",
  protocol="Digits 0 to 5 in 3 tasks of 2 classes, MLP 64-100-100-10 whose hidden layers have learned digits 6 to 9; "
  "rank 8, strength 0.5 against 0, batch 32, 5 epochs, SGD 0.05, the shared classifier trained in full; only the "
  "task's classes in the softmax of its rows. Final average accuracy with the penalty minus that without, in points.",
  seeds=5,
)


def measure(seeds):
  stream = downstream()._replace(active="task")
  runs = {s: train(stream, "o_lora", seeds, model=pretrained(), strength=s) for s in (0.5, 0.0)}
  figures = {f"strength {s} accuracy": percent(run) for s, run in runs.items()}
  figures |= {f"strength {s} forgetting": forgetting(run) for s, run in runs.items()}
  figures |= {f"strength {s} learned": learned(run) for s, run in runs.items()}
  return Measured({"accuracy with - without orthogonality": percent(runs[0.5]) - percent(runs[0.0])}, figures)
