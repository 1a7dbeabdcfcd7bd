"""Features that may change by a linear map help DER++ with a small memory."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("bfp", "derpp"),
  paper="Gu et al. 2023",
  sentence="Backward feature projection beside DER++ ends at a better accuracy in class-incremental learning, with a "
  "small memory.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs, 100 rows "
  "kept, alpha .2 and beta .5 for both, strength 1; final average accuracy of bfp minus that of derpp, in points.",
  seeds=5,
)


def measure(seeds):
  runs = {n: train(digits("class"), n, seeds, capacity=100, alpha=0.2, beta=0.5) for n in CLAIM.methods}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  return Measured({"accuracy of bfp - derpp": percent(runs["bfp"]) - percent(runs["derpp"])}, figures)
