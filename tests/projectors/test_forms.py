"""Each projector's promise, in the form that makes it, behind or before every optimizer.

Gradient space: agem, gem and their replay forms promise ``<g, r> >= 0`` of what enters the optimizer. Update space:
gpm, ogd, pca_ogd (as they are, or by ``on_update``) and the former by ``on_update`` promise it of what is added to the
parameters, weight decay included. (CUBER and CoSO, of which only a part moves behind, are in test_split.py.)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import projectors as P

RNG = np.random.default_rng(3)
SHAPES = {"kernel": (5, 3), "bias": (3,)}


def tree():
  return {n: jnp.asarray(RNG.normal(size=s), jnp.float32) for n, s in SHAPES.items()}


PARAMS, GRADS = tree(), [tree() for _ in range(4)]
STACK = jax.tree.map(lambda *r: jnp.stack(r), *(jax.tree.map(lambda a, b: b - 0.7 * a, g, tree()) for g in GRADS[:2]))
REFS = {"memory": STACK, "one": jax.tree.map(lambda x: x[1], STACK)}
INPUTS = {"kernel": jnp.asarray(RNG.normal(size=(2, 5)), jnp.float32)}

OPTIMIZERS = {
  "sgd": optax.sgd(0.1),
  "momentum": optax.sgd(0.1, momentum=0.9),
  "adam": optax.adam(0.01),
  "adamw": optax.adamw(0.01, weight_decay=0.3),
  "rmsprop": optax.rmsprop(0.01),
}


def flat(t) -> np.ndarray:
  return np.concatenate([np.asarray(t[n], np.float64).ravel() for n in SHAPES])


def along(rows):
  """The cosines of a tree with rows of the reference stack."""
  rows = np.stack([flat(jax.tree.map(lambda x, i=i: x[i], STACK)) for i in rows])
  unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  return lambda u: unit @ flat(u) / np.linalg.norm(flat(u))


def within_inputs(u):
  """How far the pre-activations of old inputs move, and whether the bias does."""
  x = np.float64(INPUTS["kernel"])
  moved = x @ np.float64(u["kernel"]) / np.linalg.norm(u["kernel"]) / np.linalg.norm(x)
  return np.append(moved.ravel(), np.abs(u["bias"]).max())


# projector, what fills its memory, and by how much a vector breaks its promise (a cosine; at most 0 holds)
CONES = {
  "agem": (P.agem("one"), lambda d: -along([1])(d).min()),
  "er_agem": (P.er_agem("one"), lambda d: -along([1])(d).min()),
  "gem": (P.gem("memory", 0.0, 0.0), lambda d: -along([0, 1])(d).min()),
  "er_gem": (P.er_gem("memory", 0.0, 0.0), lambda d: -along([0, 1])(d).min()),
}
SPANS = {
  "ogd": (P.ogd(3), lambda s: P.ogd_extend(s, STACK), lambda d: np.abs(along([0, 1])(d)).max()),
  "pca_ogd": (P.pca_ogd(3), lambda s: P.pca_ogd_extend(s, STACK, 2), lambda d: np.abs(along([0, 1])(d)).max()),
  "gpm": (P.gpm(), lambda s: P.gpm_extend(s, INPUTS, 1.0), lambda d: np.abs(within_inputs(d)).max()),
}
HOLDS, BROKEN = 2e-6, 1e-3


@functools.cache
def program(name: str, form: str):
  tx = {**CONES, **SPANS}[name][0]
  return jax.jit((P.on_update(tx) if form == "on_update" else tx).update)


@functools.cache
def optimizer(name: str):
  return jax.jit(OPTIMIZERS[name].update)


def start(name: str):
  tx, *rest = {**CONES, **SPANS}[name]
  state = tx.init(PARAMS)
  return rest[0](state) if name in SPANS else state


def run(name: str, form: str, opt: str):
  """``(what enters the optimizer, what is applied)`` of each step; moments come from an earlier task."""
  project, base = program(name, form), optimizer(opt)
  state, params, out = start(name), PARAMS, []
  _, moments = base(GRADS[3], OPTIMIZERS[opt].init(PARAMS), PARAMS)
  for g in GRADS[:3]:
    entered = g
    if form == "before":
      entered, state = project(g, state, params, references=REFS)
    updates, moments = base(entered, moments, params)
    if form != "before":
      updates, state = project(updates, state, params, references=REFS)
    params = optax.apply_updates(params, updates)
    out.append((entered, updates))
  return out


@pytest.mark.parametrize("opt", OPTIMIZERS)
@pytest.mark.parametrize("name", CONES)
def test_cones_on_the_gradient_and_on_the_update(name, opt):
  broken = CONES[name][1]
  assert max(broken(g) for g in GRADS[:3]) > BROKEN  # there is something to do
  assert max(broken(entered) for entered, _ in run(name, "before", opt)) < HOLDS
  negative = lambda u: jax.tree.map(jnp.negative, u)
  assert max(broken(negative(applied)) for _, applied in run(name, "on_update", opt)) < HOLDS


@pytest.mark.parametrize("opt", OPTIMIZERS)
@pytest.mark.parametrize("name", SPANS)
def test_spans_on_the_update(name, opt):
  broken = SPANS[name][2]
  last, wrapped = run(name, "last", opt), run(name, "on_update", opt)
  assert max(broken(applied) for _, applied in last) < HOLDS
  for (_, a), (_, b) in zip(last, wrapped, strict=True):  # linear: both forms are one
    np.testing.assert_allclose(flat(a), flat(b), atol=1e-7)
  assert max(np.abs(flat(applied)).max() for _, applied in last) > 1e-4


@pytest.mark.parametrize(("name", "opt"), [("gpm", "adam"), ("ogd", "rmsprop"), ("agem", "adam"), ("gpm", "adamw")])
def test_before_the_optimizer_the_step_keeps_no_promise(name, opt):
  """Why the form matters: the docstrings say so."""
  broken = {**CONES, **SPANS}[name][-1]
  sign = -1 if name in CONES else 1
  applied = [jax.tree.map(lambda x: sign * x, u) for _, u in run(name, "before", opt)]
  assert max(map(broken, applied)) > BROKEN
