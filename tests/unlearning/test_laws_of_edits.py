"""Every pure edit: rows of weight 0 are as if absent, and a request without rows changes nothing."""

from __future__ import annotations

import contextlib
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import losses, unlearning

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 5)).astype(np.float32)
Y = np.argmax(X @ RNG.normal(size=(5, 3)), 1).astype(np.int32)
FORGET, RETAIN = slice(0, 9), slice(9, 30)
GROUPS = np.r_[np.arange(30) % 2, 1, 1].astype(np.int32)


def init_fn(key):
  sizes = {"first": (5, 6), "second": (6, 4), "head": (4, 3)}
  layer = lambda k, shape: {"kernel": 0.6 * jax.random.normal(k, shape, jnp.float32), "bias": jnp.full(shape[1:], 0.1)}
  return {n: layer(jax.random.fold_in(key, i), shape) for i, (n, shape) in enumerate(sizes.items())}


PARAMS = init_fn(jax.random.key(0))
INITIAL = jax.tree.map(lambda p: 0.5 * p, PARAMS)


def apply_fn(params, batch):
  """Dense layers in the dtype of the parameters, with no promotion of ranks."""
  dense = lambda layer, x: x @ layer["kernel"] + layer["bias"][None]
  h = jnp.tanh(dense(params["first"], batch.x.astype(params["first"]["kernel"].dtype)))
  top = jnp.tanh(dense(params["second"], h))
  return cljax.Outputs(dense(params["head"], top), top, (h, top))


def loss_fn(params, batch):
  return losses.cross_entropy(apply_fn(params, batch).logits, batch.y)


def inputs_fn(params, batch):
  hidden = apply_fn(params, batch).hidden
  return {"second/kernel": hidden[0], "head/kernel": hidden[1]}


def streaming(params, *, forget, **options):
  statistics = unlearning.feature_statistics(apply_fn, params, (X, Y), 3)
  head_fn = lambda p, h: h @ p["head"]["kernel"] + p["head"]["bias"][None]
  return unlearning.streaming(apply_fn, head_fn, params, forget=forget, statistics=statistics, **options)[0]


FEW = {"steps": 3, "batch": 8}
U = unlearning
BOTH = {
  "adaptive_orthogonality": (U.adaptive_orthogonality, loss_fn, FEW),
  "bad_teacher": (U.bad_teacher, apply_fn, {**FEW, "teacher_params": INITIAL}),
  "datamodel_matching": (U.datamodel_matching, apply_fn, {**FEW, "init_fn": init_fn, "oracles": 2, "oracle_steps": 2}),
  "erase_at_the_core": (U.erase_at_the_core, apply_fn, FEW),
  "fast_ntk": (U.fast_ntk, apply_fn, {"initial": INITIAL, "leaves": "bias", "rows": 12}),
  "geometric_disentanglement": (U.geometric_disentanglement, loss_fn, FEW),
  "graddiff": (U.graddiff, loss_fn, FEW),
  "group_reweight": (U.group_reweight, loss_fn, {**FEW, "groups": GROUPS}),
  "gs_lora": (U.gs_lora, apply_fn, {**FEW, "prototypes": True, "prototype_retain_weight": 0.1}),
  "iau": (U.iau, loss_fn, {"batch": 8}),
  "iau_released": (U.iau, loss_fn, {"batch": 8, "variant": "released"}),
  "miu": (U.miu, apply_fn, {**FEW, "groups": GROUPS, "critic_warmup": 2, "hidden": 4}),
  "npo": (U.npo, apply_fn, FEW),
  "ntk": (U.ntk, apply_fn, {"initial": INITIAL, "rows": 6}),
  "one_point_contraction": (U.one_point_contraction, apply_fn, FEW),
  "oracle_matching": (U.oracle_matching, apply_fn, {**FEW, "init_fn": init_fn, "oracles": 2, "oracle_steps": 2}),
  "random_labels": (U.random_labels, apply_fn, FEW),
  "rmu": (U.rmu, apply_fn, FEW),
  "satimp": (U.satimp, apply_fn, FEW),
  "scrub": (U.scrub, apply_fn, {**FEW, "max_steps": 1, "min_steps": 2}),
  "simnpo": (U.simnpo, apply_fn, FEW),
  "slug": (U.slug, apply_fn, {"search": 4, "rows": 6}),
  "ssd": (U.ssd, loss_fn, {"alpha": 1.0, "batch": 8}),
  "stochastic_teacher": (U.stochastic_teacher, apply_fn, {**FEW, "teacher_params": INITIAL, "erase_steps": 2}),
  "undial": (U.undial, apply_fn, FEW),
  "upcore": (U.upcore, apply_fn, {**FEW, "contamination": 0.2}),
}
BOTH["wga"] = (U.wga, apply_fn, FEW)
FORGET_ONLY = {
  "famr": (U.famr, apply_fn, FEW),
  "gradient_ascent": (U.gradient_ascent, loss_fn, FEW),
  "modhifi_u": (U.modhifi_u, inputs_fn, {"share": 0.4, "batch": 8}),
  "streaming": (lambda _, params, **given: streaming(params, **given), None, FEW),
}
RETAIN_ONLY = {
  "finetune_retain": (U.finetune_retain, loss_fn, FEW),
  "fisher_forgetting": (U.fisher_forgetting, apply_fn, {"alpha": 1e-3}),
  "unsir": (U.unsir, loss_fn, {**FEW, "classes": np.array([True, False, False]), "noise_rows": 4, "noise_steps": 2}),
}
EDITS = BOTH | FORGET_ONLY | RETAIN_ONLY
# What stands in cljax.unlearning beside the edits.
PARTS = {"core_rows", "dampen", "datamodel_effect", "donsker_varadhan", "feature_statistics", "fidelity"}
PARTS |= {"fidelity_sums", "group_weights", "inliers", "pareto_front", "path_lengths", "shard_of", "sisa_cost"}
PARTS |= {"squared_gradients", "coreset_rows", "coreset_scores"}
# Convex heads: what removes rows from them is no edit of a network.
PARTS |= {"Removed", "certified_budget", "fit_head", "head_gradient", "remove_rows", "unit_features"}


def test_every_edit_is_here():
  assert set(unlearning.__all__) - PARTS == {name.removesuffix("_released") for name in EDITS}


def rows(at, garbage=0, weight=None):
  """The rows ``at``, and ``garbage`` rows of weight 0 among and behind them: NaN, a label that is none."""
  x, y, ids = X[at], Y[at], np.arange(30)[at]
  weight = np.ones(len(x), np.float32) if weight is None else weight
  if not garbage:
    return {"x": x, "y": y, "id": ids.astype(np.int32), "weight": weight}
  where = [2] + [len(x)] * (garbage - 1)
  put = lambda a, v: np.insert(a, where, v, axis=0)
  return {"x": put(x, np.nan), "y": put(y, 77), "id": put(ids, 31).astype(np.int32), "weight": put(weight, 0.0)}


def call(name, forget, retain, params=PARAMS, **more):
  edit, function, options = EDITS[name]
  kind = params["head"]["bias"].dtype
  options = {k: cast(v, kind) if k in ("initial", "teacher_params") else v for k, v in options.items()}
  if "init_fn" in options:
    options["init_fn"] = lambda key: cast(init_fn(key), kind)
  given = {"forget": forget, "retain": retain}
  given = {k: v for k, v in given.items() if name not in (FORGET_ONLY if k == "retain" else RETAIN_ONLY)}
  if name not in ("ssd",):
    given["key"] = jax.random.key(5)
  return edit(function, params, **given, **options, **more)


def cast(tree, dtype):
  return jax.tree.map(lambda p: p.astype(dtype), tree)


@functools.cache
def compiled(name):
  return jax.jit(lambda f, r: call(name, f, r))


@pytest.mark.parametrize("name", EDITS)
def test_rows_of_weight_zero_are_as_if_absent(name):
  want = compiled(name)(rows(FORGET), rows(RETAIN))
  assert cljax.core.tree.digest(want) != cljax.core.tree.digest(PARAMS)
  got = compiled(name)(rows(FORGET, 4), rows(RETAIN, 3))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", BOTH | FORGET_ONLY)
def test_a_request_without_rows_changes_nothing(name):
  """Rows of weight 0 alone, which only the run can tell; and for some edits arrays of length 0."""
  absent = compiled(name)(rows(FORGET, weight=np.zeros(9, np.float32)), rows(RETAIN))
  assert cljax.core.tree.digest(absent) == cljax.core.tree.digest(PARAMS)
  if name in ("graddiff", "ssd", "ntk", "modhifi_u", "iau"):
    assert cljax.core.tree.digest(compiled(name)(rows(slice(0, 0)), rows(RETAIN))) == cljax.core.tree.digest(PARAMS)


@pytest.mark.parametrize("name", ["graddiff", "scrub", "ssd", "unsir", "finetune_retain"])
def test_nothing_to_retain_is_no_error(name):
  after = compiled(name)(rows(FORGET), (X[:0], Y[:0]))
  assert all(np.isfinite(p).all() for p in jax.tree.leaves(after))


@contextlib.contextmanager
def settings(*names):
  found = {
    "strict": lambda: jax.numpy_dtype_promotion("strict"),
    "rank": lambda: jax.numpy_rank_promotion("raise"),
    "x64": lambda: jax.enable_x64(True),
    "nans": lambda: jax.debug_nans(True),
  }
  with contextlib.ExitStack() as stack:
    for name in names:
      stack.enter_context(found[name]())
    yield


# These rest on projectors.
NOT_STRICT = ("adaptive_orthogonality", "geometric_disentanglement")
NOT_RANK = ("geometric_disentanglement",)


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_narrow_parameters_keep_their_dtype_under_careful_settings(name, kind):
  """Traced alone: dtypes, ranks and carries are all decided there."""
  params = cast(PARAMS, kind)
  for chosen in {"float32": ("rank", "strict", "x64"), "bfloat16": ("", "x64"), "float16": ("",)}[kind]:
    chosen = (chosen,) if chosen else ()
    if (chosen == ("strict",) and name in NOT_STRICT) or (chosen == ("rank",) and name in NOT_RANK):
      continue
    with settings(*chosen), warnings.catch_warnings():
      warnings.filterwarnings("error", message="scatter inputs have incompatible types")
      after = jax.eval_shape(lambda f, r, p: call(name, f, r, p), rows(FORGET), rows(RETAIN), params)
    assert jax.tree.map(lambda p: p.dtype, after) == jax.tree.map(lambda p: p.dtype, params)


@pytest.mark.parametrize("name", ["graddiff", "ssd", "random_labels", "modhifi_u", "ntk", "upcore", "iau"])
def test_no_nan_on_the_way(name):
  """Also where there is nothing to forget, and nothing to keep."""
  nothing = np.zeros(9, np.float32)
  with settings("nans"):
    compiled(name)(rows(FORGET), rows(RETAIN))
    compiled(name)(rows(FORGET, weight=nothing), rows(RETAIN))


def test_a_bfloat16_edit_is_the_float32_edit_rounded():
  """ssd and iau compute in float32 and round once: against the float32 edit of the same parameters, to 1 in 128."""
  narrow = cast(PARAMS, "bfloat16")
  for name in ("ssd", "iau"):
    got = jax.jit(lambda f, r, name=name: call(name, f, r, narrow))(rows(FORGET), rows(RETAIN))
    want = jax.jit(lambda f, r, name=name: call(name, f, r, cast(narrow, "float32")))(rows(FORGET), rows(RETAIN))
    for a, b, p in zip(*map(jax.tree.leaves, (got, want, narrow)), strict=True):
      off = np.abs(np.asarray(a, np.float32) - b) > 0.02 * np.abs(b) + 1e-3
      assert off.mean() < 0.05  # a comparison in ssd may fall the other way
      assert a.dtype == p.dtype
