"""Two requests with no step between them draw noise of their own; the first draws what a request alone does."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import cljax
from cljax import streams
from cljax.core import tree

TRAINING = cljax.Recipe(batch_size=16, epochs=1)


def noisy(model, spec):
  """A method that answers each request by adding its noise to every parameter."""
  del model, spec

  def forget(key, learner, request, tools):
    del request, tools
    noise = lambda path, p: p + jax.random.normal(tree.fold(key, str(path)), p.shape)
    return learner._replace(params=jax.tree_util.tree_map_with_path(noise, learner.params))

  return cljax.Method(forget=forget, access=cljax.Access(forgets=True, forget_data=True))


@pytest.fixture(scope="module")
def noises(dataset, small_model):
  """What each of three requests in a row added, flat."""
  first = streams.build(dataset, "class", tasks=2).train[0]
  asked = [(1, cljax.Forget(ids=(int(i),))) for i in dataset.train.id[first[:3]]]
  after = []
  for count in range(4):
    stream = streams.build(dataset, "class", tasks=2, forget=asked[:count])
    stream = stream._replace(events=stream.events[: 1 + count])
    result = cljax.run(stream, small_model, noisy, training=TRAINING)
    after.append(np.concatenate([np.ravel(a) for a in jax.tree.leaves(result.learner.params)]))
  key = jax.tree.map(lambda a: a[0], result.learner.key)
  step = int(result.learner.step[0])
  shapes = jax.tree.map(lambda a: a[0], result.learner.params)
  return np.diff(after, axis=0), (key, step, shapes)


def test_requests_in_a_row_draw_noise_of_their_own(noises):
  found = np.abs(np.corrcoef(noises[0]))
  bound = 5 / np.sqrt(noises[0].shape[1])  # five standard errors of a correlation of independent draws
  assert (found[~np.eye(3, dtype=bool)] < bound).all()


def test_a_request_alone_draws_by_the_step(noises):
  """The bits of runs with one request between two steps are those of earlier versions."""
  added, (key, step, shapes) = noises
  own = tree.fold(jax.random.fold_in(key, step), "forget")
  draw = lambda path, p: jax.random.normal(tree.fold(own, str(path)), p.shape)
  wanted = jax.tree.leaves(jax.tree_util.tree_map_with_path(draw, shapes))
  np.testing.assert_allclose(added[0], np.concatenate([np.ravel(a) for a in wanted]), atol=1e-5)
