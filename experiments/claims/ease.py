"""Parts of each task and prototypes in all their spaces end better than prototypes of the frozen network alone."""

from experiments.claims import Claim
from experiments.claims._tuned import PROTOCOL, compared, run

CLAIM = Claim(
  methods=("ease", "simplecil"),
  paper="Zhou et al. 2024",
  sentence="On a pre-trained vision transformer, prototypes in the spaces of adapters that each task has trained "
  "classify better than prototypes of the frozen network's own features.",
  protocol=f"{PROTOCOL}SGD 0.05; ease with adapters of rank 8 beside all layers and others 0.1; simplecil trains "
  "nothing. Final average accuracy of ease minus that of simplecil, in points.",
  seeds=5,
)


def measure(seeds):
  runs = {"ease": run("ease", seeds, "sgd", 0.05, rank=8), "simplecil": run("simplecil", seeds, "sgd", 0.05)}
  return compared("ease", "simplecil", runs)
