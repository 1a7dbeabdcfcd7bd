"""A low-rank adapter that is held up to its slow average forgets less than one that replays alone."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._pretrained import downstream, pretrained
from experiments.claims._runs import forgetting, learned, percent, train

CLAIM = Claim(
  methods=("i_lora",),
  paper="Ren et al. 2024",
  sentence="Replay of a low-rank adapter that is held to a slow copy of itself, which answers, ends at a better "
  "accuracy than replay of a low-rank adapter alone.",
  protocol="Class-incremental digits 0 to 5 in 3 tasks of 2 classes, MLP 64-100-100-10 whose hidden layers have "
  "learned digits 6 to 9; rank 8, 50 stored rows, batch 32, 5 epochs, SGD 0.05, the classifier trained in full. "
  "Strength 1 and decay 0.25 (the released numbers), the slow copy answering, against strength 0, the fast one "
  "answering; and beside them decay 0.99. Final average accuracy, in points.",
)
ARMS: dict[str, dict[str, Any]] = {
  "i_lora": {},
  "replay alone": {"strength": 0.0, "answers": "fast"},
  "decay 0.99": {"decay": 0.99},
}


def measure(seeds):
  model = pretrained()
  runs = {n: train(downstream(), "i_lora", seeds, model=model, capacity=50, **arm) for n, arm in ARMS.items()}
  figures = {f"{n}, accuracy": percent(run) for n, run in runs.items()}
  figures |= {f"{n}, forgetting": forgetting(run) for n, run in runs.items()}
  figures |= {f"{n}, learned": learned(run) for n, run in runs.items()}
  return Measured({"i_lora - replay alone": percent(runs["i_lora"]) - percent(runs["replay alone"])}, figures)
