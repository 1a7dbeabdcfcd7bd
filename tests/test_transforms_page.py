"""The page on penalties in other people's loops: its code, run, and each of its loops against the closed form."""

import pathlib
import re

import jax
import numpy as np
import pytest

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "transforms.md").read_text()


@pytest.fixture(scope="module")
def page():
  """The names that the page's code defines."""
  names: dict = {"__name__": "transforms_page"}
  source = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.S))
  exec(compile(source, "docs/transforms.md", "exec"), names)
  return names


def gradient(p, x, y):
  h = np.tanh(x @ p["first/kernel"] + p["first/bias"])
  d = 2 * (h @ p["second/kernel"] + p["second/bias"] - y) / y.size
  inner = d @ p["second/kernel"].T * (1 - h**2)
  return {"second/kernel": h.T @ d, "second/bias": d.sum(0), "first/kernel": x.T @ inner, "first/bias": inner.sum(0)}


def by_formula(page, name):
  """Three steps, the end of a task, two steps under ``strength * 0.5 (theta - anchor)``, in float64."""
  x, y, rate, strength = (np.asarray(page[n], np.float64) for n in ("X", "Y", "RATE", "STRENGTH"))
  theta = {f"{n}/{k}": np.float64(v) for n, layer in page["START"].items() for k, v in layer.items()}
  z, average, anchor = dict(theta), dict(theta), None
  for step in range(5):
    anchor = dict(theta) if step == 3 else anchor
    g = gradient(theta, x, y)
    for n in theta:
      if anchor is not None and not (name == "partition" and "bias" in n):
        g[n] = g[n] + strength * 0.5 * (theta[n] - anchor[n])
    if name == "schedule_free":
      z = {n: z[n] - rate * g[n] for n in z}
      average = {n: average[n] + (z[n] - average[n]) / (step + 1) for n in z}
      theta = {n: 0.9 * average[n] + 0.1 * z[n] for n in z}
    else:
      theta = {n: theta[n] - rate * g[n] for n in theta}
  return theta


@pytest.mark.parametrize("name", ["sgd", "schedule_free", "MultiSteps", "partition"])
@pytest.mark.parametrize("loop", ["dict", "Linen", "NNX", "Equinox"])
def test_every_loop_is_the_closed_form(page, loop, name):
  got = page["loops"][loop](page["optimizers"][name], 2 if name == "MultiSteps" else 1)
  want = by_formula(page, name)
  for path, value in jax.tree_util.tree_leaves_with_path(got):
    where = "/".join(k.key for k in path)
    np.testing.assert_allclose(value, want[where], rtol=1e-5, atol=1e-6, err_msg=where)


@pytest.mark.parametrize("loop", ["dict", "Linen", "NNX", "Equinox"])
def test_a_projector_reads_kernels_as_they_lie(page, loop):
  """Three free steps; then two in which the first layer's kernel moves across the old input alone, its bias not."""
  x, y, rate = (np.asarray(page[n], np.float64) for n in ("X", "Y", "RATE"))
  theta = {f"{n}/{k}": np.float64(v) for n, layer in page["START"].items() for k, v in layer.items()}
  old = x[0] / np.linalg.norm(x[0])
  for step in range(5):
    g = gradient(theta, x, y)
    if step >= 3:
      g["first/kernel"] = g["first/kernel"] - np.outer(old, old @ g["first/kernel"])
      g["first/bias"] = np.zeros_like(g["first/bias"])
    theta = {n: theta[n] - rate * g[n] for n in theta}
  for path, value in jax.tree_util.tree_leaves_with_path(page["projected"][loop]):
    where = "/".join(k.key for k in path)
    np.testing.assert_allclose(value, theta[where], rtol=1e-5, atol=1e-6, err_msg=where)


def test_the_penalty_matters(page):
  """The formula without the penalty is far from each of the loops: the comparison above sees it."""
  page = {**page, "STRENGTH": 0.0}
  assert (
    abs(
      by_formula(page, "sgd")["first/kernel"] - np.asarray(page["plain"](page["optimizers"]["sgd"])["first"]["kernel"])
    ).max()
    > 1e-3
  )
