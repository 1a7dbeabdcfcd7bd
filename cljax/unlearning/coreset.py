"""Forgetting a core of the forget rows: outliers in feature space are left out first."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cljax.rows import as_rows
from cljax.types import Rows, UsageError
from cljax.unlearning._common import cross_entropy, outputs_of
from cljax.unlearning.descent import graddiff


def inliers(features, weight, contamination=0.1, random_state: int = 42) -> np.ndarray:
  """``[N]`` bool: rows of positive weight that an isolation forest on ``features [N, D]`` takes for inliers.

  About ``1 - contamination`` of them; all where ``contamination`` is 0 or fewer than 2 rows are there. The same
  features give the same core. On the host, by scikit-learn. Raises UsageError for a share outside [0, 0.5].
  """
  contamination = float(contamination)
  if not 0 <= contamination <= 0.5:
    raise UsageError(f"contamination: got {contamination:g}; expected a share from 0 to 0.5")
  there = np.asarray(weight) > 0
  if contamination == 0 or there.sum() < 2:
    return there
  from sklearn.ensemble import IsolationForest

  forest = IsolationForest(contamination=contamination, random_state=int(random_state))
  kept = there.copy()
  kept[there] = forest.fit_predict(np.asarray(features, np.float64)[there]) == 1
  return kept


def core_rows(apply_fn, params, forget, *, contamination=0.1, random_state: int = 42, batch: int = 64) -> Rows:
  """The rows of ``forget`` with weight 0 for those outside the :func:`inliers` of the penultimate features.

  ``apply_fn(params, batch)`` gives Outputs with ``features``. Inside a trace the forest is a callback to the host.
  """
  forget = as_rows("forget", forget)
  blocks = -(-forget.capacity // batch)

  def block(i):
    some = forget.batch(i * batch, batch)
    features = outputs_of(apply_fn, params, some).features
    if features is None:
      raise UsageError("apply_fn: upcore needs the features of its rows; return cljax.Outputs with features")
    return features.reshape(batch, -1), some.weight

  features, weight = jax.lax.map(block, jnp.arange(blocks))
  features, weight = features.reshape(blocks * batch, -1), weight.reshape(-1)
  call = lambda f, w, c: inliers(f, w, c, random_state).astype(np.float32)
  shape = jax.ShapeDtypeStruct(weight.shape, jnp.float32)
  kept = jax.pure_callback(call, shape, features, weight, jnp.asarray(contamination), vmap_method="sequential")

  def read(start, size):
    some = forget.batch(start, size)
    at = jnp.minimum(start + jnp.arange(size), kept.shape[0] - 1)
    return some._replace(weight=some.weight * kept[at])

  return Rows(forget.capacity, forget.count, read)


def upcore(
  apply_fn,
  params,
  *,
  forget,
  retain,
  key=None,
  contamination=0.1,
  random_state: int = 42,
  forget_weight=0.05,
  retain_weight=0.95,
  steps: int = 50,
  batch: int = 64,
  optimizer=None,
):
  """UPCORE: :func:`cljax.unlearning.graddiff` on the core of the forget rows, outliers left out by isolation forest.

  ``apply_fn(params, batch)`` gives Outputs with ``features``; the paper prunes by the last token's penultimate hidden
  state. ``contamination = 0`` is GradDiff on all; ``retain_weight = 0`` is ascent. The rows that are left out were
  asked to be forgotten too: evaluate on them. With scikit-learn, on the host. Spec B14; arXiv 2502.15082.
  """
  kept = core_rows(apply_fn, params, forget, contamination=contamination, random_state=random_state, batch=batch)
  given = {"forget_weight": forget_weight, "retain_weight": retain_weight, "optimizer": optimizer}
  options = {"forget": kept, "retain": retain, "key": key, "steps": steps, "batch": batch}
  return graddiff(cross_entropy(apply_fn), params, **options, **given)
