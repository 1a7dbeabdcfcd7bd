"""Residual networks from folders: against NumPy, against transformers itself, and what is refused."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import data, models, streams
from cljax.core.types import UsageError

numpy_files = pytest.importorskip("safetensors.numpy", reason="needs the extra [pretrained]")
BASIC = {
  "model_type": "resnet", "num_channels": 3, "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [2, 1],
  "layer_type": "basic", "hidden_act": "relu",
}  # fmt: skip
NARROW = {**BASIC, "layer_type": "bottleneck", "hidden_sizes": [8, 16]}
KINDS = {
  "basic": BASIC,
  "bottleneck": NARROW,
  "first": {**BASIC, "downsample_in_first_stage": True},
  "early": {**NARROW, "downsample_in_bottleneck": True},
}
LABELS, EPSILON = 5, 1e-5


def convolutions(config):
  """``(name, c_out, c_in, size, stride)`` of each convolution of a block, blocks in order, by Hugging Face's names."""
  came, blocks = config["embedding_size"], []
  for s, (width, depth) in enumerate(zip(config["hidden_sizes"], config["depths"], strict=True)):
    for i in range(depth):
      stride = 2 if not i and (s or config.get("downsample_in_first_stage")) else 1
      at, inner = f"encoder.stages.{s}.layers.{i}.", width // 4
      sizes = [(width, came, 3, stride), (width, width, 3, 1)]
      if config["layer_type"] == "bottleneck":
        early = config.get("downsample_in_bottleneck", False)
        sizes = [
          (inner, came, 1, stride if early else 1),
          (inner, inner, 3, 1 if early else stride),
          (width, inner, 1, 1),
        ]
      layers = [(f"{at}layer.{c}.", *size) for c, size in enumerate(sizes)]
      shortcut = (f"{at}shortcut.", width, came, 1, stride) if stride != 1 or came != width else None
      blocks.append((layers, shortcut))
      came = width
  return blocks


def tensors(config, seed=0):
  rng = np.random.default_rng(seed)
  blocks = convolutions(config)
  all_ = [("embedder.embedder.", config["embedding_size"], config["num_channels"], 7, 2)]
  all_ += [layer for layers, short in blocks for layer in (*layers, *([short] if short else []))]
  out = {}
  for name, c_out, c_in, size, _ in all_:
    out[f"{name}convolution.weight"] = rng.normal(size=(c_out, c_in, size, size)) / np.sqrt(c_in * size * size)
    for n, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
      out[f"{name}normalization.{n}"] = rng.uniform(low, low + 1, size=c_out)
    out[f"{name}normalization.num_batches_tracked"] = np.zeros(())
  out = {f"resnet.{n}": v for n, v in out.items()}
  out["classifier.1.weight"] = rng.normal(size=(LABELS, config["hidden_sizes"][-1]))
  out["classifier.1.bias"] = rng.normal(size=LABELS)
  return {n: np.asarray(v, np.float32) for n, v in out.items()}


def windows(x, size, stride, pad, fill=0.0):
  """``[B, C, H', W', size, size]`` of ``x [B, C, H, W]``."""
  x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=fill)
  return np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]


def by_hand(t, x, config):
  """``(logits, features)`` of ``x [B, H, W, C]``, in float64."""
  relu = lambda a: np.maximum(a, 0)

  def layer(x, name, size, stride):
    at = lambda n: t[f"resnet.{name}{n}"].astype(np.float64)
    y = np.einsum("bchwij,ocij->bohw", windows(x, size, stride, size // 2), at("convolution.weight"))
    of = lambda n: at(f"normalization.{n}")[:, None, None]
    return (y - of("running_mean")) / np.sqrt(of("running_var") + EPSILON) * of("weight") + of("bias")

  x = relu(layer(x.transpose(0, 3, 1, 2).astype(np.float64), "embedder.embedder.", 7, 2))
  x = windows(x, 3, 2, 1, -np.inf).max((-1, -2))
  for layers, shortcut in convolutions(config):
    y = x
    for i, (name, _, _, size, stride) in enumerate(layers):
      y = layer(y, name, size, stride)
      y = relu(y) if i + 1 < len(layers) else y
    x = relu(y + (layer(x, shortcut[0], 1, shortcut[4]) if shortcut else x))
  features = x.mean((2, 3))
  return features @ t["classifier.1.weight"].T + t["classifier.1.bias"], features


def of_torchvision(found, config):
  """The same tensors by torchvision's names."""
  out = {}
  for name, value in found.items():
    name = name.removeprefix("resnet.").replace("embedder.embedder.convolution", "conv1")
    name = name.replace("embedder.embedder.normalization", "bn1").replace("classifier.1", "fc")
    if name.startswith("encoder"):
      _, _, s, _, i, *rest = name.split(".")
      if rest[0] == "shortcut":
        rest = ["downsample", "0" if rest[1] == "convolution" else "1", *rest[2:]]
      else:
        rest = [("conv" if rest[2] == "convolution" else "bn") + str(int(rest[1]) + 1), *rest[3:]]
      name = ".".join([f"layer{int(s) + 1}", i, *rest])
    out[name] = value
  return out


def written(path, found, config, arrays=False):
  path.mkdir(exist_ok=True)
  (path / "config.json").write_text(json.dumps(config))
  if arrays:
    np.savez(path / "weights.npz", **found)
  else:
    numpy_files.save_file(found, str(path / "model.safetensors"))
  return str(path)


def rows(side=20, channels=3):
  return np.random.default_rng(1).uniform(size=(2, side, side, channels)).astype(np.float32)


def build(folder, side=20, channels=3, head="own", **options):
  return models.pretrained(folder, (side, side, channels), LABELS, head=head, **{"normalise": "none", **options})


def out_of(model, x, key=0):
  params, state = model.init(jax.random.key(key))
  return jax.jit(lambda p, x: model.apply(p, state, x, train=False, key=None)[0])(params, jnp.asarray(x))


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_published_residual_network_in_numpy(kind, tmp_path):
  t = tensors(KINDS[kind])
  out = out_of(build(written(tmp_path / kind, t, KINDS[kind])), rows())
  logits, features = by_hand(t, rows(), KINDS[kind])
  np.testing.assert_allclose(out.features, features, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(out.logits, logits, rtol=1e-4, atol=1e-4)
  assert len(out.hidden) == 2


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_the_same_network_under_torchvision_s_names_and_as_arrays(kind, tmp_path):
  t, config = tensors(KINDS[kind]), {"architecture": "resnet18" if kind == "basic" else "resnet50"}
  own = out_of(build(written(tmp_path / "hf", t, KINDS[kind])), rows())
  named = of_torchvision(t, KINDS[kind])
  for arrays in (False, True):
    other = out_of(build(written(tmp_path / f"tv{arrays}", named, config, arrays)), rows())
    np.testing.assert_array_equal(other.logits, own.logits)


@pytest.mark.parametrize("kind", list(KINDS))
def test_against_transformers_itself(kind, tmp_path):
  torch = pytest.importorskip("torch", reason="needs transformers and torch")
  transformers = pytest.importorskip("transformers", reason="needs transformers and torch")
  config = {k: v for k, v in KINDS[kind].items() if k != "model_type"}
  torch.manual_seed(0)
  made = transformers.ResNetForImageClassification(transformers.ResNetConfig(**config, num_labels=LABELS)).eval()
  for name, buffer in made.named_buffers():
    if name.endswith(("running_mean", "running_var")):
      buffer.uniform_(0.5, 1.5)
  made.save_pretrained(tmp_path / "made", safe_serialization=True)
  out = out_of(build(str(tmp_path / "made"), 64), rows(64))
  with torch.no_grad():
    theirs = made(torch.tensor(rows(64).transpose(0, 3, 1, 2))).logits.numpy()
  np.testing.assert_allclose(out.logits, theirs, rtol=1e-4, atol=1e-4)


def test_rows_are_prepared(tmp_path):
  """Grey rows are repeated, and resized on request; the mean and deviation are timm's."""
  t = of_torchvision(tensors(BASIC), BASIC)
  config = {"architecture": "resnet18", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "image_size": 20}
  folder = written(tmp_path / "net", t, config)
  grey = rows(10, 1)[..., 0]
  wide = np.asarray(jax.image.resize(np.repeat(grey[..., None], 3, -1), (2, 20, 20, 3), "bilinear"))
  by_config = (wide - np.asarray(config["mean"])) / np.asarray(config["std"])
  model = models.pretrained(folder, (10, 10), LABELS, head="own", size="resize")
  logits, _ = by_hand(tensors(BASIC), by_config, BASIC)
  np.testing.assert_allclose(out_of(model, grey).logits, logits, rtol=1e-4, atol=1e-4)
  with pytest.raises(UsageError, match=r"model.size: got 'positions'; a residual network has none"):
    models.pretrained(folder, (10, 10), LABELS, size="positions")
  with pytest.raises(UsageError, match=r"rows have 2 channels; this network takes 1 or 3"):
    models.pretrained(folder, (10, 10, 2), LABELS)


def test_it_begins_as_its_folder_and_its_statistics_go_on(tmp_path):
  t = tensors(BASIC)
  model = build(written(tmp_path / "net", t, BASIC), head="new")
  (params, state), (others, _) = model.init(jax.random.key(0)), model.init(jax.random.key(1))
  stem = t["resnet.embedder.embedder.convolution.weight"].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(params["conv"]["kernel"], stem)
  np.testing.assert_array_equal(others["conv"]["kernel"], stem)
  assert (params["head"]["kernel"] != others["head"]["kernel"]).any(), "the classifier is drawn"
  mean = t["resnet.embedder.embedder.normalization.running_mean"]
  np.testing.assert_array_equal(state["batch_stats"]["norm"]["mean"], mean)
  x = jnp.asarray(rows())
  y = np.einsum("bchwij,ocij->bohw", windows(rows().transpose(0, 3, 1, 2), 7, 2, 3), stem.transpose(3, 2, 0, 1))
  _, after = model.apply(params, state, x, train=True, key=None)
  np.testing.assert_allclose(after["batch_stats"]["norm"]["mean"], 0.9 * mean + 0.1 * y.mean((0, 2, 3)), atol=1e-5)


def test_it_learns_a_stream_under_lora_with_ewc(tmp_path):
  folder = written(tmp_path / "net", tensors(BASIC), BASIC)
  digits = data.load("digits")
  stream = streams.build(digits, "class", tasks=2, rows=60, validation=0.0)
  model = models.build(
    "pretrained", digits.train.x.shape[1:], 10, folder=folder, normalise="none", tuning="lora", tuning_rank=2
  )
  run = cljax.run(stream, model, "ewc", optimizer="adam", training=cljax.Recipe(batch_size=16, epochs=1))
  assert np.isfinite(run.accuracy[:, -1]).all()


BAD = {
  "an unknown block": (
    {"layer_type": "wide"},
    r"config.json: layer_type: got 'wide'; those that are known: basic, bott",
  ),
  "stages that differ": ({"depths": [1]}, r"config.json: depths: got 1 stages; hidden_sizes has 2"),
  "no list": ({"hidden_sizes": 8}, r"config.json: hidden_sizes: got 8; expected a list of integers of at least 1"),
  "odd bottlenecks": ({"layer_type": "bottleneck", "hidden_sizes": [6, 8]}, r"expected multiples of 4"),
  "an unknown activation": ({"hidden_act": "sine"}, r"config.json: hidden_act: got 'sine'"),
  "other widths": ({"hidden_sizes": [4, 12]}, r"not of the sizes in config.json"),
  "more blocks": ({"depths": [3, 1]}, r"missing tensors: resnet.encoder.stages.0.layers.2"),
  "fewer blocks": ({"depths": [1, 1]}, r"tensors that a residual network has not: resnet.encoder.stages.0.layers.1"),
}


@pytest.mark.parametrize("what", list(BAD))
def test_what_does_not_fit_is_one_line(what, tmp_path):
  changed, match = BAD[what]
  folder = written(tmp_path / "net", tensors(BASIC), {**BASIC, **changed})
  with pytest.raises(UsageError, match=match) as told:
    build(folder)
  assert "\n" not in str(told.value)


def test_what_is_wrong_with_torchvision_s_files(tmp_path):
  named = of_torchvision(tensors(BASIC), BASIC)
  with pytest.raises(
    UsageError, match=r"architecture: got 'resnet7'; timm's residual networks that are read: resnet18"
  ):
    build(written(tmp_path / "name", named, {"architecture": "resnet7"}))
  less = {n: v for n, v in named.items() if not n.startswith("layer")}
  with pytest.raises(UsageError, match=r"missing tensors: layer1.0.conv2.weight and its like"):
    build(written(tmp_path / "less", less, {"architecture": "resnet18"}))
  with pytest.raises(UsageError, match=r"missing tensors: conv1.weight"):
    build(
      written(tmp_path / "stem", {n: v for n, v in named.items() if n != "conv1.weight"}, {"architecture": "resnet18"})
    )
  headless = {n: v for n, v in named.items() if not n.startswith("fc")}
  with pytest.raises(UsageError, match=r"holds no classifier; model.head=new makes one"):
    build(written(tmp_path / "head", headless, {"architecture": "resnet18"}))
  folder = written(tmp_path / "npz", named, {"architecture": "resnet18"}, arrays=True)
  (tmp_path / "npz" / "weights.npz").write_bytes(b"PK\x03\x04 broken")
  with pytest.raises(UsageError, match=r"weights.npz: cannot be read as arrays of NumPy"):
    build(folder)
  with pytest.raises(UsageError, match=r"num_classes: got 3; the classifier of .* has 5; model.head=new"):
    models.pretrained(written(tmp_path / "c", named, {"architecture": "resnet18"}), (20, 20, 3), 3, head="own")
