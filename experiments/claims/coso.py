"""CoSO's orthogonality to old tasks' subspaces is what keeps them."""

import jax
import jax.numpy as jnp

from cljax import methods, projectors
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, mlp, percent, train

CLAIM = Claim(
  methods=("coso",),
  paper="Cheng et al. 2025",
  sentence="Without orthogonality to the gradient subspaces of finished tasks, CoSO's accuracy falls.",
  protocol="Split digits, class-incremental with the current task's classes in the training softmax (as in the paper), "
  "5 tasks, MLP 64-50-50-10, SGD 0.05, batch 32, 5 epochs; coso with scale 0.1 (the network is not pre-trained), "
  "else at its defaults, against the same with its history emptied; final accuracy, in points.",
)


def without_history(model, spec):
  """CoSO that stores no directions: its rank counts on, so that biases are held all the same."""
  whole = methods.make("coso", model, spec, scale=0.1)
  is_kernel = lambda s: isinstance(s, projectors.CoSOKernel)

  def end_task(key, learner, task):
    learner = whole.end_task(key, learner, task)
    empty = lambda k: k._replace(history=jnp.zeros_like(k.history)) if is_kernel(k) else k
    return learner._replace(opt_state=jax.tree.map(empty, learner.opt_state, is_leaf=is_kernel))

  return whole._replace(end_task=end_task)


def measure(seeds):
  stream = digits("class", active="task")
  model = mlp(stream, hidden=(50, 50))  # two singular value decompositions a kernel and step
  mine = train(stream, "coso", seeds, model=model, scale=0.1)
  ablated = train(stream, without_history, seeds, model=model)
  return Measured(
    {"accuracy of coso - coso without history": percent(mine) - percent(ablated)},
    {
      "coso accuracy": percent(mine),
      "without history accuracy": percent(ablated),
      "coso forgetting": forgetting(mine),
      "without history forgetting": forgetting(ablated),
    },
  )
