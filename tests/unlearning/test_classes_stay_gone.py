"""A later request brings no class back: what an edit aims at leaves out classes that earlier requests took."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import engine, streams, unlearning
from cljax.core.types import Batch, rows_from_arrays
from cljax.unlearning._common import among_the_others
from cljax.unlearning.descent import wrong_labels

Y = np.tile(np.arange(4, dtype=np.int32), 10)
X = (3 * np.eye(4, 6)[Y] + np.random.default_rng(0).normal(size=(40, 6))).astype(np.float32)
GONE = np.asarray([False, False, True, False])
NAMES = ["random_labels", "bad_teacher", "stochastic_teacher", "famr"]


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
  forget, optimizer = rows_from_arrays(X[asked], Y[asked]), optax.adam(0.02)
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


def test_the_engine_tells_an_edit_what_went_before(dataset, small_model):
  """Class 0 went by an earlier request, class 1 goes now; a request for rows takes no class."""

  def telling(model, spec):
    del model, spec

    def forget(key, learner, request, tools):
      """Both as binary numbers, in the next place of the state; its last entry counts requests."""
      del key, tools
      gone, now = ((asked * 2 ** jnp.arange(4)).sum() for asked in (request.gone, request.classes))
      state = learner.method_state
      return learner._replace(method_state=state.at[state[-1]].set(16 * gone + now).at[-1].add(1))

    access = cljax.Access(forgets=True, forget_data=True)
    return cljax.Method(init=lambda key, learner: jnp.zeros(4, jnp.int32), forget=forget, access=access)

  one = dataset.train.id[dataset.train.y == 1][0]  # of the first task too
  stream = streams.build(dataset, "class", tasks=2, validation=0, forget=f"1:class=0; 1:ids={one}; 2:class=1")
  learner = engine.prepare(stream, small_model, telling, training=cljax.Recipe(batch_size=16)).run().learner
  assert np.asarray(learner.method_state)[0, :3].tolist() == [1, 16, 16 + 2]
