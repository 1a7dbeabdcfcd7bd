"""Parts of ``experiments.theory``: matrix factorisation task after task, and rehearsal between nothing held and all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cljax import theory


def summary(values, axis=-1):
  """Mean and standard error over ``axis``."""
  values = np.asarray(values, np.float64)
  return {
    "mean": values.mean(axis),
    "error": values.std(axis, ddof=1) / np.sqrt(values.shape[axis]),
    "draws": values.shape[axis],
  }


def factorisation(
  features: int = 60, shared: int = 30, each: int = 5, size: int = 20, rows: int = 12, tasks: int = 7, draws: int = 200
) -> dict:
  """Tasks of ``each`` random directions in one subspace of ``shared`` dimensions: the ideal learner of a factor of
  ``size`` columns against a factor of the last task alone, which is free to forget.

  Shares of the rows' squares that the factor leaves over: of the first task, and of a task to come.
  """

  def one(key):
    keys = jax.random.split(key, 3)
    basis = theory.haar(jax.random.normal(keys[0], (features, features)))[:shared]
    inside = jax.random.normal(keys[1], (tasks + 1, each, shared))
    x = jnp.einsum("tnk,tks,sp->tnp", jax.random.normal(keys[2], (tasks + 1, rows, each)), inside, basis)
    left = lambda state, x: theory.factor_loss(state, x) / jnp.sum(x**2)
    empty = theory.factor_init(features, size)

    def task(state, now):
      state = theory.factor_learn(state, now, tolerance=1e-3)
      alone = theory.factor_learn(empty, now, tolerance=1e-3)
      return state, (jnp.stack([jnp.stack([left(s, x[0]), left(s, x[-1])]) for s in (state, alone)]), state.rank)

    return jax.lax.scan(task, empty, x[:-1])[1]

  left, rank = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(0), draws))
  t = np.arange(1, tasks + 1)
  lost = np.where(t > 1, theory.factor_forgetting(each, shared), 0.0)
  ahead = [theory.factor_forgetting(min(int(i) * each, size), shared) for i in t]
  return {
    "features": features, "shared": shared, "each": each, "size": size, "tasks": t,
    "rank": np.asarray(rank).mean(0),
    "theory": {"first": {"ideal": np.zeros(tasks), "plain": lost},
               "ahead": {"ideal": np.asarray(ahead), "plain": np.full(tasks, theory.factor_forgetting(each, shared))}},
    "measured": {what: {name: summary(left[:, :, i, j], 0) for i, name in enumerate(("ideal", "plain"))}
                 for j, what in enumerate(("first", "ahead"))},
  }  # fmt: skip


def rehearsal(features: int = 60, rows: int = 8, tasks: int = 6, stored=(0, 2, 4, 6, 8), draws: int = 400) -> dict:
  """One teacher, tasks of Gaussian inputs without noise: minimum norm with ``stored`` rows of each earlier task held.

  Nothing held is learning in turn, all rows the ideal learner. Distance to the teacher and the loss on the first
  task's rows, against :func:`cljax.theory.rehearsal_errors`.
  """
  teacher = jnp.zeros(features).at[0].set(1.0)

  def one(key, held):
    x = jax.random.normal(key, (tasks, rows, features))
    y = (x @ teacher)[..., None]

    def task(state, now):
      state = theory.rehearse(state, now[0], now[1], held, tolerance=1e-4)
      error = state.weights[:, 0] - teacher
      return state, (jnp.sum(error**2), jnp.mean((x[0] @ error) ** 2))

    return jax.lax.scan(task, theory.ideal_init(jnp.zeros((features, 1))), (x, y))[1]

  keys = jax.random.split(jax.random.key(0), draws)
  found = [jax.jit(lambda keys, m=m: jax.lax.map(lambda k: one(k, m), keys))(keys) for m in stored]
  lines = [theory.rehearsal_errors(features, rows, m, tasks) for m in stored]
  names = ("distance", "first_loss")
  return {
    "features": features, "rows": rows, "stored": list(stored), "tasks": np.arange(1, tasks + 1),
    "theory": {name: np.stack([getattr(e, name) for e in lines]) for name in names},
    "measured": {name: summary(np.stack([f[i] for f in found]), 1) for i, name in enumerate(names)},
  }  # fmt: skip
