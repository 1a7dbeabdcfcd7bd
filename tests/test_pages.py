"""What the README and the pages show, done: blocks run and print what they promise, links lead somewhere."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {str(p.relative_to(ROOT)): p.read_text() for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
ELSEWHERE = {"docs/transforms.md"}  # tests/test_transforms_page.py


def blocks(page, heading="", language="python"):
  """The code blocks of one language on a page, or under one of its headings."""
  text = PAGES[page]
  if heading:
    text = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
  return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def printed(source, folder):
  """What a block prints in a process of its own."""
  out = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=folder, check=False)
  assert out.returncode == 0, out.stderr
  return out.stdout


def test_the_methods_table_is_the_registry():
  from cljax.cli.methods import state_bytes
  from cljax.methods.table import table

  assert table(state_bytes()) in PAGES["docs/methods.md"]


AIMS = {"dear": {"target": "over finetune"}, "cold": {"empty target": "empty cache", "warm target": "warm cache"}}


@pytest.mark.parametrize("suite", AIMS)
def test_every_measured_number_that_has_an_aim_stands_on_the_page(suite):
  """Missed or met: none is left out, or is another than the table's."""
  import json

  page = PAGES["docs/measured.md"].split("\n## Speed\n", 1)[1].split("\n## ", 1)[0]
  rows = json.loads((ROOT / "experiments/results/benchmarks" / f"{suite}.json").read_text())["rows"]
  numbers = [r[of] for r in rows for aim, of in AIMS[suite].items() if r.get(aim)]
  assert len(numbers) >= 4
  for number in numbers:
    told = {f"{number:.3g}", f"{number:.2g}", f"{number:.2f}", f"{number:.1f}"}  # rounded as the page likes
    assert any(re.search(rf"(?<![\d.]){re.escape(t)}(?!\.?\d)", page) for t in told), (suite, number)


def test_the_readme_is_short():
  assert len(PAGES["README.md"].splitlines()) <= 120


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_lead_somewhere(page):
  places = re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page])
  gone = [place for place in places if not (ROOT / page).parent.joinpath(place).exists()]
  modules = set(re.findall(r"python -m ((?:launch|experiments)[.\w]*)", PAGES[page]))
  gone += [m for m in modules if "NAME" not in m and importlib.util.find_spec(m.rstrip(".")) is None]
  assert not gone, f"{page}: {', '.join(gone)}"


def test_every_page_is_reached_from_the_readme():
  reached, left = set(), ["README.md"]
  while left:
    page = left.pop()
    reached.add(page)
    links = re.findall(r"\]\((?!https?:)([^)#]+\.md)", PAGES[page])
    found = {str((ROOT / page).parent.joinpath(link).resolve().relative_to(ROOT)) for link in links}
    left += [p for p in found if p in PAGES and p not in reached]
  assert set(PAGES) == reached


def test_the_readme_s_blocks(tmp_path):
  """The importance that stands beside a parameter holds it, as the comment says."""
  run, penalty = blocks("README.md")
  assert "[[" in printed(run.replace("epochs=10", "epochs=1").replace("seeds=5", "seeds=2"), tmp_path)
  free, half, held = map(float, re.findall(r"[-\d.]+(?:e[-+]\d+)?", printed(penalty, tmp_path)))
  assert (free, held) == pytest.approx((-9, 0.9), abs=1e-3)
  assert abs(half) < 1e-3


def test_a_method_in_one_file(tmp_path):
  """The page's method, in a file outside the package: registered by import, run by name, better than finetune."""
  source, _ = blocks("docs/own_method.md")
  assert len(source.splitlines()) < 60
  (tmp_path / "hard_replay.py").write_text(source)
  script = """
import cljax, hard_replay
from cljax import data, models, streams
stream = streams.build(data.load("digits"), "class", tasks=5)
model = models.mlp((8, 8, 1), 10, hidden=(50,))
run = lambda name: cljax.run(stream, model, name, training=cljax.Recipe(batch_size=32, epochs=2)).accuracy[0, -1].mean()
print(run("hard_replay"), run("finetune"))
"""
  mine, floor = map(float, printed(script, tmp_path).split())
  assert mine > floor + 0.2


def test_two_methods_at_once(tmp_path):
  """The page's hybrid: ewc stands on remind's network, whatever the order."""
  source = blocks("docs/own_method.md", "Two methods at once")[0]
  source += """
import cljax
from cljax import data, models, streams
stream = streams.build(data.load("digits"), "class", tasks=5, rows=200, order=(0, 1))
model = models.mlp((8, 8, 1), 10, hidden=(16,))
run = cljax.run(stream, model, remind_ewc, training=cljax.Recipe(batch_size=32, epochs=1))
print(*sorted(run.learner.method_state))
"""
  assert printed(source, tmp_path).split() == ["ewc", "remind"]


def test_an_objective_of_one_s_own(tmp_path):
  """As the page shows it: ewc forgets less of the first task's absolute error than finetune."""
  (source,) = blocks("docs/more_than_labels.md", "More than labels")
  out = printed(source, tmp_path)
  finetune, ewc = (float(v) for v in re.findall(r"\[([\d.]+)", out))
  assert ewc < finetune - 0.02, out


def test_an_evaluator_of_one_s_own(tmp_path):
  """As the page shows it: the probe knows the first of five tasks long after it was learned."""
  source, registered = blocks("docs/more_than_labels.md", "Evaluators")
  twice = registered + registered + "print(sureness.name in evaluators.EVALUATORS)"
  assert "True" in printed(twice, tmp_path)
  out = printed(source + '\nprint(result.evaluations["sureness"]["margin"].shape)\n', tmp_path)
  first, *_, shape = re.findall(r"[\d.]+", out.partition("(")[0]) + [out.partition("(")[2]]
  assert float(first) > 0.5, out
  assert shape.strip() == "1, 6, 5)"


@pytest.mark.parametrize("heading", ["One regularizer in your own optax chain", "One projector in your own loop"])
def test_scripts_outside_the_package(tmp_path, heading):
  """Scripts with optax and one cljax import: less forgetting with than without, as they print."""
  (source,) = blocks("docs/own_loop.md", heading)
  without, with_it = (float(v) for v in re.findall(r"([\d.]+)$", printed(source, tmp_path), re.M))
  assert with_it > without + 0.05


def test_curvature_and_layer_inputs(tmp_path):
  (source,) = blocks("docs/own_loop.md", "Curvature and layer inputs in your own loop")
  bare = "print(0.1 * jnp.linalg.norm(gradient['head']['bias']), jnp.linalg.norm(updates['head']['bias']))"
  plain, bent = (float(v) for v in printed(source + bare, tmp_path).split()[-2:])
  assert 0 < bent < plain, "the first task's curvature holds the step back"


def test_anchors_on_disk(tmp_path):
  (source,) = blocks("docs/own_loop.md", "Anchors on disk")
  assert "pulled back: True" in printed(source, tmp_path)


def test_a_pure_edit(tmp_path):
  """ssd moves the parameters of a model that knows nothing of cljax."""
  (source,) = blocks("docs/forgetting.md")
  assert float(printed(source, tmp_path)) > 0


def test_a_configuration_with_an_objective(tmp_path):
  (source,) = blocks("docs/own_objectives.md")
  assert "weight: 0.5" in printed(source + "\nprint(get_config())\n", tmp_path)


def test_the_first_minute(tmp_path):
  (source,) = blocks("docs/install.md")
  assert printed(source, tmp_path).strip() == "(2, 6, 5)"


def test_a_first_configuration(tmp_path):
  """The page's file is one that the launchers read, and says what it looks like."""
  from cljax.cli import _config

  (source,) = blocks("docs/first_sweep.md")
  (tmp_path / "mine.py").write_text(source)
  config = _config.resolve(_config.read_file(str(tmp_path / "mine.py")))
  assert (config["method"]["name"], config["method"]["capacity"], config["train"]["epochs"]) == ("er", 50, 5)


def test_a_pretrained_network_goes_through_ten_tasks(tmp_path):
  """On a small folder of random weights, where accuracies say nothing: the three ways of the page run to their end."""
  pytest.importorskip("safetensors", reason="needs the extra [pretrained]")
  spec = importlib.util.spec_from_file_location("folders", ROOT / "tests" / "models" / "test_pretrained.py")
  folders = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(folders)
  folders.written(tmp_path / "my_vit", folders.tensors())
  source = blocks("docs/pretrained.md")[0]
  (asked,) = re.findall(r'tasks=(\d+), forget="(\d+):', source)
  assert asked[0] == asked[1]  # the request stands behind the last task, as the page says
  out = printed(source, tmp_path)
  ways = re.findall(r"^(.+): [\d.]+ % after ten tasks, [\d.]+ % behind the request$", out, re.M)
  assert ways == ["ewc on lora", "coda_prompt", "ranpac"], out


def test_a_clip_folder_answers_by_names(tmp_path):
  """On a small folder of random weights: what a task's own classes make of a row stands through all tasks."""
  pytest.importorskip("safetensors", reason="needs the extra [pretrained]")
  pytest.importorskip("tokenizers", reason="needs the extra [pretrained]")
  from clip_by_hand import CONFIG, TEXT, written

  written(tmp_path / "my_clip", {**CONFIG, "text_config": {**TEXT, "max_position_embeddings": 40}})
  (source,) = blocks("docs/pretrained.md", "CLIP: classes by their names")
  out = printed(source, tmp_path)
  of_all, after = re.fullmatch(r"([\d.]+) %, and of a task among its own classes: \[(.*)\]\n", out).groups()
  assert float(of_all) > 0
  assert len(set(after.split())) == 1, out


def test_the_site_is_built_strictly(tmp_path):
  """Every page, link and anchor; a card for each method; nothing is fetched to read it."""
  from cljax import methods

  built = subprocess.run(
    [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")],
    capture_output=True, text=True, cwd=ROOT, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
  )  # fmt: skip
  assert built.returncode == 0, built.stdout + built.stderr
  pages = {str(p.relative_to(tmp_path / "site")): p.read_text() for p in (tmp_path / "site").rglob("*.html")}
  assert {f"cards/{name}.html" for name in methods.METHODS} <= set(pages)
  assert {f"{pathlib.Path(p).stem}.html" for p in PAGES if p.startswith("docs/")} <= set(pages)
  for page, text in pages.items():
    fetched = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?:[^\" >]+)", text)
    assert not [url for url in fetched if "rel=canonical" not in url], (page, fetched)


def test_no_page_has_a_block_that_nothing_runs():
  run = {"README.md": 2, "docs/own_method.md": 2, "docs/more_than_labels.md": 3, "docs/own_loop.md": 4}
  run |= {"docs/forgetting.md": 1, "docs/own_objectives.md": 1, "docs/porting.md": 1}  # tests/cli/test_porting.py
  run |= {"docs/metrics.md": 1}  # tests/cli/test_analyze.py
  run |= {"docs/install.md": 1, "docs/first_sweep.md": 1, "docs/pretrained.md": 2}
  run |= {"docs/own_model.md": 1}  # tests/cli/test_own_model.py
  assert {p: n for p in PAGES if p not in ELSEWHERE and (n := len(blocks(p)))} == run
