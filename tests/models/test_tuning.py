"""Tuning of few parameters: the start, the frozen base, merging, and counts, against NumPy and by arithmetic."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import models
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.models import tuning

SHAPE = (6, 6, 1)


class Normed(nn.Module):
  """A convolution without a bias, and BatchNorm behind it."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Conv(4, (3, 3), use_bias=False, name="conv")(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
    return nn.Dense(3, name="head")(x.mean((1, 2)))


BASES = {
  "mlp": lambda: models.mlp(SHAPE, 3, hidden=(5, 4)),
  "cnn": lambda: models.cnn(SHAPE, 3, widths=(4, 5)),
  "normed": lambda: models.from_linen(Normed(), SHAPE),
  "vit": lambda: models.vit(SHAPE, 3, patch=3, width=4, depth=1, heads=2),
}
CASES = [
  ("mlp", "lora"), ("cnn", "lora"), ("normed", "lora"), ("vit", "lora"), ("mlp", "bitfit"), ("normed", "lnfit"),
  ("normed", "ssf"), ("cnn", "ssf"), ("mlp", "adapter"), ("cnn", "adapter"),
  ("mlp", "parallel_adapter"),
]  # fmt: skip
X = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float32)


def made(base, kind, **given):
  model = tuning.TUNINGS[kind](BASES[base](), **given)
  return model, *jax.jit(model.init)(jax.random.key(0))


def moved(params, size=0.3):
  """Trained leaves moved at random."""
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda a: a + size * rng.normal(size=a.shape).astype(np.float32), params)


def logits(model, params, state):
  return jax.jit(lambda p, s: model.apply(p, s, jnp.asarray(X), train=False, key=jax.random.key(2)))(params, state)


@pytest.mark.parametrize(("base", "kind"), CASES)
def test_a_tuned_network_begins_as_the_network_to_the_bit(base, kind):
  """And once moved is another, with a gradient in every trained leaf but zero ones', and none in the frozen ones."""
  model, params, state = made(base, kind)
  own = BASES[base]()
  plain, plain_state = jax.jit(own.init)(jax.random.key(0))
  np.testing.assert_array_equal(logits(model, params, state)[0].logits, logits(own, plain, plain_state)[0].logits)
  other = moved(params)

  def size(params, state):
    out, new = model.apply(params, state, jnp.asarray(X), train=True, key=jax.random.key(2))
    return jnp.square(out.logits).sum(), new

  slope = jax.jit(jax.value_and_grad(size, argnums=(0, 1), has_aux=True))
  (value, after), (gradient, frozen) = slope(other, state)
  assert abs(float(value) - float(slope(params, state)[0][0])) > 1e-3
  for name, g in tree.by_path(gradient).items():
    assert np.abs(np.asarray(g)).max() > 0 or name.endswith("down_bias"), name
  assert not any(np.asarray(a).any() for a in jax.tree.leaves(frozen["frozen"]))
  assert tree.digest(after["frozen"]) == tree.digest(state["frozen"])


@pytest.mark.parametrize(("base", "kind"), [c for c in CASES if "adapter" not in c[1]])
def test_what_is_tuned_folds_into_the_network(base, kind):
  """The plain parameters are the network's own in names and shapes, and give the same logits."""
  model, params, state = made(base, kind)
  own, params = BASES[base](), moved(params)
  plain, inner = model.plain(params, state)
  like, like_state = jax.eval_shape(own.init, jax.random.key(0))
  shapes = lambda t: jax.tree.map(lambda a: (a.shape, a.dtype), t)
  assert shapes(plain) == shapes(like)
  assert shapes(inner) == shapes(like_state)
  want = logits(own, plain, inner)[0].logits
  np.testing.assert_allclose(logits(model, params, state)[0].logits, want, rtol=1e-5, atol=1e-5)


def test_low_rank_changes_by_hand():
  """``W + scale A B``, a convolution as ``[h w in, out]``; A within 1 / sqrt(d_in), B zero; the head trained whole."""
  model, params, state = made("cnn", "lora", rank=3, scale=0.5)
  base, _ = BASES["cnn"]().init(jax.random.key(0))
  a = np.asarray(params["conv_1"]["kernel"]["lora_a"])
  assert a.shape == (36, 3)
  assert 0.8 / 6 < np.abs(a).max() <= 1 / 6
  assert not np.asarray(params["conv_1"]["kernel"]["lora_b"]).any()
  assert set(params) == {"conv_0", "conv_1", "head"}
  assert set(params["head"]) == {"kernel", "bias"}
  params = moved(params)
  plain, _ = model.plain(params, state)
  for layer, size in (("conv_0", 9), ("conv_1", 36)):
    own = params[layer]["kernel"]
    want = np.asarray(base[layer]["kernel"]).reshape(size, -1) + 0.5 * np.asarray(own["lora_a"]) @ own["lora_b"]
    np.testing.assert_allclose(np.asarray(plain[layer]["kernel"]).reshape(size, -1), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(plain[layer]["bias"], base[layer]["bias"])
  np.testing.assert_array_equal(plain["head"]["kernel"], params["head"]["kernel"])


def test_scales_and_shifts_are_of_a_layer_s_outputs():
  """SSF by hand on an MLP: ``relu(gamma (x W + b) + beta)``, layer on layer."""
  model, params, state = made("mlp", "ssf")
  base, _ = BASES["mlp"]().init(jax.random.key(0))
  params, h = moved(params), X.reshape(5, -1)
  for layer in ("hidden_0", "hidden_1"):
    own = params[layer]["kernel"]
    y = (h @ np.asarray(base[layer]["kernel"]) + base[layer]["bias"]) * own["ssf_scale"] + own["ssf_shift"]
    h = np.maximum(np.asarray(y), 0)
  want = h @ np.asarray(params["head"]["kernel"]) + params["head"]["bias"]
  np.testing.assert_allclose(logits(model, params, state)[0].logits, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["adapter", "parallel_adapter"])
def test_bottlenecks_by_hand(kind):
  """``relu(y + relu(h D + d) U + u)``, h the layer's output, or its input."""
  model, params, state = made("mlp", kind, rank=3, layers="hidden_1")
  assert set(params) == {"hidden_1", "head"}
  base, _ = BASES["mlp"]().init(jax.random.key(0))
  params = moved(params)
  own = {k: np.asarray(v) for k, v in params["hidden_1"]["adapter"].items()}
  h = np.maximum(X.reshape(5, -1) @ np.asarray(base["hidden_0"]["kernel"]) + base["hidden_0"]["bias"], 0)
  y = np.asarray(h @ np.asarray(base["hidden_1"]["kernel"]) + base["hidden_1"]["bias"])
  at = h if kind == "parallel_adapter" else y
  y = y + np.maximum(at @ own["down"] + own["down_bias"], 0) @ own["up"] + own["up_bias"]
  want = np.maximum(y, 0) @ np.asarray(params["head"]["kernel"]) + params["head"]["bias"]
  np.testing.assert_allclose(logits(model, params, state)[0].logits, want, rtol=1e-4, atol=1e-5)
  with pytest.raises(UsageError, match="no part of the network's own parameters"):
    model.plain(params, state)


COUNTS = [  # of the MLP 36-5-4-3, whose head has 15 numbers
  ("lora", {"rank": 2}, 2 * (36 + 5) + 2 * (5 + 4) + 15),
  ("lora", {"rank": 1, "layers": "hidden_1"}, 5 + 4 + 15),
  ("lora", {"rank": 1, "trained": ""}, 41 + 9 + 7),
  ("bitfit", {}, 5 + 4 + 15),
  ("bitfit", {"layers": "hidden_0"}, 5 + 15),
  ("bitfit", {"trained": ""}, 5 + 4 + 3),
  ("ssf", {}, 2 * 5 + 2 * 4 + 15),
  ("ssf", {"trained": "bias"}, 5 + 4 + 3 + 5 + 4 + 3),
  ("adapter", {"rank": 2}, (5 * 2 + 2 + 2 * 5 + 5) + (4 * 2 + 2 + 2 * 4 + 4) + 15),
  ("parallel_adapter", {"rank": 2, "layers": "hidden_0"}, (36 * 2 + 2 + 2 * 5 + 5) + 15),
]


@pytest.mark.parametrize(("kind", "given", "count"), COUNTS)
def test_how_many_numbers_are_trained(kind, given, count):
  model = tuning.TUNINGS[kind](BASES["mlp"](), **given)
  params, state = jax.eval_shape(model.init, jax.random.key(0))
  assert sum(a.size for a in jax.tree.leaves(params)) == count
  kept = sum(a.size for a in jax.tree.leaves(state["frozen"]))
  whole, own = 36 * 5 + 5 + 5 * 4 + 4 + 15, tree.by_path(params)
  assert kept == whole - sum(a.size for n, a in own.items() if n in tree.paths(BASES_PARAMS))


BASES_PARAMS = jax.eval_shape(BASES["mlp"]().init, jax.random.key(0))[0]


def test_norm_layers_alone():
  _, params, state = made("vit", "lnfit")
  norms = {"norm_0_0", "norm_0_1", "norm"}
  assert set(params) == {*norms, "head"}
  assert all(set(params[n]) == {"scale", "bias"} for n in norms)
  assert not any(n.startswith("norm") for n in state["frozen"])


def linear():
  start = lambda key: {"w": jax.random.normal(key, (36, 3))}
  return models.from_apply(start, lambda p, x: x.reshape(x.shape[0], -1) @ p["w"])


@pytest.mark.parametrize(
  ("make", "said"),
  [
    (lambda: tuning.lora(BASES["mlp"](), 0), "tuning_rank: got 0; expected an integer of at least 1"),
    (lambda: tuning.adapter(BASES["mlp"](), True), "tuning_rank: got True"),
    (lambda: tuning.lora(BASES["mlp"](), layers="conv"), "tuning_layers: 'conv' finds no frozen leaf of 2 or 4 axes"),
    (lambda: tuning.lora(BASES["mlp"](), layers="("), r"tuning_layers: got '\('; expected a regular expression"),
    (lambda: tuning.lora(BASES["mlp"](), trained="tail"), "tuning_trained: 'tail' finds no leaf among head/bias"),
    (lambda: tuning.lora(BASES["mlp"](), trained=3), "tuning_trained: got 3; expected a regular expression"),
    (lambda: tuning.lora(linear(), trained=""), "tuning_layers: .* finds no frozen leaf .* among w"),
    (lambda: tuning.lnfit(BASES["mlp"]()), "finds no leaf of a norm layer among"),
    (lambda: tuning.bitfit(BASES["mlp"](), layers="conv"), "tuning_layers: 'conv' finds no bias among"),
    (lambda: tuning.adapter(BASES["cnn"](), parallel=True), "finds no frozen leaf of 2 axes"),
    (lambda: models.build("mlp", SHAPE, 3, tuning="lorra"), "tuning: got 'lorra'; allowed: lora, bitfit"),
    (lambda: models.build("mlp", SHAPE, 3, tuning_rank=4), "tuning_rank: got 4, which is read with tuning=lora, ad"),
    (lambda: models.build("mlp", SHAPE, 3, tuning="ssf", tuning_rank=4), "tuning_rank: got 4, which is read with"),
    (lambda: models.build("mlp", SHAPE, 3, tuning_layers="a"), "tuning_layers: got 'a', which is read with tuning="),
    (lambda: models.build("mlp", SHAPE, 3, tuned="lora"), "tuned: no such option of mlp; allowed: .*tuning_rank"),
  ],
)
def test_wrong_tunings_are_told_in_one_line(make, said):
  with pytest.raises(UsageError, match=said) as caught:
    make()
  assert "\n" not in str(caught.value)


def test_adapters_stand_behind_linen_layers_alone():
  model = tuning.adapter(linear(), 2, layers="w", trained="")
  params, state = model.init(jax.random.key(0))
  with pytest.raises(UsageError, match="an adapter stands behind Linen layers; the model calls none of the path"):
    logits(model, params, state)


def test_a_hand_written_network_takes_factors():
  model = tuning.lora(linear(), 2, layers="^w$", trained="")
  params, state = model.init(jax.random.key(0))
  params = moved(params)
  want = X.reshape(5, -1) @ (
    np.asarray(state["frozen"]["w"]) + np.asarray(params["w"]["lora_a"] @ params["w"]["lora_b"])
  )
  np.testing.assert_allclose(logits(model, params, state)[0].logits, want, rtol=1e-4, atol=1e-5)


def test_every_built_model_takes_a_tuning():
  """By the options of a configuration, those with defaults as well."""
  model = models.build("mlp", SHAPE, 3, hidden=(5, 4), tuning="lora", tuning_rank=1, tuning_layers="hidden_0")
  assert set(model.init(jax.random.key(0))[0]) == {"hidden_0", "head"}
  model = models.build("mlp", SHAPE, 3, hidden=(5, 4), tuning="bitfit", tuning_trained="hidden_0")
  assert set(model.init(jax.random.key(0))[0]["hidden_0"]) == {"kernel", "bias"}
  plain = models.build("mlp", SHAPE, 3, hidden=(5, 4), **tuning.OPTIONS)
  assert tree.paths(plain.init(jax.random.key(0))[0]) == tree.paths(BASES_PARAMS)
  assert plain.plain is None


def test_what_checks_rows_and_what_is_captured_stays():
  model = models.build(
    "matrix_factorisation", (2,), 1, users=4, items=5, tuning="lora", tuning_layers="user", tuning_trained="item",
    rows=[np.zeros((1, 2), np.int32)],
  )  # fmt: skip
  assert model.check_rows is not None
  tuned, params, state = made("mlp", "adapter")
  found, calls = tuned.capture(params, state, jnp.asarray(X), None)
  assert set(calls) == {"hidden_0", "hidden_1", "head"}
  np.testing.assert_allclose(found, logits(tuned, params, state)[0].logits, rtol=1e-6)
