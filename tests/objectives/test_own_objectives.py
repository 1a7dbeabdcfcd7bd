"""An objective of the caller's own of a wrong form is one line that says what it gave; a right one is not held up."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import data, models, objectives, streams
from cljax.core.types import UsageError
from cljax.objectives import Objective, Score, registry, supervised

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 3)).astype(np.float32), RNG.normal(size=24).astype(np.float32)


@pytest.fixture(scope="module")
def stream():
  arrays = {"x_train": X[:16], "y_train": Y[:16], "x_test": X[16:], "y_test": Y[16:]}
  return streams.build(data.from_arrays("numbers", arrays), "group", tasks=1, validation=0.0)


def right(prediction, batch):
  return jnp.abs(prediction[:, 0] - batch.y), None


def error(key, predict, batch):
  return jnp.abs(predict(batch)[:, 0] - batch.y), jnp.ones(batch.y.shape[0])


def own(each=right, score=error, main="error", **form):
  scores = {"error": Score(score, **{"better": "lower", **form})}
  return lambda model, spec, values: supervised("own", each, scores, main)


def run(stream, objective):
  training = cljax.Recipe(batch_size=4)
  return cljax.run(stream, models.mlp((3,), 1, hidden=(4,)), objective=objective, training=training)


def test_the_score_is_numpy_s(stream):
  result = run(stream, own())
  z = np.asarray(result.predict(X[16:]))[:, 0]
  np.testing.assert_allclose(result.scores["error"][0, -1, 0], np.abs(z - Y[16:]).mean(), rtol=1e-5)


WRONG = [
  (lambda model, spec, values: None, "objective: the factory gave NoneType; expected cljax.objectives.Objective"),
  (lambda model: None, "objective: the factory is called with (model, spec, values): "),
  (own(main="accuracy"), "objective.main: got 'accuracy'; expected one of error"),
  (lambda *a: Objective("own", None, {}, "error"), "objective.main: got 'error'; expected one of the scores"),
  (own(better="down"), "objective.scores: 'error' is better='down'; expected a Score whose better is"),
  (own(each=lambda p, b: right(p, b)[0]), "objective.loss: gives losses of shape [] for 2 rows; expected [B] or"),
  (own(each=lambda p, b: (jnp.sum(p), None)), "objective.loss: gives losses of shape [] for 2 rows; expected [B]"),
  (own(each=lambda p, b: (jnp.abs(p - b.y), None)), "a row has losses [2] among two rows and [3] among three"),
  (own(each=lambda p, b: (right(p, b)[0], jnp.ones((2, 2)))), "weights of a row's parts are [2, 2], losses [2]"),
  (own(score=lambda k, f, b: (jnp.abs(f(b) - b.y), jnp.ones(len(b.y)))), "'error' gives [[2, 2], [2]] for 2 rows"),
  (own(score=lambda k, f, b: (jnp.abs(f(b)), jnp.ones(len(b.y)))), "'error' gives [[2, 1], [2]] for 2 rows; expected"),
  (own(score=lambda k, f, b: (error(k, f, b)[0], 1.0)), "'error' gives [[2], []] for 2 rows; expected a numerator and"),
  (own(score=lambda k, f, b: error(k, f, b)[0]), "objective.scores: 'error' gives "),
  (own(score=lambda k, f, b: f(b).nothing), "objective.scores: 'error': does not fit this model and these data: "),
]  # fmt: skip


@pytest.mark.parametrize(("objective", "said"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_form_is_one_line(stream, objective, said):
  with pytest.raises(UsageError) as caught:
    run(stream, objective)
  assert said in str(caught.value)
  assert "\n" not in str(caught.value)


def test_every_ready_made_form_is_right():
  """Of what needs no data of a special form; the others are run elsewhere."""
  assert {n for n in objectives.OBJECTIVES} >= {"classification", "regression", "sequence"}
  from cljax.engine import objective_forms

  made = objective_forms.made(objectives.regression(), None, None, {"objective.noise": 1.0})
  assert made.main == "squared_error"


def test_a_name_that_is_taken_is_refused():
  def regression(model, spec):
    return None

  with pytest.raises(UsageError, match=r"^objective\.name: 'regression' is already registered$"):
    registry.offered()(regression)
