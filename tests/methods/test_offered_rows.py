"""What further online methods offer to their memories."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench

from cljax.core.types import Batch, Outputs, StepInfo


@pytest.mark.parametrize("name", ["aser", "cope", "dvc", "ocm"])
def test_rows_are_offered_once_and_absent_ones_never(name, class_stream, small_model):
  """Of eight rows five are there, of which one came before: it is offered again where each pass counts."""
  weight, fresh = np.r_[np.ones(5), np.zeros(3)], np.r_[0.0, np.ones(7)]
  rows = jnp.arange(8)
  batch = Batch(
    jnp.ones((8, 4, 4, 1)), rows % 4, jnp.asarray(weight), rows, jnp.zeros(8, jnp.int32), fresh=jnp.asarray(fresh)
  )
  for insert, want in (("once", weight * fresh), ("every_pass", weight)):
    bench = Bench(name, class_stream, small_model, {"insert": insert})
    outputs = Outputs(jnp.zeros((8, 4)), jnp.ones((8, 32)))
    info = StepInfo(batch, outputs, None, None, jnp.float32(0))
    after = bench.parts.method.after_step(jax.random.key(0), bench.start(), info).method_state
    state = getattr(after, "replay", after)
    np.testing.assert_array_equal(state.weight, want)
    np.testing.assert_array_equal(state.pending["id"], rows)
