"""Theorem 4.1 of Lin et al.: against its own recursion exactly, and against draws within their standard errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.theory import draw_errors, expected_errors

DRAWS = 3000
# (tasks, features): the (rows, noise) measured; one program for each line.
CASES = {(3, 40): [(10, 0.5), (25, 0.0), (30, 2.0)], (6, 24): [(4, 0.0), (12, 0.7)]}


def teachers(tasks, features):
  """Tasks that are neither the same nor unrelated, so that every term of the formulas counts."""
  rng = np.random.default_rng(tasks)
  return rng.normal(size=features) + rng.normal(size=(tasks, features)) * np.linspace(0.3, 1.5, tasks)[:, None]


@functools.cache
def program(tasks, features):
  w, capacity = jnp.asarray(teachers(tasks, features)), max(n for n, _ in CASES[tasks, features])
  one = lambda key, rows, noise: draw_errors(key, w, rows, noise, capacity)
  return jax.jit(jax.vmap(one, (0, None, None)))


@pytest.mark.parametrize(("tasks", "features", "rows", "noise"), [(*k, *v) for k, vs in CASES.items() for v in vs])
def test_theorem_agrees_with_draws(tasks, features, rows, noise):
  got = program(tasks, features)(jax.random.split(jax.random.key(rows), DRAWS), rows, noise)
  wanted = expected_errors(teachers(tasks, features), rows, noise)
  for values, value in zip(got, wanted, strict=True):
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(DRAWS)
    assert abs(values.mean() - value) < 4 * error, (values.mean(), error, value)
    assert error < 0.03 * abs(value) + 0.01 * np.sum(teachers(tasks, features) ** 2) / tasks  # the test can tell


def recursion(w, n, sigma):
  """F and G from ``E L_i(w_t) = r E L_i(w_{t-1}) + (1 - r) d_it + n sigma^2 / (p - n - 1)``."""
  T, p = w.shape
  r = 1 - n / p
  d = ((w[:, None] - w) ** 2).sum(-1)
  loss, own = (w**2).sum(1), np.zeros(T)
  for t in range(T):
    loss = r * loss + (1 - r) * d[:, t] + n * sigma**2 / (p - n - 1)
    own[t] = loss[t]
  return (loss - own)[:-1].mean(), loss.mean()


@pytest.mark.parametrize(("tasks", "rows", "noise"), [(3, 5, 0.0), (3, 17, 0.4), (6, 1, 2.0), (6, 18, 1.0)])
def test_formula_is_the_recursion(tasks, rows, noise):
  w = teachers(tasks, 20).astype(np.float32)
  np.testing.assert_allclose(expected_errors(w, rows, noise), recursion(w, rows, noise), rtol=2e-5)


def test_what_the_theorem_says():
  w = teachers(3, 40)
  same = np.repeat(w[:1], 3, 0)
  assert expected_errors(same, 10, 0.0).forgetting < 0  # identical tasks teach backwards
  tight, slack = (abs(float(expected_errors(w, rows, 0.5).forgetting)) for rows in (20, 0.01))
  assert tight > 100 * slack  # r -> 1: next to nothing is forgotten
  # c_12 < 0 for six tasks at r = 1/2: the further apart the first two are, the less is forgotten.
  tasks = lambda angle: np.eye(40)[[0, 0, 2, 2, 2, 2]] * 1.0 + np.outer(np.arange(6) == 1, turn(angle))
  turn = lambda angle: np.pad([np.cos(angle) - 1, np.sin(angle)], (0, 38))
  close, far = (float(expected_errors(tasks(angle), 20, 0.0).forgetting) for angle in (0.0, 1.5))
  assert far < close
