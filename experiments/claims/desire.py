"""Merging by matched features, and a classifier fitted anew on pseudo-features, keep what free learning forgets."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._pretrained import downstream, pretrained
from experiments.claims._runs import forgetting, learned, percent, train

CLAIM = Claim(
  methods=("desire",),
  paper="Guo et al. 2024",
  sentence="A low-rank pair that learns freely, merged with all before it by shares that are learned on few unlabelled "
  "rows, and a classifier refitted on pseudo-features, end at a better accuracy than one pair that learns all tasks "
  "one after another, and the learned shares at a better one than halves.",
  protocol="Class-incremental digits 0 to 5 in 3 tasks of 2 classes, MLP 64-100-100-10 whose hidden layers have "
  "learned digits 6 to 9; rank 8, 100 unlabelled rows, batch 32, 5 epochs, SGD 0.05. Final average accuracy of desire "
  "minus that of i_lora without replay (strength 0, one stored row, the fast copy), and minus that of desire "
  "with 0 steps, whose shares stay 1/2, in points.",
)
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
  "desire": ("desire", {}),
  "halves": ("desire", {"steps": 0}),
  "one pair": ("i_lora", {"strength": 0.0, "answers": "fast", "capacity": 1}),
}


def measure(seeds):
  model = pretrained()
  runs = {n: train(downstream(), name, seeds, model=model, **arm) for n, (name, arm) in ARMS.items()}
  figures = {f"{n}, accuracy": percent(run) for n, run in runs.items()}
  figures |= {f"{n}, forgetting": forgetting(run) for n, run in runs.items()}
  figures |= {f"{n}, learned": learned(run) for n, run in runs.items()}
  mine = percent(runs["desire"])
  return Measured(
    {f"accuracy of desire - of {n}": mine - percent(runs[n]) for n in ("one pair", "halves")},
    figures,
  )
