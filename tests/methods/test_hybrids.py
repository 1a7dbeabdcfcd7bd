"""Hybrids: every projector with every regularizer and a memory, through compose."""

import numpy as np
import pytest
import records

import cljax
from cljax import methods
from cljax.core.types import UsageError

TRAIN = cljax.Recipe(batch_size=8, epochs=5)


def hybrid(*names):
  def factory(model, spec):
    parts = {n: methods.make(n, model, spec, **records.arguments(n)) for n in names}
    return cljax.compose(**parts)

  return factory


@pytest.mark.parametrize("names", [("si", "ewc", "er"), ("gpm", "derpp", "mas"), ("agem", "ewc", "lwf")])
def test_hybrids_run_and_learn(class_stream, small_model, names):
  result = cljax.run(class_stream, small_model, hybrid(*names), training=TRAIN)
  assert set(result.learner.method_state) == set(names)
  assert np.isfinite(result.accuracy).all()
  assert result.task_accuracy[0, -1, -1] > 0.6


def test_a_part_keeps_its_state_and_randomness(class_stream, small_model):
  """ER alone and ER beside an EWC of strength 0 train alike: the part neither loses state nor shares keys."""
  both = lambda model, spec: cljax.compose(
    er=methods.make("er", model, spec, capacity=12), ewc=methods.make("ewc", model, spec, strength=0.0)
  )
  only = lambda model, spec: cljax.compose(er=methods.make("er", model, spec, capacity=12))
  a, b = (cljax.run(class_stream, small_model, f, training=TRAIN) for f in (both, only))
  np.testing.assert_array_equal(
    a.learner.method_state["er"].memory.rows["id"], b.learner.method_state["er"].memory.rows["id"]
  )
  np.testing.assert_allclose(a.learner.params["head"]["kernel"], b.learner.params["head"]["kernel"], atol=1e-5)


@pytest.mark.parametrize(
  ("names", "said"),
  [
    (("ncm", "supsup"), "ncm and supsup both define predict"),
    (("ssd", "graddiff"), "ssd and graddiff both define forget"),
  ],
)
def test_parts_that_do_not_go_together_are_refused(class_stream, small_model, names, said):
  with pytest.raises(UsageError, match=said):
    cljax.run(class_stream, small_model, hybrid(*names), training=TRAIN)


def test_the_least_access_that_is_enough_for_all():
  of = lambda *names: cljax.compose(**{n: cljax.Method(access=cljax.Access(trains_on=n)) for n in names}).access
  assert of("current", "seen").trains_on == of("seen", "current").trains_on == "seen"
  assert of("seen", "all", "current").trains_on == "all"
  needy = cljax.compose(a=cljax.Method(access=cljax.Access(needs=("each",), stores_data=True)),
                        b=cljax.Method(access=cljax.Access(needs=("each", "sample"), forgets=True)))  # fmt: skip
  assert needy.access == cljax.Access(needs=("each", "sample"), stores_data=True, forgets=True)


def test_what_one_part_wants_after_a_request_is_done():
  """Of two parts, one of which has it; and of none, none."""
  mine = cljax.Method(after_forget=lambda key, learner, *rest: learner)
  both = cljax.compose(a=cljax.Method(), b=mine)
  assert both.after_forget is not None
  assert cljax.compose(a=cljax.Method(), b=cljax.Method()).after_forget is None
