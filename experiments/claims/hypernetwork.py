"""Rehearsing what a hypernetwork made for old tasks' embeddings keeps these tasks without stored rows."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, mlp, percent, train

CLAIM = Claim(
  methods=("hypernetwork",),
  paper="von Oswald et al. 2020",
  sentence="A pull of the weights made for old tasks to what they were prevents forgetting almost wholly, at no "
  "price in learning the new ones.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, MLP 64-30-30-10 made by a hypernetwork of 32 hidden "
  "units, Adam 0.001, batch 32, 5 epochs, strength 0.01 (the paper's number), no step ahead. Forgetting at "
  "strength 0 minus that at 0.01, and final average accuracy at 0.01 minus that at 0, in points.",
)


def measure(seeds):
  stream = digits("task")
  given = {"epochs": 5, "learning_rate": 0.001, "optimizer": "adam", "model": mlp(stream, (30, 30))}
  runs = {f"strength {s}": train(stream, "hypernetwork", seeds, strength=s, **given) for s in (0.0, 0.01)}
  free, held = runs.values()
  figures = {f"{name}, accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name}, forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name}, right after learning": learned(run) for name, run in runs.items()}
  return Measured(
    {
      "forgetting without - with": forgetting(free) - forgetting(held),
      "accuracy with - without": percent(held) - percent(free),
    },
    figures,
  )
