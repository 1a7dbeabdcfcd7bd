"""launch.merge: what it prints and writes is what edits of the checkpoints' parameters give."""

import json

import numpy as np
import pytest

import cljax
from cljax import edits, metrics
from cljax.cli import merge, train
from cljax.core import tree


@pytest.fixture(scope="module")
def runs(tmp_path_factory, config):
  """Two seeds of one stream of two tasks, in a folder each."""
  folder = tmp_path_factory.mktemp("merge")
  for seed in (0, 1):
    given = ["train", f"--config={config}", "--compilation_cache=", "--config.stream.tasks=2", f"--seeds={seed},",
             "--config.stream.kind=domain", "--config.stream.task_fractions=(0.3,0.3)",
             f"--workdir={folder / str(seed)}"]  # fmt: skip
    assert train.main(given) == 0
  return folder


def test_two_states_of_a_run_and_a_run_of_another_seed(runs, tmp_path, capsys):
  first, second, other = f"{runs}/0@1", f"{runs}/0", f"{runs}/1"
  assert merge.main(["merge", first, second, other, f"--out={tmp_path}", "--points=3"]) == 0
  out = capsys.readouterr().out
  found = json.loads((tmp_path / "merge.json").read_text())
  states = [
    cljax.load(f"{runs}/0", number=number_after(f"{runs}/0", 1)),
    cljax.load(f"{runs}/0"),
    cljax.load(f"{runs}/1"),
  ]
  params = [tree.by_path(s.params) for s in states]
  with np.load(tmp_path / "params.npz") as kept:
    for name in params[0]:
      want = np.mean([np.float64(p[name]) for p in params], 0)
      np.testing.assert_allclose(kept[name.replace("/", ".")], want, atol=1e-6)
  assert [n["name"] for n in found["networks"]] == [first, second, other]
  matrix = states[0].result["accuracy_matrix"] if states[0].result else None
  ours = [n["scores"] for n in found["networks"]]
  assert ours == [
    [pytest.approx(matrix[0][1])],
    [pytest.approx(matrix[0][2])],
    [pytest.approx(states[2].result["accuracy_matrix"][0][2])],
  ]
  assert "Seeds go together by place: 0; 0; 1." in out
  path = np.asarray(found["path"])
  np.testing.assert_allclose(path[0], matrix[0][1])
  np.testing.assert_allclose(path[2], matrix[0][2])
  np.testing.assert_allclose(found["barrier"], [metrics.barrier(-path, [0, 0.5, 1])])
  assert found["best"]["alpha"] == [0, 0.5, 1][int(path.mean(-1).argmax())]
  assert "merged (average)" in out
  assert "Best in the mean at alpha" in out


def number_after(workdir, event):
  from cljax.io import checkpoint

  folder = f"{workdir}/checkpoints"
  position = lambda n: checkpoint.read_meta(folder, n)["position"]
  return next(n for n in checkpoint.numbers(folder) if (position(n)["event"], position(n)["step"]) == (event, 0))


def test_rules_from_a_base(runs, tmp_path):
  """The untrained network is what the seed drew; ties of one network that keeps everything is that network."""
  given = ["merge", f"{runs}/0", f"--base={runs}/0@0", f"--out={tmp_path}"]
  assert merge.main([*given, "--rule=ties", "--keep=1"]) == 0
  found = json.loads((tmp_path / "merge.json").read_text())
  assert found["merged"] == found["networks"][0]["scores"]
  assert merge.main([*given, "--rule=task_arithmetic", "--scale=0.5"]) == 0
  base, end = merge.opened(f"{runs}/0@0", None).learner.params, cljax.load(f"{runs}/0").params
  with np.load(tmp_path / "params.npz") as kept:
    for name, value in tree.by_path(edits.interpolate(base, end, 0.5)).items():
      np.testing.assert_allclose(kept[name.replace("/", ".")], value, atol=1e-6)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], "DIR: not given; expected workdirs of launch.train"),
    (["{0}@7"], "has no state after event 7; it has those after [1, 2]"),
    (["{0}@x"], "expected a number of events behind @"),
    (["{0}", "--rule=ties"], "base: not given; --rule=ties needs what all were tuned from"),
    (["{0}", "--base={0}@1"], "base: given with --rule=average"),
    (["{0}", "--keep=0.5"], "keep: given with --rule=average, which does not read it; ties do"),
    (["{0}", "--scale=nan"], "scale: got 'nan'; expected numbers"),
    (["{0}", "--rule=lines", "--base={0}@1"], "blocks: not given; --rule=lines needs blocks"),
    (["{0}", "--scale=a"], "scale: got 'a'; expected numbers"),
    (["{0}", "{1}", "--scale=1,2,3"], "weights has shape (3,); expected one number, or 2"),
    (["nowhere"], "workdir: nowhere does not hold any checkpoint"),
  ],
)
def test_refusals(flags, message, runs, capsys):
  assert merge.main(["merge", *(f.format(f"{runs}/0", f"{runs}/1") for f in flags)]) == 2
  assert message in capsys.readouterr().err


def test_each_network_answers_by_its_own_method_and_is_judged_as_in_its_run(config, tmp_path, capsys):
  """icarl answers by means of exemplars, which are in its own state: each state's scores are those of its run, the same
  state twice too."""
  given = ["train", f"--config={config}", "--compilation_cache=", "--config.stream.tasks=2", "--seeds=2",
           "--config.method.name=icarl", "--config.method.capacity=20", "--config.stream.task_fractions=(0.3,0.3)",
           f"--workdir={tmp_path / 'run'}"]  # fmt: skip
  assert train.main(given) == 0
  words = [f"{tmp_path}/run@{e}" for e in (2, 1, 1)]
  assert merge.main(["merge", *words, f"--out={tmp_path}", "--points=0"]) == 0
  found = json.loads((tmp_path / "merge.json").read_text())
  matrix = np.asarray(json.loads((tmp_path / "run" / "result.json").read_text())["accuracy_matrix"])
  for network, event in zip(found["networks"], (2, 1, 1), strict=True):
    np.testing.assert_allclose(network["scores"], matrix[:, event])
  assert "merged (average)" in capsys.readouterr().out
