"""A-GEM is nearly as good as GEM at a fraction of its gradients."""

import jax
import numpy as np

from cljax import methods
from cljax.core.types import Learner
from cljax.engine.setup import spec_of
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, mlp, percent, train

CLAIM = Claim(
  methods=("agem", "gem"),
  paper="Chaudhry et al. 2019",
  sentence="One averaged constraint forgets less than plain training, about as little as GEM's constraint for each "
  "task, and costs less.",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs, 200 stored "
  "rows; forgetting of finetune minus that of agem; accuracy of agem no more than 3 points below gem's; stored rows "
  "that a step takes gradients of, gem over agem, above 2.",
)


def rows_of_a_step(name, stream):
  """Stored rows in the reference gradients of one step."""
  model, spec = mlp(stream), spec_of(stream, 32)
  method = methods.make(name, model, spec)

  def batch(key):
    learner = Learner(0, key, (), (), (), ())
    learner = learner._replace(method_state=method.init(key, learner))
    return method.references["memory"].batch(key, learner).y

  return jax.eval_shape(batch, jax.random.key(0)).size


def measure(seeds):
  stream = digits("permuted")
  plain, mine, gem = (train(stream, name, seeds) for name in ("finetune", "agem", "gem"))
  share = rows_of_a_step("gem", stream) / rows_of_a_step("agem", stream)
  return Measured(
    {
      "forgetting of finetune - agem": forgetting(plain) - forgetting(mine),
      "accuracy of agem - gem + 3 points": percent(mine) - percent(gem) + 3,
      "rows of a step, gem / agem - 2": np.full(seeds, share - 2),
    },
    {"finetune accuracy": percent(plain), "agem accuracy": percent(mine), "gem accuracy": percent(gem)},
  )
