"""Boundary and forget passes on eight host devices: cut over them, to the same parameters."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import quick

SCRIPT = r"""
import json
import jax, numpy as np
import cljax
from cljax import engine, models, streams
from cljax.core import tree
from conftest import blobs

stream = streams.build(blobs(rows=40), "class", tasks=2, validation=0.0)
asked = stream._replace(events=(*stream.events, cljax.Forget(classes=("1",))))
model = models.mlp((4, 4, 1), 4, hidden=(16,))
training = cljax.Recipe(batch_size=8)

def run(name, stream, mesh):
  prepared = engine.prepare(stream, model, name, training=training, mesh=mesh)
  found = prepared.run()
  params = {p: np.asarray(a) for p, a in tree.by_path(found.learner.params).items()}
  flops = {}
  for what in ("end_task", "forget"):
    program = getattr(prepared.setup.programs, what)
    made = [c.result() for c in program._compiled.values()] if program is not None else []
    costs = [c.cost_analysis() for c in made]
    flops[what] = sum(c["flops"] for c in costs)
    flops[what + " reduces"] = any("all-reduce" in c.as_text() for c in made)
  return params, flops

out = {}
for name, events in (("ewc", stream), ("graddiff", asked)):
  want, alone = run(name, events, None)
  for mesh in ({"data": 8}, {"data": 2, "fsdp": 4}):
    got, cut = run(name, events, mesh)
    out[f"{name} {'x'.join(mesh)}"] = {
      "error": max(float(np.abs(got[p] - want[p]).max()) for p in want), "alone": alone, "cut": cut,
    }
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def report():
  env = os.environ | {"XLA_FLAGS": quick.with_devices(8), "JAX_PLATFORMS": "cpu"}
  env["PYTHONPATH"] = os.pathsep.join([str(pathlib.Path(__file__).parents[1]), env.get("PYTHONPATH", "")])
  done = subprocess.run(
    [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=600, check=False
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("axes", ["data", "dataxfsdp"])
@pytest.mark.parametrize(("name", "program"), [("ewc", "end_task"), ("graddiff", "forget")])
def test_passes_are_cut_over_the_devices_to_the_same_parameters(report, name, program, axes):
  """A device has about an eighth of the operations; sums over rows are summed over devices, so in another order."""
  found = report[f"{name} {axes}"]
  assert found["error"] < 1e-5
  assert found["cut"][program] < 0.3 * found["alone"][program]
  assert found["cut"][f"{program} reduces"]
