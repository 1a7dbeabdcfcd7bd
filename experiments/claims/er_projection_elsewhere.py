"""Beside replay on split tasks, projection changes the stability gap little."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits
from experiments.claims._stability import replay_only, worst

CLAIM = Claim(
  methods=("er_agem",),
  paper="Hess et al. 2023",
  sentence="In class- and task-incremental learning projection beside replay brings little or nothing.",
  protocol="Split digits, class- and task-incremental, 5 tasks, MLP 64-100-100-10, SGD 0.05, batch 32, 4 epochs, 200 "
  "stored rows, evaluated on 180 rows a task after every step; what er_agem adds to the min-ACC of the same replay "
  "without the projection is below 2 points in either.",
)


def measure(seeds):
  effects: dict = {}
  figures: dict = {}
  for kind in ("class", "task"):
    stream = digits(kind)
    (base, _), (mine, _) = (worst(stream, m, seeds) for m in (replay_only, "er_agem"))
    effects[f"2 points - gain of er_agem, {kind}-incremental"] = 2 - (mine - base)
    figures |= {f"replay min-ACC, {kind}-incremental": base, f"er_agem min-ACC, {kind}-incremental": mine}
  return Measured(effects, figures)
