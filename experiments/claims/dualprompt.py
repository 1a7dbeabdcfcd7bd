"""Prefixes of each task beside shared ones do better than one pool of prompts."""

from experiments.claims import Claim, Measured
from experiments.claims._pretrained import downstream, vit
from experiments.claims._runs import forgetting, learned, percent, train

CLAIM = Claim(
  methods=("dualprompt", "l2p"),
  paper="Wang et al. 2022",
  sentence="On a pre-trained vision transformer, class-incremental tasks learned by shared prefixes and prefixes of "
  "each task end at a better accuracy than tasks learned by a pool of prompts.",
  protocol="ViT 8x8, patches of 2, 32 wide, 4 blocks, which has learned digits 6 to 9; then digits 0 to 5 in three "
  "tasks of two classes, Adam 0.003, 10 epochs in batches of 32; prefixes of length 5, shared in blocks 0 and 1, each "
  "task's own in 2 and 3, strength 1; pool of 10, length 5, 4 chosen, strength 1. Final average accuracy of dualprompt "
  "minus that of l2p, in points.",
  seeds=5,
)


def measure(seeds):
  stream, given = downstream(), {"epochs": 10, "optimizer": "adam", "learning_rate": 3e-3, "model": vit(), "length": 5}
  runs = {name: train(stream, name, seeds, **given) for name in ("dualprompt", "l2p")}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of dualprompt - l2p": percent(runs["dualprompt"]) - percent(runs["l2p"])}, figures)
