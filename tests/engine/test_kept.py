"""Programs that are kept: the same bits with and without, and none after an edit of what they came from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

RUN = """
import json, os, sys
sys.path.insert(0, sys.argv[2])
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax
from cljax.cli import _environment
_environment.use_compilation_cache(sys.argv[1])
import cljax
from cljax import data, models, streams
import mine, wanted
lowered = []
def heard(event, seconds, **more):
  if event.endswith("jaxpr_to_mlir_module_duration") and "kept_" in str(more.get("fun_name", "")):
    lowered.append(1)
jax.monitoring.register_event_duration_secs_listener(heard)
stream = streams.build(data.load("digits"), "class", tasks=5)
model = models.mlp((8, 8, 1), 10, hidden=(4,))
out = {}
for name, method, options, more in (
  ("er", "er", {"capacity": 10}, {}), ("method", mine.method, {}, {}), ("helper", mine.helped, {}, {}),
  ("objective", "finetune", {}, {"objective": wanted.objective}),
):
  lowered.clear()
  result = cljax.run(stream, model, method, options, training=cljax.Recipe(batch_size=64), seeds=2, **more)
  out[name] = [result.params_sha256, result.accuracy.tolist() if result.accuracy is not None else 0, len(lowered)]
print(json.dumps(out))
"""
MINE = """
import cljax
import jax.numpy as jnp
import helper

def _of(scale):
  def terms(key, params, learner, batch, outputs):
    return scale(params)
  return cljax.Method(init=lambda key, learner: (), terms={"mine": terms})

def method(model, spec):
  return _of(lambda params: 0.01 * sum((p**2).sum() for p in jax_leaves(params)))

def jax_leaves(params):
  import_free = [params]
  out = []
  for part in import_free:
    if isinstance(part, dict):
      import_free.extend(part.values())
    else:
      out.append(part)
  return out

def helped(model, spec):
  return _of(lambda params: helper.strength() * sum(jnp.abs(p).sum() for p in jax_leaves(params)))
"""
HELPER = """
STRENGTH = 0.01

def strength():
  return STRENGTH
"""
WANTED = """
from cljax import objectives

def objective(model, spec, values):
  base = objectives.classification()(model, spec, values)

  def each(prediction, batch):
    losses, inside = base.each(prediction, batch)
    return 1.0 * losses, inside

  def loss(key, apply, params, batch):
    outputs, state = apply(key, params, batch)
    return *each(outputs.logits, batch), outputs, state

  return base._replace(name="mine", loss=loss, each=each)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  folder = tmp_path_factory.mktemp("kept")
  (folder / "run.py").write_text(textwrap.dedent(RUN))
  for name, text in (("mine", MINE), ("helper", HELPER), ("wanted", WANTED)):
    (folder / f"{name}.py").write_text(text)
  return folder


def ran(place, **environment):
  command = [sys.executable, "-B", str(place / "run.py"), str(place / "cache"), str(place)]
  done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


def bits(found):
  return {name: said[:2] for name, said in found.items()}


def lowered(found):
  return {name: said[2] for name, said in found.items()}


def test_the_second_process_lowers_nothing_and_an_edit_is_seen(place):
  first = ran(place)
  assert all(lowered(first).values())
  again = ran(place)
  assert lowered(again) == dict.fromkeys(first, 0)
  assert bits(again) == bits(first)
  for file, old, new in (("mine", "0.01 *", "0.05 *"), ("helper", "= 0.01", "= 0.03"), ("wanted", "1.0 *", "2.0 *")):
    path = place / f"{file}.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
  edited, without = ran(place), ran(place, CLJAX_KEEP_PROGRAMS="0")
  assert bits(edited) == bits(without)
  assert lowered(edited)["er"] == 0
  assert edited["er"][:2] == first["er"][:2]
  for name in ("method", "helper", "objective"):
    assert edited[name][:2] != first[name][:2]
    assert lowered(edited)[name] > 0
  # Files that others could have written, or that are not whole, are not read; the run is the same.
  (folder,) = (place / "cache").glob("programs-*")
  assert folder.stat().st_mode & 0o777 == 0o700
  for path in folder.glob("*-program"):
    path.write_bytes(path.read_bytes()[:-1])
  folder.chmod(0o755)
  assert bits(ran(place)) == bits(edited)
  folder.chmod(0o700)
  assert bits(ran(place)) == bits(edited)
