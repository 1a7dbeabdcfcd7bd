"""Estimators, losses and memories on narrow parameters and under the settings of careful users."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses, memory
from cljax.core.types import Model, Outputs, rows_from_arrays
from cljax.estimators import class_means, fisher_diagonal, mas_importance
from cljax.models import mlp

MODEL = mlp((4,), 3, (5,), activation="tanh")
PARAMS, _ = MODEL.init(jax.random.key(0))
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 4)).astype(np.float32), RNG.integers(0, 3, 20).astype(np.int32)


def cast(tree, kind):
  return jax.tree.map(lambda p: p.astype(kind), tree)


def apply(params, state, x, *, train, key, task=None, mask=None):
  return Outputs(jnp.tanh(x.astype(params["w"].dtype) @ params["w"]) @ params["v"]), state


OWN = Model(lambda key: None, apply)  # no capture: row by row
WEIGHTS = {
  "w": jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32),
  "v": jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32),
}
ESTIMATES = {
  **{k: lambda m, p, r, k=k: fisher_diagonal(m, p, {}, r, kind=k, key=jax.random.key(1)) for k in
     ("exact", "sampled", "empirical", "batched")},
  "mas": lambda m, p, r: mas_importance(m, p, {}, r),
  "mas_batched": lambda m, p, r: mas_importance(m, p, {}, r, batched=True),
}  # fmt: skip


@contextlib.contextmanager
def settings(*names):
  found = {
    "strict": lambda: jax.numpy_dtype_promotion("strict"),
    "rank": lambda: jax.numpy_rank_promotion("raise"),
    "x64": lambda: jax.enable_x64(True),
  }
  with contextlib.ExitStack() as stack, warnings.catch_warnings():
    warnings.filterwarnings("error", message="scatter inputs have incompatible types")
    for name in names:
      stack.enter_context(found[name]())
    yield


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_importance_of_narrow_parameters_is_made_in_float32(name, kind):
  """Close to that of the same parameters in float32; logits and gradients are rounded to the narrow dtype, no more."""
  for model, params in ((MODEL, PARAMS), (OWN, WEIGHTS)):
    narrow = cast(params, kind)
    run = jax.jit(lambda p, m=model: ESTIMATES[name](m, p, rows_from_arrays(X, Y)))
    got, want = run(narrow), run(cast(narrow, "float32"))
    if name == "sampled":  # rounded probabilities may draw another label
      assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(got))
      continue
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      assert g.dtype == jnp.float32
      assert np.abs(g - w).max() < 0.05 * np.abs(w).max()


def test_small_squares_are_not_lost_in_float16():
  """Gradients near 1e-4 have squares below the least float16, 6e-8."""
  params = {"w": 1e-4 * WEIGHTS["w"], "v": 1e-4 * WEIGHTS["v"]}
  fisher = fisher_diagonal(OWN, cast(params, "float16"), {}, rows_from_arrays(X, Y), kind="empirical")
  assert (np.asarray(fisher["v"]) > 0).all()


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize("chosen", [("strict",), ("rank",), ("x64",), ("strict", "rank", "x64")], ids="-".join)
def test_estimates_under_careful_settings(name, chosen):
  with settings(*chosen):
    rows = rows_from_arrays(X, Y)
    out = jax.eval_shape(lambda p: ESTIMATES[name](OWN, p, rows), WEIGHTS)
    jax.eval_shape(lambda: class_means(lambda x: x, rows, 3))
    if "strict" not in chosen or "x64" not in chosen:
      jax.eval_shape(lambda p: ESTIMATES[name](MODEL, p, rows), PARAMS)
  assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(out))


MASK = np.array([True, True, False])
LOSSES = {
  "cross_entropy": lambda z, t: losses.reduce(losses.cross_entropy(z, Y, MASK), np.ones(20, np.float32)),
  "binary": lambda z, t: losses.binary_cross_entropy(z, jax.nn.one_hot(Y, 3, dtype=jnp.int32), MASK),
  "distillation": lambda z, t: losses.distillation(z, t, jnp.float32(2), MASK),
  "logit_mse": losses.logit_mse,
  "center_loss": lambda z, t: losses.center_loss(z, Y, jnp.ones((3, 3), jnp.float32)),
  "centers": lambda z, t: losses.update_centers(
    jnp.ones((3, 3), jnp.float32), z, Y, jnp.ones(20, jnp.float32), jnp.float32(0.5)
  ),
  "kl": lambda z, t: losses.kl_divergence(z, t, jnp.float32(2), MASK),
  "uniform": lambda z, t: losses.uniform_cross_entropy(z, MASK),
  "contrast": lambda z, t: losses.contrast(z, Y, t, Y, np.ones(20, np.float32), np.ones(20, np.float32)),
  "within": lambda z, t: losses.contrast_within(z, Y, np.ones(20, np.float32)),
  "nt_xent": lambda z, t: losses.nt_xent(z, t, np.ones(20, np.float32), jnp.float32(0.5)),
  "supcon": lambda z, t: losses.supcon(z, t, Y, np.ones(20, np.float32), jnp.float32(0.5)),
  "barlow": lambda z, t: losses.barlow_twins(z, t, np.ones(20, np.float32), jnp.float32(0.1)),
  "bpr": losses.bpr,
  "gaussian": losses.gaussian_kl,
  "sequence_nll": lambda z, t: losses.sequence_nll(z, Y, np.ones(20, np.float32), MASK)[0],
  "npo": lambda z, t: losses.npo(*(losses.sequence_nll(a, Y, None, MASK)[0] for a in (z, t)), jnp.float32(0.5)),
  "simnpo": lambda z, t: losses.simnpo(*losses.sequence_nll(z, Y, None, MASK), jnp.float32(2), jnp.float32(0.5)),
  "wga": lambda z, t: losses.wga(z, Y, jnp.float32(0.5), MASK),
  "satimp": lambda z, t: losses.satimp(z, Y, jnp.float32(2), jnp.float32(0.5), MASK),
  "undial": lambda z, t: losses.undial(z, t, jnp.asarray(Y), jnp.float32(2), MASK),
  "ceu": lambda z, t: losses.ceu(z, jnp.asarray(Y), MASK),
  "pdu": lambda z, t: losses.pdu(z, jnp.asarray(Y), MASK),
  "flat": lambda z, t: losses.flat(*(losses.mean_probability(a, jnp.asarray(Y)) for a in (t, z))),
  "lasso": lambda z, t: losses.group_lasso([z, t]),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_losses_are_float32_under_careful_settings(name, kind):
  z, teacher = jnp.asarray(X[:, :3]), jnp.asarray(X[:, 1:])
  want = LOSSES[name](z.astype(kind).astype(jnp.float32), teacher)
  with settings("strict", "rank"):
    value, slope = jax.vjp(lambda z: LOSSES[name](z, teacher), z.astype(kind))
    slope = slope(jnp.ones_like(value))[0]
  assert value.dtype == jnp.float32
  assert slope.dtype == kind
  np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-6)
  with settings("x64"):
    assert jax.eval_shape(LOSSES[name], z.astype(kind), teacher).dtype == jnp.float32


MEMORIES = {
  "reservoir": memory.reservoir(6),
  "ring": memory.ring(6, 3),
  "class_balanced": memory.class_balanced(6, 3),
  "greedy_balanced": memory.greedy_balanced(6, 3),
  "first_come_balanced": memory.first_come_balanced(6, 3),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_memories_under_careful_settings(name):
  """The same bits as without; states keep their dtypes in a scan; rows keep theirs, bfloat16 among them."""
  of = MEMORIES[name]

  def run():
    row = {"x": jnp.zeros(2, jnp.bfloat16), "y": jnp.int32(0), "task": jnp.int32(0), "id": jnp.int32(0)}

    def step(state, t):
      ids = jnp.asarray(t, jnp.int32) * 4 + jnp.arange(4, dtype=jnp.int32)
      x = jnp.broadcast_to(ids[:, None], (4, 2)).astype(jnp.bfloat16)
      rows = {"x": x, "y": ids % 3, "task": ids % 3, "id": ids}
      state = of.add(jax.random.fold_in(jax.random.key(0), t), state, rows, jnp.ones(4, jnp.float32))
      return state, of.sample(jax.random.key(1), state, 3)

    state, samples = jax.lax.scan(step, of.init(row), jnp.arange(5, dtype=jnp.int32))
    return samples, of.contents(of.remove(state, lambda rows: rows["id"] % 2 == 1))

  want = run()
  for chosen in (("strict", "rank"), ("x64",)):
    with settings(*chosen):
      got = run()
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      assert a.dtype == b.dtype
      np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))
