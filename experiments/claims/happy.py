"""Evening out clusters and replaying noisy means find new classes in rows without labels, and keep the old ones."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, train

CLAIM = Claim(
  methods=("happy",),
  paper="Ma et al. 2024",
  sentence="Where only the first classes have labels, rows of all classes are grouped better at the end with mean "
  "answers evened out between and within old and new classes than without, and with old classes replayed as noisy "
  "means and features held than without.",
  protocol="Digits, 4 tasks of 4, 2, 2 and 2 classes, labels in the first alone; a later task has a tenth of the rows "
  "of each class before it; MLP 64-100-100-10, SGD 0.05, batch 32, 20 epochs, the released coefficients; views are cut "
  "to 0.6 of the area at least and not mirrored. Final accuracy of matched clusters over all classes: happy minus "
  "happy with between = within_old = within_new = 0, and minus happy with prototypes = distillation = 0, in points.",
  seeds=5,
)
EVEN = dict.fromkeys(("between", "within_old", "within_new"), 0.0)
HELD = dict.fromkeys(("prototypes", "distillation"), 0.0)


def measure(seeds):
  stream = digits("class", 4, classes_per_task=(4, 2, 2, 2), labelled=1, returning=0.1)
  given = {"epochs": 20, "least_area": 0.6, "flip": False, "evaluators": "clusters"}
  arms = {"happy": {}, "happy without evening": EVEN, "happy without old classes": HELD, "neither": {**EVEN, **HELD}}
  found = {name: train(stream, "happy", seeds, **given, **more).evaluations["clusters"] for name, more in arms.items()}
  last = {name: {part: 100 * v[:, -1, 0] for part, v in parts.items()} for name, parts in found.items()}
  figures = {f"{name}, {part}": v for name, parts in last.items() for part, v in parts.items()}
  effects = {
    f"clusters of happy - {n}": last["happy"]["all"] - last[n]["all"]
    for n in ("happy without evening", "happy without old classes")
  }
  return Measured(effects, figures)
