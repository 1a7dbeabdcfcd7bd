"""A replay that is stopped goes on from where it was, and leaves no checkpoint a stop."""

from __future__ import annotations

import numpy as np
import pytest

import cljax
from cljax import engine, streams
from cljax.io import checkpoint


@pytest.fixture(scope="module", params=["retrain", "sisa"])
def prepared(request, dataset, small_model):
  """Of two members; with checkpoints inside tasks, so inside the replay."""
  stream = streams.build(dataset, "class", tasks=2, forget="2:ids=1003,1004; 2:class=1")
  options = cljax.Options(chunk_steps=2, checkpoint_every=4)
  training = cljax.Recipe(batch_size=8, epochs=1)
  name = request.param
  return engine.prepare(
    stream, small_model, name, seeds=2 if name == "retrain" else 1, training=training, options=options
  )


def started(prepared, folder, chunks: int):
  """A start that is stopped after so many chunks of a replay; its result, or None."""
  met = []
  note = lambda message: met.append(message) if message["kind"] == "replay" else None
  try:
    return prepared.run(str(folder), report=note, stop=lambda: len(met) >= chunks), met
  except cljax.Stopped:
    return None, met


def test_a_replay_stopped_again_and_again_ends(prepared, tmp_path):
  whole = prepared.run(str(tmp_path / "whole"))
  starts, result, seen = 0, None, []
  while result is None:
    result, met = started(prepared, tmp_path / "stopped", 1)
    seen += [(m["event"], m["task"], m["step"]) for m in met]
    starts += 1
    assert starts < 40, "every start has made the same steps again"
    assert len(checkpoint.numbers(tmp_path / "stopped" / "checkpoints")) <= len(prepared.setup.stream.events) + 2
  assert starts > 4
  assert len(seen) == len(set(seen)), "no chunk was made twice"
  assert result.params_sha256 == whole.params_sha256
  assert [f["forget"] for f in result.forgotten] == [f["forget"] for f in whole.forgotten]


def test_a_stop_at_the_same_place_makes_no_checkpoint(prepared, tmp_path):
  """Stopped before its first step, again and again."""
  folder = tmp_path / "checkpoints"
  assert started(prepared, tmp_path, 1)[0] is None
  before = checkpoint.numbers(folder)
  for _ in range(3):
    with pytest.raises(cljax.Stopped):
      prepared.run(str(tmp_path), stop=lambda: True)
  assert len(checkpoint.numbers(folder)) <= len(before) + 1


def test_what_is_inside_a_replay_can_be_loaded_as_it_stands(prepared, tmp_path, dataset, small_model):
  """The state from before the request is read, as from any checkpoint; the replay lies beside it."""
  assert started(prepared, tmp_path, 3)[0] is None
  number = checkpoint.numbers(tmp_path / "checkpoints")[-1]
  meta = checkpoint.read_meta(tmp_path / "checkpoints", number)
  assert meta["position"]["replay"][1] > 0
  assert set(meta["more"]) == {"replay"}
  state = checkpoint.read_state(tmp_path / "checkpoints", number, meta)
  beside = checkpoint.read_state(tmp_path / "checkpoints", number, meta, item="replay")
  assert set(state) == set(beside)
  kernel = next(k for k in state if k.endswith("kernel") and "params" in k)
  assert not np.array_equal(state[kernel], beside[kernel])
