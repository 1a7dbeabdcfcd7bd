"""Quadratic anchors against explicit sums over tasks, in NumPy float64 and against jax.grad of the penalties."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import UsageError
from cljax import regularizers as R
from cljax.core import tree


def random_tree(seed, positive=False):
  rng = np.random.default_rng(seed)
  draw = lambda *s: rng.normal(size=s).astype(np.float32)
  made = {"dense": {"kernel": draw(3, 4), "bias": draw(4)}, "head": draw(4)}
  if positive:
    made = jax.tree.map(lambda x: np.where(x > 1.0, 0, np.exp(2 * x)).astype(np.float32), made)
  return jax.tree.map(jnp.array, made)


def wide(t):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), t)


def pull_of(tx, state, params):
  """The gradient that the transform adds to zero."""
  return tx.update(tree.zeros_like(params), state, params)[0]


def close(a, b, rtol=2e-5, atol=1e-5):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def same_bits(a, b):
  assert tree.digest(a) == tree.digest(b)


NEEDS_IMPORTANCE = {
  "ewc": lambda s: R.ewc(s),
  "online_ewc": lambda s: R.online_ewc(s, 0.9),
  "mas": lambda s: R.mas(s),
  "mas_average": lambda s: R.mas(s, 0.5),
}
OTHERS = {
  "si": lambda s: R.si(s),
  "hierarchical": lambda s: R.hierarchical(s),
  "l2": lambda s: R.l2(s),
  "l2_previous": lambda s: R.l2_previous(s),
  "l2_init": lambda s: R.l2_init(s),
  "spectral": lambda s: R.spectral(s),
  "wasserstein": lambda s: R.wasserstein(s),
}
ALL = NEEDS_IMPORTANCE | OTHERS


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_ewc_equals_the_explicit_sum_over_tasks(seed, tasks):
  anchors = [random_tree(seed + k) for k in range(tasks)]
  fishers = [random_tree(1000 + seed + k, positive=True) for k in range(tasks)]
  theta, strength = random_tree(seed + 99), 3.0
  tx = R.ewc(strength)
  state = tx.init(random_tree(7))
  for a, f in zip(anchors, fishers, strict=True):
    state = R.consolidate(state, a, importance=f)
  want = jax.tree.map(
    lambda t, *af: sum(strength * f * (t - a) for a, f in zip(af[:tasks], af[tasks:], strict=True)),
    *map(wide, (theta, *anchors, *fishers)),
  )
  close(pull_of(tx, state, theta), want, rtol=1e-4, atol=1e-3)
  value = (
    0.5
    * strength
    * sum(
      np.sum(f * (t - a) ** 2)
      for a_, f_ in zip(anchors, fishers, strict=True)
      for t, a, f in zip(*(map(wide, map(jax.tree.leaves, (theta, a_, f_)))), strict=True)
    )
  )
  got = R.ewc_penalty(theta, state.anchor, state.importance, strength) + 0.5 * strength * state.constant
  np.testing.assert_allclose(got, value, rtol=1e-4)


def test_ewc_sum_does_not_cancel_at_low_precision():
  """Anchors near 1000, movement of 1e-2: ``sum F * theta - sum F a`` in float32 would be wrong in the first digit."""
  f = [{"w": jnp.full(3, 1e4)}, {"w": jnp.full(3, 3e4)}]
  a = [{"w": jnp.full(3, 1000.0)}, {"w": jnp.full(3, 1000.0)}]
  tx = R.ewc(1.0)
  state = tx.init(a[0])
  for k in range(2):
    state = R.consolidate(state, a[k], importance=f[k])
  theta = {"w": jnp.full(3, 1000.0625)}  # exact in float32
  np.testing.assert_allclose(pull_of(tx, state, theta)["w"], np.full(3, 4e4 * 0.0625), rtol=1e-6)


def test_one_task_is_zero_at_its_anchor_exactly():
  theta, f = random_tree(0), random_tree(1, positive=True)
  for make in NEEDS_IMPORTANCE.values():
    tx = make(5.0)
    state = R.consolidate(tx.init(random_tree(3)), theta, importance=f)
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(pull_of(tx, state, theta)))
    assert R.ewc_penalty(theta, state.anchor, state.importance) == 0


@pytest.mark.parametrize(
  ("make", "penalty"),
  [
    (lambda: R.ewc(0.7), lambda p, s: R.ewc_penalty(p, s.anchor, s.importance, 0.7)),
    (lambda: R.online_ewc(0.7, 0.5), lambda p, s: R.ewc_penalty(p, s.anchor, s.importance, 0.7 * 0.5)),
    (
      lambda: R.online_ewc(0.7, 0.5, decay_in_penalty=False),
      lambda p, s: R.ewc_penalty(p, s.anchor, s.importance, 0.7),
    ),
    (lambda: R.mas(0.7), lambda p, s: R.importance_penalty(p, s.anchor, s.importance, 0.7)),
    (lambda: R.si(0.7), lambda p, s: R.importance_penalty(p, s.anchor, s.importance, 0.7)),
    (
      lambda: R.hierarchical(0.7),
      lambda p, s: R.hierarchical_penalty(p, s.anchor, s.importance, s.layer_weight, 0.7),
    ),
    (lambda: R.l2(0.7), lambda p, s: R.l2_penalty(p, strength=0.7)),
    (lambda: R.l2_init(0.7), lambda p, s: R.l2_penalty(p, s.anchor, 0.7)),
    (lambda: R.l2_previous(0.7, anchor_at_init=True), lambda p, s: R.l2_penalty(p, s.anchor, 0.7)),
    (lambda: R.wasserstein(0.7), lambda p, s: R.wasserstein_penalty(p, ANCHOR, 0.7)),
  ],
)
def test_transforms_add_the_gradient_of_their_penalty(make, penalty):
  tx = make()
  state = tx.init(ANCHOR)
  if R.find(state) and hasattr(state, "importance"):
    state = R.consolidate(state, ANCHOR, importance=random_tree(5, positive=True))
  theta, g = random_tree(11), random_tree(12)
  want = jax.tree.map(jnp.add, g, jax.grad(penalty)(theta, state))
  close(tx.update(g, state, theta)[0], want)
  # ... and a finite difference of the penalty, so that the two cannot be wrong together.
  direction = random_tree(13)
  step = lambda e: float(penalty(jax.tree.map(lambda t, d: t + e * d, theta, direction), state))
  slope = float(tree.dot(jax.tree.map(jnp.subtract, want, g), direction))
  np.testing.assert_allclose((step(1e-2) - step(-1e-2)) / 2e-2, slope, rtol=2e-2, atol=1e-2)


ANCHOR = random_tree(4)


def test_online_ewc_accumulates_with_decay():
  fishers = [random_tree(k, positive=True) for k in range(3)]
  for decay in (0.0, 0.5, 1.0):
    tx = R.online_ewc(2.0, decay)
    state = tx.init(ANCHOR)
    for k, f in enumerate(fishers):
      state = R.consolidate(state, random_tree(k), importance=f)
    want = jax.tree.map(lambda a, b, c, d=decay: d * (d * a + b) + c, *map(wide, fishers))
    close(state.importance, want)
    same_bits(state.anchor, random_tree(2))
    pull = jax.tree.map(lambda f, a, t, d=decay: 2.0 * d * f * (t - a), want, wide(random_tree(2)), wide(ANCHOR))
    close(pull_of(tx, state, ANCHOR), pull, atol=1e-4)
  code = R.online_ewc(2.0, 0.0, decay_in_penalty=False)  # gamma 0: the last task alone, still active
  state = R.consolidate(code.init(ANCHOR), ANCHOR, importance=fishers[0])
  state = R.consolidate(state, ANCHOR, importance=fishers[1])
  same_bits(state.importance, fishers[1])


def test_one_task_of_online_ewc_with_decay_one_is_ewc():
  f, theta = random_tree(1, positive=True), random_tree(2)
  pulls = []
  for tx in (R.ewc(3.0), R.online_ewc(3.0, 1.0)):
    pulls.append(pull_of(tx, R.consolidate(tx.init(random_tree(9)), ANCHOR, importance=f), theta))
  same_bits(*pulls)


def test_mas_merges():
  f = [random_tree(k, positive=True) for k in range(2)]
  for average, merge in ((None, lambda a, b: a + b), (0.5, lambda a, b: 0.5 * (0.5 * a) + 0.5 * b)):
    state = R.mas(1.0, average).init(ANCHOR)
    for k in range(2):
      state = R.consolidate(state, ANCHOR, importance=f[k])
    close(state.importance, jax.tree.map(merge, *map(wide, f)))


def test_l2_previous_waits_for_a_boundary_unless_anchored_at_init():
  theta = random_tree(1)
  waits, from_start = R.l2_previous(1.0), R.l2_previous(1.0, anchor_at_init=True)
  state = waits.init(ANCHOR)
  assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(pull_of(waits, state, theta)))
  want = jax.tree.map(lambda t, a: 2 * (t - a), wide(theta), wide(ANCHOR))
  close(pull_of(from_start, from_start.init(ANCHOR), theta), want)
  close(pull_of(waits, R.consolidate(state, ANCHOR), theta), want)


@pytest.mark.parametrize("name", ALL)
def test_neutral_strength_passes_the_gradient_bit_for_bit(name):
  g = random_tree(3)
  g["head"] = jnp.array([0.0, -0.0, 1e-40, -5.0])  # a sign of zero is a bit too
  tx = ALL[name](0.0)
  state = tx.init(ANCHOR)
  if name in NEEDS_IMPORTANCE:
    state = R.consolidate(state, ANCHOR, importance=random_tree(5, positive=True))
  same_bits(jax.jit(tx.update)(g, state, random_tree(6))[0], g)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("l2", "l2_init", "spectral", "wasserstein")])
def test_before_the_first_consolidation_the_gradient_passes_bit_for_bit(name):
  g = random_tree(3) | {"head": jnp.array([0.0, -0.0, 1e-40, -5.0])}
  tx = ALL[name](1e6)
  got, state = tx.update(g, tx.init(ANCHOR), random_tree(6))
  same_bits(got, g)
  same_bits(tx.update(g, state, random_tree(7))[0], g)


@pytest.mark.parametrize("name", ALL)
def test_carry_is_stable_and_jit_equals_no_jit(name):
  tx = ALL[name](0.3)
  state = tx.init(ANCHOR)
  if name in NEEDS_IMPORTANCE:
    state = R.consolidate(state, ANCHOR, importance=random_tree(5, positive=True))
  args = (random_tree(3), state, random_tree(6))
  got, new = tx.update(*args)
  jitted, new_jit = jax.jit(tx.update)(*args)
  close(got, jitted, rtol=1e-5)
  close(new, new_jit, rtol=1e-5)
  kind = lambda t: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), t)
  assert kind(state) == kind(new) == kind(new_jit)
  assert kind(tx.init(ANCHOR)) == kind(state)  # a boundary changes no shape or dtype either


@pytest.mark.parametrize("name", ALL)
def test_strength_may_be_traced_and_vmapped(name):
  strengths = jnp.array([0.0, 0.5, 2.0])
  importance = random_tree(5, positive=True)

  def run(strength):
    tx = ALL[name](strength)
    state = tx.init(ANCHOR)
    if name in NEEDS_IMPORTANCE:
      state = R.consolidate(state, ANCHOR, importance=importance)
    return tx.update(random_tree(3), state, random_tree(6))[0]

  swept = jax.jit(jax.vmap(run))(strengths)
  for i, s in enumerate(strengths):
    close(jax.tree.map(lambda x, i=i: x[i], swept), run(float(s)), rtol=1e-4)


def test_bfloat16_parameters_keep_a_wide_state_unless_told():
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), ANCHOR)
  tx = R.ewc(1.0)
  state = R.consolidate(tx.init(params), params, importance=random_tree(5, positive=True))
  assert {x.dtype for x in jax.tree.leaves((state.anchor, state.importance))} == {jnp.dtype(jnp.float32)}
  updates, _ = tx.update(params, state, params)
  assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
  same_bits(updates, params)  # at the anchor
  # A mean anchor lies between two bfloat16 values; the difference to it must be taken wide.
  one, two = ({"w": jnp.array([x], jnp.bfloat16)} for x in (1.0, 1.0 + 2.0**-7))
  both = R.consolidate(tx.init(one), one, importance={"w": jnp.array([4.0])})
  both = R.consolidate(both, two, importance={"w": jnp.array([4.0])})
  np.testing.assert_array_equal(pull_of(tx, both, one)["w"].astype(jnp.float32), [-8.0 * 2.0**-8])
  inject = optax.inject_hyperparams(R.ewc)(strength=1.0, state_dtype="bfloat16").init(ANCHOR)
  assert R.find(inject)[0].anchor["head"].dtype == jnp.bfloat16
  narrow = R.ewc(1.0, state_dtype=jnp.bfloat16).init(ANCHOR)
  assert R.state_bytes(narrow) == 2 * 2 * tree.size(ANCHOR) + 4
  narrow = R.consolidate(narrow, ANCHOR, importance=random_tree(5, positive=True))
  assert R.state_bytes(narrow) == 2 * 2 * tree.size(ANCHOR) + 4


def test_state_bytes_do_not_grow_with_tasks():
  p, n = ANCHOR, tree.nbytes(ANCHOR)
  want = {"ewc": 2 * n + 4, "online_ewc": 2 * n + 4, "mas": 2 * n + 8, "si": 5 * n + 4, "l2_previous": n + 4}
  for name, size in want.items():
    state = ALL[name](1.0).init(p)
    for k in range(3):
      needs = name in NEEDS_IMPORTANCE
      state = R.consolidate(state, p, importance=random_tree(k, positive=True) if needs else None)
      assert R.state_bytes(state) == size
  assert R.state_bytes(jax.eval_shape(R.ewc(1.0).init, p)) == 2 * n + 4
  assert R.state_bytes(optax.sgd(0.1).init(p)) == 0


@pytest.mark.parametrize("name", ALL)
def test_misuse_is_one_line_that_names_the_transform(name):
  tx = ALL[name](1.0)
  own = name.removesuffix("_average")
  calls = [
    lambda: tx.update(ANCHOR, tx.init(ANCHOR)),
    lambda: tx.init({}),
    lambda: optax.masked(tx, jax.tree.map(lambda _: False, ANCHOR)).init(ANCHOR),
    lambda: ALL[name](-1.0),
    lambda: ALL[name](float("nan")),
    lambda: ALL[name](lambda step: 1.0),
    lambda: ALL[name](jnp.ones(3)),
  ]
  for call in calls:
    with pytest.raises(UsageError, match=f"^{own}: ") as error:
      call()
    assert "\n" not in str(error.value)


def test_hyper_parameters_are_checked_when_concrete():
  for call in (
    lambda: R.online_ewc(1.0, 1.5),
    lambda: R.mas(1.0, -0.1),
    lambda: R.si(1.0, 0.0),
    lambda: R.spectral(1.0, 0.5),
  ):
    with pytest.raises(UsageError):
      call()
  jax.eval_shape(lambda s: R.ewc(s).init(ANCHOR), -1.0)  # traced: not checked
