"""The aggregating token against NumPy in float64, and what it does not see."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from cljax import models
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.models import aggregation

HEADS = 3


@pytest.fixture(scope="module")
def made(class_stream):
  """A CNN with a token, and parameters of which none is 0."""
  spec = spec_of(class_stream, 8)
  network = models.cnn((4, 4, 1), class_stream.num_classes, widths=(4, 6))
  model = aggregation.aggregated(network, spec, "hfc", HEADS)
  params, state = model.init(jax.random.key(1))
  params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)
  x = np.float32(class_stream.dataset.train.x[:5])
  return network, model, params, state, x


def by_hand(block, places):
  """One row at a time."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), block)
  norm = lambda x, n: (x - x.mean()) / np.sqrt(x.var() + 1e-5) * p[n]["scale"] + p[n]["bias"]
  out = []
  for f in np.asarray(places, np.float64):
    x = np.stack([p["token"], *f])
    u = np.stack([norm(row, "norm_0") for row in x])
    q, k, v = u[0] @ p["query"], u @ p["key"], u @ p["value"]
    d, attended = len(p["token"]), []
    for h in range(HEADS):
      own = slice(h * d // HEADS, (h + 1) * d // HEADS)
      score = np.exp(k[:, own] @ q[own] / np.sqrt(d // HEADS))
      attended.append(score / score.sum() @ v[:, own])
    s = x[0] + np.concatenate(attended) @ p["project"]["kernel"] + p["project"]["bias"]
    m = norm(s, "norm_1") @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"]
    m = m * (1 + erf(m / np.sqrt(2))) / 2
    out.append(s + m @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"])
  return np.stack(out)


def test_the_token_attends_to_the_places_of_the_last_layer(made):
  network, model, params, state, x = made
  given = {"train": False, "key": None}
  hidden = network.apply(params["network"], state, x, **given)[0].hidden[-1]
  assert hidden.ndim == 4
  out = model.apply(params, state, x, **given)[0]
  wanted = by_hand(params["aggregation"], np.asarray(hidden).reshape(len(x), -1, hidden.shape[-1]))
  np.testing.assert_allclose(out.features, wanted, rtol=1e-4, atol=1e-5)
  head = params["aggregation"]["head"]
  np.testing.assert_allclose(out.logits, wanted @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5)
  slope = jax.grad(lambda p: model.apply(p, state, x, **given)[0].logits.sum())(params)
  np.testing.assert_array_equal(slope["network"]["head"]["kernel"], 0)
  assert np.abs(slope["network"]["conv_0"]["kernel"]).max() > 0


def test_the_order_of_places_does_not_matter(made):
  *_, params, _state, _x = made
  places = np.random.default_rng(0).normal(size=(2, 7, 6)).astype(np.float32)
  one, two = (aggregation.class_attention(params["aggregation"], p, HEADS) for p in (places, places[:, ::-1]))
  np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_without_projection_and_mlp_it_is_the_token_for_every_picture(made):
  *_, params, _state, _x = made
  block = dict(params["aggregation"])
  for name in ("project", "mlp_out"):
    block[name] = jax.tree.map(jnp.zeros_like, block[name])
  found = aggregation.class_attention(block, np.random.default_rng(1).normal(size=(3, 4, 6)).astype(np.float32), HEADS)
  np.testing.assert_array_equal(found, np.broadcast_to(block["token"], (3, 6)))


def test_what_it_needs_is_one_line(class_stream):
  spec = spec_of(class_stream, 8)
  network = models.cnn((4, 4, 1), 4, widths=(4, 6))
  with pytest.raises(
    UsageError, match=r"method\.heads: got 4; hfc needs a divisor of the last hidden layer's width, 6"
  ):
    aggregation.aggregated(network, spec, "hfc", 4)
  bare = models.from_apply(lambda key: {"w": jnp.zeros((16, 4))}, lambda p, x: x.reshape(len(x), -1) @ p["w"])
  with pytest.raises(UsageError, match="'hfc' with aggregate needs a model that gives its hidden layers"):
    aggregation.aggregated(bare, spec, "hfc")
