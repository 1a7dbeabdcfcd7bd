"""Old directions whose magnitudes are learned on end better than old changes that stand."""

from experiments.claims import Claim, Measured
from experiments.claims._pretrained import downstream, pretrained
from experiments.claims._runs import forgetting, learned, percent, train

CLAIM = Claim(
  methods=("sd_lora", "o_lora"),
  paper="Wu et al. 2025",
  sentence="Low-rank changes whose directions stand and whose magnitudes are learned on end at a better accuracy than "
  "low-rank changes of old tasks that stand as they are.",
  protocol="Digits 0 to 5 in 3 tasks of 2 classes, MLP 64-100-100-10 whose hidden layers have learned digits 6 to 9; "
  "rank 10, batch 32, 5 epochs, SGD 0.05, the shared classifier trained in full; only the task's classes in the "
  "softmax of its rows. Final average accuracy of sd_lora minus that of o_lora with strength 0, in points.",
  seeds=5,
)


def measure(seeds):
  stream = downstream()._replace(active="task")
  given = {"model": pretrained(), "rank": 10}
  runs = {
    "sd_lora": train(stream, "sd_lora", seeds, **given),
    "standing changes": train(stream, "o_lora", seeds, strength=0.0, **given),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  effect = percent(runs["sd_lora"]) - percent(runs["standing changes"])
  return Measured({"accuracy of sd_lora - standing changes": effect}, figures)
