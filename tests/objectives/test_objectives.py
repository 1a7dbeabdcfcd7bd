"""Objectives through the engine: text and real targets against NumPy, what is refused, and that absent rows are
zeroed whole."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import engine, methods, models, objectives, streams
from cljax.core.types import Batch
from cljax.data import Dataset, Split
from cljax.engine.setup import spec_of
from cljax.engine.step import zero_absent_rows

TASKS, ROWS, LENGTH, VOCABULARY = 2, 16, 6, 5


def made(x, y, group, scale):
  split = lambda x, y, g: Split(x, y, np.arange(len(x), dtype=np.int32), g.astype(np.int32))
  cut = np.arange(len(x)) % 4 != 0
  train, test = (split(x[m], y[m], group[m]) for m in (cut, ~cut))
  data = Dataset("made", train, test, VOCABULARY, tuple("abcde"), ("0", "1"), scale, "made")
  of = lambda s: [np.flatnonzero(s.group == t) for t in range(TASKS)]
  return streams.from_tasks(data, of(train), of(test))


@pytest.fixture(scope="module")
def real():
  """Linear targets of two numbers, another slope in each task."""
  rng = np.random.default_rng(0)
  x, group = rng.normal(size=(TASKS * ROWS, 3)).astype(np.float32), np.repeat(np.arange(TASKS), ROWS)
  slopes = rng.normal(size=(TASKS, 3, 2))
  y = np.einsum("ni,nik->nk", x, slopes[group]).astype(np.float32)
  return made(x, y, group, 1.0)._replace(num_classes=2)


@pytest.fixture(scope="module")
def text():
  """Tokens that count up, or down; -1 where nothing is to be learned."""
  rng = np.random.default_rng(1)
  group = np.repeat(np.arange(TASKS), ROWS)
  first = rng.integers(VOCABULARY, size=len(group))
  step = np.where(group == 0, 1, -1)[:, None]
  whole = (first[:, None] + step * np.arange(LENGTH + 1)) % VOCABULARY
  y = np.where(rng.random((len(group), LENGTH)) < 0.2, -1, whole[:, 1:]).astype(np.int32)
  return made(whole[:, :-1].astype(np.int32), y, group, None)


@pytest.fixture(scope="module")
def reader():
  class Reader(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(VOCABULARY, name="head")(nn.relu(nn.Dense(12)(nn.Embed(VOCABULARY, 8)(x))))

  return models.from_linen(Reader(), (LENGTH,), input_dtype=jnp.int32)


TRAINING = cljax.Recipe(batch_size=8, epochs=3)


def run(stream, model, method="finetune", hyper=None, **more):
  given = {"training": TRAINING, "options": cljax.Options(chunk_steps=4), **more}
  return cljax.run(stream, model, method, hyper, **given)


def test_regression_scores_are_numpy_s(real):
  result = run(real, models.mlp((3,), 2, hidden=(8,)), objective="regression", seeds=2)
  assert result.accuracy is None
  assert list(result.scores) == ["squared_error"]
  test = real.dataset.test
  for member in range(2):
    z = np.asarray(result.predict(test.x, member=member), np.float64)
    for t, rows in enumerate(real.test):
      expected = np.mean((z[rows] - test.y[rows]) ** 2)
      np.testing.assert_allclose(result.scores["squared_error"][member, -1, t], expected, rtol=1e-5)
  assert (result.scores["squared_error"][:, 2, 1] < result.scores["squared_error"][:, 0, 1]).all()


def test_noise_scales_the_step(real):
  """Half the noise is twice the gradient: SGD at half the rate is the same."""
  model = models.mlp((3,), 2, hidden=(8,))
  rate = lambda r: {"optimizer_options": {"learning_rate": r}}
  one = run(real, model, objective=objectives.regression(noise=0.5), **rate(0.02))
  two = run(real, model, objective="regression", objective_options={"noise": 0.25}, **rate(0.01))
  for a, b in zip(jax.tree.leaves(one.learner.params), jax.tree.leaves(two.learner.params), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_text_scores_are_ratios_of_sums(text, reader):
  rate = {"optimizer": "adam", "optimizer_options": {"learning_rate": 0.02}}
  result = run(text, reader, "er", {"capacity": 8}, objective="sequence", **rate)
  test = text.dataset.test
  z = np.asarray(result.predict(test.x), np.float64)
  log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
  for t, rows in enumerate(text.test):
    y, there = test.y[rows], test.y[rows] >= 0
    picked = np.take_along_axis(log_p[rows], np.maximum(y, 0)[..., None], -1)[..., 0]
    np.testing.assert_allclose(result.scores["perplexity"][0, -1, t], np.exp(-picked[there].mean()), rtol=1e-4)
    hits = (log_p[rows].argmax(-1) == y)[there].mean()
    np.testing.assert_allclose([result.scores["accuracy"][0, -1, t], result.accuracy[0, -1, t]], hits, rtol=1e-6)


def test_the_loss_of_text_is_the_mean_over_tokens(text, reader):
  """One step of SGD against a gradient of the token mean, by hand on the whole logits."""
  one = cljax.Recipe(batch_size=len(text.train[0]), epochs=1)
  stream = text._replace(events=(cljax.Learn(0),))
  member = lambda r: jax.tree.map(lambda a: jnp.asarray(a[0]), r.learner.params)
  x, y = (jnp.asarray(a[text.train[0]]) for a in (text.dataset.train.x, text.dataset.train.y))
  for reduction in ("tokens", "rows"):
    chosen = objectives.sequence(reduction=reduction)
    before = run(stream, reader, objective=chosen, training=one, optimizer_options={"learning_rate": 0.0})
    after = run(stream, reader, objective=chosen, training=one, optimizer_options={"learning_rate": 0.1})

    def loss(params, reduction=reduction):
      z = reader.apply(params, {}, x, train=True, key=jax.random.key(0))[0].logits
      nll = -jnp.take_along_axis(jax.nn.log_softmax(z), jnp.maximum(y, 0)[..., None], -1)[..., 0]
      per_row = jnp.where(y >= 0, nll, 0).sum(-1)
      count = (y >= 0).sum(-1)
      return {"tokens": per_row.sum() / count.sum(), "rows": (per_row / jnp.maximum(count, 1)).mean()}[reduction]

    start = member(before)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, start, jax.grad(loss)(start))
    for a, b in zip(jax.tree.leaves(member(after)), jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


# Every method is traced under every objective by experiments.method_objectives; some of each kind are run here.
ANYTHING = [
  "finetune", "joint", "cumulative", "er", "agem", "er_gem", "si", "spectral", "ema", "lcia", "tag", "zeroth_order",
  "heterogeneous_averaging", "infinite", "hierarchical",
]  # fmt: skip


@pytest.mark.parametrize("name", ANYTHING)
def test_what_needs_no_classes_runs(name, real, text, reader):
  """On one of the two in turn."""
  hyper = {"capacity": 8} if "capacity" in methods.METHODS[name].options else {}
  cases = (real, models.mlp((3,), 2, hidden=(8,)), "regression"), (text, reader, "sequence")
  stream, model, objective = cases[ANYTHING.index(name) % 2]
  result = run(stream, model, name, hyper, objective=objective, training=TRAINING._replace(epochs=1))
  assert result.alive.all()
  assert all(np.isfinite(v).all() for v in result.scores.values())


STRENGTHS = {"ewc": 3.0, "online_ewc": 3.0, "mas": 0.3, "lwf": 3.0}


@pytest.mark.parametrize("name", list(STRENGTHS))
def test_penalties_and_distillation_hold_what_was_learned(name, real, text, reader):
  """Not finetune, as a softmax of one output or an information of 0 would make it; at strength 0 finetune to the bit of
  rounding; strong, the second task moves the first one's outputs less."""
  cases = {"regression": (real, models.mlp((3,), 2, hidden=(8,))), "sequence": (text, reader)}
  for objective, (stream, model) in cases.items():
    population = [cljax.Member(0, {"method.strength": v}) for v in (0.0, STRENGTHS[name])]
    rate = {"learning_rate": 0.05}
    given = {"objective": objective, "training": TRAINING._replace(epochs=8), "optimizer_options": rate}
    free = run(stream, model, seeds=1, **given)
    both = run(stream, model, name, population=population, **given)
    first, second = (jax.tree.map(lambda a, i=i: a[i], both.learner.params) for i in range(2))
    near = lambda a, b: max(float(np.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    assert near(first, jax.tree.map(lambda a: a[0], free.learner.params)) < 1e-5
    assert near(first, second) > 1e-2
    main = both.scores["squared_error" if objective == "regression" else "perplexity"]
    assert main[1, 2, 0] < main[0, 2, 0], (name, objective)


def test_a_request_is_answered_by_the_losses_of_rows(real, text, reader):
  """graddiff and ssd under objectives without classes: what is forgotten fits worse, and a divergence that
  there is none of is refused."""
  cases = {"regression": (real, models.mlp((3,), 2, hidden=(8,))), "sequence": (text, reader)}
  rows = tuple(int(i) for i in real.dataset.train.id[real.train[0]][:6])
  for objective, (stream, model) in cases.items():
    asked = stream._replace(events=(*stream.events, cljax.Forget(ids=rows)))
    given = {"objective": objective, "training": TRAINING._replace(epochs=8)}
    for forget, hyper in (("graddiff", {"forget_weight": 0.3, "steps": 30}), ("ssd", {"alpha": 1.0})):
      result = run(asked, model, forget=forget, forget_hyper=hyper, **given)
      (said,) = result.forgotten
      worse = said["forget"][0] - said["retain"][0]
      assert np.isfinite(worse)
      assert forget == "ssd" or worse > 0, (objective, said)
    spec = spec_of(asked, 8, objectives.chosen(objective))
    alone = spec._replace(objective=spec.objective._replace(divergence=None))
    with pytest.raises(cljax.UsageError, match=r"method\.retain_loss: got 'kl', which needs divergence"):
      methods.make("graddiff", model, alone, retain_loss="kl")
    assert methods.make("graddiff", model, spec, retain_loss="kl").forget is not None
  with pytest.raises(cljax.UsageError, match=r"method\.fisher: got 'exact', which needs factor; the objective"):
    run(text, reader, "ewc", {"fisher": "exact"}, objective="sequence")


@pytest.mark.parametrize("name", ["ncm", "ogd", "supsup", "clnp"])
def test_what_needs_classes_is_refused_in_one_line(name, real):
  with pytest.raises(cljax.UsageError, match=f"'{name}' needs classes, which the objective 'regression' does not have"):
    run(real, models.mlp((3,), 2, hidden=(8,)), name, objective="regression")


def test_a_policy_that_needs_classes_is_refused(real):
  with pytest.raises(cljax.UsageError, match="policy: class_balanced needs classes"):
    run(real, models.mlp((3,), 2), "er", {"policy": "class_balanced"}, objective="regression")


def test_wrong_objectives_are_one_line(real):
  model = models.mlp((3,), 2)
  for given, text in (
    ({"objective": "regresion"}, "objective.name: unknown 'regresion'; did you mean regression"),
    ({"objective": "regression", "objective_options": {"nois": 1.0}}, "objective.nois: 'regression' has no such"),
    ({"objective": "regression", "objective_options": {"noise": 0.0}}, "objective.noise: got 0.0; expected a number"),
    ({"objective": 3}, "objective: got int; expected one of adversarial, classification"),
    ({"objective": objectives.regression(), "objective_options": {"noise": 1.0}}, "objective_options: belong to"),
  ):
    with pytest.raises(cljax.UsageError) as error:
      run(real, model, **given)
    assert str(error.value).startswith(text)
  with pytest.raises(cljax.UsageError, match="y: a row has 2 targets; the model gives 3 numbers"):
    run(real, models.mlp((3,), 3), objective="regression")


def test_an_objective_of_one_s_own(real):
  """Absolute errors, in the lines that the docs would show."""

  def absolute(model, spec, values):
    each = lambda prediction, batch: (jnp.abs(prediction - batch.y).sum(-1), None)
    error = lambda key, predict, batch: (jnp.abs(predict(batch) - batch.y).sum(-1), jnp.ones(len(batch.y)))
    return objectives.supervised("absolute", each, {"error": objectives.Score(error, better="lower")}, "error")

  result = run(real, models.mlp((3,), 2, hidden=(8,)), "er", {"capacity": 8}, objective=absolute)
  z = np.asarray(result.predict(real.dataset.test.x))
  expected = np.abs(z - real.dataset.test.y).sum(-1)[real.test[1]].mean()
  np.testing.assert_allclose(result.scores["error"][0, -1, 1], expected, rtol=1e-5)


def test_it_resumes_to_the_same_bits_and_another_objective_is_refused(real, tmp_path):
  model, told = models.mlp((3,), 2, hidden=(8,)), []
  given = {"objective": "regression", "seeds": 2}
  whole = run(real, model, "er", {"capacity": 8}, **given)
  stop = lambda: any(m.get("total", 0) >= 8 for m in told)
  with pytest.raises(cljax.Stopped):
    run(real, model, "er", {"capacity": 8}, workdir=str(tmp_path), report=told.append, stop=stop, **given)
  with pytest.raises(cljax.CljaxError, match="objective"):
    run(real, model, "er", {"capacity": 8}, workdir=str(tmp_path), objective_options={"noise": 2.0}, **given)
  again = run(real, model, "er", {"capacity": 8}, workdir=str(tmp_path), **given)
  assert again.params_sha256 == whole.params_sha256
  np.testing.assert_array_equal(again.scores["squared_error"], whole.scores["squared_error"])


def test_a_run_is_loaded_under_its_objective(real, tmp_path):
  model, given = models.mlp((3,), 2, hidden=(8,)), {"objective": "regression", "objective_options": {"noise": 0.5}}
  result = run(real, model, workdir=str(tmp_path), **given)
  again = cljax.load(str(tmp_path), stream=real, model=model, training=TRAINING, **given)
  x = real.dataset.test.x
  np.testing.assert_array_equal(again.predict(x), result.predict(x))
  with pytest.raises(cljax.UsageError, match="objective: got 'classification'; the run learned 'regression'"):
    cljax.load(str(tmp_path), stream=real, model=model, training=TRAINING)


def test_a_request_is_answered_by_retraining_and_leaves_no_target(text, reader):
  """The deleted rows' tokens, inputs and targets, lie nowhere in the learner."""
  rows = text.train[0][:3]
  asked = cljax.Forget(ids=tuple(text.dataset.train.id[rows].tolist()))
  stream = text._replace(events=(cljax.Learn(0), asked, cljax.Learn(1)))

  def both(model, spec):
    return cljax.compose(er=methods.make("er", model, spec, capacity=40), retrain=methods.make("retrain", model, spec))

  result = run(stream, reader, both, objective="sequence")
  assert result.forgotten[0]["rows"] == 3
  held = [np.asarray(a).reshape(-1, LENGTH) for a in jax.tree.leaves(result.learner.method_state)
          if np.asarray(a).dtype == np.int32 and np.asarray(a).size % LENGTH == 0]  # fmt: skip
  for kind in (text.dataset.train.x, text.dataset.train.y):
    unique = [r for r in rows if (kind == kind[r]).all(1).sum() == 1]
    assert all(not (h == kind[r]).all(1).any() for h in held for r in unique)


def test_absent_rows_are_zeroed_whole():
  x = {"a": jnp.ones((3, 2)), "b": jnp.full((3, 4), 7, jnp.int32)}
  y = {"token": jnp.full((3, 5), 2, jnp.int32), "weight": jnp.ones((3, 5))}
  gone = zero_absent_rows(Batch(x, y, jnp.asarray([1.0, 0.0, 1.0]), jnp.arange(3), jnp.zeros(3, jnp.int32)))
  assert gone.id.tolist() == [0, -1, 2]
  for leaf in jax.tree.leaves((gone.x, gone.y)):
    assert (np.asarray(leaf).reshape(3, -1).any(1) == [True, False, True]).all()


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_what_an_objective_has_is_known_without_data(name):
  """Its fields say which methods may be used with it; draws and losses among rows have none of a row's own."""
  one = objectives.chosen(name, {"items": 2} if name == "ranking" else {})(None, None, {})
  assert one.main in one.scores
  assert one.name == name
  assert (one.each is None) == (name in ("contrastive", "ranking"))
  assert (one.inputs is not None) == (name == "denoising")
  assert all(score.better in ("higher", "lower") for score in one.scores.values())


def test_a_run_goes_on_from_another_s_end(text, reader):
  """With every score of the rows before."""
  cut = text._replace(events=text.events[:1])
  built = lambda stream: engine.prepare(
    stream, reader, objective="sequence", training=TRAINING, options=cljax.Options(chunk_steps=4)
  )
  first, long = built(cut).run(), built(text)
  gone_on, whole = long.run(start=engine.continued(long, first)), long.run()
  assert gone_on.params_sha256 == whole.params_sha256
  assert list(gone_on.scores) == ["perplexity", "accuracy"]
  assert gone_on.better == {"perplexity": "lower", "accuracy": "higher"}
  for name, values in whole.scores.items():
    np.testing.assert_array_equal(gone_on.scores[name], values)
