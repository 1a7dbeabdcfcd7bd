"""The transforms inside optax's wrappers, under vmap, and on sharded parameters."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

from cljax.core.types import UsageError
from cljax.projectors import (
  AGEMState,
  agem,
  coso,
  cuber,
  gem,
  geometric_disentanglement,
  gpm,
  gpm_extend,
  ogd,
  ogd_extend,
  on_update,
)


def params(seed=0):
  rng = np.random.default_rng(seed)
  return {
    "body": {"kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)},
    "head": {"kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)},
  }


G, R = params(1), jax.tree.map(lambda a, b: b - 2 * a, params(1), params(2))
STACK = jax.tree.map(lambda a, b: jnp.stack([a, b]), R, params(3))
REFS = {"memory": R, "tasks": STACK}
BODY = {"body": True, "head": False}


def make_agem():
  return agem()


def make_gem():
  return gem("tasks", 0.0, 0.0)


def filled_ogd():
  tx = ogd(4)
  return optax.GradientTransformationExtraArgs(lambda p: extend_ogd(tx.init(p)), tx.update)


def filled_gpm():
  tx = gpm()
  return optax.GradientTransformationExtraArgs(lambda p: extend_gpm(tx.init(p)), tx.update)


INPUTS = {"body/kernel": jnp.ones((1, 4)), "head/kernel": jnp.ones((1, 3))}
extend_ogd = jax.jit(lambda s: ogd_extend(s, STACK))
extend_gpm = jax.jit(lambda s: gpm_extend(s, INPUTS, 1.0))
MAKERS = [make_agem, make_gem, filled_ogd, filled_gpm]


def update(tx, grads, state=None, refs=REFS):
  return jax.jit(lambda g, s, r: tx.update(g, s, params(), references=r))(
    grads, tx.init(params()) if state is None else state, refs
  )


def close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), a, b)


@pytest.mark.parametrize("make", [make_agem, filled_ogd, filled_gpm])  # gem: the same path as agem, and slow to compile
def test_chain_multisteps_apply_if_finite(make):
  want = jax.tree.map(lambda x: -0.5 * x, update(make(), G)[0])
  for x, y in zip(jax.tree.leaves(want), jax.tree.leaves(G), strict=True):
    assert not np.allclose(x, -0.5 * y)  # every projector has something to do here
  chain = optax.chain(make(), optax.sgd(0.5))
  close(update(chain, G)[0], want)
  accumulate = optax.MultiSteps(chain, every_k_schedule=2)
  first, state = update(accumulate, jax.tree.map(lambda x: 0.5 * x, G))
  assert all(not np.any(x) for x in jax.tree.leaves(first))
  close(update(accumulate, jax.tree.map(lambda x: 1.5 * x, G), state)[0], want)
  guarded = optax.apply_if_finite(chain, 3)
  close(update(guarded, G)[0], want)


@pytest.mark.parametrize("make", [make_agem])
def test_masked_prunes_the_references(make):
  """References come whole; inside ``masked`` the projector sees, and constrains, its own part."""
  tx = optax.masked(make(), BODY)
  out, _ = update(tx, G)
  part = lambda t: {"body": t["body"]}
  alone, _ = make().update(part(G), make().init(part(params())), references={k: part(v) for k, v in REFS.items()})
  close(out["body"], alone["body"])
  np.testing.assert_array_equal(out["head"]["kernel"], G["head"]["kernel"])
  labels = {"body": "a", "head": "b"}
  split = optax.partition({"a": make(), "b": optax.identity()}, labels)
  close(update(split, G)[0], out)


def test_masked_bases_grow_from_whole_trees():
  tx = optax.masked(ogd(4), BODY)
  state = extend_ogd(tx.init(params()))
  out, _ = update(tx, G, state)
  rows = STACK["body"]["kernel"].reshape(2, -1)
  assert np.abs(rows @ out["body"]["kernel"].ravel()).max() < 1e-5
  np.testing.assert_array_equal(out["head"]["kernel"], G["head"]["kernel"])
  tx = optax.masked(gpm(), BODY)
  out, _ = update(tx, G, extend_gpm(tx.init(params())))
  assert np.abs(out["body"]["kernel"].sum(0)).max() < 1e-5
  np.testing.assert_array_equal(out["head"]["kernel"], G["head"]["kernel"])


@pytest.mark.parametrize("tx", [agem(), gem(), ogd(2), gpm(), coso(2, 2), cuber(2, 2), geometric_disentanglement()])
def test_states_can_be_donated(tx):
  """No two parts of a fresh state share a buffer, and none is a parameter's."""
  live = params()
  pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((live, tx.init(live)))]
  assert len(set(pointers)) == len(pointers)


def test_inject_hyperparams():
  tx = optax.inject_hyperparams(agem)(epsilon=0.5)
  close(update(tx, G)[0], update(agem(epsilon=0.5), G)[0])
  tx = optax.inject_hyperparams(gem)(reference="tasks", margin=0.3, ridge=0.01)
  state = tx.init(params())
  state.hyperparams["margin"] = jnp.asarray(0.0)
  close(update(tx, G, state)[0], update(gem("tasks", 0.0, 0.01), G)[0])
  tx = optax.inject_hyperparams(gpm, static_args=("max_rank", "skip", "freeze_vectors"))(max_rank=2, skip=None)
  close(update(tx, G, extend_gpm(tx.init(params())))[0], update(filled_gpm(), G)[0])


@pytest.mark.parametrize("make", MAKERS)
def test_vmap_equals_a_loop(make):
  tx = on_update(make())
  pair = lambda t: jax.tree.map(
    lambda x: jnp.stack([x, -x]), t
  )  # the second member meets its constraints, the first not
  state = jax.tree.map(lambda x: jnp.stack([x, x]), tx.init(params()))
  refs = jax.tree.map(lambda x: jnp.stack([x, x]), REFS)
  both, _ = jax.jit(jax.vmap(lambda g, s, r: tx.update(g, s, params(), references=r)))(pair(G), state, refs)
  one = jax.jit(lambda g, s: tx.update(g, s, params(), references=REFS)[0])
  for i, g in enumerate((G, jax.tree.map(jnp.negative, G))):
    close(jax.tree.map(lambda x, i=i: x[i], both), one(g, tx.init(params())))


def test_full_basis_drops_and_says_so():
  tx = ogd(1)
  state = extend_ogd(tx.init(params()))
  assert (int(state.rank), int(state.dropped)) == (1, 1)
  row = STACK["body"]["kernel"][0].ravel() @ state.basis["body"]["kernel"][0].ravel()
  assert row > 0.1  # the first row stayed


def test_state_found_in_named_chain_and_errors():
  tx = optax.named_chain(("a", agem()), ("b", ogd(2)), ("c", optax.adam(1e-3)))
  state = extend_ogd(tx.init(params()))
  assert int(state["b"].rank) == 2
  assert isinstance(state["a"], AGEMState)
  with pytest.raises(UsageError, match="no OGDState"):
    ogd_extend(optax.adam(1e-3).init(params()), STACK)
  with pytest.raises(UsageError, match="directions: leaf 'head/kernel' is missing"):
    ogd_extend(state, {"body": STACK["body"]})
  with pytest.raises(UsageError, match=r"references\['tasks'\].*shape"):
    gem("tasks").update(G, gem().init(G), references={"tasks": {**STACK, "head": {"kernel": jnp.ones((3, 3, 2))}}})
  with pytest.raises(UsageError, match="max_bytes"):
    ogd(100, max_bytes=1000).init(params())
  with pytest.raises(UsageError, match="margin: got -1"):
    gem(margin=-1)


SHARDED = """
  import jax, jax.numpy as jnp, numpy as np, optax
  from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
  from cljax import projectors as pr
  assert len(jax.devices()) == 4
  mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
  rng = np.random.default_rng(0)
  host = lambda *lead: {"a": rng.normal(size=(*lead, 8, 12)).astype("f"), "b": rng.normal(size=(*lead, 12)).astype("f")}
  specs = {"a": P(None, "d"), "b": P("d")}
  put = lambda t: {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in t.items()}
  stacked = lambda t: {k: jax.device_put(v, NamedSharding(mesh, P(None, *specs[k]))) for k, v in t.items()}
  p, g, r, k = host(), host(), host(), host(3)
  r["a"] -= g["a"]
  k["a"] -= g["a"]
  x = {"a": rng.normal(size=(3, 8)).astype("f")}
  fill = {"ogd": lambda s, k: pr.ogd_extend(s, k), "gpm": lambda s, k: pr.gpm_extend(s, x, 1.0)}
  makers = {"agem": pr.agem(), "gem": pr.gem("tasks"), "ogd": pr.ogd(4), "gpm": pr.gpm()}
  for name, tx in makers.items():
    extend = jax.jit(fill.get(name, lambda s, k: s))
    step = jax.jit(lambda g, s, r, k: tx.update(g, s, None, references={"memory": r, "tasks": k}))
    state = extend(tx.init(put(p)), stacked(k))
    got, after = step(put(g), state, put(r), stacked(k))
    for leaf in g:
      assert got[leaf].sharding.is_equivalent_to(NamedSharding(mesh, specs[leaf]), got[leaf].ndim), name
    rows = {"agem": [r], "gpm": []}.get(name, [jax.tree.map(lambda s: s[i], k) for i in range(3)])
    inner = [sum((np.asarray(got[leaf]) * row[leaf]).sum() for leaf in g) for row in rows]
    if name == "gem":
      assert min(inner) > -1e-2, inner
    else:
      assert np.allclose(inner, 0, atol=1e-3), (name, inner)
    assert name != "gpm" or np.abs(x["a"] @ np.asarray(got["a"])).max() < 1e-4
    assert any(np.abs(np.asarray(got[leaf]) - g[leaf]).max() > 1e-2 for leaf in g), name
    for kept in (tx.init(put(p)), state, after) if name == "ogd" else ():
      for leaf, s in kept.basis.items():
        assert s.sharding.is_equivalent_to(NamedSharding(mesh, P(None, *specs[leaf])), s.ndim), (name, s.sharding)
  print("sharded ok")
"""


def test_sharding_is_kept_on_four_devices():
  env = os.environ | {"XLA_FLAGS": quick.with_devices(4), "JAX_PLATFORMS": "cpu"}
  done = subprocess.run([sys.executable, "-c", textwrap.dedent(SHARDED)], env=env, capture_output=True, text=True)
  assert done.stdout.strip() == "sharded ok", done.stderr[-2000:]
