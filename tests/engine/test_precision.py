"""``train.precision``: what the model computes in; ``train.population_group``: which members are mapped together."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import Options, Recipe, UsageError, models
from cljax.core import tree
from cljax.engine import precision, programs
from cljax.io import identity

GIVEN = {"optimizer": "momentum", "optimizer_options": {"learning_rate": 0.05}}


def products(jaxpr) -> list:
  """The matrix products and convolutions of a jaxpr, those inside its calls too."""
  found = []
  for eqn in jaxpr.eqns:
    if eqn.primitive.name in ("dot_general", "conv_general_dilated", "conv_output"):
      found.append(eqn)
    for value in eqn.params.values():
      for inner in value if isinstance(value, tuple | list) else [value]:
        inner = getattr(inner, "jaxpr", inner)
        found += products(inner) if hasattr(inner, "eqns") else []
  return found


def gradient_of(model, x):
  params, state = model.init(jax.random.key(0))

  def loss(params):
    outputs, after = model.apply(params, state, x, train=True, key=jax.random.key(1), task=None, mask=None)
    return outputs.logits.sum(), (outputs, after)

  return jax.value_and_grad(loss, has_aux=True), params, state


def test_float32_is_the_model_itself(small_model):
  assert precision.at(small_model, "float32") is small_model
  assert "precision" not in identity._but_later(Recipe()._asdict())
  assert identity._but_later(Recipe(precision="bfloat16")._asdict())["precision"] == "bfloat16"


@pytest.mark.parametrize("name", ["mlp", "resnet18"])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32(name):
  small = {"mlp": {"hidden": (5,)}, "resnet18": {"width": 2}}[name]
  model = precision.at(models.build(name, (4, 4, 1), 3, **small), "bfloat16")
  x = jax.random.normal(jax.random.key(2), (6, 4, 4, 1))
  function, params, state = gradient_of(model, x)
  found = products(jax.make_jaxpr(function)(params).jaxpr)
  assert len(found) >= (6 if name == "mlp" else 40) - 1  # forward, and both gradients of all but the first layer
  assert all(v.aval.dtype == jnp.bfloat16 for eqn in found for v in eqn.invars)
  (_, (outputs, after)), grads = jax.eval_shape(function, params)
  assert {a.dtype for a in jax.tree.leaves((grads, outputs, after))} == {np.dtype(np.float32)}
  assert jax.tree.structure(after) == jax.tree.structure(state)


def test_bfloat16_is_the_gradient_at_rounded_parameters(small_model):
  x = jax.random.normal(jax.random.key(2), (6, 4, 4, 1))
  rough, params, _ = gradient_of(precision.at(small_model, "bfloat16"), x)
  fine, _, _ = gradient_of(small_model, x)
  (a, _), da = rough(params)
  (b, _), db = fine(params)
  assert a != b
  np.testing.assert_allclose(a, b, rtol=0.05, atol=0.05)
  for one, other in zip(jax.tree.leaves(da), jax.tree.leaves(db), strict=True):
    np.testing.assert_allclose(one, other, rtol=0.05, atol=0.05 * float(jnp.abs(other).max()))


def test_tf32_rounds_the_factors_of_products_forward_and_backward(small_model):
  x = jax.random.normal(jax.random.key(2), (6, 4, 4, 1))
  function, params, _ = gradient_of(precision.at(small_model, "tf32"), x)
  found = products(jax.make_jaxpr(function)(params).jaxpr)
  assert len(found) >= 5
  assert all(eqn.params["precision"] == (jax.lax.Precision.HIGH,) * 2 for eqn in found)


def test_what_is_kept_is_float32_and_resume_refuses_another_precision(class_stream, small_model, tmp_path):
  rough = Recipe(batch_size=32, precision="bfloat16")
  result = cljax.run(class_stream, small_model, "ewc", training=rough, workdir=str(tmp_path / "run"), **GIVEN)
  floats = [a for a in jax.tree.leaves((result.learner.params, result.learner.opt_state, result.learner.method_state))
            if jnp.issubdtype(a.dtype, jnp.floating)]  # fmt: skip
  assert {a.dtype for a in floats} == {np.dtype(np.float32)}
  plain = cljax.run(class_stream, small_model, "ewc", training=Recipe(batch_size=32), **GIVEN)
  assert result.params_sha256 != plain.params_sha256
  np.testing.assert_allclose(result.accuracy[:, -1], plain.accuracy[:, -1], atol=0.1)
  with pytest.raises(UsageError, match=r"training\.precision") as error:
    cljax.run(class_stream, small_model, "ewc", training=Recipe(batch_size=32), workdir=str(tmp_path / "run"), **GIVEN)
  assert "\n" not in str(error.value)
  again = cljax.run(class_stream, small_model, "ewc", training=rough, workdir=str(tmp_path / "run"), **GIVEN)
  assert again.params_sha256 == result.params_sha256


@pytest.mark.parametrize(
  ("changed", "said"),
  [
    ({"training": Recipe(precision="half")}, "train.precision: unknown 'half'; allowed: float32, bfloat16, tf32"),
    ({"training": Recipe(precision=16)}, "train.precision: unknown 16"),
    ({"training": Recipe(precision="tf32")}, "train.precision: got 'tf32', which the backend 'cpu' does not have"),
    ({"options": Options(population_group=-1)}, "train.population_group: got -1"),
    ({"options": Options(population_group=1.5)}, "train.population_group: got 1.5"),
  ],
)
def test_wrong_values_are_one_line(class_stream, small_model, changed, said):
  with pytest.raises(UsageError) as error:
    cljax.run(class_stream, small_model, **changed)
  assert said in str(error.value)
  assert "\n" not in str(error.value)


def test_groups_of_a_population_cover_all_members_and_agree(class_stream, small_model):
  """Five members on one device, by one, in groups of two (the last of one) and all at once: the same learners, to
  float32 rounding; the same grouping, the same bits."""
  given = {"training": Recipe(batch_size=32), "seeds": 5, "devices": jax.devices()[:1], **GIVEN}
  at = lambda group: cljax.run(class_stream, small_model, "er", options=Options(population_group=group), **given)
  one, two, again, whole = at(1), at(2), at(2), at(7)
  assert one.params_sha256 == cljax.run(class_stream, small_model, "er", **given).params_sha256  # CPU's default
  assert two.params_sha256 == again.params_sha256
  for other in (two, whole):
    for a, b in zip(jax.tree.leaves(other.learner.params), jax.tree.leaves(one.learner.params), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(other.accuracy, one.accuracy, atol=0.02)


def test_a_layout_says_how_many_members_are_mapped_together():
  of = lambda platform, group: programs.PopulationLayout(8, 8, None, platform, group).together
  assert [of("cpu", 0)(n) for n in (1, 8)] == [0, 0]
  assert [of("gpu", 0)(n) for n in (1, 8)] == [1, 8]
  assert [of("gpu", 3)(n) for n in (1, 2, 8)] == [0, 2, 3]
  assert [of("cpu", 3)(n) for n in (1, 2, 8)] == [0, 2, 3]
  assert of("gpu", 1)(8) == 0


def test_members_of_a_group_share_one_program(class_stream, small_model):
  """What is mapped together is one batched product: no loop over members is left where all are in one group."""
  options = Options(population_group=4)
  made = cljax.engine.prepare(
    class_stream, small_model, options=options, seeds=4, devices=jax.devices()[:1], training=Recipe(batch_size=32)
  )
  seeds = jnp.arange(4)
  jaxpr = jax.make_jaxpr(made.setup.programs.init._jitted)(made.setup.hyper, (), seeds, ())
  assert tree.size(jax.eval_shape(made.setup.programs.init._jitted, made.setup.hyper, (), seeds, ())) > 0
  assert "scan" not in str(jaxpr)
