"""Draws, trees as vectors and shares of energy in NumPy: what projectors' tests compare with."""

import jax
import numpy as np

D, C = 6, 3
RNG = np.random.default_rng(7)
INPUTS = [RNG.normal(size=(5, D)) * [2, 1, 1, 0.5, 0.2, 0.1], RNG.normal(size=(5, D)) * [0.1, 2, 0.3, 1, 0.2, 1]]


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def kernel_and_bias(seed):
  return {"bias": draw(C, seed=seed + 100), "kernel": draw(D, C, seed=seed)}


def flat(tree, lead=0):
  return np.concatenate([np.asarray(x).reshape(*np.shape(x)[:lead], -1) for x in jax.tree.leaves(tree)], -1)


def stack(*seeds):
  return jax.tree.map(lambda *x: np.stack(x), *map(kernel_and_bias, seeds))


def reaching(energy, total, open_, threshold):
  """How many of the falling ``energy`` it takes until ``total - open_`` and they make up the share."""
  captured, count = total - open_, 0
  while captured < threshold * total and count < len(energy):
    captured += energy[count]
    count += 1
  return count
