"""Learned task by task, ACIL's layer is that of all classes at once."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._pretrained import TASKS, downstream, pretrained, rows
from experiments.claims._runs import percent, train

CLAIM = Claim(
  methods=("acil", "lwf"),
  paper="Zhuang et al. 2022",
  sentence="Analytic class-incremental learning gives what joint training of its layer gives, and is more accurate "
  "than distillation without exemplars.",
  protocol="MLP 64-100-100-10 pre-trained on digits 6 to 9 and frozen; digits 0 to 5 in 3 tasks of 2 classes against "
  "all six at once; 0.5 points minus the difference of test accuracies. Accuracy of acil minus that of lwf (batch "
  "32, 5 epochs, SGD 0.05), in points. For the reader also the paper's recursion.",
  seeds=5,
)


def measure(seeds):
  given = {"model": pretrained()}
  run = lambda stream, name, **arm: train(stream, name, seeds, **given, **arm)
  counts = [len(t) for t in downstream().test]
  over_rows = lambda result: 100 * np.asarray(result.accuracy)[:, -1] @ counts / sum(counts)
  mine = run(downstream(), "acil", first_task="frozen")
  recursion = run(downstream(), "acil", first_task="frozen", form="recursion")
  joint = run(rows([sum(TASKS, ())]), "acil", first_task="frozen")
  together, apart = 100 * np.asarray(joint.accuracy)[:, -1, 0], over_rows(mine)
  lwf = percent(run(downstream(), "lwf"))
  return Measured(
    {"0.5 - distance to joint": 0.5 - np.abs(apart - together), "accuracy of acil - lwf": percent(mine) - lwf},
    {
      "acil accuracy, over rows": apart,
      "joint acil accuracy, over rows": together,
      "acil by recursion accuracy, over rows": over_rows(recursion),
      "lwf accuracy": lwf,
    },
  )
