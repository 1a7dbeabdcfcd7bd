"""A later request brings no class back: what an edit aims at leaves out classes that earlier requests took."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import data, engine, models, streams, unlearning
from cljax.core.types import Batch, rows_from_arrays
from cljax.unlearning._common import among_the_others
from cljax.unlearning.descent import wrong_labels
from experiments import stay_gone

Y = np.tile(np.arange(4, dtype=np.int32), 10)
X = (3 * np.eye(4, 6)[Y] + np.random.default_rng(0).normal(size=(40, 6))).astype(np.float32)
GONE = np.asarray([False, False, True, False])
NAMES = ["random_labels", "bad_teacher", "stochastic_teacher", "famr", "one_point_contraction"]


def apply_fn(params, batch):
  return batch.x @ params["w"]


def pushed(name: str, gone) -> float:
  """What an edit that forgets class 0 adds to the logit of class 2, beside those of 1 and 3, on the rows of class 0."""
  start = 0.5 * np.eye(6, 4, dtype=np.float32)
  start[0, 2] = -2  # class 2 is improbable there
  params, asked = {"w": jnp.asarray(start)}, Y == 0
  kept = (Y == 1) | (Y == 3)
  more = {} if name == "famr" else {"retain": rows_from_arrays(X[kept], Y[kept])}
  if name.endswith("teacher"):
    more["init_fn"] = lambda key: {"w": jnp.zeros((6, 4))}
  # Adam makes whole steps of the rounding of a gradient that is nearly 0, as that of class 2 is here.
  optimizer = optax.sgd(0.05) if name == "one_point_contraction" else optax.adam(0.02)
  forget = rows_from_arrays(X[asked], Y[asked])
  after = getattr(unlearning, name)(apply_fn, params, forget=forget, optimizer=optimizer, gone=gone, **more)
  beside = lambda p: (X[asked] @ np.asarray(p["w"]) @ np.asarray([0, -0.5, 1, -0.5])).mean()
  return float(beside(after) - beside(params))


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_does_not_aim_at_what_is_gone(name):
  without = pushed(name, None)
  assert without > 0.5
  assert pushed(name, jnp.asarray(GONE)) < 0.5 * without


def test_wrong_labels_are_of_no_class_that_the_request_takes_either():
  """Two classes at once: by hand over many keys, each label is one of the other two."""
  batch = Batch(X, Y, jnp.ones(40), jnp.arange(40), jnp.zeros(40, jnp.int32))
  left = among_the_others(among_the_others(batch, jnp.asarray([True, True, False, False])), GONE)
  labels, possible = wrong_labels(jax.random.key(0), left, 4)
  assert set(np.asarray(labels)[np.asarray(possible)].tolist()) == {3}
  assert np.asarray(possible).tolist() == (Y != 3).tolist()


def told_of_requests(dataset, small_model, look):
  """The states after class 0, one more row and class 1 were forgotten: what ``look(request)`` gave each time, a number;
  the last entry counts requests."""

  def telling(model, spec):
    del model, spec

    def forget(key, learner, request, tools):
      del key, tools
      state = learner.method_state
      return learner._replace(method_state=state.at[state[-1]].set(look(request)).at[-1].add(1))

    access = cljax.Access(forgets=True, forget_data=True, retain_data=True)
    return cljax.Method(init=lambda key, learner: jnp.zeros(4, jnp.int32), forget=forget, access=access)

  one = dataset.train.id[dataset.train.y == 1][0]  # of the first task too
  stream = streams.build(dataset, "class", tasks=2, validation=0, forget=f"1:class=0; 1:ids={one}; 2:class=1")
  return engine.prepare(stream, small_model, telling, training=cljax.Recipe(batch_size=16)).run().learner.method_state


def test_no_loss_of_the_rows_to_forget_knows_of_what_is_gone(dataset, small_model):
  """Its classes are out of the softmax of these rows, for whatever edit; the rows to keep still push them down."""

  def masks(request):
    of = lambda rows: (rows.batch(0, 1).class_mask[0] * 2 ** jnp.arange(4)).sum()
    return 16 * of(request.retain) + of(request.forget)

  told = told_of_requests(dataset, small_model, masks)
  assert np.asarray(told)[0, :3].tolist() == [16 * 15 + 15, 16 * 15 + 14, 16 * 15 + 14]


def test_the_engine_tells_an_edit_what_went_before(dataset, small_model):
  """Class 0 went by an earlier request, class 1 goes now; a request for rows takes no class."""

  def both(request):
    """As binary numbers."""
    gone, now = ((asked * 2 ** jnp.arange(4)).sum() for asked in (request.gone, request.classes))
    return 16 * gone + now

  assert np.asarray(told_of_requests(dataset, small_model, both))[0, :3].tolist() == [1, 16, 16 + 2]


@pytest.fixture(scope="module")
def ten():
  """Digits, but for most of their rows."""
  digits = data.load("digits")
  few = np.sort(np.concatenate([np.flatnonzero(digits.train.y == c)[:40] for c in range(10)]))
  train = digits.train._replace(x=digits.train.x[few], y=digits.train.y[few], id=digits.train.id[few],
                                group=digits.train.group[few])  # fmt: skip
  return digits._replace(train=train)


# Edits that ask something of the forgotten rows' outputs, and were weak or strong enough to show it.
SAMPLE = ("retrain", "random_labels", "famr", "one_point_contraction")


@pytest.mark.parametrize("name", SAMPLE)
def test_forget_one_class_then_another_and_learn_more(ten, name):
  """``experiments/stay_gone.py`` at a smaller size; its table is of every method."""
  model = models.mlp((8, 8, 1), 10, hidden=(32,))
  own = {} if name == "retrain" else {"learning_rate": 5e-3}
  values = stay_gone.found(stay_gone.made(ten, name, model, 15, 1, own, capacity=100).run())
  learned, first, second, later = values["gone"].mean(0)
  assert learned > 0.9
  assert values["kept"][0, 2] > 0.7
  assert second <= max(first, 0.1) + 0.02
  assert later <= 0.02  # as retraining has it
