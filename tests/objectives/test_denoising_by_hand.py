"""Noise prediction against float64 NumPy and against Gaussian data, whose best denoiser has a closed form; sampling by
it; absent rows; conditions; and a run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_laws import batch, check_absent, run, scored, stream_of, value_and_slope

import cljax
from cljax import methods, models, objectives
from cljax.core import tree
from cljax.core.types import Outputs, Spec, UsageError

B, D, STEPS = 6, 3, 50
RNG = np.random.default_rng(40)
X = RNG.normal(size=(B, D)).astype(np.float32)
WEIGHT = np.float64([1, 2, 1, 1, 0, 0])
SPEC = Spec(2, 2, (D,), np.float32, B, B, B, B, np.ones((2, 2), bool), scale=None)
MEAN, STD = 0.7, 0.5


def made(schedule="linear", scale=None, **more):
  return objectives.denoising(schedule=schedule, steps=STEPS, **more)(None, SPEC._replace(scale=scale), {})


def model(params, x, key):
  return jnp.tanh(x["x"] @ params + x["time"][:, None] / STEPS)


def left(schedule, steps=STEPS):
  """The share of the signal's variance that is left, by its definition, a step at a time."""
  a, out = 1.0, []
  f = lambda t: np.cos((t / steps + 0.008) / 1.008 * np.pi / 2) ** 2
  for t in range(steps):
    linear = (1e-4 + (0.02 - 1e-4) * t / (steps - 1)) * 1000 / steps
    a *= 1 - min(0.999, linear if schedule == "linear" else 1 - f(t + 1) / f(t))
    out.append(a)
  return np.asarray(out)


def close(a, b, rtol=2e-5, atol=1e-6):
  np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=rtol, atol=atol)


def shown(one, given, key):
  """What the loss shows to the model."""
  seen = []
  apply = lambda key, params, batch: (seen.append(batch.x) or Outputs(batch.x["x"]), None)
  one.loss(key, apply, None, given)
  return jax.tree.map(np.asarray, seen[0])


def test_schedules_by_hand():
  """The linear one of 1000 steps is that of the paper; both end in noise."""
  from cljax.objectives.diffusion import variances

  close(variances("linear", 1000)[[0, 999]], [1e-4, 0.02], 1e-12)
  for name in ("linear", "cosine"):
    close(np.cumprod(1 - variances(name, STEPS)), left(name), 1e-9, 1e-12)
    assert left(name)[-1] < 1e-3 < 0.98 < left(name)[0]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_denoising_loss_by_hand(schedule):
  scale = 0.25
  one, w = made(schedule, scale), RNG.normal(size=(D, D)).astype(np.float32)
  given = batch(4 * X, weight=WEIGHT)
  seen = shown(one, given, jax.random.key(7))
  assert seen["time"].dtype == np.int32
  a = left(schedule)[seen["time"]][:, None]
  x = seen["x"].astype(np.float64) * scale
  e = (x - np.sqrt(a) * X)[:4] / np.sqrt(1 - a)[:4]
  rows = ((np.tanh(x @ w + seen["time"][:, None] / STEPS)[:4] - e) ** 2).mean(-1)
  eaten = lambda params, x, key: model(params, {**x, "x": x["x"] * scale}, key)
  value, _ = value_and_slope(one, eaten)(w, given)
  close(value, (WEIGHT[:4] * rows).sum() / 5, 1e-3)


def best(inputs, schedule):
  """E[e | x_t] of data N(MEAN, STD^2)."""
  a = jnp.asarray(left(schedule), jnp.float32)[inputs["time"]][:, None]
  return jnp.sqrt(1 - a) * (inputs["x"] - jnp.sqrt(a) * MEAN) / (a * STD**2 + 1 - a)


def test_the_best_denoiser_has_the_loss_of_theory():
  """``Var(e | x_t) = a s^2 / (a s^2 + 1 - a)``, averaged over t; times are uniform, noise is standard normal."""
  n, d = 4000, 8
  given = batch(MEAN + STD * np.random.default_rng(1).normal(size=(n, d)).astype(np.float32))
  one = made()
  value, _ = value_and_slope(one, lambda params, x, key: best(x, "linear") + params)(0.0, given)
  a = left("linear")
  theory = a * STD**2 / (a * STD**2 + 1 - a)
  spread = np.sqrt((theory.var() + 2 * np.mean(theory**2) / d) / n)
  assert abs(float(value) - theory.mean()) < 4.5 * spread
  count = np.bincount(shown(one, given, jax.random.key(7))["time"], minlength=STEPS)
  assert np.abs(count - n / STEPS).max() < 4.5 * np.sqrt(n / STEPS)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_samples_of_a_gaussian_are_it(schedule):
  """The sampler is affine under the best denoiser: its moments are known step by step, and are close to the data's."""
  steps = STEPS
  a, n = left(schedule), 20_000
  beta = 1 - a / np.concatenate([[1], a[:-1]])
  mean, variance = 0.0, 1.0
  for t in range(steps - 1, -1, -1):
    slope = np.sqrt(1 - a[t]) / (a[t] * STD**2 + 1 - a[t])
    gain = (1 - beta[t] / np.sqrt(1 - a[t]) * slope) / np.sqrt(1 - beta[t])
    shift = beta[t] / np.sqrt(1 - a[t]) * slope * np.sqrt(a[t]) * MEAN / np.sqrt(1 - beta[t])
    mean, variance = gain * mean + shift, gain**2 * variance + (beta[t] if t else 0)
  assert abs(mean - MEAN) < 0.02
  assert abs(np.sqrt(variance) / STD - 1) < 0.15
  predict = lambda inputs: best(inputs, schedule)
  draw = jax.jit(lambda key: objectives.ddpm_sample(key, predict, (n, 1), schedule=schedule, steps=steps))
  x = np.asarray(draw(jax.random.key(3)), np.float64)
  assert abs(x.mean() - mean) < 4.5 * np.sqrt(variance / n)
  assert abs(x.var() / variance - 1) < 4.5 * np.sqrt(2 / n)


def test_guidance_is_a_line_through_both_predictions():
  """Of a model linear in its condition, guidance w is the condition times 1 + w."""
  predict = lambda inputs: 0.3 * inputs["x"] + inputs["condition"]
  condition = jnp.asarray(X[:, :1])
  sample = lambda condition, guidance: objectives.ddpm_sample(
    jax.random.key(0), predict, (B, 1), steps=STEPS, condition=condition, guidance=guidance
  )
  close(sample(condition, 1.5), np.asarray(sample(2.5 * condition, None)), 1e-4, 1e-4)
  close(sample(condition, 0.0), np.asarray(sample(condition, None)), 1e-4, 1e-4)


def test_absent_rows_with_noise_are_as_if_absent():
  check_absent(made(), model, jnp.asarray(RNG.normal(size=(D, D)).astype(np.float32)), batch(X, weight=WEIGHT), 4)


def test_scores_with_noise_follow_row_ids():
  ids, turned, w = np.asarray([9, 4, 7, 1, -1, -1]), [1, 0, 3, 2, 4, 5], np.eye(D, dtype=np.float32)
  totals = scored(made(), model)
  known = totals(w, batch(X, weight=WEIGHT, ids=ids))
  jax.tree.map(close, totals(w, batch(X[turned], weight=WEIGHT, ids=ids[turned])), known)
  assert totals(w, batch(X, weight=WEIGHT))["denoising"][0] != known["denoising"][0]


def test_conditions_are_dropped_in_training_alone():
  n = 400
  x = np.zeros((n, 1), np.float32)
  kind, style = np.full(n, 3, np.int32), np.ones((n, 2), np.float32)
  given = batch({"x": x, "condition": {"kind": kind, "style": style}})
  for drop in (0.0, 0.3, 1.0):
    condition = shown(made(drop=drop), given, jax.random.key(1))["condition"]
    gone = condition["kind"] == -1
    assert abs(gone.mean() - drop) <= 4.5 * np.sqrt(drop * (1 - drop) / n)
    assert (condition["style"] == np.where(gone, 0, 1)[:, None]).all()
    assert (condition["kind"][~gone] == 3).all()
  told = lambda params, x, key: jnp.where((x["condition"]["kind"] == 3)[:, None], 1e3, 0.0) + 0 * x["x"]
  assert scored(made(drop=1.0), told)(None, given)["denoising"][0] / n > 1e5


@pytest.mark.parametrize("form", ["array", "dict"])
def test_a_row_s_noise_is_its_own(form):
  """The error against the noise that is found in what the model is shown; it follows the id, whatever the batch."""
  one, ids = made("cosine", 0.5), [4, 9, 2, 4, 7, 1]
  x = {"x": X, "condition": np.arange(B)} if form == "dict" else X
  given = batch(x, weight=np.ones(B), ids=ids)
  seen = one.inputs(given)
  assert sorted(seen.x) == (["condition", "time", "x"] if form == "dict" else ["time", "x"])
  a = left("cosine")[np.asarray(seen.x["time"])][:, None]
  e = (0.5 * np.asarray(seen.x["x"], np.float64) - np.sqrt(a) * 0.5 * X) / np.sqrt(1 - a)
  prediction = RNG.normal(size=(B, D))
  each, inside = one.each(jnp.float32(prediction), seen)
  assert inside is None
  close(each, np.square(prediction - e).mean(1), 1e-4)
  np.testing.assert_allclose(e[0], e[3], rtol=2e-3, atol=1e-3)  # of one id
  assert np.abs(e[0] - e[1]).max() > 0.1
  turned = one.inputs(batch(jax.tree.map(lambda v: v[::-1], x), weight=np.ones(B), ids=ids[::-1]))
  np.testing.assert_array_equal(np.asarray(turned.x["x"])[::-1], seen.x["x"])


def test_importances_of_denoising_are_those_of_rows():
  """The Fisher squares the gradient of each row's error at its own noise; absent rows take no part."""
  from cljax import estimators
  from cljax.core.types import rows_from_arrays

  one, params = made(), jnp.float32(RNG.normal(size=(D, D)))
  plain = models.from_apply(lambda key: params, lambda params, x: model(params, x, None))
  rows = rows_from_arrays(X, np.zeros(B, np.int32), weight=np.float32(WEIGHT))
  got = estimators.fisher_diagonal(plain, params, {}, rows, kind="empirical", learned=one)
  seen = one.inputs(batch(X, weight=WEIGHT))
  a = left("linear")[np.asarray(seen.x["time"])][:, None]
  noisy, w = np.asarray(seen.x["x"], np.float64), np.asarray(params, np.float64)
  e, z = (noisy - np.sqrt(a) * X) / np.sqrt(1 - a), np.tanh(noisy @ w + np.asarray(seen.x["time"])[:, None] / STEPS)
  slope = np.einsum("bi,bo->bio", noisy, 2 / D * (z - e) * (1 - z**2))
  close(got, np.einsum("b,bio->io", WEIGHT, slope**2) / WEIGHT.sum(), 2e-3, 1e-6)


def test_edits_of_denoising():
  """What graddiff forgets is denoised worse; ssd dampens, at a low threshold, and no weight grows."""
  rng = np.random.default_rng(9)
  group = np.repeat([0, 1], 32)
  x = (np.where(group, 3, 1)[:, None] + 0.2 * rng.normal(size=(64, 2))).astype(np.float32)
  stream = stream_of(x, np.zeros((64, 1), np.float32), group, 0.5)
  rows = tuple(int(i) for i in stream.dataset.train.id[stream.train[1]])
  stream = stream._replace(events=(cljax.Learn(0), cljax.Learn(1), cljax.Forget(ids=rows)))
  given = {"epochs": 16, "rate": 0.03}
  chosen = objectives.denoising(steps=STEPS)
  hyper = {"forget_weight": 0.5, "steps": 40}
  (said,) = run(stream, denoiser(), chosen, forget="graddiff", forget_hyper=hyper, **given).forgotten
  assert said["forget"][0] > 1.5 * said["retain"][0]
  population = [cljax.Member(0, {"forget.alpha": alpha}) for alpha in (1e30, 0.5)]
  result = run(stream, denoiser(), chosen, forget="ssd", population=population, **given)
  assert result.forgotten[0]["forget"][0] < 1.5 * result.forgotten[0]["retain"][0]
  for whole, less in (np.abs(np.asarray(a)) for a in jax.tree.leaves(result.learner.params)):
    assert (less <= whole).all()
    assert (less < whole).any()
  with pytest.raises(UsageError, match="'lwf' needs divergence, which the objective 'denoising' does not have"):
    run(stream, denoiser(), chosen, "lwf")


def denoiser(width=16, steps=STEPS):
  """A small network of x and the time."""

  def init(key):
    draw = lambda name, rows, columns: jax.random.normal(tree.fold(key, name), (rows, columns)) / np.sqrt(rows)
    return {"in": draw("in", 4, width), "out": draw("out", width, 2), "bias": jnp.zeros(width)}

  def apply(params, x):
    time = x["time"][:, None] / steps
    given = jnp.concatenate([x["x"], time, jnp.square(time)], -1)
    return jnp.tanh(given @ params["in"] + params["bias"]) @ params["out"]

  return models.from_apply(init, apply)


def test_a_run_learns_to_denoise_and_samples(tmp_path):
  rng = np.random.default_rng(7)
  group = np.repeat([0, 1], 32)
  x = (np.where(group, 3, 1)[:, None] + 0.2 * rng.normal(size=(64, 2))).astype(np.float32)
  stream = stream_of(x, np.zeros((64, 1), np.float32), group, 0.5)
  chosen = objectives.denoising(steps=STEPS)
  given = {"hyper": {"capacity": 16}, "epochs": 24, "rate": 0.03, "workdir": str(tmp_path)}
  result = run(stream, denoiser(), chosen, "er", **given)
  scores = result.scores["denoising"][0]
  assert (scores[-1] < 0.7 * scores[0]).all()
  again = run(stream, denoiser(), chosen, "er", **given)
  np.testing.assert_array_equal(again.scores["denoising"], result.scores["denoising"])
  assert again.params_sha256 == result.params_sha256
  predict = lambda inputs: result.predict({**inputs, "x": inputs["x"] / 0.5})
  drawn = objectives.ddpm_sample(jax.random.key(0), predict, (500, 2), steps=STEPS)
  assert 1 < np.asarray(drawn / 0.5).mean() < 3  # the means of the two tasks; noise alone has 0
  with pytest.raises(cljax.CljaxError, match="objective"):
    run(stream, denoiser(), objectives.denoising(steps=STEPS, drop=0.5), "er", **given)


def test_inputs_that_are_a_dict_are_trained_replayed_and_forgotten(tmp_path):
  """With a condition: it stands beside x in data and memory, and a request leaves neither."""
  rng = np.random.default_rng(8)
  group, kind = np.repeat([0, 1], 32), rng.integers(4, size=64).astype(np.int32)
  x = (0.5 * kind[:, None] + 0.1 * rng.normal(size=(64, 2))).astype(np.float32)
  stream = stream_of({"x": x, "condition": kind}, np.zeros((64, 1), np.float32), group, 1.0)
  train = stream.dataset.train
  gone = stream.train[0][:5]
  asked = cljax.Forget(ids=tuple(train.id[gone].tolist()))
  stream = stream._replace(events=(cljax.Learn(0), asked, cljax.Learn(1)))
  inner = denoiser()

  def init(key):
    return {**inner.init(key)[0], "kind": jnp.zeros((5, 2))}

  def apply(params, x):
    shift = params["kind"][x["condition"]]
    return inner.apply(params, {}, {**x, "x": x["x"] + shift}, train=False, key=None)[0].logits

  def both(model, spec):
    return cljax.compose(er=methods.make("er", model, spec, capacity=40), retrain=methods.make("retrain", model, spec))

  chosen = objectives.denoising(steps=STEPS, drop=0.2)
  given = {"epochs": 8, "rate": 0.03, "workdir": str(tmp_path)}
  result = run(stream, models.from_apply(init, apply), chosen, both, **given)
  assert (result.scores["denoising"][0, -1] < result.scores["denoising"][0, 0]).all()
  assert (np.abs(result.learner.params["kind"][0, [0, 1, 2, 3, 4]]) > 0).any(1).all()  # 4, the last, is none
  held = [np.asarray(a).reshape(-1, 2) for a in jax.tree.leaves(result.learner.method_state)
          if np.asarray(a).dtype == np.float32 and np.asarray(a).shape[-1:] == (2,)]  # fmt: skip
  assert any((h == train.x["x"][r]).all(1).any() for h in held for r in stream.train[0][5:])
  assert not any((h == train.x["x"][r]).all(1).any() for h in held for r in gone)
  assert result.forgotten[0]["rows"] == 5
  inputs = {"x": np.zeros((3, 2), np.float32), "time": np.zeros(3, np.int32), "condition": np.asarray([0, 3, -1])}
  assert np.asarray(result.predict(inputs)).shape == (3, 2)
  learns = stream._replace(events=(cljax.Learn(0), cljax.Learn(1)))
  fed = [run(learns, models.from_apply(init, apply), chosen, "er", hyper={"capacity": 8}, feed=f).params_sha256
         for f in ("device", "grain")]  # fmt: skip
  assert fed[0] == fed[1]


def test_wrong_diffusions_are_one_line():
  for call, text in (
    (lambda: objectives.denoising(steps=0), "objective.steps: got 0; expected an integer of at least 1"),
    (lambda: objectives.denoising(schedule="sigmoid"), "objective.schedule: got 'sigmoid'; allowed: linear, cosine"),
    (lambda: objectives.ddpm_sample(None, None, (1,), schedule="no"), "schedule: got 'no'; allowed: linear, cosine"),
    (lambda: objectives.ddpm_sample(None, None, (1,), steps=1.5), "steps: got 1.5; expected an integer of at least 1"),
    (
      lambda: objectives.ddpm_sample(None, None, (1,), guidance=1.0),
      "guidance: is given without a condition; expected one",
    ),
    (
      lambda: shown(made(), batch(np.ones((2, 3), np.int32)), jax.random.key(0)),
      "x: denoising expects real numbers; got int32",
    ),
    (
      lambda: value_and_slope(made(), lambda params, x, key: x["x"][:, :1] + params)(0.0, batch(X)),
      "model: gives (6, 1); denoising expects (6, 3)",
    ),
  ):
    with pytest.raises(UsageError) as error:
      call()
    assert str(error.value) == text
