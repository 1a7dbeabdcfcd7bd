"""Decoupled pulls behind optax's optimizers against NumPy in float64: ``theta <- (theta' + sum a_k theta_k) / (1 + sum
a_k)``, ``theta'`` after the optimizer's update; and what they promise, carry and refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pulls_by_hand import AWAY, END, F1, F2, GRADIENT, START, draw, jnp_tree, near, tmap, wide

from cljax import UsageError
from cljax import regularizers as R
from cljax.core import tree

RATE, STRENGTH = 0.1, 3.0
GRADIENTS = [draw() for _ in range(6)]


def at(rate, theta, anchors, curvatures):
  """The minimum of ``|theta - theta'|^2 / 2 + rate * sum_k curvature_k / 2 (theta - anchor_k)^2``, by the formula."""

  def one(t, *rest):
    n = len(rest) // 2
    return (t + sum(rate * h * a for a, h in zip(rest[:n], rest[n:], strict=True))) / (1 + rate * sum(rest[n:]))

  return tmap(one, theta, *anchors, *curvatures) if anchors else theta


def times(factor, tree):
  return tmap(lambda x: factor * x, tree)


def walk(tx, params, state, gradients, **more):
  """The parameters after each update, and the last state."""
  seen, step = [], jax.jit(tx.update)
  for g in gradients:
    updates, state = step(jnp_tree(g), state, params, **more, **({"grad": jnp_tree(g)} if "rate" in more else {}))
    params = optax.apply_updates(params, updates)
    seen.append(params)
  return seen, state


ONES = jax.tree.map(np.ones_like, START)
ZERO = jax.tree.map(np.zeros_like, START)
# name: (factory; whether its boundary takes importance, None where it has none; anchors and curvatures before, after
# one and after two boundaries, where the tasks end at p and q)
CASES = {
  "ewc": (R.ewc, True, lambda p, q: ([], [(p, times(3, F1))], [(p, times(3, F1)), (q, times(3, F2))])),
  "online_ewc": (
    lambda s, **kw: R.online_ewc(s, 0.5, **kw),
    True,
    lambda p, q: ([], [(p, times(1.5, F1))], [(q, times(1.5, tmap(lambda a, b: 0.5 * a + b, F1, F2)))]),
  ),
  "online_ewc_outside": (
    lambda s, **kw: R.online_ewc(s, 0.5, decay_in_penalty=False, **kw),
    True,
    lambda p, q: ([], [(p, times(3, F1))], [(q, times(3, tmap(lambda a, b: 0.5 * a + b, F1, F2)))]),
  ),
  "mas": (
    lambda s, **kw: R.mas(s, 0.25, **kw),
    True,
    lambda p, q: ([], [(p, times(4.5, F1))], [(q, times(6, tmap(lambda a, b: 0.1875 * a + 0.75 * b, F1, F2)))]),
  ),
  "l2_previous": (R.l2_previous, False, lambda p, q: ([], [(p, times(6, ONES))], [(q, times(6, ONES))])),
  "l2_init": (R.l2_init, None, lambda p, q: [[(START, times(6, ONES))]] * 3),
  "l2": (R.l2, None, lambda p, q: [[(ZERO, times(6, ONES))]] * 3),
}


@pytest.mark.parametrize("name", CASES)
def test_steps_of_two_tasks_behind_sgd(name):
  factory, boundary, pulls = CASES[name]
  tx = optax.chain(optax.sgd(RATE), factory(STRENGTH, decoupled=True, learning_rate=RATE))
  params, want, ends = jnp_tree(START), wide(START), [None, None]
  state = tx.init(params)
  for phase, importance in enumerate((F1, F2, None)):
    anchors = pulls(*ends)[phase]
    seen, state = walk(tx, params, state, GRADIENTS[2 * phase : 2 * phase + 2])
    for k, params in enumerate(seen):
      moved = tmap(lambda t, g: t - RATE * g, want, GRADIENTS[2 * phase + k])
      want = at(RATE, moved, [a for a, _ in anchors], [h for _, h in anchors])
      near(params, want)
      assert not anchors or max(np.abs(x).max() for x in jax.tree.leaves(tmap(np.subtract, moved, want))) > 1e-2
    if importance is not None and boundary is not None:
      ends[phase] = want
      more = {"importance": importance} if boundary else {}
      state = R.consolidate(state, params, **more)


@pytest.mark.parametrize("name", ["si", "hierarchical"])
def test_the_path_is_that_of_the_raw_gradient(name):
  """Behind momentum, two tasks: ``w = -sum g moved``; a weight whose importance fell below 0 is not pulled."""
  damping = 0.2
  penalty = getattr(R, name)(STRENGTH, damping, decoupled=True, learning_rate="given")
  tx = optax.chain(optax.sgd(RATE, momentum=0.5), penalty)
  theta, trace = wide(START), wide(ZERO)
  omega = wide({**F1, "scale": np.float32([-3, 0.5, -0.1, 0])})
  params, star = jnp_tree(START), wide(START)
  state = R.consolidate(tx.init(params), params, importance=omega)
  for task in range(3):
    path, begin = wide(ZERO), theta
    norms = np.exp([np.sqrt(sum((omega["head"][k] ** 2).sum() for k in ("kernel", "bias"))),
                    np.sqrt((omega["scale"] ** 2).sum())])  # fmt: skip
    share = norms / norms.sum() if name == "hierarchical" else np.ones(2)
    layer = {"head": {"kernel": share[0], "bias": share[0]}, "scale": share[1]}
    seen, state = walk(tx, params, state, GRADIENTS[2 * task : 2 * task + 2], rate=jnp.float32(RATE))
    for k, params in enumerate(seen):
      g = GRADIENTS[2 * task + k]
      trace = tmap(lambda m, g: g + 0.5 * m, trace, g)
      moved = tmap(lambda t, m: t - RATE * m, theta, trace)
      curvature = tmap(lambda w, s: 2 * STRENGTH * s * np.maximum(w, 0), omega, layer)
      new = at(RATE, moved, [star], [curvature])
      path = tmap(lambda w, g, p, q: w - g * (p - q), path, g, new, theta)
      theta = new
      near(params, theta, atol=2e-5)
    star = theta
    omega = tmap(lambda o, w, p, q: o + w / ((p - q) ** 2 + damping), omega, path, theta, begin)
    state = R.consolidate(state, params)
    near(R.find(state)[0].importance, omega, rtol=1e-4)
    assert omega["scale"][0] < 0 < omega["scale"][1]


def test_si_keeps_the_state_that_it_has_in_the_gradient():
  """At strength 0, where both walk the same way, to the bit."""
  plain = optax.chain(R.si(0.0), optax.sgd(RATE))
  behind = optax.chain(optax.sgd(RATE), R.si(0.0, decoupled=True, learning_rate=RATE))
  one, two = plain.init(jnp_tree(START)), behind.init(jnp_tree(START))
  p = q = jnp_tree(START)
  for g in map(jnp_tree, GRADIENTS):
    u, one = plain.update(g, one, p)
    v, two = behind.update(g, two, q, grad=g)
    p, q = optax.apply_updates(p, u), optax.apply_updates(q, v)
  assert tree.digest(R.find(R.consolidate(one, p))) == tree.digest(R.find(R.consolidate(two, q)))


def test_a_schedule_counts_its_own_steps():
  rates = [0.3, 0.1, 0.02, 0.005]
  tx = R.ewc(STRENGTH, decoupled=True, learning_rate=lambda count: jnp.asarray(rates)[count])
  chained = optax.chain(optax.sgd(RATE), tx)
  params, want = jnp_tree(AWAY), wide(AWAY)
  state = R.consolidate(chained.init(jnp_tree(START)), END, importance=F1)
  seen, state = walk(chained, params, state, GRADIENTS[:4])
  for g, rate, params in zip(GRADIENTS, rates, seen, strict=False):
    want = at(rate, tmap(lambda t, g: t - RATE * g, want, g), [END], [times(STRENGTH, F1)])
    near(params, want)
  assert int(state[1].count) == 4
  assert set(R.export_state(state)) == {"ewc"}


def test_adam_does_not_rescale_the_pull_and_momentum_does_not_carry_it():
  """The optimizer's moments are those of the loss's gradient alone."""
  rate, curvature = 0.05, times(STRENGTH, F1)
  penalty = R.ewc(STRENGTH, decoupled=True, learning_rate=rate)
  for optimizer in (optax.adam(rate), optax.sgd(rate, momentum=0.9)):
    tx = optax.chain(optimizer, penalty)
    state = R.consolidate(tx.init(jnp_tree(START)), END, importance=F1)
    want, m, v = wide(AWAY), wide(ZERO), wide(ZERO)
    for k, params in enumerate(walk(tx, jnp_tree(AWAY), state, GRADIENTS)[0]):
      g = GRADIENTS[k]
      if hasattr(state[0][0], "mu"):
        m, v = tmap(lambda m, g: 0.9 * m + 0.1 * g, m, g), tmap(lambda v, g: 0.999 * v + 0.001 * g**2, v, g)
        c = 1 - 0.9 ** (k + 1), 1 - 0.999 ** (k + 1)
        step = tmap(lambda m, v, c=c: rate * (m / c[0]) / (np.sqrt(v / c[1]) + 1e-8), m, v)
      else:
        m = tmap(lambda m, g: 0.9 * m + g, m, g)
        step = times(rate, m)
      want = at(rate, tmap(np.subtract, want, step), [END], [curvature])
      near(params, want, atol=2e-5)


@pytest.mark.parametrize("strength", [1e6, 1e38])
def test_no_strength_makes_it_diverge(strength):
  """It lies at the anchor at once, while the plain penalty is far off after ten steps; a weight of no importance goes
  on learning."""
  some = {**F1, "scale": np.float32([0, 1, 0, 20])}
  tx = optax.chain(optax.sgd(RATE), R.ewc(strength, decoupled=True, learning_rate=RATE))
  state = R.consolidate(tx.init(jnp_tree(START)), END, importance=some)
  seen = walk(tx, jnp_tree(AWAY), state, GRADIENTS * 2)[0]
  for params in seen:
    near(params["head"], END["head"], atol=2e-3 if strength == 1e6 else 1e-6)
  free = AWAY["scale"][0] - RATE * 2 * sum(np.float64(g["scale"][0]) for g in GRADIENTS)
  np.testing.assert_allclose(seen[-1]["scale"][0], free, rtol=1e-5)
  np.testing.assert_allclose(np.asarray(seen[-1]["scale"])[[1, 3]], END["scale"][[1, 3]], atol=1e-5)
  plain = optax.chain(R.ewc(strength), optax.sgd(RATE))
  state = R.consolidate(plain.init(jnp_tree(START)), END, importance=some)
  last = np.asarray(walk(plain, jnp_tree(AWAY), state, GRADIENTS * 2)[0][-1]["head"]["kernel"])
  assert not np.isfinite(last).all() or np.abs(last).max() > 1e20


@pytest.mark.parametrize("name", CASES)
def test_to_first_order_in_the_rate_it_is_the_plain_step(name):
  """The two steps differ by a second order: a quarter of it at half the rate."""
  factory, boundary, _ = CASES[name]

  def gap(rate):
    behind = optax.chain(optax.sgd(rate), factory(STRENGTH, decoupled=True, learning_rate=rate))
    plain = optax.chain(factory(STRENGTH), optax.sgd(rate))
    out = []
    for tx in (behind, plain):
      state = tx.init(jnp_tree(START))
      if boundary is not None:
        state = R.consolidate(state, END, **({"importance": F1} if boundary else {}))
      out.append(tx.update(jnp_tree(GRADIENT), state, jnp_tree(AWAY))[0])
    step = max(np.abs(x).max() for x in jax.tree.leaves(wide(out[1])))
    return max(np.abs(x).max() for x in jax.tree.leaves(tmap(np.subtract, *out))), step

  (coarse, _), (fine, step) = gap(4e-3), gap(2e-3)
  assert coarse / fine == pytest.approx(4, rel=0.1)
  assert 0 < fine < 0.2 * step


def test_before_the_first_boundary_updates_pass_bit_for_bit():
  given = {**jnp_tree(GRADIENT), "scale": jnp.array([-0.0, 1.0, 2.0, 3.0])}
  for factory in (R.ewc, R.online_ewc, R.mas, R.si, R.hierarchical, R.l2_previous):
    tx = factory(1e6, decoupled=True, learning_rate=RATE)
    out, _ = tx.update(given, tx.init(jnp_tree(START)), jnp_tree(AWAY), grad=given)
    assert tree.digest(out) == tree.digest(given)
    assert np.signbit(out["scale"][0])


WRAPPERS = {
  "masked": lambda tx: optax.masked(tx, {"head": True, "scale": True}),
  "partition": lambda tx: optax.partition({"all": tx}, {"head": "all", "scale": "all"}),
  "MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
  "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
}


@pytest.mark.parametrize("wrapper", [*WRAPPERS, "inject_hyperparams"])
@pytest.mark.parametrize("name", ["ewc", "si"])
def test_it_stands_in_optax_s_wrappers(wrapper, name):
  """The rate and the raw gradient pass through; a schedule that is injected counts there."""
  factory = getattr(R, name)
  if wrapper == "inject_hyperparams":
    made = optax.inject_hyperparams(factory)(STRENGTH, decoupled=True, learning_rate=lambda count: RATE)
    tx = optax.chain(optax.sgd(RATE), made)
  else:
    tx = WRAPPERS[wrapper](optax.chain(optax.sgd(RATE), factory(STRENGTH, decoupled=True, learning_rate="given")))
  state = tx.init(jnp_tree(START))
  state = R.consolidate(state, END, importance=F1)
  params = walk(tx, jnp_tree(AWAY), state, GRADIENTS[:1], rate=jnp.float32(RATE))[0][0]
  curvature = times(STRENGTH if name == "ewc" else 2 * STRENGTH, F1)
  near(params, at(RATE, tmap(lambda t, g: t - RATE * g, AWAY, GRADIENTS[0]), [END], [curvature]))


def test_a_mask_leaves_the_rest_and_takes_the_gradient_whole():
  tx = optax.masked(R.si(STRENGTH, decoupled=True, learning_rate=RATE), {"head": True, "scale": False})
  state = R.consolidate(tx.init(jnp_tree(START)), END, importance={"head": F1["head"]})
  out, new = tx.update(jnp_tree(ZERO), state, jnp_tree(AWAY), grad=jnp_tree(GRADIENT))
  pulled = at(RATE, AWAY["head"], [END["head"]], [times(2 * STRENGTH, F1["head"])])
  near(out, {"head": tmap(np.subtract, pulled, AWAY["head"]), "scale": ZERO["scale"]})
  near(R.find(new)[0].last_gradient["head"], GRADIENT["head"], 0, 0)


def test_updates_keep_their_dtype_and_parts_of_complex_numbers_are_pulled_alike():
  tx = R.ewc(STRENGTH, decoupled=True, learning_rate=RATE)
  want = tmap(np.subtract, at(RATE, AWAY, [END], [times(STRENGTH, F1)]), AWAY)
  narrow = lambda t: jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), t)
  with jax.numpy_dtype_promotion("strict"):
    state = R.consolidate(tx.init(narrow(START)), narrow(END), importance=F1)
    out, _ = jax.jit(tx.update)(narrow(ZERO), state, narrow(AWAY))
  assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype(jnp.bfloat16)}
  near(jax.tree.map(jnp.float32, out), want, 0.05, 0.05)
  both = lambda t: jax.tree.map(lambda x: jnp.asarray(x - 2j * x, jnp.complex64), t)
  state = R.consolidate(tx.init(both(START)), both(END), importance=F1)
  out, _ = tx.update(both(ZERO), state, both(AWAY))
  near(jax.tree.map(jnp.real, out), want)
  near(jax.tree.map(jnp.imag, out), times(-2, want))


def test_a_trained_optimizer_goes_on_before_a_scheduled_pull():
  adam = optax.adam(RATE)
  _, old = walk(adam, jnp_tree(START), adam.init(jnp_tree(START)), GRADIENTS[:2])
  tx = optax.chain(optax.adam(RATE), R.ewc(STRENGTH, decoupled=True, learning_rate=optax.constant_schedule(RATE)))
  new = R.attach(tx, old, jnp_tree(AWAY))
  assert tree.digest(new[0]) == tree.digest(old)
  assert int(new[1].count) == 0
  near(new[1].penalty.anchor, AWAY, 0, 0)
  carried = R.attach(optax.chain(tx, R.mas(1.0)), new, jnp_tree(START))
  near(carried[0][1].penalty.anchor, AWAY, 0, 0)


@pytest.mark.parametrize("name", ["ewc", "online_ewc", "mas", "si", "hierarchical", "l2", "l2_previous", "l2_init"])
def test_misuse_of_decoupled_is_one_line(name):
  make = lambda **kw: getattr(R, name)(STRENGTH, **kw)
  for given, said in (
    ({"decoupled": True}, f"{name}: decoupled=True needs learning_rate"),
    ({"learning_rate": 0.1}, f"{name}: got learning_rate, which is read with decoupled=True alone"),
    ({"decoupled": 1, "learning_rate": 0.1}, f"{name}: decoupled must be True or False; got 1"),
    ({"decoupled": True, "learning_rate": -0.1}, f"{name}: learning_rate must be at least 0; got -0.1"),
    ({"decoupled": True, "learning_rate": "mine"}, f"{name}: learning_rate must be a number, a schedule or 'given'"),
  ):
    with pytest.raises(UsageError) as error:
      make(**given)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)
  params = jnp_tree(START)
  told = make(decoupled=True, learning_rate="given")
  with pytest.raises(UsageError, match=f"{name}: learning_rate='given' needs each step's"):
    told.update(params, told.init(params), params, grad=params)
  with pytest.raises(UsageError, match=f"{name}: update needs params"):
    told.update(params, told.init(params), grad=params, rate=0.1)
  if name in ("si", "hierarchical"):
    with pytest.raises(UsageError, match=f"{name}: decoupled=True needs the raw gradient too"):
      told.update(params, told.init(params), params, rate=0.1)
    with pytest.raises(UsageError, match="grad: leaf 'scale' is missing"):
      told.update(params, told.init(params), params, rate=0.1, grad={"head": params["head"]})
