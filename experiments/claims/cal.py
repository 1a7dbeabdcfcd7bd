"""A few old labels beside the new ones do what training on all of them anew does, in a third of the steps."""

from typing import Any

import numpy as np

import cljax
from cljax import data
from experiments import active_learning as active
from experiments.claims import Claim, Measured

PLAN = active.Plan(rounds=6, rows=60, epochs=20, batch_size=20, replay_batch=20, rate=0.1, hidden=100)
ARMS = {
  "cal": ("cal", {"variant": "sd"}),
  "cal, er": ("cal", {"variant": "er"}),
  "from scratch": ("finetune", {}),
  "new rows alone": ("finetune", {}),
}

CLAIM = Claim(
  methods=("cal",),
  paper="Das et al. 2023",
  sentence="In rounds of active learning, going on from the last round's network with new labels and a replay of old "
  "ones ends at the accuracy of a network that is trained from scratch on all labels in each round, in at most a third "
  "of its steps.",
  protocol="Digits: a pool of all training rows, 6 rounds of 60 labels, the first at random, later ones those of the "
  "largest entropy under the arm's own network; MLP 64-100-10, SGD 0.1, 20 epochs a round in batches of 20; cal as "
  "scaled distillation at its defaults, with 20 replayed rows a step and room for every label. Equal: at most one "
  "point below at the end. So the effects are the final accuracy on test rows minus that from scratch, plus 1, in "
  "points, and the steps from scratch over those of cal, minus 3. For the reader: rows that pass through the network, "
  "where a step of cal has two for one; uniform replay (er); and new rows alone, without replay.",
  seeds=6,
)


def rounds(dataset, arm: str, seeds: int):
  """``(accuracy [S, R] in percent, steps)`` of an arm, each seed with rows of its own choice.

  All seeds are one program; a round runs from the beginning, which ends on the bits of a run that goes on."""
  method, hyper = ARMS[arm]
  room = {"capacity": PLAN.rounds * PLAN.rows, "replay_batch": PLAN.replay_batch} if method == "cal" else {}
  given = {**active.arguments(dataset, active.CONTINUED, PLAN), "method": method, "hyper": {**hyper, **room}}
  chosen: list[list] = [[] for _ in range(seeds)]
  accuracy: list = []
  run: Any = None
  steps = 0
  for _ in range(PLAN.rounds):
    for s, mine in enumerate(chosen):
      mine.append(active.asked(dataset, mine, lambda x, s=s, run=run: run.predict(x, member=s), PLAN, s))
    shown = [[np.concatenate(mine)] for mine in chosen] if arm == "from scratch" else chosen
    of = [active.stream_of(dataset, r, PLAN)._replace(drawn={"seed": s}) for s, r in enumerate(shown)]
    run = cljax.run(of[0]._replace(of_seed=of.__getitem__, drawn=None), **given, seeds=seeds)
    accuracy.append(100 * run.accuracy[:, -1, 0])
    steps = run.steps + (steps if arm == "from scratch" else 0)
  return np.stack(accuracy, 1), steps


def measure(seeds):
  dataset = data.load("digits")
  found = {arm: rounds(dataset, arm, seeds) for arm in ARMS}
  last = {arm: accuracy[:, -1] for arm, (accuracy, _) in found.items()}
  figures = {f"{arm}: accuracy": value for arm, value in last.items()}
  figures |= {f"{arm}: mean accuracy of rounds": accuracy.mean(1) for arm, (accuracy, _) in found.items()}
  every = np.ones(seeds)
  figures |= {f"{arm}: steps": steps * every for arm, (_, steps) in found.items()}
  wide = lambda arm: PLAN.batch_size + (PLAN.replay_batch if "cal" in arm else 0)
  figures |= {f"{arm}: rows passed, thousands": steps * wide(arm) / 1e3 * every for arm, (_, steps) in found.items()}
  ratio = found["from scratch"][1] / found["cal"][1]
  effects = {
    "accuracy of cal - from scratch, plus 1": last["cal"] - last["from scratch"] + 1.0,
    "steps from scratch / cal, minus 3": (ratio - 3.0) * every,
  }
  return Measured(effects, figures)
