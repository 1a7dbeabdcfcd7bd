"""Shardings are kept, and an update of elementwise regularizers talks to no other device."""

import json
import os
import subprocess
import sys

import pytest
import quick

SCRIPT = r"""
import json, re
import jax, jax.numpy as jnp, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from cljax import regularizers as R

mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
specs = {"w": P("a", "b"), "b": P("b")}
shard = {k: NamedSharding(mesh, s) for k, s in specs.items()}
params = jax.device_put({"w": jnp.arange(64.0).reshape(8, 8) / 64, "b": jnp.ones(8)}, shard)
plain = {k: jnp.array(jax.device_get(v)) for k, v in params.items()}
makers = {f.__name__: f for f in (R.ewc, R.si, R.hierarchical, R.spectral, R.wasserstein)}

def kept(like, value):
  return all(value[k].sharding.is_equivalent_to(shard[k], value[k].ndim) for k in like)

def error(got, want):
  want = jax.device_get(want)
  return jnp.abs(jax.device_get(got) - want) / (1 + jnp.abs(want))

def collectives(text):
  return sorted(set(re.findall(r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\b", text)))

out = {}
for name, make in makers.items():
  tx = make(0.5)
  def run(p):
    s = tx.init(p)
    return s if name in ("spectral", "wasserstein") else R.consolidate(s, p, importance=p)
  state = run(params)
  away = jax.tree.map(lambda x: x * 1.5, params)
  compiled = jax.jit(tx.update).lower(params, state, away).compile()
  updates, new = compiled(params, state, away)
  want, _ = jax.jit(tx.update)(plain, run(plain), jax.tree.map(lambda x: x * 1.5, plain))
  fields = ("anchor", "importance", "path", "last_params", "last_gradient")
  trees = [] if name == "wasserstein" else [getattr(s, f) for s in (state, new) for f in fields if hasattr(s, f)]
  boundary = []
  if name in ("ewc", "si"):
    end = jax.jit(lambda s, p, f: R.consolidate(s, p, importance=f if name == "ewc" else None))
    boundary = end.lower(new, away, params).compile()
    ended = boundary(new, away, params)
    trees += [getattr(ended, f) for f in fields if hasattr(ended, f)]
    boundary = collectives(boundary.as_text())
  out[name] = {
    "updates_kept": kept(params, updates), "state_kept": all(kept(params, t) for t in trees), "trees": len(trees),
    "collectives": collectives(compiled.as_text()), "boundary": boundary,
    "error": max(float(jnp.max(error(updates[k], want[k]))) for k in want),
  }
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def report():
  env = os.environ | {"XLA_FLAGS": quick.with_devices(4), "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=300, check=False
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


NAMES = ["ewc", "si", "hierarchical", "spectral", "wasserstein"]  # the others add the same quadratic pull


@pytest.mark.parametrize("name", NAMES)
def test_shardings_and_values_are_kept(report, name):
  got = report[name]
  assert got["updates_kept"]
  assert got["state_kept"]
  assert got["error"] < 1e-5
  if name not in ("spectral", "wasserstein"):
    assert got["trees"] >= 2


@pytest.mark.parametrize("name", NAMES)
def test_an_update_gathers_nothing(report, name):
  """Elementwise transforms need no communication at all; power iteration reduces, the sort must gather its leaf."""
  got = report[name]
  if name == "wasserstein":
    return
  allowed = {"all-reduce"} if name == "spectral" else set()
  assert set(got["collectives"]) <= allowed
  assert set(got["boundary"]) <= ({"all-reduce"} if name == "ewc" else set())
