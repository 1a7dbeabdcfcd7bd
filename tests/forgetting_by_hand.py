"""A request to forget on models of one's own, registered methods' answers to it, and optimizers in float64 NumPy.

With one row to forget and one to keep every random batch is that row, so that the steps are exactly known.
"""

from __future__ import annotations

import functools
import types as python

import jax
import jax.numpy as jnp
import numpy as np
from linear_by_hand import OTHER, PARAMS, W, X, Y

from cljax import methods, objectives
from cljax.core import types
from cljax.unlearning._common import drawn

KEY = jax.random.key(3)
RATE = 0.05


def rows(x, y, ids):
  return types.rows_from_arrays(x, y, ids=jnp.asarray(ids, jnp.int32))


FORGET, RETAIN = rows(X[:1], Y[:1], [7]), rows(X[1:], Y[1:], [8])
CLASSES = jnp.array([False, True, False, False])


def linear(x, params):
  z = x @ params["w"]
  return types.Outputs(z, x)


def deep(x, params):
  """Three linear layers."""
  h = x @ params["a"]
  f = h @ params["b"]
  return types.Outputs(f @ params["c"], f, (h, f))


DRAW = np.random.default_rng(11)
DEEP = {k: DRAW.normal(size=s) * 0.7 for k, s in {"a": (5, 3), "b": (3, 3), "c": (3, 4)}.items()}


def model_of(forward, initial):
  """A model that is asked in eval mode alone."""

  def apply(params, state, x, *, train, key, task=None, mask=None):
    assert not train
    return forward(x, params), state

  return types.Model(lambda key: (initial, {}), apply)


MODEL = model_of(linear, {"w": jnp.asarray(OTHER)})
DEEP_MODEL = model_of(deep, None)


def forgotten(
  name, params=PARAMS, *, model=MODEL, forget=FORGET, retain=RETAIN, groups=None, classes=CLASSES, state=(), **options
):
  """The parameters, in float64, and the method's state after a registered method has answered a request."""

  def program(params, state):
    learned = objectives.chosen("classification")(model, None, {})
    method = methods.make(name, model, python.SimpleNamespace(num_classes=4, objective=learned), **options)
    learner = types.Learner(jnp.int32(9), KEY, params, {}, "momentum", state)
    request = types.Request(forget, retain, None, classes, groups)
    tools = types.Tools(lambda learner: learner._replace(opt_state="fresh"))
    after = method.forget(KEY, learner, request, tools)
    assert after.opt_state == "fresh"  # momentum holds gradients of the rows that are gone
    return after.params, after.method_state

  params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
  after, state = jax.jit(program)(params, state)
  return jax.tree.map(lambda a: np.asarray(a, np.float64), after), state


@functools.partial(jax.jit, static_argnames=("size", "names"))
def ids_of(key, sets, size, names):
  """The ids of the rows that a step draws."""
  given = {n: rows(*sets[n]) for n in names}
  return [some.id for some in drawn(key, size, **given)]


def near(value, want, rtol=1e-3, atol=2e-5):
  np.testing.assert_allclose(value, want, rtol, atol)


def sgd(w, gradient, steps, rate=RATE):
  for i in range(steps):
    w = w - rate * gradient(w, i)
  return w


def adam(w, gradient, steps, rate=RATE, decay=0.0):
  w = w.astype(np.float64)
  m = v = 0.0 * w
  for i in range(steps):
    g = gradient(w, i)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    w = w - rate * (m / (1 - 0.9 ** (i + 1)) / (np.sqrt(v / (1 - 0.999 ** (i + 1))) + 1e-8) + decay * w)
  return w


def slope(f, w, eps=1e-5):
  """The gradient of ``f`` by central differences."""
  out = np.zeros(w.size)
  for i, e in enumerate(eps * np.eye(w.size)):
    out[i] = (f(w + e.reshape(w.shape)) - f(w - e.reshape(w.shape))) / (2 * eps)
  return out.reshape(w.shape)


def loss(z, label):
  z = z - z.max()
  return np.log(np.exp(z).sum()) - z[label]


LR = {"learning_rate": RATE, "batch": 2}
STARTS = W.astype(np.float64)


def unpacked(flat):
  out, at = {}, 0
  for k, v in DEEP.items():
    out[k], at = flat[at : at + v.size].reshape(v.shape), at + v.size
  return out, flat[at:]


def packed(params):
  return np.concatenate([np.asarray(params[k], np.float64).ravel() for k in DEEP])


def stages(p, x):
  h = x @ p["a"]
  f = h @ p["b"]
  return h, f, f @ p["c"]


MANY = DRAW.normal(size=(10, 5)).astype(np.float32)
LABELS = DRAW.integers(0, 4, 10).astype(np.int32)
