"""Momentum in a method's own transforms holds gradients of rows: after an edit it is zero, as the optimizer's is."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import cljax
from cljax import methods, streams
from cljax.core.opt_state import without_moments


@pytest.mark.parametrize("part", ["transform", "penalty", "pull", "finalize"])
def test_nothing_of_it_is_left_after_an_edit(dataset, small_model, monkeypatch, part):
  held = optax.chain(optax.trace(0.9), optax.ema(0.9)) if part != "penalty" else optax.ema(0.9)

  def factory(model, spec):
    return cljax.Method(**{part: held})

  monkeypatch.setitem(methods.METHODS, "test_own", methods.Entry(factory, {}, cljax.Access(), "here"))
  run = lambda forget: cljax.run(
    streams.build(dataset, "class", tasks=2, validation=0, forget=forget), small_model, "test_own", forget="ssd",
    training=cljax.Recipe(batch_size=8, epochs=1),
  ).learner.opt_state  # fmt: skip
  size = lambda state: sum(float(np.abs(np.asarray(a)).sum()) for a in jax.tree.leaves(getattr(state, part))
                           if np.issubdtype(np.asarray(a).dtype, np.floating))  # fmt: skip
  assert size(run("1:ids=1000")) > 0, "the next task fills it again"
  assert size(run("2:class=0")) == 0


def test_other_states_stay():
  state = optax.chain(cljax.regularizers.ewc(1.0), optax.adam(0.1)).init({"w": np.ones(2, np.float32)})
  _, state = optax.chain(cljax.regularizers.ewc(1.0), optax.adam(0.1)).update(
    {"w": np.ones(2)}, state, {"w": np.ones(2)}
  )
  found = without_moments(state)
  assert jax.tree.structure(found) == jax.tree.structure(state)
  np.testing.assert_array_equal(found[0].anchor["w"], state[0].anchor["w"])
  assert not found[1][0].mu["w"].any()
  assert found[1][0].count == 1
