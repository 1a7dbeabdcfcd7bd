"""Every estimator on every zoo model and on models that do not split, against NumPy on plain per-sample Jacobians."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import models
from cljax.core import tree
from cljax.core.types import rows_from_arrays
from cljax.estimators import fisher_diagonal, mas_importance
from cljax.estimators.per_sample import per_sample_sums, splits

ROWS, CLASSES = 5, 3
WEIGHT = np.array([1.0, 0.0, 2.0, 0.5, 1.0])


# compiles in about half the time
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


class TwiceCalled(nn.Module):
  @nn.compact
  def __call__(self, x):
    layer = nn.Dense(6)
    x = nn.Dense(6)(x.reshape(x.shape[0], -1))
    return nn.Dense(CLASSES)(jnp.tanh(layer(jnp.tanh(layer(x)))))


class Tied(nn.Module):
  """The first kernel is read a second time, outside its layer."""

  @nn.compact
  def __call__(self, x):
    layer = nn.Dense(6, use_bias=False)
    x = jnp.tanh(layer(x.reshape(x.shape[0], -1)))
    return nn.Dense(CLASSES)(x @ layer.variables["params"]["kernel"].T)


class Transformed(nn.Module):
  """The layer sees twice the kernel that is stored."""

  @nn.compact
  def __call__(self, x):
    double = lambda variables: jax.tree.map(lambda v: 2 * v, variables)
    layer = nn.map_variables(nn.Dense, "params", double, init=self.is_initializing())(6)
    return nn.Dense(CLASSES)(jnp.tanh(layer(x.reshape(x.shape[0], -1))))


class Turned(nn.Module):
  """Tokens lead, rows come second."""

  @nn.compact
  def __call__(self, x):
    x = jnp.swapaxes(x.reshape(x.shape[0], ROWS, -1), 0, 1)
    return nn.Dense(CLASSES)(jnp.tanh(nn.Dense(4)(x)).mean(0))


class Merged(nn.Module):
  """Tokens are merged with the rows into one axis."""

  @nn.compact
  def __call__(self, x):
    x = jnp.tanh(nn.Dense(4)(x.reshape(x.shape[0] * 2, -1)))
    return nn.Dense(CLASSES)(x.reshape(-1, 8))


class Scanned(nn.Module):
  @nn.compact
  def __call__(self, x):
    body = lambda layer, x, _: (jnp.tanh(layer(x)), None)
    scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False}, length=2)
    x, _ = scan(nn.Dense(8), x.reshape(x.shape[0], -1)[:, :8], None)
    return nn.Dense(CLASSES)(x)


class Rematerialised(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(CLASSES)(jnp.tanh(nn.remat(nn.Dense)(6)(x.reshape(x.shape[0], -1))))


class Mixed(nn.Module):
  """Layers of many kinds, each called once: grouped and dilated convolutions, norms, attention, embedding, scale."""

  @nn.compact
  def __call__(self, x):
    ids = (x[..., 0] > 0).astype(jnp.int32).reshape(x.shape[0], -1)
    x = nn.Conv(4, (3, 3), padding="CIRCULAR", name="circular")(x)
    x = nn.Conv(4, (2, 2), strides=2, feature_group_count=2)(nn.GroupNorm(2)(x))
    x = nn.gelu(nn.Conv(4, (2, 2), padding="SAME")(nn.BatchNorm(use_running_average=True)(x)))
    x = x.reshape(x.shape[0], -1, 4)
    x = nn.MultiHeadDotProductAttention(2)(x, x) + nn.Embed(2, 4)(ids).mean(1, keepdims=True)
    return nn.Dense(CLASSES)(nn.RMSNorm()(x).mean(1))


def own_apply():
  shape = jax.ShapeDtypeStruct
  shapes = {"a": {"kernel": shape((16, 6), jnp.float32)}, "b": {"kernel": shape((6, CLASSES), jnp.float32)}}
  apply = lambda p, x: jnp.tanh(x.reshape(x.shape[0], -1) @ p["a"]["kernel"]) @ p["b"]["kernel"]
  return models.from_apply(lambda key: models.flat_init(shapes, key), apply)


def doubled():
  model = models.mlp((4, 4, 1), CLASSES, (6,))
  make = lambda adapter, frozen: jax.tree.map(lambda a, f: a * f, adapter, frozen)
  return models.reparameterise(model, make, lambda key, p: (p, jax.tree.map(lambda v: jnp.full(v.shape, 2.0), p)))


IMAGE = (4, 4, 1)
ZOO = {
  "mlp": lambda: models.mlp(IMAGE, CLASSES, (7, 6), dropout=0.2),
  "cnn": lambda: models.cnn(IMAGE, CLASSES, (4, 5)),
  "resnet18": lambda: models.resnet18(IMAGE, CLASSES, width=2),
  "vit": lambda: models.vit(IMAGE, CLASSES, patch=2, width=8, depth=1, heads=2),
  "mixed": lambda: models.from_linen(Mixed(), (4, 4, 2)),
}
WHOLE = {
  "twice": lambda: models.from_linen(TwiceCalled(), IMAGE),
  "tied": lambda: models.from_linen(Tied(), IMAGE),
  "transformed": lambda: models.from_linen(Transformed(), IMAGE),
  "turned": lambda: models.from_linen(Turned(), (ROWS, 2)),
  "merged": lambda: models.from_linen(Merged(), IMAGE),
  "scanned": lambda: models.from_linen(Scanned(), IMAGE),
  "remat": lambda: models.from_linen(Rematerialised(), IMAGE),
  "own_apply": own_apply,
  "reparameterised": doubled,
}
SHAPES = {"mixed": (4, 4, 2), "turned": (ROWS, 2)}


def setup(model, shape, seed=0):
  """Parameters and statistics away from their special initial values, and data."""
  rng = np.random.default_rng(seed)
  params, state = jax.jit(model.init)(jax.random.key(seed))
  noisy = lambda v: v + 0.3 * jnp.asarray(rng.normal(size=v.shape), v.dtype)
  params = jax.tree.map(noisy, params)
  if "batch_stats" in state:
    state = jax.tree.map(lambda v: v + jnp.asarray(rng.uniform(0.1, 0.9, v.shape), v.dtype), state)
  x = jnp.asarray(rng.normal(size=(ROWS, *shape)), jnp.float32)
  return params, state, x, jnp.asarray(rng.integers(0, CLASSES, ROWS))


def jacobian(model, params, state, x):
  """Per-sample Jacobians of the logits, ``[N, C, ...]`` a leaf, and the logits, in float64."""

  def one(x):
    logits = lambda p: model.apply(p, state, x[None], train=False, key=None, task=0)[0].logits[0]
    return jax.jacrev(logits)(params), logits(params)

  jac, logits = quick_jit(jax.vmap(one))(x)
  return [np.asarray(v, np.float64) for v in jax.tree.leaves(jac)], np.asarray(logits, np.float64)


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def expected(jac, logits, y, weight, size):
  p = softmax(logits)
  total = weight.sum()
  out = {k: [] for k in ("exact", "empirical", "batched", "mas", "mas_batched", "squares")}
  for j in jac:
    row = lambda a, n=j.ndim - 2: a.reshape(-1, *(1,) * n)
    score = j - np.einsum("nc,nc...->n...", p, j)[:, None]  # d log p_c
    mine = score[np.arange(ROWS), y]
    out["squares"].append(score**2)
    out["exact"].append((row(weight) * np.einsum("nc,nc...->n...", p, score**2)).sum(0) / total)
    out["empirical"].append((row(weight) * mine**2).sum(0) / total)
    energy = 2 * np.einsum("nc,nc...->n...", logits, j)
    out["mas"].append((row(weight) * np.abs(energy)).sum(0) / total)
    parts = [slice(i, i + size) for i in range(0, ROWS, size)]
    means = [(row(weight[s]) * mine[s]).sum(0) / weight[s].sum() for s in parts if weight[s].sum() > 0]
    out["batched"].append(np.mean([m**2 for m in means], 0))
    out["mas_batched"].append(np.sum([np.abs((row(weight[s]) * energy[s]).sum(0)) for s in parts], 0) / total)
  return out


def close(got, want, what):
  """To float32 rounding: of the leaf's scale, and of the tree's where a leaf's true value is zero by cancellation."""
  whole = max(np.abs(b).max() for b in want)
  for name, a, b in zip(tree.paths(got), jax.tree.leaves(got), want, strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * np.abs(b).max() + 1e-7 * whole, err_msg=f"{what} {name}")


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_public_functions_equal_plain_per_sample_gradients(name):
  model = ZOO[name]()
  params, state, x, y = setup(model, IMAGE)
  assert splits(model, params, state, x)

  @quick_jit
  def all_kinds(params, state, x, y, weight):
    rows = rows_from_arrays(x, y, weight)
    run = lambda **kw: fisher_diagonal(model, params, state, rows, batch_size=2, key=jax.random.key(7), **kw)
    out = {kind: run(kind=kind) for kind in ("exact", "empirical", "batched", "sampled")}
    out["mas"] = mas_importance(model, params, state, rows, batch_size=2)
    return out | {"mas_batched": mas_importance(model, params, state, rows, batch_size=2, batched=True)}

  got = all_kinds(params, state, x, y, jnp.asarray(WEIGHT, jnp.float32))
  want = expected(*jacobian(model, params, state, x), np.asarray(y), WEIGHT, 2)
  for kind in ("exact", "empirical", "batched", "mas", "mas_batched"):
    close(got[kind], want[kind], kind)
  # the sampled kind is the empirical one for some labels: find them by their sum, then hold every leaf to them
  present = np.flatnonzero(WEIGHT)
  sums = []
  for labels in itertools.product(range(CLASSES), repeat=len(present)):
    pick = lambda s, labels=labels: np.tensordot(WEIGHT[present] / WEIGHT.sum(), s[present, list(labels)], 1)
    sums.append([pick(s) for s in want["squares"]])
  leaves = [np.asarray(v) for v in jax.tree.leaves(got["sampled"])]
  errors = [sum(np.abs(a - b).max() for a, b in zip(leaves, s, strict=True)) for s in sums]
  close(got["sampled"], sums[int(np.argmin(errors))], "sampled")


@pytest.mark.parametrize(
  ("name", "phi"),
  [
    ("vit", "square"),
    ("vit", "abs"),
    ("resnet18", "square"),
    ("mixed", "abs"),
    ("twice", "square"),
    ("own_apply", "square"),
    ("reparameterised", "abs"),
  ],
)
def test_sums_equal_plain_per_sample_gradients(name, phi):
  """Any weights and cotangents, hence every kind: one program serves them all, as these networks compile slowly."""
  model = {**ZOO, **WHOLE}[name]()
  params, state, x, y = setup(model, SHAPES.get(name, IMAGE))
  assert splits(model, params, state, x) == (name in ZOO)
  jac, logits = jacobian(model, params, state, x)
  batch = rows_from_arrays(x, y).batch(0, ROWS)
  p = softmax(logits)
  toward = lambda labels: np.eye(CLASSES)[labels] - p
  every = np.stack([toward(np.full(ROWS, c)) for c in range(CLASSES)])
  only = lambda cotangent: np.stack([cotangent, *np.zeros((CLASSES - 1, ROWS, CLASSES))])
  once = np.stack([WEIGHT, *np.zeros((CLASSES - 1, ROWS))])
  kinds = {
    "exact": (WEIGHT * p.T, every),
    "empirical": (once, only(toward(np.asarray(y)))),
    "sampled": (once, only(toward(np.array([2, 0, 1, 1, 0])))),
    "mas": (once, only(2 * logits)),
  }

  @quick_jit
  def sums(params, state, batch, w, cotangent):
    apply = {"square": jnp.square, "abs": jnp.abs}[phi]
    batch = batch._replace(extra={"w": w.T, "cotangent": jnp.moveaxis(cotangent, 0, 1)})
    stored = lambda logits, rows: (rows.extra["w"].T, jnp.moveaxis(rows.extra["cotangent"], 0, 1))
    return per_sample_sums(model, params, state, batch, stored, apply)

  function = {"square": np.square, "abs": np.abs}[phi]
  for kind, (w, cotangent) in kinds.items():
    got = sums(params, state, batch, jnp.asarray(w, jnp.float32), jnp.asarray(cotangent, jnp.float32))
    want = [np.einsum("kn,kn...->...", w, function(np.einsum("knc,nc...->kn...", cotangent, j))) for j in jac]
    close(got, want, kind)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_models_whose_layers_cannot_be_split_are_found_out(name):
  model, shape = WHOLE[name](), SHAPES.get(name, IMAGE)
  params, state = jax.eval_shape(model.init, jax.random.key(0))
  assert not splits(model, params, state, jax.ShapeDtypeStruct((ROWS, *shape), jnp.float32))
