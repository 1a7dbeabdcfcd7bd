"""The better of parts and of their slow mean answers better than the parts alone."""

from experiments.claims import Claim
from experiments.claims._tuned import PROTOCOL, compared, run

CLAIM = Claim(
  methods=("lae",),
  paper="Gao et al. 2023",
  sentence="On a pre-trained vision transformer, adapters that begin each task frozen and answer together with their "
  "slow mean end at a better accuracy than the same adapters without either.",
  protocol=f"{PROTOCOL}SGD 0.05; adapters of rank 5 beside all layers, decay 0.99, frozen 0.6. Final average "
  "accuracy of lae minus that of lae with decay 0 and frozen 0, in points.",
  seeds=5,
)


def measure(seeds):
  runs = {
    "lae": run("lae", seeds, "sgd", 0.05, decay=0.99, frozen=0.6),
    "adapters alone": run("lae", seeds, "sgd", 0.05, decay=0.0, frozen=0.0),
  }
  return compared("lae", "adapters alone", runs)
