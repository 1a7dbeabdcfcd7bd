"""consolidate, attach, export and import on every wrapper that optax has; errors that name what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import UsageError
from cljax import regularizers as R
from cljax.core import tree

PARAMS = {"body": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}, "head": {"kernel": jnp.ones((3, 2))}}
MOVED = jax.tree.map(lambda x: x + 0.5, PARAMS)
FISHER = jax.tree.map(lambda x: 0.1 * (x + 1), PARAMS)
BODY = {"body": {"kernel": True, "bias": True}, "head": {"kernel": False}}
GROUPS = {"body": {"kernel": "body", "bias": "body"}, "head": {"kernel": "head"}}

WRAPPED = {
  "bare": lambda ewc: ewc(2.0),
  "chain": lambda ewc: optax.chain(optax.clip(1e9), ewc(2.0), optax.adam(0.1)),
  "named_chain": lambda ewc: optax.named_chain(("penalty", ewc(2.0)), ("optimizer", optax.sgd(0.1))),
  "nested": lambda ewc: optax.chain(optax.chain(optax.chain(ewc(2.0)), optax.sgd(0.1))),
  "masked": lambda ewc: optax.chain(optax.masked(ewc(2.0), BODY), optax.sgd(0.1)),
  "partition": lambda ewc: optax.partition({"body": ewc(2.0), "head": optax.sgd(0.1)}, GROUPS),
  "partition_both": lambda ewc: optax.partition({"body": ewc(2.0), "head": ewc(1.0)}, GROUPS),
  "multi_steps": lambda ewc: optax.MultiSteps(optax.chain(ewc(2.0), optax.sgd(0.1)), 2),
  "inject": lambda ewc: optax.chain(optax.inject_hyperparams(ewc)(strength=2.0), optax.sgd(0.1)),
  "inject_all": lambda ewc: optax.inject_hyperparams(lambda strength: optax.chain(ewc(strength), optax.sgd(0.1)))(2.0),
  "if_finite": lambda ewc: optax.apply_if_finite(optax.chain(ewc(2.0), optax.sgd(0.1)), 3),
  "conditionally": lambda ewc: optax.transforms.conditionally_transform(ewc(2.0), lambda step: step >= 0),
  "selective": lambda ewc: optax.transforms.selective_transform(
    optax.chain(ewc(2.0), optax.sgd(0.1)), freeze_mask=jax.tree.map(lambda yes: not yes, BODY)
  ),
  "in_masked_chain": lambda ewc: optax.masked(optax.chain(ewc(2.0), optax.masked(R.l2(0.1), BODY)), BODY),
}
FACTORIES = {"ewc": R.ewc, "online_ewc": R.online_ewc, "mas": R.mas, "l2_previous": R.l2_previous, "si": R.si}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("factory", ["ewc", "si"])
def test_states_are_found_in_every_wrapper(wrapper, factory):
  tx = WRAPPED[wrapper](FACTORIES[factory])
  state = tx.init(PARAMS)
  kind = lambda t: jax.tree.map(lambda x: (x.shape, x.dtype), t)
  before = kind(state)
  update = jax.jit(lambda s, p: tx.update(jax.tree.map(jnp.ones_like, PARAMS), s, p))
  for _ in range(2):
    _, state = update(state, MOVED)
  importance = FISHER if factory == "ewc" else None
  state = R.consolidate(state, MOVED, importance=importance)
  assert kind(state) == before
  found = R.find(state)
  assert len(found) == (2 if wrapper == "partition_both" else 1)
  covered = {p for s in found for p in tree.paths(s.anchor)}
  if wrapper in ("masked", "partition", "selective", "in_masked_chain"):
    assert covered == {"body/kernel", "body/bias"}
  else:
    assert covered == set(tree.paths(PARAMS))
  for s in found:
    for path in tree.paths(s.anchor):
      pick = lambda t, path=path: np.asarray(dict(zip(tree.paths(t), jax.tree.leaves(t), strict=True))[path])
      np.testing.assert_array_equal(pick(s.anchor), pick(MOVED))
      if factory == "ewc":
        np.testing.assert_array_equal(pick(s.importance), pick(FISHER))
  # The penalty acts after the boundary: away from the anchor the updates differ from those at it.
  at, _ = update(state, MOVED)
  away, state = update(state, jax.tree.map(lambda x: x + 1.0, MOVED))
  if wrapper == "multi_steps":  # the step is taken on the second call
    away, _ = update(state, jax.tree.map(lambda x: x + 1.0, MOVED))
  if factory == "ewc":
    assert np.any(np.asarray(at["body"]["kernel"]) != np.asarray(away["body"]["kernel"]))


def test_wrapped_update_equals_the_bare_one():
  g, theta = jax.tree.map(jnp.ones_like, PARAMS), jax.tree.map(lambda x: x * 1.3, MOVED)
  want = jax.tree.map(lambda u, p, a, f: u + 2.0 * f * (p - a), g, theta, MOVED, FISHER)
  for name in ("bare", "inject", "masked", "conditionally"):
    tx = WRAPPED[name](R.ewc)
    got, _ = tx.update(g, R.consolidate(tx.init(PARAMS), MOVED, importance=FISHER), theta)
    scale = 1.0 if name in ("bare", "conditionally") else -0.1
    np.testing.assert_allclose(got["body"]["kernel"], scale * np.asarray(want["body"]["kernel"]), rtol=1e-6)
    head = np.ones((3, 2)) if name == "masked" else np.asarray(want["head"]["kernel"])
    np.testing.assert_allclose(got["head"]["kernel"], scale * head, rtol=1e-6)


@pytest.mark.parametrize(
  "factory", [R.ewc, R.online_ewc, R.mas, R.si, R.hierarchical, R.spectral, R.wasserstein, R.l2_init]
)
def test_every_float_may_be_injected_and_scheduled(factory):
  schedule = optax.linear_schedule(1.0, 3.0, 2)
  tx = optax.inject_hyperparams(factory)(strength=schedule)
  state = tx.init(PARAMS)
  if factory in (R.ewc, R.online_ewc, R.mas, R.si):
    state = R.consolidate(state, PARAMS, importance=FISHER)
  update, zeros, pulls = jax.jit(tx.update), jax.tree.map(jnp.zeros_like, PARAMS), []
  for _ in range(2):
    got, state = update(zeros, state, jax.tree.map(lambda x: x + 1, PARAMS))
    pulls.append(np.asarray(got["head"]["kernel"]))
  if factory is not R.hierarchical and factory is not R.spectral:
    np.testing.assert_allclose(pulls[1], 2 * pulls[0], rtol=1e-5)
    assert np.all(pulls[0] != 0)


def test_importance_by_name_and_by_need():
  tx = optax.chain(R.ewc(1.0), R.si(1.0), R.mas(1.0, name="second"), R.l2_previous(1.0))
  state = tx.init(PARAMS)
  twice = jax.tree.map(lambda x: 2 * x, FISHER)
  state = R.consolidate(state, MOVED, importance={"ewc": FISHER, "second": twice})
  assert tree.digest(state[0].importance) == tree.digest(FISHER)
  assert tree.digest(state[2].importance) == tree.digest(twice)
  assert tree.digest(state[3].anchor) == tree.digest(MOVED)
  one = optax.chain(R.si(1.0), R.ewc(1.0))  # a lone tree goes to the one that needs it, not to SI
  state = R.consolidate(one.init(PARAMS), PARAMS, importance=FISHER)
  assert np.all(np.asarray(state[0].importance["head"]["kernel"]) == 0)
  assert tree.digest(state[1].importance) == tree.digest(FISHER)


def test_consolidate_by_name_leaves_the_others_alone():
  tx = optax.chain(R.ewc(1.0), R.ewc(1.0, name="other"))
  state = R.consolidate(tx.init(PARAMS), MOVED, importance=FISHER, name="other")
  assert tree.digest(state[0]) == tree.digest(tx.init(PARAMS)[0])
  assert tree.digest(state[1].importance) == tree.digest(FISHER)


def test_consolidate_is_pure_jits_and_vmaps():
  tx = optax.chain(R.ewc(1.0), R.si(1.0))
  state = tx.init(PARAMS)
  digest = tree.digest((state, MOVED))
  end = lambda s, p, f: R.consolidate(s, p, importance={"ewc": f})
  want = end(state, MOVED, FISHER)
  assert tree.digest((state, MOVED)) == digest
  close = lambda a, b: jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)
  close(want, jax.jit(end)(state, MOVED, FISHER))
  stack = lambda t: jax.tree.map(lambda x: jnp.stack([x, 3 * x]), t)
  swept = jax.jit(jax.vmap(lambda p, m, f: end(tx.init(p), m, f)))(stack(PARAMS), stack(MOVED), stack(FISHER))
  close(jax.tree.map(lambda x: x[0], swept), want)
  for at in range(2):  # a population is a leading axis of everything
    pick = lambda t, at=at: jax.tree.map(lambda x: x[at], t)
    close(pick(swept), end(tx.init(pick(stack(PARAMS))), pick(stack(MOVED)), pick(stack(FISHER))))


@pytest.mark.parametrize(
  ("tx", "call", "words"),
  [
    (optax.adam(0.1), {}, "opt_state: no regularizer state"),
    (R.l2_init(1.0), {}, "opt_state: no regularizer state to consolidate"),
    (R.ewc(1.0), {}, "ewc: consolidate needs importance"),
    (R.ewc(1.0), {"name": "nope"}, "name: no regularizer state is called 'nope'; found: ewc"),
    (R.l2_previous(1.0), {"importance": FISHER}, "importance: none of the states takes it"),
    (R.l2_previous(1.0), {"importance": {"l2_previous": FISHER}}, "l2_previous: takes no importance"),
    (optax.chain(R.ewc(1.0), R.mas(1.0)), {"importance": FISHER}, "importance: one tree for several states"),
    (R.ewc(1.0), {"importance": {"body": FISHER["body"]}}, "ewc: importance: leaf 'head/kernel' is missing"),
    (R.ewc(1.0), {"importance": FISHER | {"tail": jnp.ones(1)}}, "ewc: importance leaf 'tail' is unexpected"),
    (
      R.ewc(1.0),
      {"importance": FISHER | {"head": {"kernel": jnp.ones((2, 3))}}},
      r"ewc: importance: leaf 'head/kernel' has shape \(2, 3\); expected \(3, 2\)",
    ),
    (
      R.ewc(1.0),
      {"importance": FISHER | {"head": {"kernel": jnp.full((3, 2), jnp.nan)}}},
      "ewc: importance leaf 'head/kernel' holds NaN",
    ),
    (
      R.mas(1.0),
      {"importance": FISHER | {"head": {"kernel": -jnp.ones((3, 2))}}},
      "mas: importance leaf 'head/kernel' holds negative",
    ),
    (optax.flatten(R.ewc(1.0)), {"importance": FISHER}, "ewc: the state holds one flat vector; optax.flatten"),
    (optax.flatten(R.l2_previous(1.0)), {}, "l2_previous: the state holds one flat vector; optax.flatten"),
  ],
)
def test_misuse_is_one_line(tx, call, words):
  with pytest.raises(UsageError, match=words) as error:
    R.consolidate(tx.init(PARAMS), MOVED, **call)
  assert "\n" not in str(error.value)


def test_wrong_parameters_are_named():
  state = R.ewc(1.0).init(PARAMS)
  with pytest.raises(UsageError, match="ewc: params: leaf 'head/kernel' is missing"):
    R.consolidate(state, {"body": PARAMS["body"]}, importance={"body": FISHER["body"]})
  with pytest.raises(UsageError, match="ewc: params: leaf 'head/kernel' has shape"):
    R.consolidate(state, MOVED | {"head": {"kernel": jnp.ones((3, 5))}}, importance=FISHER)


OPTIMIZERS = {
  "adamw": optax.adamw(0.1),
  "momentum": optax.sgd(0.1, momentum=0.9),
  "schedule": optax.adamw(optax.cosine_decay_schedule(0.1, 100)),
  "inject": optax.inject_hyperparams(optax.adamw)(0.1),
  "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.5)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_attach_continues_a_trained_optimizer(name):
  """A month-1 optimizer goes on under a regularizer as if nothing had happened, until the first consolidation."""
  plain = OPTIMIZERS[name]
  g = jax.tree.map(lambda x: 0.3 * x - 0.2, PARAMS)
  old, params = plain.init(PARAMS), PARAMS
  for _ in range(3):
    updates, old = plain.update(g, old, params)
    params = optax.apply_updates(params, updates)
  want, _ = plain.update(g, old, params)
  for tx in (
    optax.chain(R.ewc(9.0), plain),
    optax.named_chain(("ewc", R.ewc(9.0)), ("si", R.si(1.0)), ("optimizer", plain)),
    optax.chain(optax.chain(R.l2_previous(1.0), R.ewc(9.0)), plain),
  ):
    state = R.attach(tx, old, params)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))
    got, _ = tx.update(g, state, params)
    assert tree.digest(got) == tree.digest(want)
    fresh, _ = tx.update(g, tx.init(params), params)
    assert tree.digest(fresh) != tree.digest(want)
    assert tree.digest(R.find(state)[-1].anchor) == tree.digest(params)


def test_attach_keeps_a_regularizer_that_is_already_there():
  month1 = optax.chain(R.ewc(2.0), optax.sgd(0.1, momentum=0.9))
  old = R.consolidate(month1.init(PARAMS), MOVED, importance=FISHER)
  state = R.attach(optax.chain(R.ewc(2.0), R.si(1.0), optax.sgd(0.1, momentum=0.9)), old, MOVED)
  assert tree.digest(state[0]) == tree.digest(old[0])


def test_attach_refuses_another_optimizer():
  for tx in (optax.chain(R.ewc(1.0), optax.sgd(0.1)), optax.chain(R.ewc(1.0), optax.lion(0.1))):
    with pytest.raises(UsageError, match="old_opt_state"):
      R.attach(tx, optax.adamw(0.1).init(PARAMS), PARAMS)
  trace = optax.sgd(0.1, momentum=0.9).init(PARAMS)
  with pytest.raises(
    UsageError, match=r"old_opt_state: leaf .*trace.* does not fit .*nu"
  ):  # same shapes, other meaning
    R.attach(optax.chain(R.ewc(1.0), optax.rmsprop(0.1)), trace, PARAMS)
  with pytest.raises(UsageError, match="old_opt_state"):
    R.attach(optax.chain(R.ewc(1.0), optax.sgd(0.1, momentum=0.9)), trace, {"body": PARAMS["body"]})
  other = optax.sgd(0.1, momentum=0.9).init(PARAMS | {"head": {"kernel": jnp.ones((3, 7))}})
  with pytest.raises(UsageError, match=r"old_opt_state: leaf .*head.* \(3, 7\) does not fit"):
    R.attach(optax.chain(R.ewc(1.0), optax.sgd(0.1, momentum=0.9)), other, PARAMS)


def test_export_and_import_round_trip():
  tx = optax.chain(R.ewc(1.0), optax.masked(R.si(1.0), BODY), R.l2_init(1.0), optax.adam(0.1))
  state = tx.init(PARAMS)
  _, state = tx.update(FISHER, state, PARAMS)
  state = R.consolidate(state, MOVED, importance=FISHER)
  out = R.export_state(state)
  assert set(out) == {"ewc", "si", "l2_init"}
  assert tree.digest(out["ewc"]["importance"]) == tree.digest(FISHER)
  assert set(out["si"]["anchor"]) == {"body"}
  blank = tx.init(PARAMS)
  back = R.import_state(blank, out)
  assert tree.digest([R.find(back)]) == tree.digest([R.find(state)])
  assert tree.digest(back[3]) == tree.digest(blank[3])
  assert R.state_bytes(state, "ewc") == tree.nbytes(out["ewc"])
  assert R.state_bytes(state) == tree.nbytes(out)
  with pytest.raises(UsageError, match="exported: no regularizer state is called 'ewc'"):
    R.import_state(optax.adam(0.1).init(PARAMS), out)
  with pytest.raises(UsageError, match="ewc: the exported state lacks 'decay'"):
    R.import_state(R.online_ewc(1.0, name="ewc").init(PARAMS), {"ewc": out["ewc"]})
  with pytest.raises(UsageError, match="two regularizer states are called 'ewc'"):
    R.export_state(optax.chain(R.ewc(1.0), R.ewc(2.0)).init(PARAMS))
  with pytest.raises(UsageError, match="no regularizer state"):
    R.export_state(optax.adam(0.1).init(PARAMS))
