"""Laws of the estimators over rows: absent rows, masks, traced counts, transformations, errors."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import models
from cljax.core import tree
from cljax.core.types import Batch, Rows, UsageError, rows_from_arrays
from cljax.estimators import class_means, fisher, fisher_diagonal, layer_inputs, mas_importance

CLASSES = 3
MODEL = models.mlp((4,), CLASSES, (5,), activation="tanh")


@pytest.fixture(scope="module")
def data():
  rng = np.random.default_rng(0)
  params, state = jax.jit(MODEL.init)(jax.random.key(1))
  x = jnp.asarray(rng.normal(size=(9, 4)), jnp.float32)
  return params, state, x, jnp.asarray(rng.integers(0, CLASSES, 9))


# compiles in about half the time
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


@quick_jit
def exact(params, x, y, weight):
  return fisher_diagonal(MODEL, params, {}, rows_from_arrays(x, y, weight), batch_size=4)


def assert_trees_close(a, b, rtol=1e-5, atol=1e-8):
  for name, u, v in zip(tree.paths(a), jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(u, v, rtol=rtol, atol=atol, err_msg=name)


def test_exact_kind_of_a_softmax_linear_model_is_its_closed_form():
  model = models.mlp((4,), CLASSES, ())
  params, state = model.init(jax.random.key(0))
  x = jax.random.normal(jax.random.key(1), (6, 4))
  p = np.asarray(jax.nn.softmax(x @ params["head"]["kernel"]))
  got = fisher_diagonal(model, params, state, rows_from_arrays(x, jnp.zeros(6, int)), batch_size=4)
  want = np.einsum("nc,nj->jc", p * (1 - p), np.asarray(x) ** 2) / 6  # E[p_c (1 - p_c) x_j^2]
  np.testing.assert_allclose(got["head"]["kernel"], want, rtol=1e-5)
  np.testing.assert_allclose(got["head"]["bias"], (p * (1 - p)).mean(0), rtol=1e-5)


def test_rows_of_weight_zero_are_as_if_absent_even_when_they_hold_nonsense(data):
  params, _, x, y = data
  keep = jnp.array([1, 1, 0, 1, 0, 1, 1, 0, 1.0])
  dirty = jnp.where(keep[:, None] > 0, x, jnp.inf)
  at = np.flatnonzero(np.asarray(keep))
  clean = exact(params, x[at], y[at], jnp.ones(len(at)))
  assert_trees_close(exact(params, jnp.where(keep[:, None] > 0, x, 1e3), y, keep), clean)
  assert all(np.isfinite(v).all() for v in jax.tree.leaves(exact(params, dirty, y, keep)))
  assert_trees_close(exact(params, dirty, y, keep), clean)
  assert_trees_close(exact(params, x, y, jnp.zeros(9)), tree.zeros_like(params))


def test_order_of_rows_and_scale_of_weights_do_not_matter(data):
  params, _, x, y = data
  w = jnp.linspace(0.5, 2.0, 9)
  order = jax.random.permutation(jax.random.key(0), 9)
  assert_trees_close(exact(params, x, y, w), exact(params, x[order], y[order], 3 * w[order]))


def test_labels_matter_to_the_empirical_kind_only(data):
  params, state, x, y = data
  other = (y + 1) % CLASSES
  run = lambda y, **kw: fisher_diagonal(MODEL, params, state, rows_from_arrays(x, y), **kw)
  assert_trees_close(run(y), run(other))
  assert not np.allclose(run(y, kind="empirical")["head"]["bias"], run(other, kind="empirical")["head"]["bias"])
  omega = [mas_importance(MODEL, params, state, rows_from_arrays(x, v)) for v in (y, other)]
  assert_trees_close(*omega)


def test_mas_scales_with_the_square_of_the_outputs(data):
  _, _, x, y = data
  model = models.mlp((4,), CLASSES, ())
  params, state = model.init(jax.random.key(0))
  rows = rows_from_arrays(x, y)
  double = jax.tree.map(lambda v: 2 * v, params)
  one, two = (mas_importance(model, p, state, rows) for p in (params, double))
  # the gradient of ||s f||^2 in the weights of a linear f is s times that of ||f||^2
  assert_trees_close(two, tree.scale(2.0, one))


def test_sampled_kind_is_unbiased_for_the_exact_one(data):
  params, _, x, y = data

  @jax.jit
  def mean_of_many(keys):
    one = lambda k: fisher_diagonal(MODEL, params, {}, rows_from_arrays(x, y), kind="sampled", key=k, batch_size=9)
    return jax.tree.map(lambda v: (v.mean(0), v.std(0)), jax.lax.map(one, keys))

  keys = jax.random.split(jax.random.key(5), 1500)
  got = mean_of_many(keys)
  want = exact(params, x, y, jnp.ones(9))
  pairs = zip(jax.tree.leaves(want), jax.tree.leaves(got)[::2], jax.tree.leaves(got)[1::2], strict=True)
  for w, mean, std in pairs:
    assert (np.abs(mean - w) <= 5 * np.asarray(std) / np.sqrt(1500) + 1e-7).all()
    assert std.max() > 0


def test_rows_draw_the_labels_of_their_batch_however_many_are_passed_over_at_once(data, monkeypatch):
  params, state, x, y = data
  run = lambda: fisher_diagonal(MODEL, params, state, rows_from_arrays(x, y), kind="sampled", key=key, batch_size=2)
  key = jax.random.key(4)
  assert fisher.rows_at_once(MODEL, params, state, rows_from_arrays(x, y), 2) == 8
  together = run()
  for size in (2, 3):  # batch by batch, and across their borders
    monkeypatch.setattr(fisher, "rows_at_once", lambda *_, size=size, **__: size)
    assert_trees_close(together, run())


def test_class_mask_restricts_the_softmax_of_its_row(data):
  params, state, x, y = data
  y = y % 2
  mask = jnp.array([True, True, False])
  inner = rows_from_arrays(x, y)
  masked = Rows(9, 9, lambda s, n: inner.batch(s, n)._replace(class_mask=jnp.tile(mask, (n, 1))))
  small = models.mlp((4,), 2, (5,), activation="tanh")
  cut = {**params, "head": jax.tree.map(lambda v: v[..., :2], params["head"])}
  for kind in ("exact", "empirical", "batched"):
    got = fisher_diagonal(MODEL, params, state, masked, kind=kind, batch_size=3)
    want = fisher_diagonal(small, cut, state, inner, kind=kind, batch_size=3)
    assert not np.asarray(got["head"]["kernel"][:, 2]).any()
    assert_trees_close({**got, "head": jax.tree.map(lambda v: v[..., :2], got["head"])}, want)
  got, want = mas_importance(MODEL, params, state, masked), mas_importance(small, cut, state, inner)
  assert_trees_close(got["hidden_0"], want["hidden_0"])


def test_traced_count_under_vmap_reads_so_many_rows(data):
  params, _, x, y = data

  def counted(count):
    inside = lambda at: (at < count).astype(jnp.float32)

    def batch(start, size):
      at = start + jnp.arange(size)
      row = jnp.minimum(at, 8)
      return Batch(x[row], y[row], inside(at), row, jnp.zeros(size, jnp.int32))

    return fisher_diagonal(MODEL, params, {}, Rows(9, count, batch), batch_size=4)

  got = jax.jit(jax.vmap(counted))(jnp.array([2, 0, 9]))
  for i, n in enumerate((2, 0, 9)):
    want = exact(params, x, y, (jnp.arange(9) < n).astype(jnp.float32))
    assert_trees_close(jax.tree.map(lambda v, i=i: v[i], got), want)


def test_samples_are_drawn_without_replacement(data):
  params, _, x, y = data
  rows, key = rows_from_arrays(x, y), jax.random.key(4)
  got = fisher_diagonal(MODEL, params, {}, rows, samples=4, batch_size=3, key=key)
  ways = [exact(params, x[at], y[at], jnp.ones(4)) for at in map(np.array, itertools.combinations(range(9), 4))]
  close = lambda want: all(
    np.allclose(a, b, 1e-4, 1e-6) for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True)
  )
  assert sum(close(want) for want in ways) == 1
  assert_trees_close(
    fisher_diagonal(MODEL, params, {}, rows, samples=100, batch_size=4), exact(params, x, y, jnp.ones(9))
  )


def test_batched_kind_is_not_the_fisher_and_depends_on_the_batch_size(data):
  params, _, x, y = data
  run = lambda size: fisher_diagonal(MODEL, params, {}, rows_from_arrays(x, y), kind="batched", batch_size=size)
  assert_trees_close(run(1), fisher_diagonal(MODEL, params, {}, rows_from_arrays(x, y), kind="empirical"))
  assert float(tree.norm(run(9))) < 0.9 * float(tree.norm(run(1)))


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    ({"kind": "true"}, "kind"),
    ({"kind": "sampled"}, "key"),
    ({"batch_size": 0}, "batch_size"),
    ({"samples": 0}, "samples"),
  ],
)
def test_wrong_arguments_are_named(data, arguments, says):
  params, state, x, y = data
  with pytest.raises(UsageError, match=f"^{says}:"):
    fisher_diagonal(MODEL, params, state, rows_from_arrays(x, y), **arguments)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18", "vit"])
def test_layer_inputs_times_kernels_are_the_layers_outputs(name):
  small = {"cnn": {"widths": (4, 5)}, "resnet18": {"width": 2}, "vit": {"patch": 2, "width": 8, "depth": 1, "heads": 2}}
  model = models.build(name, (6, 6, 2), CLASSES, **small.get(name, {}))
  params, state = jax.eval_shape(model.init, jax.random.key(0))
  rng = np.random.default_rng(0)
  fill = lambda v: jnp.asarray(rng.uniform(0.1, 1.0, v.shape), v.dtype)
  params, state = jax.tree.map(fill, (params, state))
  x = jnp.asarray(rng.normal(size=(3, 6, 6, 2)), jnp.float32)

  @quick_jit
  def both(params, state, x):
    calls = model.capture(params, state, x, None)[1]
    outputs = {c.spec.leaves["kernel"]: c.output for c in calls.values() if "kernel" in c.spec.leaves}
    return layer_inputs(model, params, state, x), outputs

  found, outputs = both(params, state, x)
  leaves = dict(zip(tree.paths(params), jax.tree.leaves(params), strict=True))
  assert set(found) == {n for n in leaves if n.endswith("kernel")}
  for path, output in outputs.items():
    kernel, bias = leaves[path], leaves.get(path.replace("kernel", "bias"), 0.0)
    got = found[path] @ kernel.reshape(-1, kernel.shape[-1]) + bias
    np.testing.assert_allclose(got, output.reshape(got.shape), rtol=1e-4, atol=1e-4)


def test_layer_inputs_need_capture():
  model = models.from_apply(lambda key: jnp.zeros((4, 3)), lambda p, x: x @ p)
  with pytest.raises(UsageError, match="capture"):
    layer_inputs(model, jnp.zeros((4, 3)), {}, jnp.zeros((2, 4)))


def test_class_means(data):
  _, _, x, y = data
  y = y % 2
  weight = jnp.array([1, 0, 2, 1, 1, 0.5, 1, 0, 1])
  dirty = jnp.where(weight[:, None] > 0, x, jnp.nan)
  run = jax.jit(lambda x: class_means(lambda x: 2 * x, rows_from_arrays(x, y, weight), 3, batch_size=4))
  means, counts = run(dirty)
  for c in range(2):
    at = (np.asarray(y) == c) & (np.asarray(weight) > 0)
    np.testing.assert_allclose(means[c], np.average(2 * np.asarray(x)[at], 0, np.asarray(weight)[at]), rtol=1e-5)
    np.testing.assert_allclose(counts[c], np.asarray(weight)[at].sum())
  assert not np.asarray(means[2]).any()
  assert counts[2] == 0
