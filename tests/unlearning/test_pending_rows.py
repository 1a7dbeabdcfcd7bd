"""A row that was deleted leaves nothing in the batch that a method still holds: no input, no label, no id."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import records

import cljax
from cljax import engine, streams
from cljax.core import tree
from experiments import _revealed


@pytest.mark.parametrize("name", ["er", "derpp", "reptile"])
def test_a_replay_leaves_no_id_and_no_label_of_a_deleted_row(name):
  """Every row of the last steps is deleted and replayed over: what the method holds of that batch is blank."""
  data = _revealed.data()
  plain = streams.build(data, "class", tasks=2, validation=0)
  rows = plain.train[1][:-1]  # all but one of the last task
  asked = [(2, cljax.Forget(ids=tuple(int(i) for i in data.train.id[rows])))]
  stream = streams.build(data, "class", tasks=2, validation=0, forget=asked)
  made = engine.prepare(
    stream, cljax.models.mlp(_revealed.SHAPE, 4, hidden=(8,)), name, records.arguments(name), forget="retrain",
    training=cljax.Recipe(batch_size=8, epochs=1), options=cljax.Options(chunk_steps=2),
  )  # fmt: skip
  learner = made.run().learner
  state = {"method": learner.method_state, "optimizer": learner.opt_state}
  for row in rows:
    found = _revealed.search(state, data.train.x[row], int(row))
    assert not found.copy
  pairs = zip(tree.paths(state), jax.tree.leaves(state), strict=True)
  held = {path.rsplit("pending/")[-1]: np.asarray(leaf)[0] for path, leaf in pairs if "pending/" in path}
  blank = held["id"] == -1
  assert blank.any(), "the last batch is of deleted rows and of one that is left"
  assert not set(held["id"].tolist()) & set(rows.tolist())
  for name in ("x", "y"):
    assert not held[name][blank].any()
