"""Layer weights on top of SI's importance: less forgetting than plain training, and better than SI alone."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("hierarchical", "si"),
  paper="Song et al. 2025",
  sentence="Weighing layers by their importance improves on element-wise importance alone.",
  protocol="Permuted digits, 5 tasks, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs. hierarchical with strength 0.3 "
  "and norms over the largest (the default) against si with its default 0.1: over three layers with even weights "
  "the two are the same. Average forgetting of finetune minus that of hierarchical, and accuracy of hierarchical minus "
  "that of si, in points. Importance comes from the tasks themselves; beside it stand the softmax of bare norms, as "
  "printed, and importance from the first task alone, as general data.",
)


def measure(seeds):
  stream = digits("permuted")
  plain, flat = train(stream, "finetune", seeds), train(stream, "si", seeds)
  arms: dict[str, dict[str, Any]] = {
    "hierarchical": {},
    "bare norms": {"normalise": "none"},
    "general data": {"general": 1},
  }
  runs = {name: train(stream, "hierarchical", seeds, strength=0.3, **given) for name, given in arms.items()}
  mine = runs["hierarchical"]
  figures = {"finetune accuracy": percent(plain), "si accuracy": percent(flat)}
  figures |= {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  return Measured(
    {
      "forgetting of finetune - hierarchical": forgetting(plain) - forgetting(mine),
      "accuracy of hierarchical - si": percent(mine) - percent(flat),
    },
    figures,
  )
