"""Forgetting of a linear model is what the NTK overlap matrix says, with and without projection."""

import jax
import jax.numpy as jnp
import numpy as np

from cljax import projectors, theory
from experiments.claims import Claim, Measured
from experiments.claims._linear import NONE, basis, descend, tasks

CLAIM = Claim(
  methods=("ntk_forgetting", "pca_ogd_extend"),
  paper="Doan et al. 2021",
  sentence="Forgetting on a source task is the overlap of both tasks' gradients, weighted by singular values and "
  "residual; projecting principal directions out leaves the residual overlap.",
  protocol="Linear regression of a digit's label from its 64 pixels in float64, two tasks of 12 rows, descended to "
  "convergence (100000 steps each); squared change of the first task's outputs against the formula, relative error "
  "below 1e-8: plain, and with 4 principal directions projected out (pca_ogd).",
  quick=True,
)


def errors(seed):
  (x_s, y_s), (x_t, y_t) = tasks(seed, 2, 12)
  w = descend(NONE, (), jnp.zeros(64), x_s, y_s, 100_000)
  extend = jax.jit(projectors.pca_ogd_extend, static_argnums=2)  # compiled once for all seeds
  state = extend(basis(4).init({"w": w}), {"w": x_s}, 4)
  left = x_t - x_t @ state.basis["w"].T @ state.basis["w"]
  out = []
  for transform, held, features in ((NONE, (), x_t), (basis(4), state, left)):
    moved = descend(transform, held, w, x_t, y_t, 100_000)
    change = jnp.sum((x_s @ (moved - w)) ** 2)
    formula = theory.ntk_forgetting(x_s, features, y_t - x_t @ w)
    out += [float(jnp.abs(change - formula) / formula), float(change)]
  return out


def measure(seeds):
  with jax.enable_x64(True):
    found = np.array([errors(s) for s in range(seeds)])
  return Measured(
    {"1e-8 - error, plain": 1e-8 - found[:, 0], "1e-8 - error, pca_ogd": 1e-8 - found[:, 2]},
    {
      "forgetting, plain": found[:, 1],
      "forgetting, pca_ogd": found[:, 3],
      "error, plain": found[:, 0],
      "error, pca_ogd": found[:, 2],
    },
  )
