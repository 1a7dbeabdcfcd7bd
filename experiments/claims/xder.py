"""Stored logits that learn of later classes improve replay with logits."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("xder", "derpp"),
  paper="Boschini et al. 2022",
  sentence="Learning classes incrementally, replay whose stored logits learn of later classes, and whose outputs of "
  "later classes are prepared, ends at a better accuracy than DER++.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 10 epochs, 100 rows "
  "kept; both at their defaults. Final average accuracy of xder minus that of derpp, in points; for the reader also "
  "without the contrast of views, and with the released transplant.",
  seeds=5,
)


def measure(seeds):
  stream, given = digits("class"), {"epochs": 10, "capacity": 100}
  runs = {name: train(stream, name, seeds, **given) for name in CLAIM.methods}
  runs["xder, no contrast"] = train(stream, "xder", seeds, consistency=False, **given)
  runs["xder, released transplant"] = train(stream, "xder", seeds, form="released", **given)
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  return Measured({"accuracy of xder - derpp": percent(runs["xder"]) - percent(runs["derpp"])}, figures)
