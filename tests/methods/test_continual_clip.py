"""Continual CLIP against NumPy: on a folder of CLIP's, and on a network of which nothing may move."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import Bench, assert_same
from by_hand import forward, leaves

import cljax
from cljax import models


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """The first task's end, and the second's, under momentum and decay."""
  optimizer = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1, momentum=0.9))
  bench = Bench("continual_clip", class_stream, small_model, {}, optimizer=optimizer)
  first = bench.train(steps=3, tasks=(0,))
  begun = bench.boundary("start_task", first, 1)
  return bench, first, bench.boundary("end_task", bench.steps(begun, 1, 3, met=(0,)), 1)


def test_nothing_moves_under_continual_clip(trained):
  bench, first, ended = trained
  for learner in (first, ended):
    assert_same(learner.params, bench.start().params)
    assert_same(learner.model_state, bench.start().model_state)


def test_continual_clip_answers_by_labels_that_rows_had(trained):
  """An answer about a row is its first one, but for the labels that joined."""
  bench, first, ended = trained
  x = bench.stream.dataset.test.x
  p = leaves(ended.params)
  z = forward(ended.params, x)[0] @ p["head/kernel"] + p["head/bias"]
  predict = lambda l: np.asarray(bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))
  np.testing.assert_allclose(predict(bench.start()), z, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(predict(first), np.where([True, True, False, False], z, -np.inf), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(predict(ended), z, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(predict(ended)[:, :2], predict(first)[:, :2])


def test_a_class_that_goes_whole_has_no_prompt(trained):
  bench, _, ended = trained
  left = bench.parts.scrub(ended, jnp.zeros(bench.spec.num_rows, bool), jnp.arange(4) == 1)
  assert left.method_state.tolist() == [True, False, True, True]
  assert_same(left.params, ended.params)


def test_clip_goes_through_a_stream(class_stream, tmp_path):
  """With a task told accuracies stand for ever; among all labels those of a task fall as others join, or stand."""
  from clip_by_hand import image_embeddings, tensors, text_embeddings, written

  names = ("a", "bb", "c", "d e")
  model = models.clip_classifier(written(tmp_path / "clip"), (4, 4, 1), names, size="positions", normalise="none")
  run = cljax.run(class_stream, model, "continual_clip", training=cljax.Recipe(batch_size=8, epochs=1))
  params = model.init(jax.random.key(0))[0]
  split = class_stream.dataset.test
  t = tensors()
  at = "vision_model.embeddings.position_embedding.weight"
  t[at] = np.asarray(params["image"]["position"]["position"])  # of the smaller images
  images = image_embeddings(t, np.repeat(np.float64(split.x).reshape(-1, 4, 4, 1), 3, -1))
  z = 10 * images @ text_embeddings(t, [f"a photo of a {n}." for n in names]).T
  right = [np.mean(z[m][:, :n].argmax(-1) == split.y[m]) for m, n in zip(class_stream.test, (2, 4), strict=True)]
  np.testing.assert_allclose([run.accuracy[0, 0, 0], run.accuracy[0, 1, 1]], right, atol=1e-6)
  assert run.accuracy[0, 1, 0] <= run.accuracy[0, 0, 0]
  np.testing.assert_array_equal(run.task_accuracy[0, 1, 0], run.task_accuracy[0, 0, 0])
