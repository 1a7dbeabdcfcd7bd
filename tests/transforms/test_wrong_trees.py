"""What does not fit is refused in one line that names it, by every transform, before anything is computed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from transforms.cases import LEAVES, ROWS, A, at, references
from transforms.places import PLACES

from cljax import optimizers as O
from cljax import projectors as P
from cljax import regularizers as R
from cljax.core.types import UsageError
from cljax.models.zoo import Unit

DICT = PLACES["dict"]
WRONG = {
  "fewer": {n: A[n] for n in LEAVES if n != "out"},
  "more": A | {"extra": A["out"]},
  "shapes": A | {"kernel": A["kernel"].T, "out": A["out"].T},
}
# freeze and l2 keep nothing of the parameters, clnp nothing of other leaves; wasserstein compares sets of values.
RIGHT = {(n, kind) for n in ("freeze", "l2") for kind in WRONG} | {("clnp", "more"), ("wasserstein", "shapes")}
CASES = [(n, kind) for n in ROWS if n != "natural_gradient" for kind in WRONG if (n, kind) not in RIGHT]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_updates_unlike_the_parameters_at_init(name, kind):
  row = ROWS[name]
  only = lambda t: t if row.vectors else {n: x for n, x in t.items() if x.ndim > 1}
  tx = row.factory(**row.arguments(DICT))
  state, updates = tx.init(at(DICT, only(A))), at(DICT, only(WRONG[kind]))
  params = updates if kind == "shapes" else at(DICT, only(A | WRONG[kind]))
  with pytest.raises(UsageError) as error:
    tx.update(updates, state, params, references=references(DICT))
  assert "\n" not in str(error.value)
  assert any(repr(n) in str(error.value) for n in ("kernel", "out", "extra")) or "(3, 2)" in str(error.value)


@pytest.mark.parametrize("name", [n for n in R.__all__ if n in ROWS])
def test_penalties_of_other_parameters(name):
  tx = ROWS[name].factory(**ROWS[name].arguments(DICT))
  whole, part = at(DICT, A), at(DICT, WRONG["fewer"])
  with pytest.raises(UsageError, match=f"{name}: params: leaf 'out' is missing; expected shape"):
    tx.update(whole, tx.init(whole), part)
  model = eqx.nn.MLP(2, 1, 2, 1, key=jax.random.key(0))
  with pytest.raises(UsageError, match=rf"{name}: 'activation' is a \w+; give arrays, as eqx.filter"):
    tx.init(model)


@pytest.mark.parametrize("name", [n for n in R.__all__ if n in ROWS])
def test_a_leaf_without_an_update_is_left_alone(name):
  """None beside arrays, as ``eqx.filter_grad`` of a part of a model gives it."""
  tx = ROWS[name].factory(**ROWS[name].arguments(DICT))
  params = at(DICT, A)
  out, state = tx.update({**params, "bias": None}, tx.init(params), params)
  assert out["bias"] is None
  assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))
  whole, _ = tx.update(params, tx.init(params), params)
  np.testing.assert_array_equal(out["out"], whole["out"])


CALLS = {
  "references is no dict": (lambda x: P.agem().update(x, P.agem().init(x), references=x["out"]), "'memory' is missing"),
  "layer_inputs is no dict": (lambda x: P.gpm_extend(P.gpm().init(x), [jnp.ones((1, 2))], 1.0), "'kernel' is missing"),
  "half a direction": (lambda x: P.ogd(2.5), r"capacity: got 2.5; allowed: whole numbers >= 1"),
  "half a rank": (lambda x: P.gpm(max_rank=1.5), r"max_rank: got 1.5; allowed: whole numbers >= 1"),
  "half a task": (lambda x: O.tag(0.1, 2.5), "num_tasks must be a whole number; got 2.5"),
  "word for epsilon": (lambda x: P.agem(epsilon="small"), "epsilon: got 'small'; allowed: >= 0"),
  "word for strength": (lambda x: R.ewc("much"), "ewc: strength must be a scalar; got 'much'"),
  "word for alpha": (lambda x: O.history("much"), "history: alpha must be a scalar; got 'much'"),
}


@pytest.mark.parametrize("call", CALLS)
def test_arguments_of_another_kind(call):
  run, message = CALLS[call]
  with pytest.raises(UsageError, match=message):
    run(at(DICT, A))


def test_spectral_reads_convolutions_as_they_lie():
  """Equinox has [out, in, height, width]: the singular values are those of [out, rest], not of [rest, width]."""
  model = eqx.nn.Conv2d(2, 3, 2, use_bias=False, key=jax.random.key(0))
  params = eqx.filter(model, eqx.is_array)
  for refused in (R.spectral(1.0).init, R.spectral_penalty):
    with pytest.raises(UsageError, match="say layout='out_in'"):
      refused(params)
  with pytest.raises(UsageError, match="layout is 'oi'"):
    R.spectral(1.0, layout="oi").init(params)
  weight = np.float64(model.weight)
  u, s, vt = np.linalg.svd(weight.reshape(3, -1), full_matrices=False)
  want = 0.5 * 4 * s[0] * (s[0] ** 2 - 1) * np.outer(u[:, 0], vt[0]).reshape(weight.shape)
  tx = R.spectral(0.5, layout="out_in")
  state, zero = tx.init(params), jax.tree.map(jnp.zeros_like, params)
  for _ in range(40):
    out, state = tx.update(zero, state, model)
  np.testing.assert_allclose(out.weight, want, atol=1e-5)
  np.testing.assert_allclose(
    jax.grad(lambda p: R.spectral_penalty(p, 0.5, layout="out_in"))(params).weight, want, atol=1e-5
  )
  dense = eqx.filter(eqx.nn.Linear(2, 3, key=jax.random.key(0)), eqx.is_array)
  R.spectral(1.0).init(dense)  # a matrix has the singular values of its transpose


def test_two_steps_of_maml_as_reported():
  """The issue's figures: loss ``theta^2``, rate 0.1, EWC of strength 2 anchored where it starts: 1.181, not 1.574."""
  start = jnp.float32(2.4115)
  tx = optax.chain(R.ewc(2.0), optax.sgd(0.1))
  state = R.consolidate(tx.init(start), start, importance=jnp.float32(1))

  def after_two_steps(theta):
    now = state
    for _ in range(2):
      updates, now = tx.update(jax.grad(jnp.square)(theta), now, theta)
      theta = optax.apply_updates(theta, updates)
    return jnp.square(theta)

  np.testing.assert_allclose(jax.grad(after_two_steps)(start), 1.181, atol=1e-3)


def test_edits_of_units_refuse_kernels_that_lie_the_other_way():
  """Continual backprop and the lifecycle read [in, out]; on a square Equinox kernel no shape would tell."""
  place = PLACES["Equinox"]
  unit = Unit(place.names["kernel"], place.names["bias"], place.names["out"], 0)
  for init in (O.continual_backprop_init, O.lifecycle_init):
    with pytest.raises(UsageError, match=r"kernels are read as \[..., in, out\]"):
      init(at(place, A), (unit,))
