"""Every option of every section: given, it changes the result, or it is declared neutral, or it is refused by name."""

from __future__ import annotations

import functools
import hashlib
import types

import jax
import numpy as np
import pytest

import cljax
from cljax import Member, UsageError, data, models, streams
from cljax.cli import _build, _config, train
from cljax.cli.sweeps import _plan
from cljax.engine import recipe

BASE = {
  "data": {"name": "digits"},
  "stream": {"kind": "class", "tasks": 2, "rows": 120},
  "model": {"name": "mlp", "hidden": (4,)},
  "train": {"batch_size": 16, "epochs": 2},
}
FILE = _config.File(BASE, {}, types.ModuleType("base"))
DATA: dict = {}

# option: (value, what is given beside it, 'changes' or 'neutral'); neutral ones must not change what is learned.
TRAINED = {
  "train.batch_size": ("8", "", "changes"),
  "train.epochs": ("3", "", "changes"),
  "train.first_task_epochs": ("1", "", "changes"),
  "train.patience": ("1", "train.epochs=6", "changes"),
  "train.augment": ("flip", "", "changes"),
  "train.precision": ("bfloat16", "", "changes"),
  "train.population_group": ("2", "", "neutral"),
  "train.feed": ("grain", "", "neutral"),
  "train.boundary_limit": ("4", "train.feed=grain method.name=mas", "changes"),
  "train.chunk_steps": ("3", "", "neutral"),
  "train.presentations": ("true", "", "neutral"),
  "train.on_divergence": ("freeze", "optimizer.learning_rate=1e30", "changes"),
  "eval.every": ("4", "", "neutral"),
  "eval.limit": ("8", "eval.every=4", "neutral"),
  "eval.block": ("16", "", "neutral"),
  "eval.ahead": ("false", "", "changes"),
  "eval.log": ("predictions", "", "neutral"),
  "eval.log_limit": ("1", "", "neutral"),
  "checkpoint.every": ("3", "", "neutral"),
  "checkpoint.purge_before_deletion": ("true", "stream.forget=2:class=1 forget.name=ssd", "neutral"),
  "checkpoint.keep_ids": ("false", "stream.forget=2:class=1 forget.name=ssd", "neutral"),
  "checkpoint.max_interval_s": ("0.001", "", "neutral"),
  "optimizer.name": ("adam", "", "changes"),
  "optimizer.learning_rate": ("0.05", "", "changes"),
  "optimizer.momentum": ("0.5", "optimizer.name=momentum", "changes"),
  "optimizer.weight_decay": ("0.1", "", "changes"),
  "optimizer.schedule": ("linear", "", "changes"),
  "optimizer.warmup": ("0.5", "", "changes"),
  "optimizer.reset_per_task": ("true", "optimizer.name=momentum", "changes"),
  "optimizer.schedule_over": ("stream", "optimizer.schedule=linear", "changes"),
  "method.name": ("l2_init", "", "changes"),
  "forget.name": ("graddiff", "stream.forget=2:class=1 forget.name=ssd", "changes"),
  "forget.schedule": ("epochs", "stream.forget=2:class=1 forget.name=retrain", "changes"),
  "method.decoupled": ("true", "method.name=ewc", "changes"),
  "method.capacity": ("4", "method.name=er", "changes"),
  "method.policy": ("class_balanced", "method.name=er method.capacity=4", "changes"),
  "method.replay_batch": ("3", "method.name=er", "changes"),
}
STREAMS = {
  "kind": ("domain", ""),
  "tasks": ("5", ""),
  "classes_per_task": ("4,6", ""),
  "class_order": ("1", ""),
  "task_fractions": ("0.5,1", ""),
  "validation": ("0.3", ""),
  "active": ("seen", ""),
  "angles": ("0,10", "stream.kind=rotated"),
  "seed": ("1", ""),
  "forget": ("2:class=1", ""),
  "rows": ("100", ""),
  "order": ("0,1,0", ""),
  "label_noise": ("0.5", ""),
  "input_noise": ("0.5", ""),
  "disjoint": ("0", "stream.kind=si_blurry"),
  "blurry": ("50", "stream.kind=si_blurry"),
  "class_weights": ("1,1,1,0,0,0,0,0,0,0", "stream.kind=scole"),
  "reserve_tasks": ("7", ""),
  "reserve_rows": ("900", ""),
  "reserve_classes": ("12", ""),
  "appended": ("900", ""),
  "per_seed": ("true", ""),
  "labelled": ("1", "method.name=happy method.width=4"),
  "returning": ("0.1", ""),
}
MODELS = {
  "mlp": {"hidden": "5", "activation": "tanh", "dropout": "0.5"},
  "cnn": {"widths": "3,4", "activation": "tanh", "dropout": "0.5"},
  "resnet18": {"width": "3", "activation": "tanh"},
  "vit": {"patch": "2", "width": "8", "depth": "2", "heads": "2", "mlp_ratio": "3", "dropout": "0.5",
          "activation": "tanh"},
}  # fmt: skip
# Of other inputs than images: the shape of a row, what the model is applied on, its options, those beside them.
TEXT, PAIRS = jax.ShapeDtypeStruct((2, 5), np.int32), jax.ShapeDtypeStruct((2, 2), np.int32)
NOISY = {"x": jax.ShapeDtypeStruct((2, 3), np.float32), "time": jax.ShapeDtypeStruct((2,), np.int32)}
OTHERS = {
  "vae": ((8, 8, 1), jax.ShapeDtypeStruct((2, 8, 8, 1), np.float32), {"latent": 3, "hidden": (5,)}, {}),
  "matrix_factorisation": ((2,), PAIRS, {"users": 4, "items": 5, "dim": 3, "scale": 0.5}, {"users": 3, "items": 3}),
  "transformer": ((5,), TEXT, {"width": 8, "depth": 1, "heads": 2, "mlp_ratio": 3, "dropout": 0.5,
                               "activation": "tanh"}, {}),
  "denoiser": ((3,), NOISY, {"hidden": (5,)}, {}),
  "decoder": ((5,), TEXT, {"width": 16, "depth": 1, "heads": 2, "kv_heads": 2, "mlp_width": 5, "rope_base": 500.0,
                           "epsilon": 0.1, "tied": False, "layout": "gpt2", "remat": True}, {}),
}  # fmt: skip
IN_FOLDERS = {"pretrained", "pretrained_decoder", "clip_classifier"}  # their options are tested where they are
SMALL = {"cnn": "model.widths=2,3", "resnet18": "model.width=2",
         "vit": "model.width=4 model.depth=1 model.heads=1 model.mlp_ratio=1"}  # fmt: skip


def overrides(text: str) -> list[_config.Override]:
  return [_config.Override(*part.partition("=")[::2], True) for part in text.split()]


def built(given: str) -> _build.Built:
  return _build.build(_config.resolve(FILE, overrides(given)), DATA)


def learned(given: str, workdir) -> tuple:
  """What a run with these options learns and how it scores; of one that diverges, that it does."""
  made = built(given)
  try:
    found = _build.execute(made, [Member(0)], workdir, lambda message: None, lambda: False)
  except cljax.DivergedError:
    return ("diverged",)
  return (*found.params_sha256, found.accuracy.tolist(), found.steps)


@pytest.fixture(scope="module")
def without(tmp_path_factory):
  """What is learned with nothing but what stands beside an option, once for all that share it."""
  return functools.cache(lambda beside: learned(beside, tmp_path_factory.mktemp("without")))


@pytest.mark.parametrize("key", TRAINED)
def test_what_is_trained(tmp_path, without, key):
  value, beside, effect = TRAINED[key]
  assert (learned(f"{beside} {key}={value}", tmp_path) == without(beside)) == (effect == "neutral")


def seen(stream) -> str:
  """All that a run takes from a stream, as one digest."""
  x = np.asarray(stream.view.apply(stream.view.tables, stream.dataset.train.x[:4], np.zeros(4, np.int32) + 1))
  parts = [*stream.train, *stream.validation, *stream.test, stream.labels, stream.dataset.train.x,
           stream.dataset.train.y, x]  # fmt: skip
  words = [repr(stream.events), stream.active, stream.task_id_given, stream.num_classes, stream.room, stream.row_room]
  return hashlib.sha256(repr([words, [np.asarray(p).tobytes() for p in parts]]).encode()).hexdigest()


@pytest.mark.parametrize("key", STREAMS)
def test_streams(key):
  value, beside = STREAMS[key]
  assert seen(built(f"{beside} stream.{key}={value}").stream) != seen(built(beside).stream)


def traced(model, x=jax.ShapeDtypeStruct((2, 8, 8, 1), np.float32)) -> tuple[list, str]:
  """Shapes of the parameters, and all that is computed in training."""
  params, state = jax.eval_shape(model.init, jax.random.key(0))
  apply = lambda p, s, x: model.apply(p, s, x, train=True, key=jax.random.key(1), task=0, mask=None)[0].logits
  return [a.shape for a in jax.tree.leaves(params)], str(jax.make_jaxpr(apply)(params, state, x))


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
  small = f"model.name={name} {SMALL.get(name, '')}"
  base = traced(built(small).model)
  for key, value in MODELS[name].items():
    rest = " ".join(p for p in small.split() if not p.startswith(f"model.{key}="))
    assert traced(built(f"{rest} model.{key}={value}").model) != base, key


def test_tunings_of_any_model():
  """Each option is another network, beside its tuning; a wrong one is told with its section."""
  small = "model.name=vit model.width=4 model.depth=1 model.heads=1 model.mlp_ratio=1"
  plain = traced(built(small).model)
  for tuning in ("lora", "bitfit", "lnfit", "ssf", "adapter", "parallel_adapter"):
    assert traced(built(f"{small} model.tuning={tuning}").model) != plain, tuning
  tuned = f"{small} model.tuning=lora"
  for more in ("tuning_rank=3", "tuning_layers=qkv", "tuning_trained=norm"):
    assert traced(built(f"{tuned} model.{more}").model) != traced(built(tuned).model), more
  with pytest.raises(UsageError, match=r"model\.tuning_rank: got 0; expected an integer of at least 1"):
    built(f"{tuned} model.tuning_rank=0")
  with pytest.raises(UsageError, match=r"model\.tuning: got 'low'; allowed: lora"):
    built(f"{small} model.tuning=low")


@pytest.mark.parametrize("name", OTHERS)
def test_models_of_other_inputs(name):
  shape, x, options, beside = OTHERS[name]
  made = lambda given: models.build(name, shape, 7, **given)
  digest = lambda **given: (*traced(made(given), x), str(jax.make_jaxpr(made(given).init)(jax.random.key(0))))
  for key, value in options.items():
    assert digest(**{**beside, key: value}) != digest(**beside), key
  assert {*options} | {"conditions"} >= {*models.options(name)}
  if name == "denoiser":
    given = {**x, "condition": jax.ShapeDtypeStruct((2,), np.int32)}
    one, two = (traced(models.build(name, shape, 7, conditions=c), given) for c in (2, 3))
    assert one != two


def test_data(tmp_path, monkeypatch):
  from PIL import Image

  rng = np.random.default_rng(0)
  np.savez(tmp_path / "a.npz", x=rng.normal(size=(40, 3)).astype(np.float32), y=np.arange(40) % 2)
  for split in ("train", "test"):
    for name in ("cat", "dog"):
      (tmp_path / "pictures" / split / name).mkdir(parents=True)
      for i in range(2):
        picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8))
        picture.save(tmp_path / "pictures" / split / name / f"{i}.png")
  table = {
    f"npz:{tmp_path}/a.npz": {"test_fraction": 0.5, "seed": 1},
    f"folder:{tmp_path}/pictures": {"size": 4},
  }
  for name, options in table.items():
    base = data.load(name)
    for key, value in options.items():
      assert data.load(name, **{key: value}).digest != base.digest, (name, key)
    assert set(options) <= set(data.options(name))
  assert data.load("digits", data_dir=str(tmp_path)).digest == data.load("digits").digest


def test_the_table_is_whole():
  """Of data, methods, forget and networks in folders only the names: what their options do is tested where they are."""
  tested = {*TRAINED, *(f"stream.{k}" for k in STREAMS)}
  for section in ("train", "eval", "checkpoint", "optimizer", "stream"):
    assert {f"{section}.{k}" for k in _config.defaults(section)} <= tested, section
  for name, options in MODELS.items():
    assert set(models.options(name)) == set(options)
  assert set(models.build.__globals__["BUILT_IN"]) == {*MODELS, *OTHERS, *IN_FOLDERS}


@pytest.mark.parametrize("name", recipe.OPTIMIZERS)
def test_each_optimizer_refuses_what_it_does_not_read(name, dataset, class_stream, small_model):
  options = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.1, "schedule": "linear", "warmup": 0.1}
  for key, value in options.items():
    reads = recipe.READS[name]
    assert (key in reads) == (key != "momentum" or name in ("momentum", "nesterov"))
    if key in reads:
      _config.resolve(FILE, overrides(f"optimizer.name={name} optimizer.{key}={value}"))
      continue
    said = rf"optimizer\.{key}: got '?{value}'?; '{name}' does not read it; read by: momentum, nesterov"
    with pytest.raises(UsageError, match=said):
      _config.resolve(FILE, overrides(f"optimizer.name={name} optimizer.{key}={value}"))
    with pytest.raises(UsageError, match=said):
      cljax.run(class_stream, small_model, optimizer=name, optimizer_options={key: value})
    with pytest.raises(UsageError, match=said):
      recipe.make_optimizer(name, **{key: value})


REFUSED = [
  ("eval.limit=8", "eval.limit: got 8, without eval.every"),
  ("train.boundary_limit=4", "train.boundary_limit: got 4 with train.feed='device'.*read by: grain"),
  ("optimizer.schedule_over=stream", "optimizer.schedule_over: got 'stream', but a constant schedule"),
  ("optimizer.reset_per_task=true", "optimizer.reset_per_task: got True, which 'sgd' does not read"),
  ("method.name=er method.capacity=8 method.replay_batch=9", "method.replay_batch: got 9, above method.capacity"),
  ("method.name=ewc method.capacity=8", "method.capacity: 'ewc' has no such option; .*read by: .*agem"),
  ("model.width=3", "model.width: 'mlp' has no such option; .*read by: resnet18, vit"),
  ("data.size=3", "data.size: 'digits' has no such option; .*read by: tfds:NAME, folder:DIR"),
]


@pytest.mark.parametrize(("given", "text"), REFUSED, ids=[g for g, _ in REFUSED])
def test_what_has_no_effect_is_refused(given, text):
  with pytest.raises(UsageError, match=text):
    built(given)


def test_a_method_that_forgets_needs_something_to_forget(command, tmp_path, capsys):
  given = command(f"--workdir={tmp_path}", "--config.forget.name=ssd")
  assert train.main(given) == 2
  assert "forget.name: got 'ssd', but nothing is to be forgotten; give stream.forget" in capsys.readouterr().err


READS = {"class": ("tasks", "class_order"), "rotated": ("tasks", "angles"), "permuted": ("tasks",)}


def test_stream_options_by_kind(monkeypatch):
  monkeypatch.setattr(streams, "READS", READS)
  said = r"stream\.angles: got '0,9'; kind 'class' does not read it; read by: rotated"
  with pytest.raises(UsageError, match=said):
    _config.resolve(FILE, overrides("stream.angles=0,9"))
  config = _config.resolve(FILE, overrides("stream.kind=rotated stream.angles=0,9"))
  assert _config.read_by_kind(config["stream"])["angles"] == (0, 9)
  assert "class_order" not in _config.read_by_kind(config["stream"])
  # What a file says for the kind that it chose is refused there, and not said for another kind.
  file = _config.File({"stream": {"kind": "rotated", "angles": (0, 9)}}, {}, types.ModuleType("x"))
  assert _config.resolve(file)["stream"]["angles"] == (0, 9)
  assert _config.resolve(file, overrides("stream.kind=permuted"))["stream"]["angles"] == ()
  wrong = _config.File({"stream": {"kind": "permuted", "angles": (0, 9)}}, {}, types.ModuleType("x"))
  with pytest.raises(UsageError, match="kind 'permuted' does not read it"):
    _config.resolve(wrong)


@pytest.mark.parametrize("kind", streams.KINDS)
def test_each_kind_refuses_on_the_command_line_what_it_does_not_read(monkeypatch, kind):
  table = streams.READS
  monkeypatch.setattr(streams, "READS", table)
  for option in sorted({o for options in table.values() for o in options}):
    value = STREAMS[option][0]
    given = overrides(f"stream.kind={kind} stream.{option}={value}")
    if option in table[kind]:
      assert option in _config.read_by_kind(_config.resolve(FILE, given)["stream"])
      continue
    readers = ", ".join(k for k in table if option in table[k])
    with pytest.raises(UsageError) as error:
      _config.resolve(FILE, given)
    assert str(error.value) == f"stream.{option}: got '{value}'; kind '{kind}' does not read it; read by: {readers}"


def planned(given: str, *points: dict) -> tuple[list[str], list[str]]:
  """Labels of the runs of a sweep, and what is said about its options."""
  told: list[str] = []
  runs = _plan.plan(FILE, overrides(given), list(points), told.append)
  return [r.label for r in runs], told


def test_in_a_sweep_an_option_is_read_by_one_point_at_least():
  by_name = lambda *names: [{"method.name": n} for n in names]
  labels, told = planned("method.capacity=9", *by_name("er", "ewc", "derpp"))
  assert labels == ["er", "ewc", "derpp"]
  assert told == ["method.capacity: read by er, derpp; not by ewc"]
  with pytest.raises(UsageError, match=r"method\.capacity: '.*' has no such option; .*read by: "):
    planned("method.capacity=9", *by_name("finetune", "ewc"))
  assert planned("", *by_name("er", "ewc"))[1] == []


def test_in_a_grid_points_that_differ_in_nothing_are_one():
  grid = [{"optimizer.name": n, "optimizer.momentum": m} for n in ("sgd", "momentum") for m in (0.0, 0.5, 0.9)]
  labels, told = planned("", *grid)
  assert labels == [
    "finetune name=sgd", *(f"finetune name=momentum momentum={m}" for m in (0.0, 0.5, 0.9))
  ]  # fmt: skip
  assert told == ["optimizer.momentum: read by momentum; not by sgd"]
  with pytest.raises(UsageError, match=r"optimizer\.momentum: got 0\.0; 'sgd' does not read it; read by: momentum"):
    planned("", *({"optimizer.momentum": m} for m in (0.0, 0.5, 0.9)))


def test_a_forget_method_is_read_where_there_is_a_request():
  grid = [{"stream.forget": text} for text in ("", "2:class=1")]
  labels, told = planned("forget.name=ssd forget.alpha=2.0", *grid)
  assert labels == ["finetune forget=", "finetune + ssd forget=2:class=1"]
  assert [line.partition(":")[0] for line in told] == ["forget.name", "forget.alpha"]
  with pytest.raises(UsageError, match="nothing is to be forgotten"):
    planned("forget.name=ssd", {"method.name": "finetune"})
