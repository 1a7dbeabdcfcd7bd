"""CLIP from folders: against NumPy, against transformers, and what is refused."""

from __future__ import annotations

import itertools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import models
from cljax.cli import _build, _config
from cljax.core import tree
from cljax.core.types import UsageError

pytest.importorskip("safetensors", reason="needs the extra [pretrained]")
pytest.importorskip("tokenizers", reason="needs the extra [pretrained]")
import clip_by_hand as by_hand

NAMES = ("cat", "old car", "7")
ROWS = (0.5 + 0.5 * np.sin(1.3 * np.arange(2 * 8 * 8 * 3))).reshape(2, 8, 8, 3).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return by_hand.written(tmp_path_factory.mktemp("clip"))


def changed(image=(), text=(), **top):
  parts = {"vision_config": {**by_hand.IMAGE, **dict(image)}, "text_config": {**by_hand.TEXT, **dict(text)}}
  return {**by_hand.CONFIG, **parts, **top}


def out_of(model, x, key=0):
  params, state = model.init(jax.random.key(key))
  return jax.jit(lambda p, x: model.apply(p, state, x, train=False, key=None)[0])(params, jnp.asarray(x))


def wanted(config, x, texts):
  t = by_hand.tensors(config)
  x = (np.float64(x) - by_hand.PREPARED["image_mean"]) / by_hand.PREPARED["image_std"]
  images, said = by_hand.image_embeddings(t, x, config), by_hand.text_embeddings(t, texts, config)
  return 10 * images @ said.T, images, 10 * said


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("texts", ["frozen", "trained"])
def test_clip_in_numpy(act, texts, tmp_path):
  """Logits, features and what these are compared with; texts of several lengths, another epsilon for each tower."""
  config = changed({"hidden_act": act, "layer_norm_eps": 1e-2}, {"hidden_act": act, "layer_norm_eps": 3e-2})
  model = models.clip_classifier(by_hand.written(tmp_path / "a", config), (8, 8, 3), NAMES, texts=texts)
  logits, images, said = wanted(config, ROWS, [f"a photo of a {n}." for n in NAMES])
  out = out_of(model, ROWS)
  np.testing.assert_allclose(out.logits, logits, atol=1e-4)
  np.testing.assert_allclose(out.features, images, atol=1e-5)
  np.testing.assert_allclose(model.texts(*model.init(jax.random.key(0))), said, atol=1e-4)
  assert logits.std() > 0.1
  assert len(out.hidden) == 2


def test_clip_begins_as_its_folder_and_what_stands_is_no_parameter(folder):
  """Whatever the key; the scale, and with 'frozen' the prompts, are state."""
  t = by_hand.tensors()
  for texts in ("frozen", "trained"):
    model = models.clip_classifier(folder, (8, 8, 3), NAMES, texts=texts)
    (one, state), (two, _) = (model.init(jax.random.key(k)) for k in (0, 1))
    assert all(bool((a == b).all()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))
    assert sorted(one) == (["image"] if texts == "frozen" else ["image", "text"])
    own = t["vision_model.encoder.layers.1.mlp.fc1.weight"]
    np.testing.assert_array_equal(one["image"]["mlp_1_in"]["kernel"], own.T)
    assert {a.dtype for a in jax.tree.leaves(one)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(state["prompts"]["scale"], np.log(10), rtol=1e-6)
    kept = {"frozen": {"scale", "embedded"}, "trained": {"scale", "token", "place"}}
    assert set(state["prompts"]) == kept[texts]
  slope = jax.grad(lambda p: model.apply(p, state, ROWS, train=True, key=None)[0].logits[0, 0])(one)
  for name, g in tree.by_path(slope).items():
    if name not in ("text/tokens/embedding", "text/places/position"):
      assert np.abs(g).max() > 0 or name.endswith("qkv/bias"), name


def test_names_and_a_template_make_prompts(folder):
  """A string's names lie between its commas; each has its place in the template."""
  logits = lambda names, **more: np.asarray(
    out_of(models.clip_classifier(folder, (8, 8, 3), names, **more), ROWS).logits
  )
  np.testing.assert_array_equal(logits("cat, old car,7"), logits(NAMES))
  np.testing.assert_allclose(logits(NAMES[::-1]), logits(NAMES)[:, ::-1], atol=1e-5)
  want = wanted(by_hand.CONFIG, ROWS, [f"{n}, or {n}" for n in ("a", "bc")])[0]
  np.testing.assert_allclose(logits("a,bc", template="{}, or {}"), want, atol=1e-4)
  many = tuple(f"{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(70))  # more than one block of prompts
  want = wanted(by_hand.CONFIG, ROWS, [f"a photo of a {n}." for n in many])[0]
  np.testing.assert_allclose(logits(many), want, atol=1e-4)


def test_a_text_is_read_at_its_first_end():
  """By its number, or by the largest, which is what the 2 of old configurations means."""
  from cljax.models.pretrained import clip

  form = clip.TextForm(10, 8, 4, 1, 1, 4, 1e-5, "gelu", 7)
  token = np.array([[8, 1, 7, 7, 0], [8, 7, 9, 0, 0]])
  assert clip.places_of(form, token).tolist() == [2, 1]
  assert clip.places_of(form._replace(end=2), token).tolist() == [0, 2]
  with pytest.raises(UsageError, match="token: row 1 has no end token, 7"):
    clip.places_of(form, np.array([[8, 7], [8, 1]]))


def test_old_configurations_end_texts_by_the_largest_token(tmp_path):
  folder = by_hand.written(tmp_path / "old", changed(text={"eos_token_id": 2}))
  want = wanted(by_hand.CONFIG, ROWS, [f"a photo of a {n}." for n in NAMES])[0]
  np.testing.assert_allclose(out_of(models.clip_classifier(folder, (8, 8, 3), NAMES), ROWS).logits, want, atol=1e-4)


def test_what_a_configuration_leaves_out_is_the_published_network_s():
  """Sizes of openai/clip-vit-base-patch32."""
  from cljax.models.pretrained import clip, folder

  image, text, space = clip.forms_of(folder.Folder("x", {"model_type": "clip", "text_config": None}, {}))
  assert image[:10] == ("clip", (224, 224), 3, 32, 768, 12, 12, 3072, 1e-5, "quick_gelu")
  assert text == (49408, 77, 512, 12, 8, 2048, 1e-5, "quick_gelu", 49407)
  assert space == 512


def test_clip_takes_images_of_another_size(folder):
  """Resized, or at positions between those that were learned; grey ones repeated; not normalised if so asked."""
  with pytest.raises(UsageError, match=r"rows are 16x16, the images of .* 8x8; model.size=resize resizes the rows"):
    models.clip_classifier(folder, (16, 16, 3), NAMES)
  same = models.clip_classifier(folder, (8, 8, 3), NAMES)
  larger = np.repeat(np.repeat(ROWS, 2, 1), 2, 2)
  resized = models.clip_classifier(folder, (16, 16, 3), NAMES, size="resize")
  small = np.asarray(jax.image.resize(larger, (2, 8, 8, 3), "bilinear"))
  np.testing.assert_allclose(out_of(resized, larger).logits, out_of(same, small).logits, atol=1e-4)
  wide = models.clip_classifier(folder, (16, 8, 1), NAMES, size="positions")
  assert wide.init(jax.random.key(0))[0]["image"]["position"]["position"].shape == (1 + 4 * 2, 12)
  assert np.isfinite(out_of(wide, larger[:, :, :8, :1]).logits).all()
  plain = models.clip_classifier(folder, (8, 8, 3), NAMES, normalise="none")
  x = (ROWS - np.float32(by_hand.PREPARED["image_mean"])) / np.float32(by_hand.PREPARED["image_std"])
  np.testing.assert_allclose(out_of(plain, x).logits, out_of(same, ROWS).logits, atol=1e-4)


REFUSED = {
  "model_type: got 'vit'; expected clip": {"model_type": "vit"},
  "vision_config: got 3; expected an object": {"vision_config": 3},
  "vision_config.hidden_act: got 'swish'": {"vision_config": {**by_hand.IMAGE, "hidden_act": "swish"}},
  "text_config.hidden_act: got 'swish'": {"text_config": {**by_hand.TEXT, "hidden_act": "swish"}},
  "text_config.layer_norm_eps: got 0; expected a number": {"text_config": {**by_hand.TEXT, "layer_norm_eps": 0}},
  "text_config.num_attention_heads: got 3, which does not divide the width 8": {
    "text_config": {**by_hand.TEXT, "num_attention_heads": 3}
  },
  "vision_config.num_attention_heads: got 5, which": {"vision_config": {**by_hand.IMAGE, "num_attention_heads": 5}},
  "vision_config.image_size: got 9; expected a multiple": {"vision_config": {**by_hand.IMAGE, "image_size": 9}},
  "text_config.vocab_size: got 0; expected an integer": {"text_config": {**by_hand.TEXT, "vocab_size": 0}},
  "projection_dim: got 'x'; expected an integer": {"projection_dim": "x"},
  "missing tensors: vision_model.encoder.layers.2.layer_norm1.bias, .* and 13 more": {
    "vision_config": {**by_hand.IMAGE, "num_hidden_layers": 3}
  },
  "tensors that clip has not: text_model.encoder.layers.1.layer_norm1.bias, .* and 13 more": {
    "text_config": {**by_hand.TEXT, "num_hidden_layers": 1}
  },
  r"fc1.bias .20.: not of the sizes in config.json|fc1.weight .20, 12.: not of the sizes in config.json": {
    "vision_config": {**by_hand.IMAGE, "intermediate_size": 21}
  },
  r"visual_projection.weight .6, 12.: not of the sizes": {"projection_dim": 7},
  "ends 'a photo of a cat.' by 299; config.json's eos_token_id is 298": {
    "text_config": {**by_hand.TEXT, "eos_token_id": 298}
  },
}


@pytest.mark.parametrize("said", list(REFUSED))
def test_a_folder_that_is_no_clip_is_refused(said, tmp_path):
  config = {**by_hand.CONFIG, **REFUSED[said]}
  folder = by_hand.written(tmp_path / "a", config, by_hand.tensors())
  with pytest.raises(UsageError, match=said) as caught:
    models.clip_classifier(folder, (8, 8, 3), NAMES)
  assert "\n" not in str(caught.value)


def test_what_a_user_gives_clip_is_checked(folder, tmp_path):
  load = lambda names=NAMES, **more: models.clip_classifier(folder, (8, 8, 3), names, **more)
  for names in ("", "a,,b", (), ("a", 3)):
    with pytest.raises(UsageError, match=r"model.names: got .*; expected a name of each class"):
      load(names)
  with pytest.raises(UsageError, match=r"model.names: 'a' is the name of several classes"):
    load("a,b,a")
  with pytest.raises(UsageError, match=r"model.template: got 'a photo'; expected a text with {} in the place"):
    load(template="a photo")
  with pytest.raises(UsageError, match=r"model.names: 'a photo of a x+.*' is 29 tokens; this network has 24 places"):
    load(("a", "x" * 13))
  for option in ("texts", "size", "normalise"):
    with pytest.raises(UsageError, match=f"model.{option}: got 'x'; allowed: "):
      load(**{option: "x"})
  less = {**by_hand.TEXT, "vocab_size": 299}
  found = {**by_hand.tensors(), "text_model.embeddings.token_embedding.weight": np.zeros((299, 8), np.float32)}
  small = by_hand.written(tmp_path / "small", {**by_hand.CONFIG, "text_config": less}, found)
  with pytest.raises(UsageError, match=r"tokenizer.json gives 'a photo of a a.' the tokens .*; the network has 299"):
    models.clip_classifier(small, (8, 8, 3), "a,b")
  (tmp_path / "small" / "tokenizer.json").unlink()
  with pytest.raises(UsageError, match=r"has no tokenizer.json; expected a Hugging Face folder with one"):
    models.clip_classifier(small, (8, 8, 3), "a,b")


def test_position_ids_are_no_weights(tmp_path):
  ids = {f"{n}_model.embeddings.position_ids": np.arange(5)[None] for n in ("text", "vision")}
  folder = by_hand.written(tmp_path / "a", found={**by_hand.tensors(), **ids})
  assert np.isfinite(out_of(models.clip_classifier(folder, (8, 8, 3), NAMES), ROWS).logits).all()


def test_a_configuration_names_a_clip_folder_and_its_classes(folder):
  """Each option reaches the factory."""
  names = ",".join("abcdefghij")
  file = _config.File({"data": {"name": "digits"}}, {}, type(sys)("x"))
  told = {"model.name": "clip_classifier", "model.folder": folder, "model.names": names, "stream.tasks": "5"}
  config = _config.resolve(file, [_config.Override(*pair, True) for pair in told.items()])
  model = _build.build(config).model
  assert model.init(jax.random.key(0))[1]["prompts"]["embedded"].shape == (10, 6)
  built = lambda shape=(8, 8, 3), **more: models.build(
    "clip_classifier", shape, 2, folder=folder, **{"names": "a,b", **more}
  )
  logits = [np.asarray(out_of(built(**more), ROWS).logits) for more in
            ({}, {"template": "{}"}, {"template": "{}", "normalise": "none"})]  # fmt: skip
  assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(logits))
  assert "text" in built(texts="trained").init(jax.random.key(0))[0]
  built((16, 8, 3), size="resize")
  with pytest.raises(UsageError, match=r"model.names: got 3 names; the data have 2 classes"):
    built(names="a,b,c")
  assert sys.modules["cljax.models.build"].parameters("clip_classifier", (8, 8, 3), 2, {"folder": folder}) == sum(
    a.size for a in by_hand.tensors().values()
  )


def test_capture_reads_clip_s_layers(folder):
  model = models.clip_classifier(folder, (8, 8, 1), NAMES)
  params, state = model.init(jax.random.key(0))
  logits, calls = model.capture(params, state, jnp.asarray(ROWS[..., :1]), None)
  np.testing.assert_allclose(logits, out_of(model, ROWS[..., :1]).logits, atol=1e-5)
  named = {n for c in calls.values() for n in c.spec.leaves.values()}
  assert {"image/patches/kernel", "image/projection/kernel", "image/mlp_1_out/bias"} <= named
  assert named <= set(tree.by_path(params))


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_random_clip_weights_against_transformers_itself(act, tmp_path):
  """logits_per_image, two heads, its own initial weights and its own folder."""
  transformers = pytest.importorskip("transformers", reason="needs transformers and torch")
  torch = pytest.importorskip("torch", reason="needs torch")
  more = {"hidden_act": act, "initializer_range": 0.2}
  image = {**by_hand.IMAGE, "image_size": 32, "patch_size": 8, "hidden_size": 96, "intermediate_size": 200, **more}
  text = {**by_hand.TEXT, "hidden_size": 64, "intermediate_size": 100, "bos_token_id": 298, "pad_token_id": 0, **more}
  torch.manual_seed(0)
  config = transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=40)
  made = transformers.CLIPModel(config).eval()
  made.save_pretrained(tmp_path)
  (tmp_path / "preprocessor_config.json").write_text(json.dumps(by_hand.PREPARED))
  by_hand.write_tokenizer(tmp_path)
  x = np.random.default_rng(3).uniform(size=(4, 32, 32, 3)).astype(np.float32)
  ids = [by_hand.token_ids(f"a photo of a {n}.") for n in NAMES]
  longest = max(map(len, ids))
  padded = torch.tensor([[*i, *(0,) * (longest - len(i))] for i in ids])
  mask = torch.tensor([[1] * len(i) + [0] * (longest - len(i)) for i in ids])
  mean, std = (torch.tensor(by_hand.PREPARED[n]) for n in ("image_mean", "image_std"))
  pixels = ((torch.tensor(x) - mean) / std).permute(0, 3, 1, 2)
  with torch.no_grad():
    want = made(input_ids=padded, attention_mask=mask, pixel_values=pixels).logits_per_image.numpy()
  for texts in ("frozen", "trained"):
    got = out_of(models.clip_classifier(str(tmp_path), (32, 32, 3), NAMES, texts=texts), x).logits
    np.testing.assert_allclose(got, want, atol=1e-4)
  assert want.std() > 0.1
