"""Learning new rows by angles alone improves replay in one pass."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("uer", "er"),
  paper="Lin et al. 2023 (UER)",
  sentence="In one pass over a class-incremental stream, replay whose new rows are learned by the angles of features "
  "and classes alone, and stored rows by whole logits, ends at a better accuracy than experience replay.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.1, one epoch in batches of 10 "
  "with 10 replayed rows, 100 rows kept; final average accuracy of uer minus that of er, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  given = {"epochs": 1, "batch_size": 10, "learning_rate": 0.1, "capacity": 100}
  runs = {name: train(stream, name, seeds, **given) for name in CLAIM.methods}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of uer - er": percent(runs["uer"]) - percent(runs["er"])}, figures)
