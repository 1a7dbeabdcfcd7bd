"""Networks, adapters and masks against NumPy: forward passes leaf by leaf, statistics and masks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from cljax import models
from cljax.core import tree

RNG = np.random.default_rng(0)


def leaves(params):
  return {n: np.asarray(v, np.float64) for n, v in zip(tree.paths(params), jax.tree.leaves(params), strict=True)}


def drawn(model, seed=0):
  """``(params, state)`` whose leaves are all random: what is initialised to a constant counts too."""
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  rng = np.random.default_rng(seed)
  draw = lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.5, s.dtype)
  params, state = jax.tree.map(draw, shapes)
  return params, jax.tree.map(lambda v: jnp.abs(v) + 0.5, state)


def relu(x):
  return np.maximum(x, 0)


def convolved(x, kernel, stride, pad):
  """``y[b, i, j] = sum_{u, v} x[b, s i + u - low, s j + v - low] kernel[u, v]`` by loops."""
  x = np.pad(x, ((0, 0), pad[0], pad[1], (0, 0)))
  kh, kw = kernel.shape[:2]
  sh, sw = stride
  h, w = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
  out = np.zeros((len(x), h, w, kernel.shape[-1]))
  for i in range(h):
    for j in range(w):
      out[:, i, j] = np.tensordot(x[:, i * sh : i * sh + kh, j * sw : j * sw + kw], kernel, 3)
  return out


def same(size, kernel, stride):
  """Low and high padding of SAME on one axis: as even as can be, the odd one behind."""
  total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
  return total // 2, total - total // 2


@pytest.mark.parametrize(
  ("kernel", "strides", "padding"),
  [((3, 3), (1, 1), "SAME"), ((3, 2), (2, 2), "SAME"), ((2, 3), (2, 1), "VALID"), ((2, 2), (1, 1), ((1, 0), (2, 1)))],
)
def test_convolution_by_loops(kernel, strides, padding):
  x, k = RNG.normal(size=(2, 5, 6, 3)), RNG.normal(size=(*kernel, 3, 2))
  pad = padding
  if isinstance(padding, str):
    pad = [same(*v) if padding == "SAME" else (0, 0) for v in zip((5, 6), kernel, strides, strict=True)]
  got = models.conv(jnp.asarray(x), jnp.asarray(k), strides, padding)
  np.testing.assert_allclose(got, convolved(x, k, strides, pad), rtol=1e-4, atol=1e-4)


def test_mlp_is_its_formula():
  model = models.mlp((2, 3), 4, hidden=(5, 6), activation="tanh")
  params, state = drawn(model)
  x = RNG.normal(size=(3, 2, 3))
  out, new = model.apply(params, state, jnp.asarray(x), train=True, key=None)
  p, h = leaves(params), [x.reshape(3, 6)]
  for layer in ("hidden_0", "hidden_1"):
    h.append(np.tanh(h[-1] @ p[f"{layer}/kernel"] + p[f"{layer}/bias"]))
  np.testing.assert_allclose(out.logits, h[2] @ p["head/kernel"] + p["head/bias"], rtol=1e-5, atol=1e-5)
  for got, want in zip((*out.hidden, out.features), (*h[1:], h[2]), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  assert (new, state) == ({}, {})
  # dropout: what is kept is 1 / (1 - rate) larger; the hidden values are those before it
  model = models.mlp((6,), 4, hidden=(5,), dropout=0.75)
  params, _ = drawn(model)
  out, _ = model.apply(params, {}, jnp.asarray(x.reshape(3, 6)), train=True, key=jax.random.key(0))
  p = leaves(params)
  h = relu(x.reshape(3, 6) @ p["hidden_0/kernel"] + p["hidden_0/bias"])
  kept = np.asarray(out.features) != 0
  np.testing.assert_allclose(out.features, np.where(kept, 4 * h, 0), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(out.hidden[0], h, rtol=1e-5, atol=1e-6)
  assert 0 < kept.sum() < (h > 0).sum()


def test_cnn_is_its_formula():
  model = models.cnn((5, 4), 3, widths=(2, 3), activation="relu")
  params, state = drawn(model)
  x = RNG.normal(size=(2, 5, 4))
  out, _ = jax.jit(lambda p, x: model.apply(p, state, x, train=False, key=None))(params, jnp.asarray(x))
  p, h = leaves(params), [x[..., None]]
  for i, stride in enumerate((1, 2)):
    pad = [same(n, 3, stride) for n in h[-1].shape[1:3]]
    h.append(relu(convolved(h[-1], p[f"conv_{i}/kernel"], (stride, stride), pad) + p[f"conv_{i}/bias"]))
  features = h[-1].max((1, 2))
  np.testing.assert_allclose(out.features, features, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(out.logits, features @ p["head/kernel"] + p["head/bias"], rtol=1e-5, atol=1e-5)
  for got, want in zip(out.hidden, h[1:], strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_cnn_drops_features_while_it_trains():
  model = models.cnn((3, 3), 2, widths=(40,), dropout=0.75)
  params, state = drawn(model)
  x = jnp.asarray(RNG.normal(size=(2, 3, 3)))
  whole, some = (model.apply(params, state, x, train=t, key=jax.random.key(0))[0] for t in (False, True))
  kept = np.asarray(some.features) != 0
  np.testing.assert_allclose(some.features, np.where(kept, 4 * whole.features, 0), rtol=1e-5)
  assert 0 < kept.sum() < 0.5 * np.sum(np.asarray(whole.features) > 0)


class Norms:
  """BatchNorm with momentum 0.9 and epsilon 1e-5, of the rows that are there; collects the new statistics."""

  def __init__(self, params, state, train, rows):
    self.p, self.s, self.train, self.rows, self.new = params, state, train, rows, {}

  def __call__(self, name, x):
    mean, var = (self.s[f"batch_stats/{name}/{v}"] for v in ("mean", "var"))
    if self.train:
      there = x[self.rows].reshape(-1, x.shape[-1])
      now = {"mean": there.mean(0), "var": there.var(0)}
      for v, old in (("mean", mean), ("var", var)):
        self.new[f"batch_stats/{name}/{v}"] = 0.9 * old + 0.1 * now[v]
      mean, var = now["mean"], now["var"]
    return (x - mean) / np.sqrt(var + 1e-5) * self.p[f"{name}/scale"] + self.p[f"{name}/bias"]


@pytest.mark.parametrize("train", [False, True])
def test_resnet18_is_its_formula(train):
  model = models.resnet18((8, 8, 2), 3, width=1)
  params, state = drawn(model, seed=3)
  x, mask = RNG.normal(size=(4, 8, 8, 2)), np.array([1, 0, 1, 1])
  run = jax.jit(lambda p, s, x: model.apply(p, s, x, train=train, key=None, mask=jnp.asarray(mask)))
  out, new = run(params, state, jnp.asarray(x))
  p, rows = leaves(params), mask > 0
  norm = Norms(p, leaves(state), train, rows)
  conv = lambda name, x, s=1: convolved(x, p[f"{name}/kernel"], (s, s), [(1, 1), (1, 1)])
  h, hidden = relu(norm("norm", conv("conv", x))), []
  for stage in range(4):
    for block in range(2):
      at, stride = f"block_{stage}_{block}", 2 if stage and not block else 1
      y = relu(norm(f"{at}/norm_0", conv(f"{at}/conv_0", h, stride)))
      y = norm(f"{at}/norm_1", conv(f"{at}/conv_1", y))
      if stride == 2:
        h = norm(f"{at}/norm_project", convolved(h, p[f"{at}/project/kernel"], (2, 2), [(0, 0), (0, 0)]))
      h = relu(h + y)
    hidden.append(h)
  features = h.mean((1, 2))
  near = {"rtol": 2e-3, "atol": 2e-3} if train else {"rtol": 1e-4, "atol": 1e-4}
  np.testing.assert_allclose(np.asarray(out.features)[rows], features[rows], **near)
  np.testing.assert_allclose(np.asarray(out.logits)[rows], (features @ p["head/kernel"] + p["head/bias"])[rows], **near)
  for got, want in zip(out.hidden, hidden, strict=True):
    np.testing.assert_allclose(np.asarray(got)[rows], want[rows], **near)
  got = leaves(new)
  if not train:
    assert tree.digest(new) == tree.digest(state)
  for name, value in norm.new.items():
    np.testing.assert_allclose(got[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_vit_is_its_formula():
  model = models.vit((4, 6, 1), 3, patch=2, width=4, depth=2, heads=2, mlp_ratio=3)
  params, state = drawn(model)
  x = RNG.normal(size=(2, 4, 6, 1))
  out, _ = jax.jit(lambda p, x: model.apply(p, state, x, train=False, key=None))(params, jnp.asarray(x))
  p = leaves(params)
  dense = lambda name, x: x @ p[f"{name}/kernel"] + p[f"{name}/bias"]
  gelu = lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

  def norm(name, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p[f"{name}/scale"] + p[f"{name}/bias"]

  patches = np.stack([x[:, i : i + 2, j : j + 2].reshape(2, -1) for i in (0, 2) for j in (0, 2, 4)], 1)
  token = np.broadcast_to(p["class_token/token"], (2, 1, 4))
  h = np.concatenate([token, dense("patches", patches)], 1) + p["position/position"]
  for i in range(2):
    q, k, v = np.split(dense(f"attention_{i}/qkv", norm(f"norm_{i}_0", h)), 3, -1)
    mixed = []
    for head in (slice(0, 2), slice(2, 4)):
      scores = np.einsum("bqd,bkd->bqk", q[..., head], k[..., head]) / np.sqrt(2)
      mixed.append(scipy.special.softmax(scores, -1) @ v[..., head])
    h = h + dense(f"attention_{i}/out", np.concatenate(mixed, -1))
    h = h + dense(f"mlp_{i}_out", gelu(dense(f"mlp_{i}_in", norm(f"norm_{i}_1", h))))
    np.testing.assert_allclose(out.hidden[i], h, rtol=1e-3, atol=1e-3)
  features = norm("norm", h)[:, 0]
  np.testing.assert_allclose(out.features, features, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(out.logits, dense("head", features), rtol=1e-3, atol=1e-3)


def test_zoo_networks_start_as_he_and_lecun_say():
  """Kernels: variance 2 / fan-in, of the head 1 / fan-in; one draw a leaf, none twice."""
  shapes = {"hidden": (30, 200), "head": (200, 30)}
  params, _ = models.mlp((30,), 30, hidden=(200,)).init(jax.random.key(0))
  for layer, gain in (("hidden_0", 2), ("head", 1)):
    kernel = np.asarray(params[layer]["kernel"])
    assert kernel.shape == shapes[layer.split("_")[0]]
    np.testing.assert_allclose(kernel.std(), np.sqrt(gain / len(kernel)), rtol=0.03)
    assert not np.any(params[layer]["bias"])
  model = models.vit((4, 4), 2, patch=2, width=32, depth=1, heads=2)
  params, _ = jax.jit(model.init)(jax.random.key(0))
  np.testing.assert_allclose(np.std(params["mlp_0_in"]["kernel"]), np.sqrt(1 / 32), rtol=0.05)
  np.testing.assert_allclose(np.std(params["position"]["position"]), 0.02, rtol=0.15)


def weights_and_bias():
  return {"w": jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32), "b": jnp.asarray([0.5, -1.0])}


def test_a_plain_function_is_called_with_what_it_names():
  made, seen = weights_and_bias(), []

  def apply(params, x, task, key):
    seen.append((task, key))
    return x @ params["w"] + params["b"]

  model = models.from_apply(lambda key: made, apply, units=("u",))
  params, state = model.init(jax.random.key(0))
  x = RNG.normal(size=(4, 3))
  out, new = model.apply(params, state, jnp.asarray(x), train=True, key="k", task="t", mask="m")
  np.testing.assert_allclose(out.logits, x @ np.asarray(made["w"]) + np.asarray(made["b"]), rtol=1e-5, atol=1e-6)
  assert seen == [("t", "k")]
  assert (new, model.units, model.capture) == ({}, ("u",), None)
  assert params["w"].unsafe_buffer_pointer() != made["w"].unsafe_buffer_pointer()  # copied


class Seen(nn.Module):
  """Says its mode as ``training``, and reads the task and the mask."""

  @nn.compact
  def __call__(self, x, training, task, mask):
    x = nn.Dense(2, name="out")(x)
    self.sow("intermediates", "hidden", x)
    return x * (3.0 if training else 1.0) + task + (0 if mask is None else mask[:, None])


def test_a_linen_module_is_called_with_what_it_names():
  model = models.from_linen(Seen(), (3,))
  shapes = {"out": {"kernel": (3, 2), "bias": (2,)}}
  made = weights_and_bias()
  params = {"out": {"kernel": made["w"], "bias": made["b"]}}
  own, state = jax.eval_shape(lambda k: models.from_linen(nn.Dense(2), (3,)).init(k), jax.random.key(0))
  assert ({k: v.shape for k, v in own.items()}, state) == (shapes["out"], {})
  x, mask = RNG.normal(size=(4, 3)), np.array([1.0, 0, 1, 1])
  plain = x @ np.asarray(made["w"]) + np.asarray(made["b"])
  out, _ = model.apply(params, {}, jnp.asarray(x), train=True, key=None, task=5.0, mask=jnp.asarray(mask))
  np.testing.assert_allclose(out.logits, 3 * plain + 5 + mask[:, None], rtol=1e-5)
  np.testing.assert_allclose(out.hidden[0], plain, rtol=1e-5, atol=1e-6)
  out, _ = model.apply(params, {}, jnp.asarray(x), train=False, key=None, task=5.0)
  np.testing.assert_allclose(out.logits, plain + 5, rtol=1e-5)


class Bare(nnx.Module):
  def __init__(self, rngs):
    self.norm = nnx.BatchNorm(3, momentum=0.8, rngs=rngs)
    self.out = nnx.Linear(3, 2, rngs=rngs)

  def __call__(self, x, task=0.0):
    return self.out(self.norm(x)) + task


def test_an_nnx_module_is_its_formula():
  model = models.from_nnx(Bare)
  params, state = drawn(model)
  x = RNG.normal(size=(5, 3))
  mask = np.array([1.0, 1, 0, 1, 0])
  p, s = leaves(params), leaves(state)
  for train in (False, True):
    run = lambda x, train=train: model.apply(params, state, x, train=train, key=None, task=2.0, mask=jnp.asarray(mask))
    out, new = jax.jit(run)(jnp.asarray(x))
    there = x[mask > 0]
    mean, var = (there.mean(0), there.var(0)) if train else (s["norm/mean"], s["norm/var"])
    z = (x - mean) / np.sqrt(var + 1e-5) * p["norm/scale"] + p["norm/bias"]
    np.testing.assert_allclose(out.logits, z @ p["out/kernel"] + p["out/bias"] + 2, rtol=1e-4, atol=1e-4)
    if train:
      np.testing.assert_allclose(new["norm"]["mean"], 0.8 * s["norm/mean"] + 0.2 * there.mean(0), rtol=1e-5, atol=1e-6)
      np.testing.assert_allclose(new["norm"]["var"], 0.8 * s["norm/var"] + 0.2 * there.var(0), rtol=1e-5)
    else:
      assert tree.digest(new) == tree.digest(state)


def test_an_adapter_of_low_rank():
  """``W + A B`` by hand, and the gradient of a linear loss in the factors."""
  base = models.from_apply(lambda key: {"w": jnp.ones((3, 2))}, lambda p, x: x @ p["w"])
  a, b, x = RNG.normal(size=(3, 1)), RNG.normal(size=(1, 2)), RNG.normal(size=(4, 3))
  start = lambda key, params: ({"a": jnp.asarray(a), "b": jnp.asarray(b)}, params)
  model = models.reparameterise(base, lambda low, frozen: {"w": frozen["w"] + low["a"] @ low["b"]}, start)
  adapter, state = model.init(jax.random.key(0))
  np.testing.assert_allclose(adapter["a"], a, rtol=1e-6)
  np.testing.assert_array_equal(state["frozen"]["w"], 1)
  apply = lambda low, state: model.apply(low, state, jnp.asarray(x), train=True, key=None)
  out, new = apply(adapter, state)
  np.testing.assert_allclose(out.logits, x @ (1 + a @ b), rtol=1e-5, atol=1e-6)
  assert tree.digest(new) == tree.digest(state)
  low, frozen = jax.grad(lambda low, state: apply(low, state)[0].logits.sum(), argnums=(0, 1))(adapter, state)
  np.testing.assert_allclose(low["a"], x.sum(0)[:, None] * b.sum(), rtol=1e-5)
  np.testing.assert_allclose(low["b"], np.repeat(x.sum(0) @ a, 2)[None], rtol=1e-5)
  np.testing.assert_array_equal(frozen["frozen"]["w"], 0)


def test_supermasks_over_frozen_weights():
  """NumPy: the mask zeroes the smallest ``floor(s n)`` scores of the task's own; a mixture weighs the masks."""
  base = models.mlp((3,), 2, hidden=(5,))
  model = models.masked(base, 2, sparsity=0.4)
  scores, state = model.init(jax.random.key(0))
  own, _ = base.init(jax.random.key(0))
  frozen, p = leaves(state["frozen"]), leaves(own)
  for name, w in p.items():
    want = np.sign(w) * w.std() if w.ndim > 1 else w
    np.testing.assert_allclose(frozen[name], want, rtol=1e-5, atol=1e-7)
  for name, s in scores.items():
    assert s.shape == (2, *p[name].shape)
    bound = 1 / np.sqrt(len(p[name]))
    assert 0.8 * bound < np.abs(s).max() <= bound
    assert abs(np.mean(s)) < 0.4 * bound
  x = RNG.normal(size=(4, 3))

  def forward(mask_of):
    w = {n: v * mask_of(n) if n in scores else v for n, v in frozen.items()}
    h = relu(x @ w["hidden_0/kernel"] + w["hidden_0/bias"])
    return h @ w["head/kernel"] + w["head/bias"]

  def mask(name, t):
    s = np.abs(np.asarray(scores[name][t]))
    out = np.ones(s.size)
    out[np.argsort(s, axis=None)[: int(0.4 * s.size)]] = 0
    return out.reshape(s.shape)

  for t in (0, 1):
    out, new = model.apply(scores, state, jnp.asarray(x), train=True, key=None, task=t)
    np.testing.assert_allclose(out.logits, forward(lambda n, t=t: mask(n, t)), rtol=1e-5, atol=1e-6)
    assert tree.digest(new) == tree.digest(state)
  alphas = np.array([0.3, 0.9])
  mixed = models.mixture_apply(base, scores, state, jnp.asarray(x), jnp.asarray(alphas), 0.4)
  want = forward(lambda n: alphas[0] * mask(n, 0) + alphas[1] * mask(n, 1))
  np.testing.assert_allclose(mixed.logits, want, rtol=1e-5, atol=1e-6)
  of = lambda scores, alphas: models.mixture_apply(base, scores, state, jnp.asarray(x), alphas, 0.4).logits.sum()
  still, slope = jax.grad(of, argnums=(0, 1))(scores, jnp.asarray(alphas))
  assert not any(np.any(g) for g in still.values())
  assert np.all(np.asarray(slope) != 0)
