"""Early stopping on validation rows (``train.patience``)."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import cljax
from cljax import streams
from cljax.core.types import UsageError
from cljax.engine import patience
from cljax.engine.schedule import Schedule

SEEDS = [0, 1, 2]
TRAINING = cljax.Recipe(batch_size=8, epochs=6, patience=1)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_members_stop_where_a_loop_over_their_scores_does(data):
  """Against the definition: the first border behind which ``patience`` epochs in a row brought nothing better."""
  epochs, wait, sign = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, -1]))
  lengths = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
  scores = [data.draw(st.lists(st.integers(0, 4), min_size=epochs, max_size=epochs)) for _ in lengths]
  plans = [Schedule(None, n * epochs, 0, 8) for n in lengths]
  recipe = cljax.Recipe(epochs=epochs, patience=wait)
  watch, done = patience.fresh(len(plans)), 0
  while done < max(limits := patience.limits(watch, plans)):
    done += patience.next_border(watch, plans, epochs, done)
    now = lambda done=done: np.asarray([s[min(done // n, epochs) - 1] for s, n in zip(scores, lengths, strict=True)])
    watch = patience.look(watch, plans, recipe, True, done, now, sign)
    assert patience.look(watch, plans, recipe, True, done, now, sign) == watch  # once, also after a resume
  for each, n, limit in zip(scores, lengths, limits, strict=True):
    best, since, want = None, 0, epochs
    for epoch, value in enumerate(each, 1):
      better = best is None or sign * value > sign * best
      best, since = (value, 0) if better else (best, since + 1)
      if since == wait:
        want = epoch
        break
    assert limit == want * n


@pytest.fixture(scope="module")
def stream(make_blobs):
  return streams.build(make_blobs(), "class", tasks=2, validation=0.25)


def test_a_member_stops_where_its_own_scores_say(stream, small_model):
  """Each seed among others and alone; what was looked at is what an evaluation at every epoch shows."""
  whole = cljax.run(stream, small_model, training=TRAINING, seeds=SEEDS)
  steps = -(-len(stream.train[0]) // 8)
  assert whole.task_steps.shape == (3, 2)
  assert (whole.task_steps % steps == 0).all()
  assert (whole.task_steps < 6 * steps).any()
  assert whole.learner.step.tolist() == whole.task_steps.sum(1).tolist()
  for k, seed in enumerate(SEEDS[1:], 1):
    one = cljax.run(stream, small_model, training=TRAINING, seeds=[seed])
    assert one.params_sha256[0] == whole.params_sha256[k]
    np.testing.assert_array_equal(one.task_steps[0], whole.task_steps[k])
    np.testing.assert_array_equal(one.accuracy[0], whole.accuracy[k])
  # The first task is that of a run of as many epochs, which stops for no reason.
  for k, seed in enumerate(SEEDS[:2]):
    epochs = int(whole.task_steps[k, 0]) // steps
    plain = cljax.run(stream, small_model, training=cljax.Recipe(batch_size=8, epochs=epochs), seeds=[seed])
    np.testing.assert_array_equal(plain.accuracy[0, 1], whole.accuracy[k, 1])
    assert plain.task_steps is None


def test_no_patience_that_is_never_lost_changes_anything(stream, small_model):
  plain, patient = (
    cljax.run(stream, small_model, training=cljax.Recipe(batch_size=8, epochs=2, patience=p), seeds=2) for p in (0, 9)
  )
  assert plain.params_sha256 == patient.params_sha256
  np.testing.assert_array_equal(plain.validation, patient.validation)
  np.testing.assert_array_equal(plain.log.numerator(1), patient.log.numerator(1))


def test_it_resumes_to_the_same_bits_and_the_same_ends(stream, small_model, tmp_path):
  run = lambda **more: cljax.run(stream, small_model, training=TRAINING, seeds=SEEDS, **more)
  whole = run()
  for after in (1, 3, 6, None):
    calls = iter(range(10**6))
    stop = None if after is None else (lambda calls=calls, after=after: next(calls) >= after)
    try:
      found = run(workdir=str(tmp_path / "run"), stop=stop, options=cljax.Options(chunk_steps=2, checkpoint_every=2))
    except cljax.Stopped:
      continue
  assert found.params_sha256 == whole.params_sha256
  np.testing.assert_array_equal(found.task_steps, whole.task_steps)


def test_seeds_with_streams_of_their_own_stop_apart(make_blobs, small_model):
  own = streams.build(make_blobs(), "class", tasks=2, classes_per_task=(1, 3), validation=0.25, per_seed=True)
  whole = cljax.run(own, small_model, training=TRAINING, seeds=SEEDS)
  one = cljax.run(own, small_model, training=TRAINING, seeds=SEEDS[1:2])
  assert one.params_sha256[0] == whole.params_sha256[1]
  np.testing.assert_array_equal(one.task_steps[0], whole.task_steps[1])


@pytest.mark.parametrize(
  ("method", "options", "more", "said"),
  [
    ("joint", {}, {}, "train.patience: got 1, but the method trains on all tasks at once"),
    (
      "finetune",
      {"validation": 0.0},
      {},
      "train.patience: got 1, but task 0 has no validation rows",
    ),
    ("retrain", {"forget": "1:class=0"}, {}, "train.patience: got 1 with Forget events"),
    (
      "finetune",
      {},
      {"options": cljax.Options(feed="grain")},
      "train.feed: got 'grain' with train.patience",
    ),
  ],
)
def test_what_it_can_not_be_had_with(method, options, more, said, make_blobs, small_model):
  given = streams.build(make_blobs(), "class", **{"tasks": 2, "validation": 0.25, **options})
  with pytest.raises(UsageError) as error:
    cljax.run(given, small_model, method, training=TRAINING, **more)
  assert said in str(error.value)
