"""A part that puts another model in place: every part works on the model that is trained, wherever its owner stands."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from bench import assert_near

import cljax
from cljax import methods, streams
from cljax.engine.setup import spec_of

GIVEN = {"training": cljax.Recipe(batch_size=8, epochs=1), "options": cljax.Options(chunk_steps=4)}


@pytest.fixture(scope="module")
def stream(dataset):
  return streams.build(dataset, "class", tasks=2, validation=0.0, active="seen", forget="2:class=1")


def forgotten(stream, model, method, hyper):
  return cljax.run(stream, model, method, hyper, forget="sisa", forget_hyper={"shards": 2}, **GIVEN)


@pytest.mark.parametrize(("method", "hyper"), [("ewc", {"strength": 5.0}), ("mas", {}), ("lwf", {})])
def test_a_method_that_looks_at_the_model_beside_an_ensemble(stream, small_model, method, hyper):
  """Its Fisher pass or teacher is of the ensemble, and at strength 0 it adds nothing."""
  alone = forgotten(stream, small_model, "finetune", {})
  neutral = forgotten(stream, small_model, method, {"strength": 0.0})
  assert_near(neutral.learner.params, alone.learner.params)
  acting = forgotten(stream, small_model, method, hyper)
  assert all(np.isfinite(a).all() for a in jax.tree.leaves(acting.learner.params))


def test_the_owner_may_stand_anywhere(stream, small_model):
  spec = spec_of(stream, 8)
  make = lambda name, **options: lambda model: methods.make(name, model, spec, **options)
  parts = {"ewc": make("ewc"), "vcl": make("vcl"), "er": make("er", capacity=8)}
  for order in (("ewc", "vcl", "er"), ("vcl", "er", "ewc")):
    built = methods.of_one_model({n: parts[n] for n in order}, small_model)
    assert list(built) == list(order)
    factory = lambda model, spec, order=order: cljax.compose(
      **methods.of_one_model({n: parts[n] for n in order}, model)
    )
    result = cljax.run(stream._replace(events=stream.events[:2]), small_model, factory, **GIVEN)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(result.learner.params))


@pytest.mark.parametrize("active", ["seen", "task"])
def test_absent_rows_of_a_request_bring_no_nan(dataset, small_model, active):
  """A softmax over no class is NaN, at weight 0 too; alpha 0 is the identity."""
  stream = streams.build(dataset, "class", tasks=2, validation=0.0, active=active, forget="2:task=1")
  forget = {"forget": "fisher_forgetting", "forget_hyper": {"variant": "paper", "alpha": 0.0}}
  result = cljax.run(stream, small_model, "finetune", **forget, **GIVEN)
  plain = cljax.run(stream._replace(events=stream.events[:2]), small_model, "finetune", **GIVEN)
  assert_near(result.learner.params, plain.learner.params)
