"""Projecting replay's gradient on the old tasks' narrows the stability gap."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, percent
from experiments.claims._stability import replay_by_task, replay_only, worst

CLAIM = Claim(
  methods=("er_agem", "er_gem"),
  paper="Hess et al. 2023",
  sentence="Gradient projection beside replay in the loss reduces the stability gap of domain-incremental learning.",
  protocol="Rotated digits, domain-incremental, 0, 80 and 160 degrees as in the paper, MLP 64-100-100-10, SGD 0.05, "
  "batch 32, 4 epochs, 200 stored rows, evaluated on 180 rows a task after every step; min-ACC (mean over old tasks of "
  "their worst accuracy since their end) of er_agem and of er_gem (margin 0.5) minus that of the same replay without "
  "the projection (er_agem's memory is balanced by class, er_gem's has a share for each task), in points.",
)


def measure(seeds):
  stream = digits("rotated", tasks=3, angles=(0, 80, 160))
  arms = (replay_only, replay_by_task, "er_agem", "er_gem")
  (base, plain), (shared, other), (agem, one), (gem, many) = (worst(stream, m, seeds) for m in arms)
  return Measured(
    {"min-ACC of er_agem - replay": agem - base, "min-ACC of er_gem - replay": gem - shared},
    {
      "replay min-ACC": base,
      "replay min-ACC, by task": shared,
      "er_agem min-ACC": agem,
      "er_gem min-ACC": gem,
      "replay accuracy": percent(plain),
      "replay accuracy, by task": percent(other),
      "er_agem accuracy": percent(one),
      "er_gem accuracy": percent(many),
    },
  )
