"""Over several devices: explicit mesh axes work or are refused in one line; under automatic ones states lie as their
inputs do."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import quick
from transforms.cases import REFUSED, ROWS

SCRIPT = r"""
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from transforms import cases
from transforms.cases import ROWS, Place
from cljax import optimizers
from cljax.core.types import UsageError

SPECS = {"kernel": P("a", "b"), "bias": P("b"), "out": P(None, "a")}
cases.SHAPES.update({"kernel": (4, 8), "bias": (8,), "out": (8, 4)})
for name in ("A", "W", "G", "G0", "F"):
  setattr(cases, name, {n: np.abs(x) if name == "F" else x for n, x in cases.draw().items()})
cases.R = {n: 0.5 * x - cases.G[n] for n, x in cases.draw().items()}
DICT = Place(dict, dict, {n: n for n in cases.LEAVES})
out = {}

def meshed(kind):
  more = {} if kind is None else {"axis_types": (kind,) * 2}
  mesh = jax.make_mesh((2, 2), ("a", "b"), **more)
  cases.at = lambda place, t: {n: jax.device_put(jnp.asarray(x), NamedSharding(mesh, SPECS[n])) for n, x in t.items()}
  return lambda n: NamedSharding(mesh, SPECS[n])

def prepare(name):
  row = ROWS[name]
  tx = cases.make(row, DICT)
  lift = lambda t, is_params: row.lift(cases.at(DICT, t), is_params)
  step = jax.jit(lambda g, s, p, r: tx.update(g, s, p, references=r))
  return row, tx, lift, step, cases.references(DICT)

def explicit(name):  # types hold explicit shardings: tracing tells all of it, and nothing is compiled
  row, tx, lift, step, refs = prepare(name)
  state = jax.eval_shape(tx.init, lift(cases.A, True))
  state = jax.eval_shape(lambda s, p: row.end(s, p, DICT), state, cases.at(DICT, cases.A))
  traced = jax.eval_shape(step, lift(cases.G, False), state, lift(cases.W, True), refs)[0]
  return {n: str(x.sharding.spec) for n, x in row.lower(traced).items()}

where = meshed(None)
for name in ROWS:
  try:
    got = explicit(name)
    out[name] = "works" if got == {n: str(SPECS[n]) for n in got} else f"moved: {got}"
  except UsageError as error:
    out[name] = str(error)
  except Exception as error:
    out[name] = f"{type(error).__name__}: {error}"

def spec(x):
  return tuple(x.sharding.spec) if isinstance(x.sharding, NamedSharding) else "one device"

def automatic(name, eager=False):
  row, tx, lift, step, refs = prepare(name)
  state = tx.init(lift(cases.A, True))
  began = {jax.tree_util.keystr(p): spec(x) for p, x in jax.tree_util.tree_leaves_with_path(state) if x.ndim > 1}
  for _ in range(2):
    _, state = step(lift(cases.G0, False), state, lift(cases.A, True), refs)
  compiled = step._cache_size()
  end = lambda s, p: row.end(s, p, DICT)
  state = (end if eager else jax.jit(end))(state, cases.at(DICT, cases.A))
  updates, state = step(lift(cases.G, False), state, lift(cases.W, True), refs)
  ended = {jax.tree_util.keystr(p): spec(x) for p, x in jax.tree_util.tree_leaves_with_path(state) if x.ndim > 1}
  return {n: np.asarray(x).tolist() for n, x in row.lower(updates).items()}, began, ended, step._cache_size() - compiled

sharded = {}
for name in ("cuber", "coso", "tag", "geometric_disentanglement"):
  where = meshed(AxisType.Auto)
  values, began, ended, again = automatic(name, eager=name == "cuber")
  cases.at = lambda place, t: {n: jnp.asarray(x) for n, x in t.items()}
  alone = automatic(name)[0]
  error = max(float(np.abs(np.array(values[n]) - np.array(alone[n])).max()) for n in values)
  sharded[name] = {"error": error, "began": began, "ended": ended, "again": again}
print(json.dumps({"explicit": out, "automatic": sharded}))
"""


@pytest.fixture(scope="module")
def report():
  tests = pathlib.Path(__file__).parents[1]
  path = os.pathsep.join(filter(None, (str(tests), str(tests.parent), os.environ.get("PYTHONPATH"))))
  env = os.environ | {"XLA_FLAGS": quick.with_devices(4), "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
  done = subprocess.run(
    [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=500, check=False
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ROWS)
def test_explicit_axes_work_or_are_refused(report, name):
  """The mesh that ``jax.make_mesh`` makes by default: updates cut as the gradients, or one line that names the way."""
  got = report["explicit"][name]
  if ROWS[name].explicit == REFUSED:
    assert "axis_types=(jax.sharding.AxisType.Auto,)" in got
    assert "\n" not in got
  else:
    assert got == "works"


@pytest.mark.parametrize("name", ["cuber", "coso", "tag", "geometric_disentanglement"])
def test_automatic_axes_give_the_same(report, name):
  assert report["automatic"][name]["error"] < 2e-3


def cut(found: dict, *words) -> list:
  """The partitions of the tensors whose path holds all the words."""
  return [
    [axis for axis in spec if axis] if spec != "one device" else spec
    for path, spec in found.items()
    if all(w in path for w in words)
  ]


@pytest.mark.parametrize("when", ["began", "ended"])
def test_states_are_cut_as_their_inputs(report, when):
  """kernel [4, 8] lies as (a, b), out [8, 4] as (-, a): a factor on one side lies as that side does."""
  cuber, coso, tag = (report["automatic"][n][when] for n in ("cuber", "coso", "tag"))
  for field, first, second in (
    ("anchor", ["a", "b"], ["a"]), ("gradients", ["a", "b"], ["a"]), ("spans", ["a"], []), ("blocked", ["a"], []),
  ):  # fmt: skip
    assert cut(cuber, "kernels['kernel']", field) == [first]
    assert cut(cuber, "kernels['out']", field) == [second]
  for field, first, second in (("history", ["b"], ["a"]), ("mu", ["a"], []), ("nu", ["a"], [])):
    assert cut(coso, "kernels['kernel']", "." + field) == [first]
    assert cut(coso, "kernels['out']", "." + field) == [second]
  for field in (".first", ".second[", ".directions", ".seconds"):
    assert cut(tag, field, "['kernel']") == [["a", "b"]]
    assert cut(tag, field, "['out']") == [["a"]]


@pytest.mark.parametrize("name", ["cuber", "tag"])
def test_a_task_boundary_compiles_nothing_again(report, name):
  assert report["automatic"][name]["again"] == 0
