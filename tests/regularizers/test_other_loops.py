"""All penalties where people use optax: its own tools, dtypes, complex and missing leaves, modules with functions."""

import json
import os
import subprocess
import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick
from flax import nnx

from cljax import UsageError
from cljax import regularizers as R
from cljax.core import tree

NAMES = ["ewc", "online_ewc", "mas", "l2", "l2_previous", "l2_init", "si", "hierarchical", "spectral", "wasserstein"]
ANCHORED = ["ewc", "online_ewc", "mas", "l2_previous", "si", "hierarchical"]
PAIRS = [("bfloat16", "float32"), ("float32", "bfloat16"), ("float16", "float16")]
IMPORTANT = ["ewc", "online_ewc", "mas"]
PARAMS = {"w": jnp.arange(1.0, 7.0).reshape(2, 3) / 4, "b": jnp.array([0.5, -0.25])}


def finished(name, tx, state, params, importance=None):
  """The state after a task that ended at ``params``, with importance 2 where one is needed."""
  if name not in ANCHORED:
    return state
  two = jax.tree.map(lambda p: jnp.full(p.shape, 2.0, jnp.finfo(p.dtype).dtype), params)
  return R.consolidate(state, params, importance=(importance or two) if name in IMPORTANT else None, name=name)


@pytest.mark.parametrize("wrap", ["plain", "masked", "chain"])
@pytest.mark.parametrize("name", NAMES)
def test_map_params_is_the_identity_and_casts(name, wrap):
  tx = getattr(R, name)(0.5)
  if wrap == "chain":
    tx = optax.chain(tx, optax.adam(0.1))
  state = finished(name, tx, tx.init(PARAMS), PARAMS)
  if wrap == "masked":
    tx = optax.masked(tx, {"w": True, "b": False})
    state = tx.init(PARAMS)
  same = optax.tree.map_params(tx, lambda p: p, state)
  assert tree.digest(same) == tree.digest(state)
  assert jax.tree.structure(same) == jax.tree.structure(state)
  cast = optax.tree.map_params(tx, lambda p: p.astype(jnp.bfloat16), state)
  anchors = [s.anchor for s in R.find(cast) if hasattr(s, "anchor") and name != "wasserstein"]
  assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(anchors))


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_for_every_parameter_fits_the_state(name):
  """How a state is sharded: what has not the shape of a parameter is not taken for one."""
  tx = getattr(R, name)(0.5)
  specs = optax.tree.map_params(
    tx, lambda p, s: s if p.ndim == len(s) else 1 / 0, tx.init(PARAMS), {"w": "ab", "b": "b"},
    transform_non_params=lambda _: "",
  )  # fmt: skip
  assert set(jax.tree.leaves(specs)) <= {"ab", "b", ""}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_regularize_is_still_refused(name):
  for empty in ({}, optax.masked(getattr(R, name)(1.0), {"w": False, "b": False})):
    with pytest.raises(UsageError, match="no parameter to regularize"):
      (getattr(R, name)(1.0).init(empty) if empty == {} else empty.init(PARAMS))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("of_params", "of_grads"), PAIRS)
def test_updates_have_the_dtype_of_gradients_and_states_keep_theirs(name, of_params, of_grads):
  params = jax.tree.map(lambda p: p.astype(of_params), PARAMS)
  grads = jax.tree.map(lambda p: jnp.ones(p.shape, of_grads), PARAMS)
  tx = getattr(R, name)(0.5)

  def body(state, _):
    updates, state = tx.update(grads, state, params, value=1.0, unknown=3)
    return state, updates

  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    state = finished(name, tx, tx.init(params), params)
    state, updates = jax.lax.scan(body, state, None, length=2)
  assert all(u.dtype == of_grads for u in jax.tree.leaves(updates))
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state))
  assert all(x.size for x in jax.tree.leaves(state))  # orbax saves no array of size 0


def test_spectral_goes_through_orbax(tmp_path):
  import orbax.checkpoint as ocp

  tx = R.spectral(0.5)
  _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
  with ocp.StandardCheckpointer() as saver, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    saver.save(tmp_path / "state", state)
    saver.wait_until_finished()
    back = saver.restore(tmp_path / "state", tx.init(PARAMS))
  assert tree.digest(back) == tree.digest(state)


Z = np.array([1 + 2j, -0.5j, 0.25], np.complex64)
A = np.array([0.5 - 1j, 1 + 1j, 0.0], np.complex64)
G = np.array([-1j, 2.0, 1 + 1j], np.complex64)


@pytest.mark.parametrize("name", NAMES)
def test_complex_parameters_are_right_or_refused(name):
  """The convention is optax's: an update, and so the pull, points the way of ``theta - anchor``."""
  tx = getattr(R, name)(0.5)
  if name in ("spectral", "wasserstein"):
    with pytest.raises(UsageError, match=f"{name}: 'z' is complex"):
      tx.init({"z": jnp.asarray(Z)})
    return
  state = finished(name, tx, tx.init({"z": jnp.asarray(A)}), {"z": jnp.asarray(A)})
  if name in ("si", "hierarchical"):  # one step of -0.1 from A with gradient G, then the boundary
    there = {"z": jnp.asarray(A - 0.1 * G)}
    _, state = tx.update({"z": jnp.asarray(G)}, state, {"z": jnp.asarray(A)})
    state = R.consolidate(state, there)
    omega = 0.1 * np.abs(G) ** 2 / (0.01 * np.abs(G) ** 2 + 0.1)
    np.testing.assert_allclose(state.importance["z"], omega, rtol=1e-5)
  factor = {"ewc": 0.5 * 2, "online_ewc": 0.5 * 2, "mas": 2.0}.get(name, 1.0)
  anchor = {"l2": 0 * A}.get(name, A)
  if name in ("si", "hierarchical"):
    factor, anchor = omega, A - 0.1 * G
  updates, new = tx.update({"z": jnp.asarray(G)}, state, {"z": jnp.asarray(Z)})
  np.testing.assert_allclose(updates["z"], G + factor * (Z - anchor), rtol=1e-5)
  assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)


def test_penalties_of_complex_parameters():
  params, anchor, f = {"z": jnp.asarray(Z)}, {"z": jnp.asarray(A)}, {"z": jnp.array([1.0, 2.0, 3.0])}
  square = np.abs(Z - A) ** 2
  np.testing.assert_allclose(R.ewc_penalty(params, anchor, f, 3.0), 1.5 * (square * [1, 2, 3]).sum(), rtol=1e-5)
  np.testing.assert_allclose(R.importance_penalty(params, anchor, f), (square * [1, 2, 3]).sum(), rtol=1e-5)
  np.testing.assert_allclose(R.l2_penalty(params, strength=2.0), 2 * (np.abs(Z) ** 2).sum(), rtol=1e-5)
  tx = R.ewc(1.0)
  with pytest.raises(UsageError, match="importance leaf 'z' is complex"):
    R.consolidate(tx.init(params), params, importance=params)
  # two tasks in one anchor: the constant is sum F share |p - a|^2
  state = R.consolidate(tx.init(params), params, importance=f)
  state = R.consolidate(state, anchor, importance=f)
  np.testing.assert_allclose(state.constant, (square * [1, 2, 3]).sum() / 2, rtol=1e-5)


def close(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def in_order(state):
  return [leaf for _, leaf in sorted(R._state.by_path(state).items())]


class Net(eqx.Module):
  w: jax.Array
  act: object
  b: jax.Array
  depth: int


@pytest.mark.parametrize("name", NAMES)
def test_equinox_modules_with_functions(name):
  """``update(grads, state, model)``: the module as it is, functions and numbers among its leaves."""
  net = Net(PARAMS["w"], jax.nn.relu, PARAMS["b"], 3)
  params = eqx.filter(net, eqx.is_inexact_array)
  plain = {"b": PARAMS["b"], "w": PARAMS["w"]}
  tx = getattr(R, name)(0.5)
  one, two = (finished(name, tx, tx.init(p), p, i) for p, i in ((params, None), (plain, None)))
  if name in ANCHORED:
    important = R.export_state(two, name)[name].get("importance") if name in IMPORTANT else None
    one = R.consolidate(one, net, importance=important)  # the whole module will do
    two = R.consolidate(two, plain, importance=important)
  away = eqx.tree_at(lambda n: (n.w, n.b), net, (2 * net.w, 3 * net.b))
  grads = eqx.filter_grad(lambda n: jnp.sum(n.act(n.w)) + jnp.sum(n.b**3))(away)
  assert grads.act is None
  for _ in range(2):
    got, one = tx.update(grads, one, away)
    want, two = tx.update({"b": grads.b, "w": grads.w}, two, {"b": away.b, "w": away.w})
    assert got.act is None
    assert got.depth is None
    close((got.b, got.w), (want["b"], want["w"]))
    close(in_order(one), in_order(two))


@pytest.mark.parametrize("name", NAMES)
def test_leaves_without_an_update_are_left_alone(name):
  """Equinox gives None where a leaf is not trained, though the state was made of all leaves."""
  tx = getattr(R, name)(0.5)
  state = finished(name, tx, tx.init(PARAMS), PARAMS)
  away = jax.tree.map(lambda p: p * 2, PARAMS)
  ones = jax.tree.map(jnp.ones_like, PARAMS)
  whole, _ = tx.update(ones, state, away)
  part, new = tx.update({"w": ones["w"], "b": None}, state, away)
  assert part["b"] is None
  close(part["w"], whole["w"])
  assert jax.tree.structure(new) == jax.tree.structure(state)


@pytest.mark.parametrize("name", ANCHORED)
def test_consolidate_under_wrappers_and_frameworks(name):
  """Under masked and partition the anchor covers what is trained; under NNX it is what the plain tree gives."""
  away = jax.tree.map(lambda p: p + 1, PARAMS)
  make = lambda: getattr(R, name)(0.5)
  importance = jax.tree.map(lambda p: p**2, PARAMS) if name in IMPORTANT else None
  plain = R.consolidate(make().init(PARAMS), away, importance=importance)
  masked = optax.masked(make(), {"w": True, "b": False})
  (found,) = R.find(R.consolidate(masked.init(PARAMS), away, importance=importance))
  close(found.anchor["w"], away["w"])
  assert isinstance(found.anchor["b"], optax.MaskedNode)
  parts = optax.partition({"on": make(), "off": optax.set_to_zero()}, {"w": "off", "b": "on"})
  (found,) = R.find(R.consolidate(parts.init(PARAMS), away, importance=importance))
  close(found.anchor["b"], away["b"])
  steps = optax.MultiSteps(optax.chain(make(), optax.sgd(0.1)), 2)
  (found,) = R.find(R.consolidate(steps.init(PARAMS), away, importance=importance))
  close(found, plain)

  class Layer(nnx.Module):
    def __init__(self):
      self.w, self.b = nnx.Param(PARAMS["w"]), nnx.Param(PARAMS["b"])

  layer = Layer()
  optimizer = nnx.Optimizer(layer, make(), wrt=nnx.Param)
  layer.w[...], layer.b[...] = away["w"], away["b"]
  state = R.consolidate(optimizer.opt_state, nnx.state(layer, nnx.Param), importance=importance)
  (found,) = R.find(state)
  close(in_order(found), in_order(plain))


MESH = r"""
import contextlib, json
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from cljax import regularizers as R

mesh = jax.make_mesh((2, 2), ("a", "b"))
names, anchored, important = json.loads(NAMES)
plain = {"w": jnp.cos(jnp.arange(32.0)).reshape(8, 4), "b": jnp.sin(jnp.arange(8.0))}
shard = {"w": NamedSharding(mesh, P("a", "b")), "b": NamedSharding(mesh, P("b"))}
out = {"explicit": str(mesh.axis_types)}

def steps(make, params, name):
  tx = make(0.5)
  state = tx.init(params)
  if name in anchored:
    state = R.consolidate(state, params, importance=jax.tree.map(jnp.square, params) if name in important else None)
  away = jax.tree.map(lambda x: x * 1.5, params)
  updates, state = jax.jit(tx.update)(params, state, away)
  eager, _ = tx.update(params, state, away)
  return updates, eager, state

for name in names:
  make = getattr(R, name)
  want = jax.device_get(steps(make, plain, name)[0])
  for inside in (False, True):
    with jax.set_mesh(mesh) if inside else contextlib.nullcontext():
      updates, eager, state = steps(make, jax.device_put(plain, shard), name)
    trees = [updates, eager] + [getattr(state, f) for f in ("anchor", "importance", "path") if hasattr(state, f)]
    trees = trees[:2] if name == "wasserstein" else trees
    out[f"{name} {inside}"] = {
      "kept": all(t[k].sharding.is_equivalent_to(shard[k], t[k].ndim) for t in trees for k in shard),
      "error": max(float(jnp.abs(jax.device_get(updates[k]) - want[k]).max()) for k in shard),
    }
print(json.dumps(out))
"""


def test_an_explicit_mesh_is_kept():
  env = os.environ | {"XLA_FLAGS": quick.with_devices(4), "JAX_PLATFORMS": "cpu"}
  script = MESH.replace("NAMES", repr(json.dumps([NAMES, ANCHORED, IMPORTANT])))
  done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  report = json.loads(done.stdout.splitlines()[-1])
  assert "Explicit" in report.pop("explicit")
  assert len(report) == 2 * len(NAMES)
  assert all(r["kept"] and r["error"] < 1e-4 for r in report.values()), report
