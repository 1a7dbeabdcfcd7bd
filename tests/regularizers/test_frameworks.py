"""The same transforms in plain loops of Linen, NNX and Equinox; anchors never alias, donation is safe."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization
from flax.training.train_state import TrainState

from cljax import regularizers as R
from cljax.core import tree

X = jnp.array(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
Y = jnp.array(np.random.default_rng(1).normal(size=(8, 2)), jnp.float32)
STRENGTH = 4.0


def chain():
  return optax.chain(R.si(0.1), R.ewc(STRENGTH), optax.sgd(0.05))


def arrays(t):
  return {p: np.array(v, copy=True) for p, v in R._state.by_path(t).items()}


def expect_step(before, grads, anchor, fisher):
  """One SGD step under EWC, in NumPy; SI is anchored at the same point, with an importance of its own."""
  return {p: before[p] - 0.05 * (grads[p] + STRENGTH * fisher[p] * (before[p] - anchor[p])) for p in before}


def close(a, b):
  assert set(a) == set(b)
  for p in a:
    np.testing.assert_allclose(a[p], b[p], rtol=2e-4, atol=1e-5)


def run(get, step, consolidate, gradient, state_of):
  """Trains, consolidates, trains on; checks the anchor against a NumPy copy, then one step against NumPy."""
  for _ in range(3):
    step()
  at = arrays(get())
  fisher = {p: np.full_like(v, 0.5) for p, v in at.items()}
  consolidate(fisher)
  states = R.find(state_of())
  for s in states:
    assert arrays(s.anchor).keys() == at.keys()
  # SI's own importance is removed, so that the next steps are EWC's alone.
  pointers = lambda t: {x.unsafe_buffer_pointer() for x in jax.tree.leaves(t) if x.size > 1}
  assert not pointers(get()) & set().union(*(pointers(s) for s in states))
  step()
  before, grads = arrays(get()), arrays(gradient())
  si = next(s for s in R.find(state_of()) if isinstance(s, R.SiState))
  omega = arrays(si.importance)
  step()
  want = expect_step(before, grads, at, {p: fisher[p] + 2 * 0.1 / STRENGTH * omega[p] for p in fisher})
  close(arrays(get()), want)
  for s in R.find(state_of()):
    for p, v in arrays(s.anchor).items():
      np.testing.assert_array_equal(v, at[p])  # training moved on, the anchor did not
  assert any(np.any(arrays(get())[p] != at[p]) for p in at)


def as_tree(like, flat):
  values = [jnp.array(flat[p]) for p in R._state.by_path(like)]
  return jax.tree.unflatten(jax.tree.structure(like), values)


class Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(2)(nn.tanh(nn.Dense(4)(x)))


def loss_of(out):
  return jnp.mean((out - Y) ** 2)


def test_linen_train_state():
  net = Net()
  ts = TrainState.create(apply_fn=net.apply, params=net.init(jax.random.key(0), X), tx=chain())
  box = {"ts": ts}
  loss = lambda p: loss_of(net.apply(p, X))
  jitted = jax.jit(lambda ts: ts.apply_gradients(grads=jax.grad(loss)(ts.params)))

  def step():
    box["ts"] = jitted(box["ts"])

  def consolidate(fisher):
    ts = box["ts"]
    opt_state = R.consolidate(ts.opt_state, ts.params, importance=as_tree(ts.params, fisher))
    box["ts"] = ts.replace(opt_state=opt_state)

  run(
    lambda: box["ts"].params,
    step,
    consolidate,
    lambda: jax.grad(loss)(box["ts"].params),
    lambda: box["ts"].opt_state,
  )
  # Flax's own serialization takes the state, names and all.
  data = serialization.to_bytes(box["ts"].opt_state)
  back = serialization.from_bytes(chain().init(box["ts"].params), data)
  assert tree.digest(back) == tree.digest(box["ts"].opt_state)


class NnxNet(nnx.Module):
  def __init__(self, rngs):
    self.first = nnx.Linear(3, 4, rngs=rngs)
    self.second = nnx.Linear(4, 2, rngs=rngs)

  def __call__(self, x):
    return self.second(jnp.tanh(self.first(x)))


@pytest.mark.parametrize("jit_boundary", [False, True])
def test_nnx_optimizer(jit_boundary):
  model = NnxNet(nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, chain(), wrt=nnx.Param)
  loss = lambda m: loss_of(m(X))

  @nnx.jit
  def jitted(model, optimizer):
    optimizer.update(model, nnx.grad(loss)(model))

  def end(model, optimizer, fisher):
    params = nnx.state(model, nnx.Param)
    optimizer.opt_state = R.consolidate(optimizer.opt_state, params, importance={"ewc": fisher})

  def consolidate(fisher):
    pure = nnx.as_pure(nnx.state(model, nnx.Param))
    (nnx.jit(end) if jit_boundary else end)(model, optimizer, as_tree(pure, fisher))

  run(
    lambda: nnx.as_pure(nnx.state(model, nnx.Param)),
    lambda: jitted(model, optimizer),
    consolidate,
    lambda: nnx.as_pure(nnx.grad(loss)(model)),
    lambda: optimizer.opt_state,
  )


def test_nnx_attach_and_export():
  model = NnxNet(nnx.Rngs(0))
  plain = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
  grads = nnx.grad(lambda m: loss_of(m(X)))(model)
  plain.update(model, grads)
  tx = optax.chain(R.ewc(1.0), optax.adam(0.1))
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  nnx.update(optimizer.opt_state, nnx.state(R.attach(tx, plain.opt_state, nnx.state(model, nnx.Param))))
  twin = nnx.clone(model)
  plain.update(model, grads)
  optimizer.update(twin, grads)
  close(arrays(nnx.as_pure(nnx.state(twin))), arrays(nnx.as_pure(nnx.state(model))))
  out = R.export_state(optimizer.opt_state)
  assert set(out["ewc"]["anchor"]) == {"first", "second"}
  assert all(type(x) is not nnx.Param for x in jax.tree.leaves(out))
  other = nnx.Optimizer(model, tx, wrt=nnx.Param)
  nnx.update(other.opt_state, nnx.state(R.import_state(other.opt_state, out)))
  close(arrays(R.find(other.opt_state)[0].anchor), arrays(R.find(optimizer.opt_state)[0].anchor))


def test_equinox():
  box = {"model": eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))}
  params_of = lambda m: eqx.filter(m, eqx.is_inexact_array)
  tx = chain()
  box["state"] = tx.init(params_of(box["model"]))
  loss = lambda m: loss_of(jax.vmap(m)(X))

  @eqx.filter_jit
  def jitted(model, state):
    updates, state = tx.update(eqx.filter_grad(loss)(model), state, params_of(model))
    return eqx.apply_updates(model, updates), state

  def step():
    box["model"], box["state"] = jitted(box["model"], box["state"])

  def consolidate(fisher):
    params = params_of(box["model"])
    box["state"] = R.consolidate(box["state"], params, importance=as_tree(params, fisher))

  run(
    lambda: params_of(box["model"]),
    step,
    consolidate,
    lambda: eqx.filter_grad(loss)(box["model"]),
    lambda: box["state"],
  )


@pytest.mark.parametrize("jit_boundary", [False, True])
def test_donated_parameters_and_states(jit_boundary):
  """An anchor that were the parameters' buffer would die, or fail the call, when the next step donates them."""
  tx = optax.chain(
    R.si(1.0), R.ewc(1.0), R.mas(1.0), R.l2_previous(1.0), R.l2_init(1.0), R.hierarchical(1.0), optax.adam(0.1)
  )
  params = {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.ones(4)}
  state = tx.init(params)

  def step(params, state):
    updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
    return optax.apply_updates(params, updates), state

  def end(state, params, f):
    return R.consolidate(state, params, importance={"ewc": f, "mas": f})

  donating = jax.jit(step, donate_argnums=(0, 1))
  plain = jax.jit(step)
  boundary = jax.jit(end) if jit_boundary else end
  params2, state2 = jax.tree.map(jnp.copy, (params, state))
  for _ in range(2):
    for _ in range(2):
      params, state = donating(params, state)
      params2, state2 = plain(params2, state2)
    f = jax.tree.map(jnp.square, params)
    state, state2 = boundary(state, params, f), boundary(state2, params2, f)
  params, state = donating(params, state)
  params2, state2 = plain(params2, state2)
  assert all(not x.is_deleted() for x in jax.tree.leaves((state, f)))
  assert tree.digest((params, state)) == tree.digest((params2, state2))


def test_exported_state_survives_donation():
  tx = optax.chain(R.ewc(1.0), optax.sgd(0.1))
  params = {"w": jnp.ones((3, 4))}
  state = tx.init(params)
  out = R.export_state(state)
  state = R.import_state(state, out)
  jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state)
  np.testing.assert_array_equal(out["ewc"]["anchor"]["w"], np.ones((3, 4)))
