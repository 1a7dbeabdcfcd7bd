"""A decoder from scratch: padding, packing, caches, narrow weights, importances, and training through the engine."""

import decoders_by_hand as hand
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import cljax
from cljax import data, estimators, models, objectives, streams
from cljax.core.types import Batch, Rows, UsageError
from cljax.models.decoder import layers

RNG = np.random.default_rng(0)
V, L = 17, 9
LAYOUTS = ("llama", "gpt2")


def make(layout, length=24, **given):
  """A model, and parameters away from where norms are 1 and biases 0."""
  given = {"width": 16, "depth": 2, "heads": 4, "kv_heads": 2 if layout == "llama" else 0, "layout": layout, **given}
  model = models.decoder(length, V, **given)
  leaves, tree = jax.tree.flatten(model.init(jax.random.key(0))[0])
  rng = np.random.default_rng(3)
  return model, jax.tree.unflatten(tree, [jnp.asarray(a + 0.3 * rng.normal(size=a.shape), jnp.float32) for a in leaves])


def forward(model, params, x):
  return model.apply(params, {}, x, train=False, key=None)[0]


def by_hand(params, layout, ids):
  """NumPy's logits of the same parameters, under a folder's names."""
  from cljax.models.decoder.build import sized
  from cljax.models.decoder.folder import names

  shape = sized(24, V, 16, 2, 4, 2 if layout == "llama" else 4, 0, 10000.0, 1e-5, True, layout)
  flat = {"/".join(k.key for k in p): np.asarray(a) for p, a in jax.tree_util.tree_leaves_with_path(params)}
  found = {file: flat[leaf].T if turned else flat[leaf] for leaf, (file, turned) in names(shape).items()}
  assert len(found) == len(flat)
  config = {"llama": {**hand.LLAMA, "rope_theta": 10000.0}, "gpt2": {**hand.GPT2, "n_head": 4}}[layout]
  return hand.logits(config, found, ids)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_decoder_is_its_formula(layout):
  """Features are what the head reads, and hidden activations one for each block."""
  model, params = make(layout)
  ids = RNG.integers(0, V, (2, L))
  out = jax.jit(lambda p: forward(model, p, ids))(params)
  for row, each in zip(out.logits, ids, strict=True):
    np.testing.assert_allclose(row, by_hand(params, layout, each), atol=2e-4)
  table = params["embed_tokens" if layout == "llama" else "wte"]["embedding"]
  np.testing.assert_allclose(out.features @ table.T, out.logits, atol=1e-4)
  assert [h.shape for h in out.hidden] == [(2, L, 16)] * 2
  assert out.cache is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_padding_on_either_side_changes_nothing(layout):
  """Positions count what is there; rows that are all padding are finite, forward and backward."""
  model, params = make(layout)
  ids, pads = RNG.integers(0, V, (1, L)), RNG.integers(0, V, (1, 4))
  there, none = np.ones((1, L)), np.zeros((1, 4))
  want = forward(model, params, ids).logits
  left = {"token": np.concatenate([pads, ids], 1), "mask": np.concatenate([none, there], 1)}
  right = {"token": np.concatenate([ids, pads], 1), "mask": np.concatenate([there, none], 1)}
  np.testing.assert_allclose(forward(model, params, left).logits[:, 4:], want, atol=2e-4)
  np.testing.assert_allclose(forward(model, params, right).logits[:, :L], want, atol=2e-4)
  absent = {"token": np.zeros((1, L), int), "mask": np.zeros((1, L))}
  both = jax.tree.map(lambda a, b: np.concatenate([a, b]), absent, {"token": ids, "mask": there})
  gradient = jax.grad(lambda p: forward(model, p, both).logits.sum())(params)
  assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_texts_packed_in_a_row_are_as_by_themselves(layout):
  model, params = make(layout)
  one, two = RNG.integers(0, V, (1, 4)), RNG.integers(0, V, (1, 6))
  token = np.concatenate([one, two, [[3, 3]]], 1)
  packed = {"token": token, "segment": np.array([[1] * 4 + [2] * 6 + [0] * 2])}
  got = forward(model, params, packed).logits
  np.testing.assert_allclose(got[:, :4], forward(model, params, one).logits, atol=2e-4)
  np.testing.assert_allclose(got[:, 4:10], forward(model, params, two).logits, atol=2e-4)
  assert np.isfinite(got).all()
  with pytest.raises(UsageError, match="x: has a segment and a cache"):
    forward(model, params, {**packed, "cache": {"there": np.zeros((1, 12), bool)}})


def test_a_rotation_is_by_halves_and_by_places():
  """Complex numbers of (i, i + d/2); scores depend on how far apart two places are, and neighbours are other pairs."""
  x = RNG.normal(size=(1, L, 2, 6)).astype(np.float32)
  at = np.arange(L)[None]
  got = layers.rotated(jnp.asarray(x), at, 500.0)
  np.testing.assert_allclose(got[0], hand.turned(x[0], 500.0), atol=1e-5)
  score = lambda a, b: jnp.einsum("bqhd,bkhd->bhqk", a, b)
  later = layers.rotated(jnp.asarray(x), at + 100, 500.0)
  np.testing.assert_allclose(score(later, later), score(got, got), atol=1e-4)
  apart = x.reshape(1, L, 2, 3, 2).swapaxes(-1, -2).reshape(x.shape)
  assert np.abs(layers.rotated(jnp.asarray(apart), at, 500.0) - got).max() > 0.1


def test_a_narrow_norm_squares_in_float32_and_scales_last():
  """bfloat16: rounded before the scale, as Hugging Face does; squares of bfloat16 would be another number."""
  x = (RNG.normal(size=(3, 64)) * 30).astype(ml_dtypes.bfloat16)
  scale = (1 + 0.3 * RNG.normal(size=64)).astype(ml_dtypes.bfloat16)
  got = layers.RMSNorm(1e-5).apply({"params": {"scale": jnp.asarray(scale)}}, jnp.asarray(x))
  wide = x.astype(np.float32)
  normed = (wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5)).astype(ml_dtypes.bfloat16)
  want = normed * scale
  assert got.dtype == jnp.bfloat16
  after = (normed.astype(np.float32) * scale.astype(np.float32)).astype(ml_dtypes.bfloat16)
  late = (wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * scale.astype(np.float32)).astype(
    ml_dtypes.bfloat16
  )
  np.testing.assert_array_equal(np.asarray(got), want)
  assert (np.asarray(got) == after).all()
  assert (np.asarray(got) != late).any(), "rounded once, behind the scale, it is another number"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_narrow_weights_have_wide_logits(layout):
  model, params = make(layout)
  ids = RNG.integers(0, V, (2, L))
  out = forward(model, jax.tree.map(lambda a: a.astype(jnp.bfloat16), params), ids)
  want = forward(model, params, ids).logits
  assert (out.logits.dtype, out.features.dtype) == (jnp.float32, jnp.bfloat16)
  assert 1e-4 < np.abs(out.logits - want).max() < 0.1 * np.abs(want).max()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_that_are_computed_again_are_the_same(layout):
  model, params = make(layout)
  again = models.decoder(24, V, 16, 2, 4, 2 if layout == "llama" else 0, layout=layout, remat=True)
  ids = RNG.integers(0, V, (2, L))
  loss = lambda model: lambda p: jax.nn.logsumexp(forward(model, p, ids).logits, -1).sum()
  one, two = (jax.grad(loss(m))(params) for m in (model, again))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), one, two)
  assert "remat" in str(jax.make_jaxpr(jax.grad(loss(again)))(params))
  assert model.capture is not None
  assert again.capture is None


def test_a_fisher_of_a_tied_embedding_has_both_parts():
  """A row is a window, the likelihood of all its tokens: the mean of rows' squared gradients, by layers as whole."""
  model, params = make("llama", width=8, heads=2, kv_heads=1, depth=1)
  token = jnp.asarray(RNG.integers(0, V, (3, L)))
  y = jnp.asarray(RNG.integers(0, V, (3, L)))

  def batch(start, size):
    at = jnp.minimum(start + jnp.arange(size), 2)
    return Batch(token[at], y[at], (start + jnp.arange(size) < 3).astype(jnp.float32), at, at * 0)

  learned = objectives.sequence()(None, None, {})
  got = estimators.fisher_diagonal(model, params, {}, Rows(3, 3, batch), kind="empirical", learned=learned)

  def loss(p, row):
    z = forward(model, p, token[row][None]).logits[0]
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[row][:, None], 1).sum()

  each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, jnp.arange(3))
  want = jax.tree.map(lambda a: np.square(a).mean(0), each)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), got, want)


SIZES = [{}, {"kv_heads": 1}, {"tied": False}, {"layout": "gpt2"}, {"layout": "gpt2", "tied": False, "mlp_width": 5}]


@pytest.mark.parametrize("given", SIZES, ids=str)
def test_a_decoder_s_size_is_told_before_it_is_made(given):
  from cljax.models.build import parameters

  model = models.build("decoder", {"token": (5,), "mask": (5,)}, V, width=16, depth=3, **given)
  params = jax.eval_shape(model.init, jax.random.key(0))[0]
  told = parameters("decoder", (5,), V, {**models.options("decoder"), "width": 16, "depth": 3, **given})
  assert told == sum(int(np.prod(a.shape)) for a in jax.tree.leaves(params))


def test_the_test_bed_of_the_specification_has_its_size():
  model = models.decoder(64, 1024, width=128, depth=2, heads=4, kv_heads=2, mlp_width=352)
  assert (
    sum(int(np.prod(a.shape)) for a in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))[0])) == 500_352
  )


def test_a_decoder_starts_as_it_says():
  """Variance 1 / fan in, and of what is added to the stream 1 / (2 depth) of that."""
  params = models.decoder(8, 64, width=128, depth=2).init(jax.random.key(0))[0]
  layer = params["layers_1"]
  for kernel, want in (
    (layer["self_attn"]["q_proj"], 1 / 128), (layer["self_attn"]["o_proj"], 1 / 4 / 128),
    (layer["mlp"]["down_proj"], 1 / 4 / 344), (layer["mlp"]["up_proj"], 1 / 128),
  ):  # fmt: skip
    assert kernel["kernel"].var() == pytest.approx(want, rel=0.1)


REFUSED = [
  ({"width": 6}, "heads: got 4, which does not divide width 6"),
  ({"kv_heads": 3}, "kv_heads: got 3, which does not divide the 4 heads"),
  ({"layout": "gpt2", "kv_heads": 2}, "kv_heads: got 2; in layout 'gpt2' each of the 4 heads has its own"),
  ({"width": 12, "heads": 4}, "head_width: got 3; positions are rotated in pairs"),
  ({"layout": "bert"}, "layout: got 'bert'; allowed: llama, gpt2"),
  ({"rope_base": 0.0}, "rope_base: got 0.0; expected a number above 0"),
  ({"depth": 0}, "depth: got 0; expected an integer of at least 1"),
  ({"heads": 0}, "heads: got 0; expected an integer of at least 1"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[s for _, s in REFUSED])
def test_sizes_that_do_not_fit_are_refused(given, said):
  with pytest.raises(UsageError) as error:
    models.decoder(8, V, **given)
  assert str(error.value).startswith(said)
  assert "\n" not in str(error.value)


def test_rows_that_have_no_place_are_refused():
  model, params = make("llama", length=6)
  for rows, said in (
    (np.array([[0, V]]), f"model.vocabulary: got {V}; the data hold tokens 0..{V}, expected 0..{V - 1}"),
    ({"token": np.array([[-1, 2]])}, f"model.vocabulary: got {V}; the data hold tokens -1..2"),
    (np.zeros((1, 7), int), "model.length: got 6 positions; the data hold rows of 7 tokens"),
  ):
    with pytest.raises(UsageError, match=said.replace(".", r"\.")):
      model.check_rows(rows)
  with pytest.raises(UsageError, match="x: has 7 tokens a row; the model has 6 positions"):
    forward(model, params, np.zeros((1, 7), int))


@pytest.fixture(scope="module")
def two_texts():
  """Two cycles through the tokens, each row from another place, padded on the right: one spoils the other."""
  rows, steps = [], (1, 5)
  for group, step in enumerate(steps):
    for start in range(32):
      line = (3 * start + step * np.arange(9)) % V
      rows.append((line[: 9 - start % 3], group))
  arrays = {}
  for split, mine in (("train", rows[0::2]), ("test", rows[1::2])):
    for side, cut in (("x", slice(0, -1)), ("y", slice(1, None))):
      arrays[f"{side}_{split}/token"] = [r[cut].tolist() for r, _ in mine]
    arrays[f"group_{split}"] = np.array([g for _, g in mine])
  return streams.build(data.from_arrays("cycles", arrays), "group", tasks=2, validation=0.0)


@pytest.mark.parametrize(
  ("layout", "method", "hyper"),
  [("llama", "finetune", {}), ("gpt2", "finetune", {}), ("llama", "ewc", {"strength": 100.0, "fisher": "empirical"}),
   ("llama", "er", {"capacity": 32})],
)  # fmt: skip
def test_a_decoder_learns_sequences_through_the_engine(two_texts, layout, method, hyper):
  """A task is learned; the score is NumPy's perplexity over what has weight."""
  model = models.build("decoder", {"token": (8,), "mask": (8,)}, V, width=16, depth=1, heads=2, layout=layout,
                       rows=(two_texts.dataset.train.x,))  # fmt: skip
  result = cljax.run(
    two_texts, model, method, hyper, objective="sequence", training=cljax.Recipe(batch_size=8, epochs=15),
    optimizer="adam", optimizer_options={"learning_rate": 0.02}, options=cljax.Options(chunk_steps=10, eval_block=16),
  )  # fmt: skip
  perplexity = result.scores["perplexity"][0]
  assert perplexity[0].min() > 10, "before the first task"
  assert perplexity[1, 0] < 2 < perplexity[1, 1]
  if method == "er":
    assert perplexity[2].max() < 2
  elif method == "finetune":
    assert perplexity[2, 1] < 2 < perplexity[2, 0]
  else:
    assert perplexity[2, 0] < perplexity[1, 1], "less is forgotten than by finetune, which is far above"
  test = two_texts.dataset.test
  z = np.asarray(result.predict(test.x), np.float64)
  log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
  picked = np.take_along_axis(log_p, test.y["token"][..., None], -1)[..., 0]
  for task in range(2):
    weight = test.y["weight"] * (np.asarray(test.group) == task)[:, None]
    np.testing.assert_allclose(perplexity[2, task], np.exp(-(picked * weight).sum() / weight.sum()), rtol=1e-3)
  (held,) = {a.shape for a in jax.tree.leaves(result.learner.params) if a.shape[1:] == (V, 16)}
  assert held == (1, V, 16)
