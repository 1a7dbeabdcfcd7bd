"""Weighed components that grow with the tasks do better than one pool of prompts."""

from experiments.claims import Claim, Measured
from experiments.claims._pretrained import downstream, vit
from experiments.claims._runs import forgetting, learned, percent, train

CLAIM = Claim(
  methods=("coda_prompt", "l2p"),
  paper="Smith et al. 2023",
  sentence="On a pre-trained vision transformer, class-incremental tasks learned by prompts that are sums of weighed "
  "components end at a better accuracy than tasks learned by a pool of prompts.",
  protocol="ViT 8x8, patches of 2, 32 wide, 4 blocks, which has learned digits 6 to 9; then digits 0 to 5 in three "
  "tasks of two classes, Adam 0.003, 10 epochs in batches of 32; 12 components of length 8 in all 4 blocks, which begin "
  "orthogonal; pool of 10, length 5, 4 chosen, strength 1. Final average accuracy of coda_prompt minus that of l2p, in "
  "points.",
  seeds=5,
)


def measure(seeds):
  stream, given = downstream(), {"epochs": 10, "optimizer": "adam", "learning_rate": 3e-3, "model": vit()}
  runs = {
    "coda_prompt": train(stream, "coda_prompt", seeds, **given, components=12),
    "l2p": train(stream, "l2p", seeds, **given, length=5),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of coda_prompt - l2p": percent(runs["coda_prompt"]) - percent(runs["l2p"])}, figures)
