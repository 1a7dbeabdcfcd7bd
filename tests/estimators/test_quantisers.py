"""Product quantisation against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.estimators import quantisers


def by_hand(centres, x):
  """Codes and what they give back, part by part and row by row."""
  parts, number, size = centres.shape
  codes, out = np.zeros((len(x), parts), int), np.zeros((len(x), parts * size))
  for i, row in enumerate(x):
    row = np.concatenate([row, np.zeros(parts * size - len(row))])
    for s in range(parts):
      gaps = [((row[s * size : (s + 1) * size] - centres[s, k]) ** 2).sum() for k in range(number)]
      codes[i, s] = int(np.argmin(gaps))
      out[i, s * size : (s + 1) * size] = centres[s, codes[i, s]]
  return codes, out[:, : x.shape[1]]


def test_codes_name_the_nearest_centre_of_each_part():
  """Seven numbers in three parts, the last filled up; there and back again changes nothing more."""
  rng = np.random.default_rng(0)
  centres, x = rng.normal(size=(3, 5, 3)), rng.normal(size=(11, 7))
  centres[2, :, 1:] = 0
  given = jnp.asarray(centres, jnp.float32)
  codes = quantisers.encoded(given, jnp.asarray(x, jnp.float32))
  want, back = by_hand(np.asarray(given, np.float64), x)
  assert codes.dtype == jnp.uint8
  np.testing.assert_array_equal(codes, want)
  shown = quantisers.decoded(given, codes, 7)
  np.testing.assert_allclose(shown, back, rtol=1e-6)
  again = quantisers.decoded(given, quantisers.encoded(given, shown), 7)
  np.testing.assert_array_equal(again, shown)
  maps = jnp.asarray(x[:8].reshape(2, 2, 2, 7), jnp.float32)
  np.testing.assert_array_equal(quantisers.encoded(given, maps).reshape(8, 3), want[:8])
  np.testing.assert_array_equal(quantisers.decoded(given, quantisers.encoded(given, maps), 7).reshape(8, 7), shown[:8])


def test_parts_are_of_one_size():
  assert quantisers.parts_of(512, 32) == (32, 16)
  assert quantisers.parts_of(100, 32) == (25, 4)
  assert quantisers.parts_of(7, 32) == (7, 1)
  assert quantisers.parts_of(7, 2) == (2, 4)


def test_centres_are_lloyd_s_of_each_part(monkeypatch):
  """From the rows that were drawn, three steps; rows of weight 0 have no part, whatever stands in them."""
  rng = np.random.default_rng(1)
  x, weight = rng.normal(size=(30, 5)), (np.arange(30) % 5 > 0).astype(np.float32)
  broken = np.where(weight[:, None] > 0, x, 100.0)
  fit = lambda steps: np.asarray(
    quantisers.fitted(jax.random.key(0), jnp.asarray(broken, jnp.float32), jnp.asarray(weight), 2, 4, steps), np.float64
  )
  centres = fit(0)
  assert centres.shape == (2, 4, 3)
  padded = np.concatenate([np.float32(x), np.zeros((30, 1))], 1).reshape(30, 2, 3)[weight > 0]
  for s in range(2):
    assert all(min(np.abs(padded[:, s] - c).max(1)) < 1e-6 for c in centres[s])
    for _ in range(3):
      near = ((padded[:, s, None] - centres[s]) ** 2).sum(-1).argmin(1)
      centres[s] = [padded[near == k, s].mean(0) if (near == k).any() else centres[s, k] for k in range(4)]
  np.testing.assert_allclose(fit(3), centres, rtol=1e-5, atol=1e-6)
  assert np.abs(fit(0)[0] - fit(0)[1]).max() > 1e-3
  monkeypatch.setattr(quantisers, "POINTS", 2)  # eight rows, for four centres
  few = fit(0)
  assert len(np.unique(np.concatenate([few[0]]).round(5), axis=0)) == 4
  assert np.abs(few).max() < 50
  assert np.isfinite(fit(3)).all()


def test_bytes_are_a_part_of_the_vectors():
  """A map of 7 x 7 places of 512 numbers: a byte for each of 32 parts, 64 times fewer than in float32."""
  shape = jax.eval_shape(
    quantisers.encoded, *(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((32, 256, 16), (1, 7, 7, 512)))
  )
  assert shape.size * shape.dtype.itemsize == 7 * 7 * 32
  assert 64 * shape.size == 7 * 7 * 512 * 4
  assert np.iinfo(shape.dtype).max + 1 == quantisers.MOST


@pytest.mark.parametrize("width", [4, 6])
def test_as_many_centres_as_rows_give_every_row_back(width):
  x = jnp.asarray(np.random.default_rng(2).normal(size=(9, width)), jnp.float32)
  centres = quantisers.fitted(jax.random.key(3), x, jnp.ones(9), 2, 9)
  np.testing.assert_allclose(quantisers.decoded(centres, quantisers.encoded(centres, x), width), x, rtol=1e-6)
