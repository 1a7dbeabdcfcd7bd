"""Projectors off spans of inputs and of gradients against NumPy that is written from the papers, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from projected_by_hand import INPUTS, C, D, draw, kernel_and_bias, reaching

from cljax import projectors as P


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def test_gpm_over_two_tasks():
  """NumPy: directions of what the basis leaves of the inputs, until the threshold is reached; then ``G - M M^T G``."""
  g = {"a": {"kernel": draw(D, C), "bias": draw(C)}, "b": {"kernel": draw(2, 3, C, seed=1)}, "head": draw(C, 2)}
  skip = lambda path: path == "head"
  for rule in ("reach", "released"):
    tx, levels = P.gpm(skip=skip), {"a/kernel": 0.8, "b/kernel": 0.95}
    state, bases = tx.init(g), {"a/kernel": np.zeros((D, 0)), "b/kernel": np.zeros((D, 0))}
    for task, x in enumerate(INPUTS):
      inputs = {"a/kernel": x, "b/kernel": x[::-1, ::-1], "ignored": x}
      state = P.gpm_extend(state, inputs, levels, rule)
      for path, m in bases.items():
        rows = inputs[path]
        u, s, _ = np.linalg.svd((rows - rows @ m @ m.T).T)
        total = np.sum(rows**2)
        count = reaching(s**2, total, np.sum(s**2), levels[path])
        count -= rule == "released" and task == 0
        bases[path] = np.concatenate([m, u[:, :count]], 1)
        assert int(state.ranks[path]) == bases[path].shape[1] > task
    got, _ = tx.update(g, state)
    m = bases["a/kernel"]
    np.testing.assert_allclose(got["a"]["kernel"], g["a"]["kernel"] - m @ m.T @ g["a"]["kernel"], atol=1e-10)
    m, b = bases["b/kernel"], g["b"]["kernel"].reshape(D, C)
    np.testing.assert_allclose(got["b"]["kernel"], (b - m @ m.T @ b).reshape(2, 3, C), atol=1e-10)
    np.testing.assert_array_equal(got["a"]["bias"], 0)
    np.testing.assert_array_equal(got["head"], g["head"])


def test_cuber_over_three_tasks():
  """NumPy: spans, regimes, the pull inside open spans and the projection off blocked ones; the whole and its parts."""
  strength, seen = 0.3, set()
  old = [kernel_and_bias(1), kernel_and_bias(2)]
  w, moved, g = kernel_and_bias(3), kernel_and_bias(4), kernel_and_bias(5)
  spans = []
  for x in INPUTS:
    u, s, _ = np.linalg.svd(x.T)
    spans.append(u[:, : min(2, reaching(s**2, np.sum(s**2), np.sum(s**2), 0.75))])
  assert [s.shape[1] for s in spans] == [2, 1]
  whole, pull, off = P.cuber(3, 2, strength), P.cuber_pull(3, 2, strength), P.cuber_projection(3, 2)
  states = {"whole": whole.init(w), "parts": (pull.init(w), off.init(w))}
  for x, old_g in zip(INPUTS, old, strict=True):
    states = {k: P.cuber_end_task(s, {"kernel": x}, old_g, 0.75) for k, s in states.items()}
  for seed in range(8):
    new = kernel_and_bias(30 + seed)["kernel"]
    started = {k: P.cuber_start_task(s, w, {"kernel": jnp.asarray(new)}, 0.5, 0.05) for k, s in states.items()}
    regime = []
    for s, old_g in zip(spans, old, strict=True):
      enough = np.linalg.norm(s.T @ new) >= 0.5 * np.linalg.norm(new)
      cosine = np.sum(old_g["kernel"] * new) / np.linalg.norm(old_g["kernel"]) / np.linalg.norm(new)
      regime.append(1 if not enough else 3 if cosine >= 0.05 else 2)
    np.testing.assert_array_equal(started["whole"].kernels["kernel"].regime, [*regime, 0])
    np.testing.assert_array_equal(started["parts"][0].kernels["kernel"].regime, [*regime, 0])
    if tuple(regime) in seen:
      continue
    seen.add(tuple(regime))
    drift = moved["kernel"] - w["kernel"]
    pulled = g["kernel"] + 2 * strength * sum(s @ s.T @ drift for s, r in zip(spans, regime, strict=True) if r == 3)
    shut = [s for s, r in zip(spans, regime, strict=True) if r != 3]
    b = np.linalg.qr(np.concatenate(shut, 1))[0] if shut else np.zeros((D, 1))
    out, _ = whole.update(g, started["whole"], moved)
    np.testing.assert_allclose(out["kernel"], pulled - b @ b.T @ pulled, atol=1e-9)
    np.testing.assert_array_equal(out["bias"], 0)
    middle, _ = pull.update(g, started["parts"][0], moved)
    np.testing.assert_allclose(middle["kernel"], pulled, atol=1e-9)
    np.testing.assert_array_equal(middle["bias"], g["bias"])
    last, _ = off.update(g, started["parts"][1])
    np.testing.assert_allclose(last["kernel"], g["kernel"] - b @ b.T @ g["kernel"], atol=1e-9)
    np.testing.assert_array_equal(last["bias"], 0)
  assert {1, 2, 3} <= {r for pair in seen for r in pair}
  assert any(3 in pair and min(pair) < 3 for pair in seen)


def test_scaled_projection():
  w, q = draw(D, C), draw(2, 2, seed=1)
  s = np.linalg.qr(draw(D, 2, seed=2))[0]
  np.testing.assert_allclose(P.scaled_projection(w, s, q), w - s @ s.T @ w + s @ q @ s.T @ w, atol=1e-12)


def frequent(u, sigma, rank):
  lost = sigma[rank] ** 2 if len(sigma) > rank else 0.0
  return u[:, :rank] * np.sqrt(sigma[:rank] ** 2 - lost)


@pytest.mark.parametrize(("every", "rule"), [(1, "reach"), (2, "released")])
def test_coso_over_two_tasks(every, rule):
  """NumPy: Adam in the leading left directions of what the history leaves of each gradient, and the task's sketch.

  Signs of singular vectors are arbitrary, and moments are kept when the axes change: signs are taken over.
  """
  rank, sketch_rank, b1, b2, epsilon, decay = 2, 3, 0.8, 0.9, 1e-2, 0.7
  out, inputs = 7, 5
  tx, off = P.coso(rank, sketch_rank, every, None, b1, b2, epsilon, decay), P.coso_projection()
  params = {"w": jnp.ones((inputs, out))}
  state, last = tx.init(params), off.init(params)
  m = np.zeros((out, 0))
  for task in range(2):
    sketch, mu, nu = np.zeros((out, sketch_rank)), np.zeros((rank, inputs)), np.zeros((rank, inputs))
    for step in range(3):
      g = draw(inputs, out, seed=10 * task + step) * np.linspace(3, 0.5, out)
      update, state = tx.update({"w": jnp.asarray(g)}, state)
      k = state.kernels["w"]
      a = (np.eye(out) - m @ m.T) @ g.T
      if step % every == 0:
        u, sigma, _ = np.linalg.svd(a, full_matrices=False)
        axes = u[:, :rank] * np.sign(np.sum(u[:, :rank] * np.asarray(k.axes), 0))
        merged = np.concatenate([np.sqrt(decay) * sketch, frequent(u, sigma, sketch_rank)], 1)
        sketch = frequent(*np.linalg.svd(merged, full_matrices=False)[:2], sketch_rank)
      np.testing.assert_allclose(k.axes, axes, atol=1e-9)
      small = axes.T @ a
      mu, nu = b1 * mu + (1 - b1) * small, b2 * nu + (1 - b2) * small**2
      hat = (mu / (1 - b1 ** (step + 1))) / (np.sqrt(nu / (1 - b2 ** (step + 1))) + epsilon)
      np.testing.assert_allclose(update["w"], (axes @ hat).T, atol=1e-8)
      np.testing.assert_allclose(k.sketch @ k.sketch.T, sketch @ sketch.T, atol=1e-8)
    u, sigma, _ = np.linalg.svd(sketch)
    count = reaching(sigma**2, np.sum(sigma**2), np.sum(sigma**2), 0.9) - (rule == "released")
    assert count > 0
    m = np.concatenate([m, u[:, :count]], 1)
    state, last = P.coso_end_task((state, last), 0.9, rule)
    k = state.kernels["w"]
    np.testing.assert_allclose(k.history @ k.history.T, m @ m.T, atol=1e-8)
    assert (int(k.rank), int(k.dropped), int(state.count)) == (m.shape[1], 0, 0)
    assert not any(np.any(x) for x in (k.axes, k.sketch, k.shrinkage, k.mu, k.nu))
    g = draw(inputs, out, seed=99)
    np.testing.assert_allclose(off.update({"w": jnp.asarray(g)}, last)[0]["w"], g - g @ m @ m.T, atol=1e-8)


def test_coso_drops_what_finds_no_room_in_the_history():
  tx = P.coso(2, 3, max_history=2)
  params = {"w": jnp.ones((5, 7))}
  _, state = tx.update({"w": jnp.asarray(draw(5, 7))}, tx.init(params))
  k = P.coso_end_task(state, 1.0).kernels["w"]
  assert (k.history.shape, int(k.rank), int(k.dropped)) == ((7, 2), 2, 1)
  tx = P.coso(2, 3)
  _, state = tx.update({"w": jnp.asarray(draw(5, 7))}, tx.init(params))
  k = P.coso_end_task(state, 1.0).kernels["w"]
  u = np.linalg.svd(draw(5, 7).T)[0][:, :3]  # all that the sketch has, and nothing in the columns behind
  np.testing.assert_allclose(k.history @ k.history.T, u @ u.T, atol=1e-9)
  np.testing.assert_array_equal(np.any(k.history != 0, 0), np.arange(7) < 3)
