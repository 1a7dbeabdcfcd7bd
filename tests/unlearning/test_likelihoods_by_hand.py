"""Forgetting by losses of likelihoods on a tiny decoder: steps of plain SGD whose slopes in the logits are NumPy's.

One row to forget and one to keep, so that every batch is known; the model's own Jacobian carries a slope to weights.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linear_by_hand import softmax

import cljax
from cljax import objectives, streams, unlearning
from cljax.core import tree
from cljax.data import Dataset, Split
from cljax.models.decoder import decoder
from cljax.unlearning import misdirection
from cljax.unlearning._common import key_of

MODEL = decoder(6, 7, width=8, depth=1, heads=2, mlp_width=8)
PARAMS = jax.tree.map(lambda p: 2 * p, MODEL.init(jax.random.key(1))[0])
X = np.random.default_rng(0).integers(0, 7, (2, 6)).astype(np.int32)
Y = np.array([[-1, -1, 3, 6, 0, -1], [-1, 2, 5, 1, -1, 4]], np.int32)
RATE = 0.05
FORGET, RETAIN = ({"x": X[i : i + 1], "y": Y[i : i + 1], "id": [i]} for i in range(2))
SEQUENCE = objectives.chosen("sequence")(None, None, {})


def apply_fn(params, batch):
  return MODEL.apply(params, {}, batch.x, train=False, key=None)[0]


@functools.cache
def jacobian():
  """``(params, x) -> logits`` and ``(params, x, slope in the logits) -> slope in the weights``, compiled once."""

  def carried(params, x, dz):
    return jax.vjp(lambda p: MODEL.apply(p, {}, x, train=False, key=None)[0].logits, params)[1](dz)[0]

  return jax.jit(lambda p, x: MODEL.apply(p, {}, x, train=False, key=None)[0].logits), jax.jit(carried)


def logits(params, row):
  return np.asarray(jacobian()[0](params, X[row : row + 1])[0], np.float64)


def hot(row):
  return np.where((Y[row] >= 0)[:, None], np.eye(7)[np.maximum(Y[row], 0)], 0.0)


def there(row):
  return (Y[row] >= 0)[:, None].astype(float)


def nll_of(z, row):
  return -np.sum(hot(row) * np.log(softmax(z)))


def rising(z, row):
  """The slope of NLL, a sum over tokens."""
  return there(row) * softmax(z) - hot(row)


def kept(z, start):
  del start
  return rising(z, 1) / there(1).sum()


def held(z, start):
  return there(1) * (softmax(z) - softmax(start)) / there(1).sum()


def npo(z, start, beta=0.1):
  return -2 / (1 + np.exp(beta * (nll_of(z, 0) - nll_of(start, 0)))) * rising(z, 0)


def simnpo(z, start, beta=4.5, delta=0.0):
  del start
  n = there(0).sum()
  return -2 / (1 + np.exp(beta * (nll_of(z, 0) / n - delta))) * rising(z, 0) / n


def likely(weight):
  """The mean over tokens of a weighed ascent: every token alike."""

  def of(z, start):
    del start
    p = softmax(z)
    own = np.sum(hot(0) * p, -1, keepdims=True)
    return -weight(own) * rising(z, 0) / there(0).sum()

  return of


def demoted(z, start):
  return there(0) * (softmax(z) - softmax(start - 2.0 * hot(0))) / there(0).sum()


# name: (the call's options, slope(logits, logits before) on the row to forget, on the row to keep).
CASES = {
  "npo": ({"beta": 0.7}, functools.partial(npo, beta=0.7), kept),
  "simnpo": ({"beta": 0.8, "delta": 1.5}, functools.partial(simnpo, beta=0.8, delta=1.5), kept),
  "wga": ({"beta": 0.5}, likely(lambda p: p**0.5), kept),
  "satimp": ({"saturation": 0.5, "importance": 0.2}, likely(lambda p: p**0.5 * (1 - p) ** 0.2), kept),
  "undial": ({"strength": 2.0}, demoted, kept),
  "npo-kl": ({"beta": 2.0, "retain_loss": "kl"}, functools.partial(npo, beta=2.0), held),
}


def written():
  """Sixteen rows of six tokens, each begun by tokens of its own: a task, and its rows."""
  rng = np.random.default_rng(3)
  text = rng.integers(0, 7, (16, 7)).astype(np.int32)
  split = Split(text[:, :-1], text[:, 1:], np.arange(16, dtype=np.int32), np.zeros(16, np.int32))
  data = Dataset("made", split, split, 7, tuple("abcdefg"), ("0",), None, "made")
  return data, [np.arange(16)], [np.arange(16)]


def after(name, steps, learned=SEQUENCE, optimizer=None, **given):
  call = getattr(unlearning, name.partition("-")[0])
  sides = {"forget": FORGET, "retain": RETAIN}
  edit = lambda p: call(apply_fn, p, **sides, key=jax.random.key(3), batch=1, learned=learned, steps=steps,
                        optimizer=optimizer or optax.sgd(RATE), **given)  # fmt: skip
  return jax.jit(edit)(PARAMS)


def by_hand(of_forget, of_retain, steps, forget_weight=1.0, retain_weight=1.0):
  params, starts = PARAMS, (logits(PARAMS, 0), logits(PARAMS, 1))
  for _ in range(steps):
    parts = ((0, forget_weight, of_forget), (1, retain_weight, of_retain))
    slopes = [weight * of(logits(params, row), starts[row]) for row, weight, of in parts]
    grads = [jacobian()[1](params, X[i : i + 1], jnp.float32(dz)[None]) for i, dz in enumerate(slopes)]
    params = jax.tree.map(lambda p, g, h: p - RATE * (g + h), params, *grads)
  return params


def near(got, want, rtol=1e-3, atol=1e-4):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), got, want)


@pytest.mark.parametrize("case", CASES)
def test_steps_on_a_decoder_by_hand(case):
  """Three steps: at the first a reference is the model itself."""
  options, of_forget, of_retain = CASES[case]
  weights = {"forget_weight": 0.8, "retain_weight": 0.5}
  want = by_hand(of_forget, of_retain, 3, **weights)
  assert max(float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (want, PARAMS)), strict=True)) > 0.02
  got = after(case, 3, **options, **weights)
  near(got, want)


def test_a_first_step_of_npo_is_ascent_whatever_beta():
  """To first order; and with beta near 0 at every step."""
  ascent = lambda z, start: -rising(z, 0)
  given = {"retain_weight": 0.0}
  near(after("npo", 1, beta=5.0, **given), by_hand(ascent, kept, 1, **given))
  near(after("npo", 3, beta=1e-4, **given), by_hand(ascent, kept, 3, **given), atol=1e-3)


RETAINING = {"npo": {}, "simnpo": {"forget_weight": 5.0}}  # each beside what it keeps
ROWS = ("npo", "simnpo")  # losses of rows


@pytest.mark.parametrize("name", [*RETAINING, "wga", "satimp", "undial"])
def test_without_a_forget_weight_the_retain_loss_is_alone(name):
  """And towards the model as it was nothing moves: to the bit, under Adam."""
  near(after(name, 3, forget_weight=0.0, retain_weight=1.0), by_hand(lambda *z: 0.0 * z[0], kept, 3), atol=1e-6)
  still = after(name, 3, forget_weight=0.0, retain_loss="kl", optimizer=optax.adam(0.1))
  assert tree.digest(still) == tree.digest(PARAMS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_without_labels_is_none(name):
  """Beside a row that has some it weighs nothing: the loss is that of the other row, whichever are drawn."""
  bare = lambda some: {"x": np.repeat(X[:1], 2, 0), "y": np.stack([Y[0], some]), "id": np.arange(2)}
  call = getattr(unlearning, name)
  given = {"retain": RETAIN, "steps": 1, "batch": 16, "retain_weight": 0.0, "optimizer": optax.sgd(RATE)}
  run = jax.jit(lambda p, rows: call(apply_fn, p, forget=rows, key=jax.random.key(0), **given))
  near(run(PARAMS, bare(np.full(6, -1, np.int32))), run(PARAMS, bare(Y[0])), atol=1e-6)
  alone = {k: v[1:] for k, v in bare(np.full(6, -1, np.int32)).items()}
  assert tree.digest(run(PARAMS, alone)) == tree.digest(PARAMS)


@pytest.mark.parametrize("name", RETAINING)
def test_a_registered_edit_forgets_tokens(name):
  """In a run, of an objective of tokens: what is forgotten is said worse, what is kept not as much."""
  stream = streams.from_tasks(*written(), events=[cljax.Learn(0), cljax.Forget(ids=(0, 1, 2, 3))])
  training = cljax.Recipe(batch_size=8, epochs=20)
  given = {"optimizer": "adam", "optimizer_options": {"learning_rate": 0.01}, "training": training}
  hyper = {"steps": 30, **RETAINING[name]}
  result = cljax.run(stream, MODEL, forget=name, forget_hyper=hyper, objective="sequence", seeds=1, **given)
  (said,) = result.forgotten
  assert np.isfinite(said["forget"][0])
  assert said["forget"][0] > 1.5 * said["retain"][0]


def test_what_has_no_labels_is_refused():
  chosen = objectives.chosen("regression", {})(None, None, {})
  with pytest.raises(cljax.UsageError, match="learned: 'regression' has no labels"):
    after("npo", 1, learned=chosen)
  with pytest.raises(cljax.UsageError, match="npo: beta must be above 0; got 0"):
    after("npo", 1, beta=0.0)
  with pytest.raises(cljax.UsageError, match="npo: retain_loss must be one of ce, kl; got 'mse'"):
    after("npo", 1, retain_loss="mse")


def hidden(params, row):
  return np.asarray(apply_fn(params, cljax.Batch(X[row : row + 1], None, None, None, None)).hidden[0][0], np.float64)


@pytest.mark.parametrize("direction", ["uniform", "normal"])
def test_rmu_steers_one_layer_by_hand(direction):
  """A step: the slope in the block's activations is NumPy's, at places whose next token is learned."""
  key = tree.fold(key_of(jax.random.key(3), "rmu"), "u")
  u = np.asarray(misdirection.unit_direction(key, 8, direction), np.float64)
  np.testing.assert_allclose(np.linalg.norm(u), 1, rtol=1e-5)
  assert (u >= 0).all() == (direction == "uniform")
  d = 2 * there(0) / there(0).sum() * (hidden(PARAMS, 0) - 1.5 * u) / 8
  of = lambda p: MODEL.apply(p, {}, X[:1], train=False, key=None)[0].hidden[0]
  (grads,) = jax.jit(lambda p: jax.vjp(of, p)[1](jnp.float32(0.8 * d)[None]))(PARAMS)
  want = jax.tree.map(lambda p, g: p - RATE * g, PARAMS, grads)
  near(after("rmu", 1, coefficient=1.5, direction=direction, forget_weight=0.8), want, atol=1e-5)


def test_rmu_holds_what_it_does_not_steer():
  """Without a forget weight nothing moves, to the bit under Adam; a layer that is not there is named."""
  still = after("rmu", 3, forget_weight=0.0, optimizer=optax.adam(0.1))
  assert tree.digest(still) == tree.digest(PARAMS)
  moved = lambda p: np.abs(hidden(p, 1) - hidden(PARAMS, 1))[Y[1] >= 0].mean()
  given = {"coefficient": 5.0, "optimizer": optax.adam(0.01)}
  free, held = (after("rmu", 40, retain_weight=w, **given) for w in (0.0, 10.0))
  assert moved(held) < 0.7 * moved(free)
  with pytest.raises(cljax.UsageError, match="layer: got 1; the model gives 1 hidden activations, numbered from 0"):
    after("rmu", 1, layer=1)
  with pytest.raises(cljax.UsageError, match="rmu: direction must be one of uniform, normal; got 'up'"):
    after("rmu", 1, direction="up")


def test_undial_without_a_strength_is_at_rest():
  still = after("undial", 3, strength=0.0, retain_weight=0.0, optimizer=optax.adam(0.1))
  assert tree.digest(still) == tree.digest(PARAMS)
