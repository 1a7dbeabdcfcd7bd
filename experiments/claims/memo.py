"""At equal bytes, a network that grows by its last block, with more exemplars, beats one that grows whole."""

import numpy as np

from cljax.core import tree
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, mlp, percent, train

CAPACITY = 20

CLAIM = Claim(
  methods=("memo", "der_expand"),
  paper="Zhou et al. 2023",
  sentence="At the same budget of bytes, sharing the shallow layers and spending what they save on exemplars ends at a "
  "better accuracy than a whole extractor for each task.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, those met in the softmax (the paper's network grows), MLP "
  "64-100-100-10, SGD 0.05, batch 32, 10 epochs; der_expand with stage='align', 20 exemplars; memo with as many "
  "more as its four shared first layers save in float32; final average accuracy of memo minus that of der_expand. "
  "For the reader also memo with 20 exemplars.",
  seeds=5,
)


def measure(seeds):
  import jax

  stream = digits("class", active="seen")
  params = jax.eval_shape(mlp(stream).init, jax.random.key(0))[0]
  saved = (stream.num_tasks - 1) * tree.nbytes(params["hidden_0"])
  more = saved // (4 * int(np.prod(stream.dataset.train.x.shape[1:])))
  runs = {
    "memo": train(stream, "memo", seeds, epochs=10, capacity=CAPACITY + more),
    "der_expand": train(stream, "der_expand", seeds, epochs=10, capacity=CAPACITY, stage="align"),
    "memo with 20 exemplars": train(stream, "memo", seeds, epochs=10, capacity=CAPACITY),
  }
  figures = {f"{name}, accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name}, forgetting": forgetting(run) for name, run in runs.items()}
  figures["exemplars of memo"] = np.full(np.size(percent(runs["memo"])), CAPACITY + more)
  return Measured({"accuracy of memo - der_expand": percent(runs["memo"]) - percent(runs["der_expand"])}, figures)
