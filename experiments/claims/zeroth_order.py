"""Forward passes alone overcome forgetting."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, mlp, percent, train

CLAIM = Claim(
  methods=("zeroth_order",),
  paper="Feng et al. 2025",
  sentence="Adapting a trained model to further tasks by zeroth-order gradients forgets less than by exact ones, and "
  "ends at a better average.",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-32-10, Adam 0.001, batch 32, 10 epochs; the first task "
  "by exact gradients in both arms, as the paper starts from a pre-trained model; then ZO-Adam with 20 two-point "
  "queries a step, not shrunk, for Adam remembers the size of exact gradients (with one query, and 18,000 weights, the "
  "later tasks are not learned at all). Average forgetting of finetune minus that of zeroth_order, and final average "
  "accuracy of zeroth_order minus that of finetune.",
)


def measure(seeds):
  stream = digits("permuted")
  shared = {"model": mlp(stream, hidden=(32,)), "optimizer": "adam", "learning_rate": 0.001, "epochs": 10}
  first_task = shared["epochs"] * -(-len(stream.train[0]) // 32)
  plain = train(stream, "finetune", seeds, **shared)
  mine = train(stream, "zeroth_order", seeds, switch_step=first_task, queries=20, shrink=False, **shared)
  return Measured(
    {
      "forgetting of finetune - zeroth_order": forgetting(plain) - forgetting(mine),
      "accuracy of zeroth_order - finetune": percent(mine) - percent(plain),
    },
    {
      "finetune accuracy": percent(plain),
      "zeroth_order accuracy": percent(mine),
      "finetune learned": learned(plain),
      "zeroth_order learned": learned(mine),
    },
  )
