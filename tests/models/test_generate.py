"""Generation: with a cache as without, padded as not, draws by their distribution, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import models
from cljax.core.types import UsageError
from cljax.models.decoder import saying

V = 13
RNG = np.random.default_rng(0)


def made(layout="llama", length=24):
  model = models.decoder(length, V, 16, 2, 4, 2 if layout == "llama" else 0, layout=layout)
  leaves, tree = jax.tree.flatten(model.init(jax.random.key(0))[0])
  rng = np.random.default_rng(5)
  return model, jax.tree.unflatten(tree, [jnp.asarray(a + 0.5 * rng.normal(size=a.shape), jnp.float32) for a in leaves])


def step_by_step(model, params, row, new, stop=None):
  """Greedy, one whole forward pass a token, of one row without padding."""
  row, said = list(row), []
  for _ in range(new):
    logits = model.apply(params, {}, np.array([row]), train=False, key=None)[0].logits
    said.append(int(np.asarray(logits)[0, -1].argmax()))
    row.append(said[-1])
    if said[-1] == stop:
      break
  return said


@pytest.mark.parametrize("layout", ["llama", "gpt2"])
def test_what_is_said_is_the_argmax_step_by_step(layout):
  """With a cache, without one, and padded on either side: the same words."""
  model, params = made(layout)
  prompts = [RNG.integers(0, V, n).tolist() for n in (3, 5, 1)]
  want = [step_by_step(model, params, p, 7) for p in prompts]
  assert len({tuple(w) for w in want}) > 1
  for side in ("left", "right"):
    fill = lambda p, value, side=side: ([value] * (5 - len(p)) + p) if side == "left" else p + [value] * (5 - len(p))
    token, mask = [fill(p, 2) for p in prompts], [fill([1] * len(p), 0) for p in prompts]
    for cached in (True, False):
      got = models.generate(model, params, token, 7, mask=mask, cached=cached)
      assert (got.shape, got.dtype) == ((3, 7), jnp.int32)
      if side == "left" or cached or layout == "llama":
        np.testing.assert_array_equal(got, want)


def test_a_cache_is_filled_by_calls_of_any_length():
  """3 tokens, then 1, then 2: the logits of all 6 at once."""
  model, params = made()
  ids = RNG.integers(0, V, (2, 6))
  whole = model.apply(params, {}, ids, train=False, key=None)[0].logits
  cache, got = {"there": jnp.zeros((2, 8), bool)}, []
  for cut in (slice(0, 3), slice(3, 4), slice(4, 6)):
    out = model.apply(params, {}, {"token": ids[:, cut], "cache": cache}, train=False, key=None)[0]
    got.append(out.logits)
    cache = out.cache
  np.testing.assert_allclose(np.concatenate(got, 1), whole, atol=2e-4)
  assert int(cache["at"]) == 6
  np.testing.assert_array_equal(cache["there"], [[1] * 6 + [0] * 2] * 2)
  assert cache["layers"][1][0].shape == (2, 8, 2, 4)


def test_behind_the_stop_token_a_row_says_no_more():
  model, params = made()
  prompts = RNG.integers(0, V, (4, 3))
  free = np.asarray(models.generate(model, params, prompts, 8))
  stop = int(free[0, 2])
  for pad in (None, 11):
    got = np.asarray(models.generate(model, params, prompts, 8, stop=stop, pad=pad))
    for said, row in zip(got, free, strict=True):
      where = np.flatnonzero(row == stop)
      end = where[0] + 1 if len(where) else 8
      np.testing.assert_array_equal(said[:end], row[:end])
      assert (said[end:] == (stop if pad is None else pad)).all()
  again = models.generate(model, params, prompts, 8, stop=stop, pad=11, cached=False)
  np.testing.assert_array_equal(again, got)


def test_draws_have_their_distribution():
  """softmax(z / t) over the k likeliest, cut to the fewest of mass p; each row's key is its own."""
  z = np.array([2.0, 1.0, 0.5, 0.0, -1.0])
  count = 4000
  drawn = lambda t, k, p: np.bincount(
    saying.chosen(jax.random.key(0), jnp.tile(jnp.asarray(z), (count, 1)), t, k, p), minlength=5
  )
  for t, k, p in ((1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.7), (2.0, 4, 0.6), (1.0, 0, 0.01)):
    share = np.exp(z / t) / np.exp(z / t).sum()
    kept = [i for i in range(5) if (not k or i < k) and share[:i].sum() < p]
    want = np.where(np.isin(np.arange(5), kept), share, 0)
    want /= want.sum()
    got = drawn(t, k, p) / count
    assert (got[want == 0] == 0).all(), (t, k, p)
    np.testing.assert_allclose(got, want, atol=4 * 0.5 / count**0.5)
  flat = saying.chosen(jax.random.key(1), jnp.zeros((64, 5)), 1.0, 0, 1.0)
  assert len(set(flat.tolist())) == 5


def test_sampling_follows_the_key_and_a_row_s_draws_are_its_own():
  model, params = made()
  prompts = RNG.integers(0, V, (4, 3))
  say = lambda seed, rows=prompts, **given: np.asarray(
    models.generate(model, params, rows, 6, temperature=1.5, key=jax.random.key(seed), **given)
  )
  np.testing.assert_array_equal(say(0), say(0))
  assert (say(0) != say(1)).any()
  np.testing.assert_array_equal(say(0)[:2], say(0, prompts[:2]))
  np.testing.assert_array_equal(say(0, cached=False), say(0))
  greedy = models.generate(model, params, prompts, 6)
  np.testing.assert_array_equal(say(0, top_k=1), greedy)
  np.testing.assert_array_equal(say(3, top_p=1e-6), greedy)


def test_models_that_keep_nothing_say_it_too():
  """A model without a cache, and a decoder whose parameters are made of others."""
  plain = models.transformer(12, V, width=8, depth=1, heads=2)
  params = plain.init(jax.random.key(2))[0]
  prompts = RNG.integers(0, V, (2, 3))
  got = models.generate(plain, params, prompts, 4)
  np.testing.assert_array_equal(got, [step_by_step(plain, params, p, 4) for p in prompts])
  model, params = made()
  half = lambda adapter, frozen: jax.tree.map(lambda a, b: a + b, adapter, frozen)
  split = models.reparameterise(model, half, lambda key, p: (jax.tree.map(jnp.zeros_like, p), params))
  adapter, state = split.init(jax.random.key(0))
  got = models.generate(split, adapter, prompts, 4, model_state=state)
  np.testing.assert_array_equal(got, models.generate(model, params, prompts, 4))


def test_narrow_weights_say_something():
  model, params = made()
  narrow = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
  prompts = RNG.integers(0, V, (2, 3))
  got = models.generate(model, narrow, prompts, 5)
  np.testing.assert_array_equal(got, models.generate(model, narrow, prompts, 5, cached=False))


REFUSED = [
  ({"new": 0}, "new: got 0; allowed: whole numbers >= 1"),
  ({"prompt": [1, 2]}, r"prompt: has shape \(2,\); expected tokens \[B, L\]"),
  ({"prompt": [[1, V]]}, f"prompt: got {V}; the data hold tokens 1..{V}, expected 0..{V - 1}"),
  ({"prompt": [[1.5]]}, "prompt: the data hold float64; expected whole numbers"),
  ({"mask": [[0, 0, 0]]}, "mask: has shape .* expected at least one token a row"),
  ({"mask": [[1, 1]]}, r"mask: has shape \(1, 2\) for a prompt \(1, 3\)"),
  ({"temperature": 1.0}, "key: not given; temperature 1 draws tokens"),
  ({"temperature": -1.0}, "generate: temperature must be at least 0; got -1"),
  ({"top_p": 0.0}, "generate: top_p must be between 0 and 1; got 0"),
  ({"top_k": -1}, "top_k: got -1"),
  ({"new": 22}, "x: has 25 tokens a row; the model has 24 positions"),
  ({"new": 22, "cached": False}, "x: has 25 tokens a row; the model has 24 positions"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[s for _, s in REFUSED])
def test_what_cannot_be_said_is_refused(given, said):
  model, params = made()
  given = {"prompt": [[1, 2, 3]], "new": 2, **given}
  with pytest.raises(UsageError, match=said) as error:
    models.generate(model, params, given.pop("prompt"), given.pop("new"), **given)
  assert "\n" not in str(error.value)


def test_a_model_of_classes_says_nothing():
  model = models.mlp((4,), 3, hidden=(5,))
  with pytest.raises(UsageError, match=r"model: generate needs one that gives logits \[B, L, V\]"):
    models.generate(model, model.init(jax.random.key(0))[0], [[1, 2]], 2)
