"""Layer weights on top of SI's importance: less forgetting than plain training, and better than SI alone."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("hierarchical", "si"),
  paper="Song et al. 2025",
  sentence="Weighing layers by their importance improves on element-wise importance alone.",
  protocol="Permuted digits, 5 tasks, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs. hierarchical with strength 0.3 "
  "against si with its default 0.1: over three layers with even weights the two are the same. Average forgetting of "
  "finetune minus that of hierarchical, and accuracy of hierarchical minus that of si, in points. Importance comes "
  "from the tasks themselves, not from a pass over general data as in the paper.",
)


def measure(seeds):
  stream = digits("permuted")
  plain, flat = train(stream, "finetune", seeds), train(stream, "si", seeds)
  mine = train(stream, "hierarchical", seeds, strength=0.3)
  return Measured(
    {
      "forgetting of finetune - hierarchical": forgetting(plain) - forgetting(mine),
      "accuracy of hierarchical - si": percent(mine) - percent(flat),
    },
    {"finetune accuracy": percent(plain), "si accuracy": percent(flat), "hierarchical accuracy": percent(mine)},
  )
