"""Low-rank changes across the inputs of old tasks end better than changes along drawn rows."""

from experiments.claims import Claim, Measured
from experiments.claims._pretrained import downstream, pretrained
from experiments.claims._runs import forgetting, learned, percent, train

CLAIM = Claim(
  methods=("inflora", "o_lora"),
  paper="Liang and Li 2024",
  sentence="Low-rank changes whose rows are chosen across the inputs of finished tasks end at a better accuracy than "
  "low-rank changes whose rows are drawn and trained.",
  protocol="Digits 0 to 5 in 3 tasks of 2 classes, MLP 64-100-100-10 whose hidden layers have learned digits 6 to 9; "
  "rank 10, thresholds .95 to 1, batch 32, 5 epochs, SGD 0.05, the shared classifier trained in full; only the task's "
  "classes in the softmax of its rows. Final average accuracy of inflora minus that of o_lora with strength 0, in "
  "points.",
  seeds=5,
)


def measure(seeds):
  stream = downstream()._replace(active="task")
  given = {"model": pretrained(), "rank": 10}
  runs = {
    "inflora": train(stream, "inflora", seeds, **given),
    "drawn rows": train(stream, "o_lora", seeds, strength=0.0, **given),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  effect = percent(runs["inflora"]) - percent(runs["drawn rows"])
  return Measured({"accuracy of inflora - drawn rows": effect}, figures)
