"""The ideal continual learner keeps every task's minimum, and projected gradient descent arrives where it does."""

import jax
import jax.numpy as jnp
import numpy as np

from cljax import projectors, theory
from experiments.claims import Claim, Measured
from experiments.claims._linear import basis, descend, tasks

CLAIM = Claim(
  methods=("ideal_learn", "ogd_extend"),
  paper="Peng et al. 2023",
  sentence="Where the tasks share a minimiser, keeping the whole set of minimisers never forgets; on linear models "
  "gradient descent projected on what is left free (OGD with full memory) is the same learner.",
  protocol="Linear regression of a digit's label from its 64 pixels in float64, 4 tasks of 8 rows, which one weight "
  "vector fits; largest error on any task at the end below 1e-10; largest difference of weights to 20000 steps of "
  "projected gradient descent a task below 1e-6.",
  quick=True,
)


def distances(seed):
  sets, w = tasks(seed, 4, 8), jnp.zeros(64)
  learn, extend = jax.jit(theory.ideal_learn), jax.jit(projectors.ogd_extend)  # compiled once for all seeds
  ideal, state = theory.ideal_init(jnp.zeros((64, 1))), basis(32).init({"w": w})
  for x, y in sets:
    ideal = learn(ideal, x, y[:, None])
    w = descend(basis(32), state, w, x, y, 20_000)
    state = extend(state, {"w": x})
  error = max(float(jnp.abs(x @ ideal.weights[:, 0] - y).max()) for x, y in sets)
  return error, float(jnp.abs(ideal.weights[:, 0] - w).max())


def measure(seeds):
  with jax.enable_x64(True):
    found = np.array([distances(s) for s in range(seeds)])
  return Measured(
    {"1e-10 - error at the end": 1e-10 - found[:, 0], "1e-6 - distance to projected descent": 1e-6 - found[:, 1]},
    {"error at the end": found[:, 0], "distance to projected descent": found[:, 1]},
  )
