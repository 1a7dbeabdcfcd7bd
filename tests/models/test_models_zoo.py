"""The zoo: shapes, units, initialisation, convolution forms, BatchNorm under a row mask, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import models
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.models.convolution import conv_by_lax, conv_by_maps, conv_by_patches

SMALL = {
  "mlp": {"hidden": (7, 6)},
  "cnn": {"widths": (4, 5)},
  "resnet18": {"width": 2},
  "vit": {"patch": 2, "width": 8, "depth": 1, "heads": 2},
}
PARAMETERS = {"mlp": 269_322, "cnn": 75_178, "resnet18": 1_094_390}  # 28x28x1, 10 classes


@pytest.mark.parametrize("name", sorted(SMALL))
def test_outputs_have_the_promised_shapes(name):
  model = models.build(name, (4, 4, 1), 3, **SMALL[name])
  params, state = jax.eval_shape(model.init, jax.random.key(0))
  x = jax.ShapeDtypeStruct((5, 4, 4, 1), jnp.float32)
  for train in (False, True):
    run = lambda p, s, x, k, train=train: model.apply(p, s, x, train=train, key=k, mask=jnp.ones(5))
    out, new = jax.eval_shape(run, params, state, x, jax.random.key(0))
    assert out.logits.shape == (5, 3)
    assert out.features.ndim == 2
    assert all(h.shape[0] == 5 for h in out.hidden)
    assert jax.tree.structure(new) == jax.tree.structure(state)
  grey = jax.eval_shape(lambda p, s, x: model.apply(p, s, x, train=False, key=None)[0].logits, params, state, x)
  assert grey.shape == (5, 3)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_sizes_are_those_of_the_literature(name):
  params, _ = jax.eval_shape(models.build(name, (28, 28, 1), 10).init, jax.random.key(0))
  assert tree.size(params) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_units_name_what_writes_and_reads_each_hidden_activation(name):
  model = models.build(name, (4, 4, 1), 3, **SMALL[name])
  params, state = jax.jit(model.init)(jax.random.key(0))
  x = jax.random.normal(jax.random.key(1), (5, 4, 4, 1))
  apply = jax.jit(lambda p: model.apply(p, state, x, train=False, key=None)[0])
  base = apply(params)
  leaves = lambda: dict(zip(tree.paths(params), jax.tree.leaves(params), strict=True))
  build = lambda named: jax.tree.unflatten(jax.tree.structure(params), [named[n] for n in tree.paths(params)])
  assert len(model.units) == len(base.hidden) == 2
  for unit in model.units:
    # silence unit 1 on its way in: its activation alone becomes 0
    cut = leaves()
    cut[unit.in_kernel] = cut[unit.in_kernel].at[..., 1].set(0.0)
    cut[unit.in_bias] = cut[unit.in_bias].at[1].set(0.0)
    silent = apply(build(cut))
    got, want = np.asarray(silent.hidden[unit.hidden]), np.array(base.hidden[unit.hidden])
    assert want[..., 1].any()
    want[..., 1] = 0.0
    np.testing.assert_allclose(got, want, rtol=1e-6)
    # and cut on its way out instead: the logits are the same
    cut = leaves()
    cut[unit.out_kernel] = cut[unit.out_kernel].at[..., 1, :].set(0.0)
    np.testing.assert_allclose(apply(build(cut)).logits, silent.logits, rtol=1e-5, atol=1e-6)


def test_flat_initialisation_has_the_documented_scales_and_is_deterministic():
  shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
  shapes = {
    "conv": {"kernel": shape(3, 3, 8, 64), "bias": shape(64)},
    "head": {"kernel": shape(400, 50), "bias": shape(50)},
    "norm": {"scale": shape(7), "bias": shape(7), "mean": shape(7), "var": shape(7)},
    "embed": {"embedding": shape(100, 64)},
    "position": shape(50, 64),
  }
  init = jax.jit(lambda key: models.flat_init(shapes, key, gain=lambda path: 1.0 if "head" in path else 2.0))
  first, again, other = init(jax.random.key(3)), init(jax.random.key(3)), init(jax.random.key(4))
  assert tree.digest(first) == tree.digest(again)
  assert not np.array_equal(first["head"]["kernel"], other["head"]["kernel"])
  stds = {"conv": np.sqrt(2 / 72), "head": np.sqrt(1 / 400)}
  for name, std in stds.items():
    kernel = np.asarray(first[name]["kernel"])
    np.testing.assert_allclose(kernel.std(), std, rtol=0.05)
    np.testing.assert_allclose(np.abs(kernel).max(), 2 * std / 0.8796, rtol=0.02)  # cut at two standard deviations
    assert not np.asarray(first[name]["bias"]).any()
  np.testing.assert_allclose(np.std(first["embed"]["embedding"]), 1 / 8, rtol=0.05)
  np.testing.assert_allclose(np.std(first["position"]), 0.02, rtol=0.05)
  assert (np.asarray(first["norm"]["scale"]) == 1).all()
  assert (np.asarray(first["norm"]["var"]) == 1).all()
  flat = np.concatenate([np.ravel(first[n]["kernel"]) / np.float32(stds[n]) for n in stds])
  assert len(np.unique(flat.round(6))) > 0.95 * flat.size  # no draw is used twice
  with pytest.raises(UsageError, match="no rule for leaf 'a/wild'"):
    models.flat_init({"a": {"wild": shape(2)}}, jax.random.key(0))


@pytest.mark.parametrize(
  ("kernel", "strides", "padding"),
  [((3, 3), (1, 1), "SAME"), ((3, 3), (2, 2), "SAME"), ((1, 1), (2, 2), "VALID"), ((3, 2), (2, 1), ((1, 1), (0, 2)))],
)
def test_all_forms_of_the_convolution_are_equal(kernel, strides, padding):
  x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
  k = jax.random.normal(jax.random.key(1), (*kernel, 3, 4))

  def all_of(form):
    f = lambda x, k: form(x, k, strides, padding)
    weigh = lambda x, k: jnp.sum(jnp.sin(f(x, k)))
    once = lambda c, _: (c + jax.grad(weigh, 1)(x, c), None)
    y, dy = jax.jvp(f, (x, k), (jnp.cos(x), jnp.cos(k)))
    batched = jax.vmap(f, (None, 0))(x, jnp.stack([k, 2 * k]))
    rows = jax.vmap(lambda one: jax.grad(weigh, (0, 1))(one[None], k))(x)
    seeds = jax.vmap(jax.grad(weigh, (0, 1)))(jnp.stack([x, x + 1]), jnp.stack([k, 2 * k]))
    curved = jax.jvp(jax.grad(weigh, (0, 1)), (x, k), (jnp.cos(x), jnp.cos(k)))
    back = jax.grad(lambda x, k: sum(jnp.sum(jnp.sin(g)) for g in jax.grad(weigh, (0, 1))(x, k)), (0, 1))(x, k)
    grads = jax.grad(weigh, (0, 1))(x, k)
    return y, dy, grads, batched, jax.lax.scan(once, k, None, 2)[0], rows, seeds, curved, back

  want = jax.jit(lambda: all_of(conv_by_lax))()
  for form in (conv_by_patches, conv_by_maps, models.conv):
    got = jax.jit(lambda form=form: all_of(form))()
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_masked_rows_touch_neither_batch_statistics_nor_other_rows():
  model = models.resnet18((4, 4, 1), 3, width=2)
  params, state = jax.jit(model.init)(jax.random.key(0))
  x = jax.random.normal(jax.random.key(1), (4, 4, 4, 1))
  mask = jnp.array([1.0, 0.0, 1.0, 1.0])
  run = jax.jit(lambda x, mask: model.apply(params, state, x, train=True, key=None, mask=mask))
  out, new = run(x, mask)
  other, same = run(x.at[1].set(1e3), mask)
  keep = np.array([0, 2, 3])
  np.testing.assert_allclose(out.logits[keep], other.logits[keep], rtol=1e-5)
  assert tree.digest(new) == tree.digest(same)
  short, want = jax.jit(lambda x: model.apply(params, state, x, train=True, key=None))(x[keep])
  np.testing.assert_allclose(out.logits[keep], short.logits, rtol=1e-3, atol=1e-5)
  for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  assert tree.digest(new) != tree.digest(state)
  nobody, unmoved = run(x, jnp.zeros(4))
  assert np.isfinite(nobody.logits).all()
  assert tree.digest(unmoved) == tree.digest(state)


def test_dropout_follows_the_key_and_only_trains():
  model = models.mlp((4,), 3, (64,), dropout=0.5)
  params, state = model.init(jax.random.key(0))
  x = jnp.ones((2, 4))
  run = lambda key, train: np.asarray(model.apply(params, state, x, train=train, key=key)[0].logits)
  a, b = jax.random.key(1), jax.random.key(2)
  np.testing.assert_array_equal(run(a, True), run(a, True))
  assert not np.array_equal(run(a, True), run(b, True))
  np.testing.assert_array_equal(run(a, False), run(None, False))


def test_build_and_options_name_what_is_wrong():
  assert models.options("mlp") == {"hidden": (256, 256), "activation": "relu", "dropout": 0.0}
  build = lambda name, shape=(4, 4, 1), **given: models.build(name, shape, 3, **given)
  for match, call in {
    "model: got 'lenet'": lambda: build("lenet"),
    "depth: no such option of mlp": lambda: build("mlp", depth=2),
    "activation: got 'step'": lambda: build("mlp", activation="step"),
    "patch: got 3": lambda: build("vit", patch=3),
    "heads: got 5": lambda: build("vit", heads=5),
    "input_shape: got": lambda: build("cnn", shape=(16,)),
    "num_classes: got 0": lambda: models.build("mlp", (4,), 0),
  }.items():
    with pytest.raises(UsageError, match=match):
      call()
