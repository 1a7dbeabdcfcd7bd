"""TAG keeps old tasks better than its base optimizer, and than EWC and A-GEM."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("tag", "ewc", "agem"),
  paper="Malviya et al. 2022",
  sentence="Second moments per task, mixed by how the tasks' gradients relate, give better accuracy over all tasks "
  "than plain RMSProp, EWC and A-GEM, without replay.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, batch 10, 5 epochs; tag and plain "
  "RMSProp with the published step size 0.00025 (tag at its defaults under SGD 0.1), ewc and agem at their defaults "
  "under SGD 0.05; final average accuracy of tag minus that of each.",
)


def measure(seeds):
  stream = digits("task")
  runs = {
    "rmsprop": train(stream, "finetune", seeds, batch_size=10, optimizer="rmsprop", learning_rate=2.5e-4),
    "ewc": train(stream, "ewc", seeds, batch_size=10),
    "agem": train(stream, "agem", seeds, batch_size=10),
    "tag": train(stream, "tag", seeds, batch_size=10, learning_rate=0.1),
  }
  mine = percent(runs["tag"])
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  return Measured(
    {f"accuracy of tag - {name}": mine - percent(run) for name, run in runs.items() if name != "tag"}, figures
  )
