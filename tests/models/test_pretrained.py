"""Vision transformers from folders: against transformers' numbers, against NumPy, and what is refused."""

from __future__ import annotations

import builtins
import itertools
import json
import re
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vit_by_hand import published

import cljax
from cljax import models
from cljax.cli import _build, _config
from cljax.core import tree
from cljax.core.types import UsageError

numpy_files = pytest.importorskip("safetensors.numpy", reason="needs the extra [pretrained]")
CONFIG = {
  "model_type": "vit", "image_size": 8, "patch_size": 4, "num_channels": 3, "hidden_size": 12, "num_hidden_layers": 2,
  "num_attention_heads": 3, "intermediate_size": 20, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "qkv_bias": True,
}  # fmt: skip
PREPARED = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.6], "image_std": [0.5, 0.25, 0.2], "do_rescale": True,
            "rescale_factor": 1 / 255}  # fmt: skip
HALF = {**PREPARED, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
# Of transformers 5.24.0 and torch 2.13.0, on the tensors of `formula` and the rows of `rows`, with HALF.
TRANSFORMERS = {
  "vit": [[-0.343188405, -0.573515117, 0.493323773, 0.571517229, -0.713829219],
          [-0.355978549, -0.553239942, 0.501503468, 0.549381971, -0.716975451]],
  "deit": [[0.292059660, 0.277121872, -0.335356504, -0.090680420, 0.265432835],
           [0.282115698, 0.271534532, -0.324142128, -0.087643206, 0.253527701]],
  "teacher": [[-0.973263085, -0.538527131, 0.228242531, 0.843012273, 0.770164013],
              [-0.975042939, -0.541468084, 0.229491740, 0.850965500, 0.781068861]],
}  # fmt: skip
FEATURES = [[-1.014083862, 1.419950247, 0.615737736, -0.801351368, -0.557931423, 1.428264022, -0.282936722,
             -1.985963583, -0.074783400, 0.430682749, 0.201321319, -0.051367328],
            [-1.530155182, 1.921989202, 0.176859960, -0.632974863, -0.380921066, 1.753138423, -0.570467353,
             -1.356686711, -0.031637780, 0.126022741, 0.198467642, -0.036703676]]  # fmt: skip


def formula(name, shape):
  """A tensor by its name: ``0.3 sin(a n + b)``, of norms' scales 1 more."""
  seed = zlib.crc32(name.encode()) % 1000
  wave = 0.3 * np.sin((1 + seed / 1000) * np.arange(1, np.prod(shape) + 1) + seed).reshape(shape)
  return (wave + (name.endswith("weight") and len(shape) == 1)).astype(np.float32)


def rows():
  return (0.5 + 0.5 * np.sin(1.3 * np.arange(2 * 8 * 8 * 3))).reshape(2, 8, 8, 3).astype(np.float32)


def shapes(kind="vit", prefix="vit.", labels=5):
  """Names and shapes of Hugging Face's layouts: 'vit', 'deit', 'teacher'."""
  d, f, tokens = 12, 20, 1 if kind == "vit" else 2
  out = {"cls_token": (1, 1, d), "position_embeddings": (1, 4 + tokens, d),
         "patch_embeddings.projection.weight": (d, 3, 4, 4), "patch_embeddings.projection.bias": (d,)}  # fmt: skip
  out |= {} if kind == "vit" else {"distillation_token": (1, 1, d)}
  out = {f"{prefix}embeddings.{n}": s for n, s in out.items()}
  for i in range(2):
    at = f"{prefix}encoder.layer.{i}."
    dense = {f"attention.attention.{n}": (d, d) for n in ("query", "key", "value")}
    dense |= {"attention.output.dense": (d, d), "intermediate.dense": (f, d), "output.dense": (d, f)}
    for name, shape in dense.items():
      out |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
    out |= {f"{at}layernorm_{n}.{p}": (d,) for n in ("before", "after") for p in ("weight", "bias")}
  out |= {f"{prefix}layernorm.{p}": (d,) for p in ("weight", "bias")}
  heads = {"vit": ("classifier",), "deit": ("classifier",), "teacher": ("cls_classifier", "distillation_classifier")}
  for head in heads[kind] if labels else ():
    out |= {f"{head}.weight": (labels, d), f"{head}.bias": (labels,)}
  return out


def tensors(*args, **kwargs):
  return {n: formula(n, s) for n, s in shapes(*args, **kwargs).items()}


def written(path, found, config=CONFIG, prepared=HALF):
  path.mkdir(exist_ok=True)
  (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
  if prepared is not None:
    (path / "preprocessor_config.json").write_text(json.dumps(prepared))
  if found:
    numpy_files.save_file(found, str(path / "model.safetensors"))
  return str(path)


def out_of(model, x, key=0):
  params, state = model.init(jax.random.key(key))
  return jax.jit(lambda p, x: model.apply(p, state, x, train=False, key=None)[0])(params, jnp.asarray(x))


def kind_of(kind):
  return {**CONFIG, "model_type": "vit" if kind == "vit" else "deit"}


@pytest.mark.parametrize("kind", list(TRANSFORMERS))
def test_logits_are_those_of_transformers(kind, tmp_path):
  folder = written(tmp_path / kind, tensors(kind, "vit." if kind == "vit" else "deit."), kind_of(kind))
  out = out_of(models.pretrained(folder, (8, 8, 3), 5, head="own"), rows())
  np.testing.assert_allclose(out.logits, TRANSFORMERS[kind], atol=1e-5)


def test_a_network_without_a_head_gives_the_features_of_transformers(tmp_path):
  """ViTModel's layout: no prefix, no classifier, and a pooler, which is not read."""
  found = tensors(prefix="", labels=0)
  pooler = {"pooler.dense.weight": (12, 12), "pooler.dense.bias": (12,)}
  folder = written(tmp_path / "vit", {**found, **{n: formula(n, s) for n, s in pooler.items()}})
  np.testing.assert_allclose(out_of(models.pretrained(folder, (8, 8, 3), 7), rows()).features, FEATURES, atol=1e-5)
  with pytest.raises(UsageError, match=r"holds no classifier; model.head=new makes one"):
    models.pretrained(folder, (8, 8, 3), 7, head="own")


@pytest.mark.parametrize("kind", ["vit", "teacher"])
def test_a_published_network_in_numpy(kind, tmp_path):
  """From the folder's tensors, of other images and channels' own means and deviations; another epsilon."""
  prefix, names = ("vit.", ("cls_token",)) if kind == "vit" else ("deit.", ("cls_token", "distillation_token"))
  t = tensors(kind, prefix)
  folder = written(tmp_path / kind, t, {**kind_of(kind), "layer_norm_eps": 1e-2}, PREPARED)
  x = np.random.default_rng(0).uniform(size=(3, 8, 8, 3))
  h = published(t, (x - PREPARED["image_mean"]) / PREPARED["image_std"], prefix=prefix, heads=3, depth=2, epsilon=1e-2,
                tokens=names)  # fmt: skip
  out = out_of(models.pretrained(folder, (8, 8, 3), 5, head="own"), x.astype(np.float32))
  np.testing.assert_allclose(out.features, h[:, 0], atol=2e-5)
  first, second = ("classifier",) * 2 if kind == "vit" else ("cls_classifier", "distillation_classifier")
  logits = [h[:, i] @ t[f"{n}.weight"].T + t[f"{n}.bias"] for i, n in ((0, first), (len(names) - 1, second))]
  np.testing.assert_allclose(out.logits, np.mean(logits, 0), atol=2e-5)


def test_of_timm_the_same_network_under_its_names(tmp_path):
  """Queries, keys and values are one tensor; heads are 64 wide, the size of images lies in the positions."""
  d, rng = 128, np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32) * 0.2
  base = {"hidden_size": d, "num_hidden_layers": 1, "num_attention_heads": 2, "layer_norm_eps": 1e-6}
  hf = {n: draw(*(d if s == 12 else s for s in shape)) for n, shape in shapes().items() if "layer.1" not in n}
  one = models.pretrained(written(tmp_path / "hf", hf, {**CONFIG, **base}), (8, 8, 3), 5, head="own")
  at, b = "vit.encoder.layer.0.", "blocks.0."
  pairs = {"vit.embeddings.patch_embeddings.projection": "patch_embed.proj", "vit.layernorm": "norm",
           "classifier": "head", f"{at}layernorm_before": f"{b}norm1", f"{at}layernorm_after": f"{b}norm2",
           f"{at}attention.output.dense": f"{b}attn.proj", f"{at}intermediate.dense": f"{b}mlp.fc1",
           f"{at}output.dense": f"{b}mlp.fc2"}  # fmt: skip
  found = {f"{new}.{p}": hf[f"{old}.{p}"] for old, new in pairs.items() for p in ("weight", "bias")}
  found |= {"cls_token": hf["vit.embeddings.cls_token"], "pos_embed": hf["vit.embeddings.position_embeddings"]}
  for p in ("weight", "bias"):
    parts = [hf[f"{at}attention.attention.{n}.{p}"] for n in ("query", "key", "value")]
    found[f"{b}attn.qkv.{p}"] = np.concatenate(parts)
  timm = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
  two = models.pretrained(written(tmp_path / "timm", found, timm, None), (8, 8, 3), 5, head="own")
  np.testing.assert_allclose(out_of(two, rows()).logits, out_of(one, rows()).logits, atol=1e-5)
  with pytest.raises(UsageError, match=r"architecture: got 'vit_so400m'; timm's that are read"):
    models.pretrained(written(tmp_path / "timm", found, {**timm, "architecture": "vit_so400m"}), (8, 8, 3), 5)
  del found["pos_embed"]
  with pytest.raises(UsageError, match=r"safetensors: missing tensors: pos_embed"):
    models.pretrained(written(tmp_path / "timm", found, timm), (8, 8, 3), 5)


@pytest.fixture
def folder(tmp_path):
  return written(tmp_path / "vit", tensors(), prepared=PREPARED)


def test_a_new_head_is_drawn_and_all_else_is_the_folder_s(folder):
  """Another key draws another head; the folder's own is not read, whatever its classes."""
  model = models.pretrained(folder, (8, 8, 3), 7)
  (one, _), (two, _) = (model.init(jax.random.key(k)) for k in (0, 1))
  for (name, a), b in zip(zip(tree.paths(one), jax.tree.leaves(one), strict=True), jax.tree.leaves(two), strict=True):
    assert bool((a == b).all()) == (name != "head/kernel"), name
  assert one["head"]["kernel"].shape == (12, 7)
  np.testing.assert_allclose(one["head"]["kernel"].std(), 12**-0.5, rtol=0.3)
  own = tensors()["vit.encoder.layer.0.intermediate.dense.weight"]
  np.testing.assert_array_equal(one["mlp_0_in"]["kernel"], own.T)
  assert model.prompts == models.Places(12, 2)
  with pytest.raises(UsageError, match=r"num_classes: got 7; the classifier of .* has 5; model.head=new"):
    models.pretrained(folder, (8, 8, 3), 7, head="own")


def test_rows_are_normalised_and_grey_ones_repeated(folder):
  """As the folder's file says, or not at all."""
  x = np.random.default_rng(1).uniform(size=(2, 8, 8, 3)).astype(np.float32)
  plain = models.pretrained(folder, (8, 8, 3), 5, head="own", normalise="none")
  normal = models.pretrained(folder, (8, 8, 3), 5, head="own")
  by_hand = (x - np.float32(PREPARED["image_mean"])) / np.float32(PREPARED["image_std"])
  np.testing.assert_allclose(out_of(normal, x).logits, out_of(plain, by_hand).logits, atol=1e-5)
  assert np.abs(out_of(normal, x).logits - out_of(plain, x).logits).max() > 1e-2
  for shape in ((8, 8), (8, 8, 1)):
    grey = models.pretrained(folder, shape, 5, head="own")
    got = out_of(grey, x[..., 0].reshape(2, *shape)).logits
    np.testing.assert_allclose(got, out_of(normal, np.repeat(x[..., :1], 3, -1)).logits, atol=1e-5)


def test_images_of_another_size(folder):
  """Refused by default; resized, or with positions between those that were learned: of a plane the plane's own."""
  with pytest.raises(UsageError, match=r"rows are 16x16, the images of .* 8x8; model.size=resize resizes the rows"):
    models.pretrained(folder, (16, 16, 3), 5)
  x = np.random.default_rng(2).uniform(size=(2, 8, 8, 3)).astype(np.float32)
  larger = np.repeat(np.repeat(x, 2, 1), 2, 2)
  resized = models.pretrained(folder, (16, 16, 3), 5, head="own", size="resize")
  by_hand = np.asarray(jax.image.resize(larger, (2, 8, 8, 3), "bilinear"))
  same = models.pretrained(folder, (8, 8, 3), 5, head="own")
  np.testing.assert_allclose(out_of(resized, larger).logits, out_of(same, by_hand).logits, atol=1e-5)
  for size in ("resize", "positions"):  # of their own size rows and positions are as they are
    again = models.pretrained(folder, (8, 8, 3), 5, head="own", size=size)
    np.testing.assert_array_equal(out_of(again, x).logits, out_of(same, x).logits)
  places = lambda model: np.asarray(model.init(jax.random.key(0))[0]["position"]["position"])
  wide = places(models.pretrained(folder, (8, 32, 3), 5, size="positions"))
  own = places(same)
  np.testing.assert_array_equal(wide[0], own[0])
  assert wide.shape == (1 + 2 * 8, 12)
  lines = wide[1:].reshape(2, 8, 12), own[1:].reshape(2, 2, 12)  # rows stay; along them between the two
  np.testing.assert_allclose((lines[0] + lines[0][:, ::-1]) / 2, np.broadcast_to(lines[1].mean(1)[:, None], (2, 8, 12)),
                             atol=1e-5)  # fmt: skip
  with pytest.raises(UsageError, match="rows are 10x16, which patches of 4 do not divide"):
    models.pretrained(folder, (10, 16, 3), 5, size="positions")


def test_between_positions_on_a_plane_are_points_of_the_plane():
  """Away from the border the cubic between equidistant points of a line is the line."""
  from cljax.models.pretrained import vit
  from cljax.models.pretrained.fitting import interpolated

  form = vit.Form("vit", (16, 16), 3, 2, 1, 1, 1, 1, 1e-6, "gelu", 1, True)
  grid = np.arange(8.0)[:, None] + 10 * np.arange(8.0)[None]
  position = np.concatenate([[[-5.0]], grid.reshape(-1, 1)]).astype(np.float32)
  new = np.asarray(interpolated(position, form, (32, 32)))
  assert new[0] == -5
  at = (np.arange(16) + 0.5) / 2 - 0.5
  want = at[:, None] + 10 * at[None]
  np.testing.assert_allclose(new[1:].reshape(16, 16)[4:12, 4:12], want[4:12, 4:12], atol=1e-3)


def test_weights_of_half_precision_and_of_several_files_are_read(folder, tmp_path):
  t = tensors()
  names = sorted(t)
  (tmp_path / "two").mkdir()
  other = written(tmp_path / "two", {n: t[n] for n in names[:10]}, prepared=PREPARED)
  numpy_files.save_file({n: t[n] for n in names[10:]}, f"{other}/more.safetensors")
  same = models.pretrained(folder, (8, 8, 3), 5, head="own")
  two = models.pretrained(other, (8, 8, 3), 5, head="own")
  np.testing.assert_array_equal(out_of(two, rows()).logits, out_of(same, rows()).logits)
  numpy_files.save_file({names[0]: t[names[0]]}, f"{other}/again.safetensors")
  with pytest.raises(UsageError, match="stands in another file of the folder too"):
    models.pretrained(other, (8, 8, 3), 5)
  half = written(tmp_path / "half", {n: a.astype(jnp.bfloat16) for n, a in t.items()}, prepared=PREPARED)
  params = models.pretrained(half, (8, 8, 3), 5).init(jax.random.key(0))[0]
  assert {a.dtype for a in jax.tree.leaves(params)} == {np.dtype(np.float32)}
  want = t["vit.encoder.layer.0.output.dense.weight"].T
  np.testing.assert_allclose(params["mlp_0_out"]["kernel"], want, rtol=2**-8)


def test_queries_without_biases_begin_with_none(tmp_path):
  t = {n: a for n, a in tensors().items() if not re.search(r"attention\.attention\..*bias", n)}
  with pytest.raises(UsageError, match=r"missing tensors: vit.encoder.layer.0.attention.attention.key.bias, .* and 3"):
    models.pretrained(written(tmp_path / "a", t), (8, 8, 3), 5)
  model = models.pretrained(written(tmp_path / "a", t, {**CONFIG, "qkv_bias": False}), (8, 8, 3), 5)
  assert not np.asarray(model.init(jax.random.key(0))[0]["attention_1"]["qkv"]["bias"]).any()


CONFIGS = {
  "model_type: got 'swin'": {"model_type": "swin"},
  "model_type: got None": {"model_type": None},
  "hidden_act: got 'swish'": {"hidden_act": "swish"},
  "layer_norm_eps: got 0; expected a number above 0": {"layer_norm_eps": 0},
  "hidden_size: got 'a'; expected an integer of at least 1": {"hidden_size": "a"},
  "num_hidden_layers: got 0; expected an integer": {"num_hidden_layers": 0},
  "image_size: got 10; expected a multiple of the patch size 4": {"image_size": 10},
  r"image_size: got \[8\]": {"image_size": [8]},
  "num_attention_heads: got 5, which does not divide the width 12": {"num_attention_heads": 5},
}


@pytest.mark.parametrize("said", CONFIGS)
def test_a_configuration_that_is_not_known_is_refused(said, tmp_path):
  with pytest.raises(UsageError, match=f"model.folder: .*config.json: {said}") as error:
    models.pretrained(written(tmp_path / "a", tensors(), {**CONFIG, **CONFIGS[said]}), (8, 8, 3), 5)
  assert "\n" not in str(error.value)


def test_broken_folders_are_refused(tmp_path, folder, monkeypatch):
  refused = lambda said, *args, **kwargs: pytest.raises(UsageError, match=said)
  load = lambda path, shape=(8, 8, 3), classes=5, **more: models.pretrained(path, shape, classes, **more)
  t = tensors()
  with refused("model.folder: got ''; expected the folder of a network"):
    load("")
  with refused("model.folder: got '.*none'; no such folder; `huggingface-cli download"):
    load(str(tmp_path / "none"))
  (tmp_path / "empty").mkdir()
  with refused("config.json: no such file; a folder is what `huggingface-cli"):
    load(str(tmp_path / "empty"))
  with refused("config.json: cannot be read as JSON"):
    load(written(tmp_path / "b", t, "{"))
  with refused("config.json: holds list; expected an object"):
    load(written(tmp_path / "b", t, "[]"))
  with refused(r"\*.safetensors: no such file"):
    load(written(tmp_path / "c", None))
  lacking = {n: a for n, a in CONFIG.items() if n != "hidden_size"}
  with refused("hidden_size: is missing; expected an integer"):
    load(written(tmp_path / "b", t, lacking))
  with refused(r"safetensors: tensors that vit has not: vit.encoder.layer.1.adapter.weight$"):
    load(written(tmp_path / "d", {**t, "vit.encoder.layer.1.adapter.weight": np.zeros(3, np.float32)}))
  wrong = {**t, "vit.encoder.layer.1.output.dense.bias": np.zeros(3, np.float32)}
  with refused(r"vit.encoder.layer.1.output.dense.bias \[3\]: not of the sizes in config.json"):
    load(written(tmp_path / "d", wrong))
  with refused(r"query.weight \[3, 3\], .*: not of the sizes in config.json"):
    load(written(tmp_path / "d", {**t, "vit.encoder.layer.1.attention.attention.query.weight": np.zeros((3, 3), "f")}))
  (tmp_path / "d" / "model.safetensors").write_bytes(b"x" * 40)
  with refused("model.safetensors: cannot be read as safetensors"):
    load(str(tmp_path / "d"))
  with refused("preprocessor_config.json: no such file; model.normalise=none takes rows as they are"):
    load(written(tmp_path / "e", t, prepared=None))
  for change, said in (
    ({"image_mean": [0.5]}, "image_mean: got .0.5.; expected 3 numbers"),
    ({"image_std": [0.5, 0, 1]}, "image_std: got .0.5, 0, 1.; expected 3 numbers, deviations above 0"),
    ({"rescale_factor": 1.0}, "rescale_factor: got 1.0; rows lie in .0, 1., which is 1/255"),
  ):
    with refused(f"preprocessor_config.json: {said}"):
      load(written(tmp_path / "f", t, prepared={**PREPARED, **change}))
  with refused("input_shape: rows have 2 channels; this network takes 1 or 3"):
    load(folder, (8, 8, 2))
  for option in ("head", "size", "normalise"):
    with refused(f"model.{option}: got 'x'; allowed: "):
      load(folder, **{option: "x"})
  true_import = builtins.__import__

  def without(name, *args, **kwargs):
    if name == "safetensors":
      raise ImportError(name)
    return true_import(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", without)
  monkeypatch.delitem(sys.modules, "safetensors", raising=False)
  with refused("needs the package safetensors; pip install 'cljax.pretrained.'"):
    load(folder)


def test_without_normalising_nothing_is_asked_of_the_file(tmp_path):
  folder = written(tmp_path / "a", tensors(), prepared=None)
  a = out_of(models.pretrained(folder, (8, 8, 3), 5, head="own", normalise="none"), rows())
  same = written(tmp_path / "b", tensors(), prepared={**PREPARED, "do_normalize": False})
  np.testing.assert_array_equal(a.logits, out_of(models.pretrained(same, (8, 8, 3), 5, head="own"), rows()).logits)


def test_a_configuration_names_a_folder_and_its_options(folder):
  """The network learns through the command's own parts; each option reaches the factory."""
  file = _config.File({"data": {"name": "digits"}}, {}, type(sys)("x"))
  given = lambda text: [_config.Override(*p.partition("=")[::2], True) for p in text.split()]
  config = _config.resolve(file, given(f"model.name=pretrained model.folder={folder} stream.tasks=5"))
  model = _build.build(config).model
  assert model.init(jax.random.key(0))[0]["head"]["kernel"].shape == (12, 10)
  built = lambda **more: models.build("pretrained", (8, 8, 3), 5, folder=folder, **more)
  logits = [np.asarray(out_of(built(**more), rows()).logits) for more in
            ({}, {"head": "own"}, {"head": "own", "normalise": "none"})]  # fmt: skip
  assert all(np.abs(a - b).max() > 1e-2 for a, b in itertools.pairwise(logits))
  assert models.build("pretrained", (16, 8, 3), 5, folder=folder, size="resize").prompts.blocks == 2
  with pytest.raises(UsageError, match=r"model.folder: got ''; expected the folder"):
    models.build("pretrained", (8, 8, 3), 5)
  assert sys.modules["cljax.models.build"].parameters("pretrained", (8, 8, 3), 5, {"folder": folder}) == sum(
    a.size for a in tensors().values()
  )


def test_a_run_fine_tunes_a_folder_s_network(folder, class_stream):
  result = cljax.run(class_stream, models.pretrained(folder, (4, 4, 1), 4, size="positions"), "finetune",
                     optimizer="adam", optimizer_options={"learning_rate": 3e-3},
                     training=cljax.Recipe(batch_size=8, epochs=5))  # fmt: skip
  assert result.task_accuracy[:, -1, -1].mean() > 0.7


def test_capture_reads_the_layers_of_prepared_rows(folder):
  model = models.pretrained(folder, (8, 8, 1), 5)
  params, state = model.init(jax.random.key(0))
  x = jnp.asarray(rows()[..., :1])
  logits, calls = model.capture(params, state, x, None)
  np.testing.assert_allclose(logits, out_of(model, x).logits, atol=1e-5)
  patches = next(c for c in calls.values() if "patches/kernel" in c.spec.leaves.values())
  assert patches.output.shape == (2, 4, 12)


@pytest.mark.parametrize("kind", ["vit", "deit", "teacher"])
def test_random_weights_against_transformers_itself(kind, tmp_path):
  """Two heads a token, patches of 8, its own initial weights and its own folder."""
  transformers = pytest.importorskip("transformers", reason="needs transformers and torch")
  torch = pytest.importorskip("torch", reason="needs torch")
  config = {"vit": transformers.ViTConfig, "deit": transformers.DeiTConfig, "teacher": transformers.DeiTConfig}[kind]
  net = {"vit": transformers.ViTForImageClassification, "deit": transformers.DeiTForImageClassification,
         "teacher": transformers.DeiTForImageClassificationWithTeacher}[kind]  # fmt: skip
  sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3,
           "intermediate_size": 768, "num_labels": 11, "initializer_range": 0.2}  # fmt: skip
  torch.manual_seed(0)
  made = net(config(**sizes)).eval()
  made.save_pretrained(tmp_path)
  (tmp_path / "preprocessor_config.json").write_text(json.dumps(HALF))
  x = np.random.default_rng(3).uniform(size=(4, 32, 32, 3)).astype(np.float32)
  with torch.no_grad():
    want = made(pixel_values=(torch.tensor(x).permute(0, 3, 1, 2) - 0.5) / 0.5).logits.numpy()
  got = out_of(models.pretrained(str(tmp_path), (32, 32, 3), 11, head="own"), x).logits
  assert want.std() > 0.1
  np.testing.assert_allclose(got, want, atol=1e-4)
