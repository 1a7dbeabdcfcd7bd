"""Prompts chosen from a pool leave a frozen network less forgetful than training all of it."""

from experiments.claims import Claim, Measured
from experiments.claims._pretrained import downstream, vit
from experiments.claims._runs import forgetting, learned, percent, train

CLAIM = Claim(
  methods=("l2p", "finetune"),
  paper="Wang et al. 2022",
  sentence="On a pre-trained vision transformer, class-incremental tasks learned by a pool of prompts end at a better "
  "accuracy than tasks learned by training the whole network.",
  protocol="ViT 8x8, patches of 2, 32 wide, 4 blocks, which has learned digits 6 to 9; then digits 0 to 5 in three "
  "tasks of two classes, Adam 0.003 (finetune: 0.001), 10 epochs in batches of 32; pool "
  "10, prompts of length 5, 4 chosen, strength 1. Final average accuracy of l2p minus that of finetune, in points.",
  seeds=5,
)


def measure(seeds):
  stream, given = downstream(), {"epochs": 10, "optimizer": "adam", "model": vit()}
  runs = {
    "l2p": train(stream, "l2p", seeds, **given, learning_rate=3e-3, length=5),
    "finetune": train(stream, "finetune", seeds, **given, learning_rate=1e-3),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of l2p - finetune": percent(runs["l2p"]) - percent(runs["finetune"])}, figures)
