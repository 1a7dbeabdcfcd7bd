"""Checkpoints on disk: what was saved comes back, and what was not is noticed."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core.types import CljaxError, UsageError
from cljax.io import checkpoint


def state(seed=0):
  key = jax.random.key(seed)
  return {
    "learner": {
      "w": jax.random.normal(key, (8, 3)),
      "key": jax.random.split(key, 2),
      "empty": (),
      "n": jnp.int32(seed),
    },
    "half": jnp.ones(4, jnp.bfloat16),
    "none": jnp.zeros((2, 0)),
  }


def save(directory, count=3, config=None):
  writer = checkpoint.Writer(directory)
  for n in range(1, count + 1):
    writer.save(n, state(n), {"config": config or {"a": {"b": 1}, "c": [1, 2]}, "position": {"event": n}})
  writer.close()
  return {"a": {"b": 1}, "c": [1, 2]}


def assert_state(got, want):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def like():
  return jax.eval_shape(state)


def test_the_newest_comes_back_whole(tmp_path):
  config = save(tmp_path)
  found = checkpoint.restore(tmp_path, like, config)
  assert found.meta["position"] == {"event": 3}
  assert found.notes == ()
  assert_state(found.state, state(3))
  assert checkpoint.restore(tmp_path / "none", like, config) is None


def test_a_relative_directory_will_do(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = save("runs/one/checkpoints", count=1)
  assert checkpoint.numbers("runs/one/checkpoints") == [1]
  assert_state(checkpoint.restore("runs/one/checkpoints", like, config).state, state(1))


def files(directory, number):
  return sorted(p for p in (directory / str(number) / "state").rglob("*") if p.is_file() and p.parent.name == "d")


def test_one_flipped_byte_is_noticed_and_the_one_before_used(tmp_path):
  """Each byte in turn of the newest checkpoint's data files, sampled: never loaded as if nothing were wrong."""
  config = save(tmp_path)
  noticed = 0
  for path in files(tmp_path, 3):
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 6)):
      broken = bytearray(whole)
      broken[at] ^= 0x10
      path.write_bytes(broken)
      found = checkpoint.restore(tmp_path, like, config)
      if found.meta["position"] == {"event": 2}:
        noticed += 1
        assert "checkpoint 3" in found.notes[0]
        assert "trying the one before it" in found.notes[0]
        assert_state(found.state, state(2))
      else:
        assert_state(found.state, state(3))  # a byte that no array depends on
    path.write_bytes(whole)
  assert noticed >= 3
  assert checkpoint.restore(tmp_path, like, config).meta["position"] == {"event": 3}


def test_truncated_and_missing_files_fall_back(tmp_path):
  config = save(tmp_path)
  for path in files(tmp_path, 3):
    path.write_bytes(path.read_bytes()[:10])
  for path in files(tmp_path, 2):
    path.unlink()
  found = checkpoint.restore(tmp_path, like, config)
  assert found.meta["position"] == {"event": 1}
  assert len(found.notes) == 2


def test_nothing_sound_is_an_error(tmp_path):
  config = save(tmp_path, count=1)
  for path in files(tmp_path, 1):
    path.unlink()
  with pytest.raises(CljaxError, match="no sound checkpoint is left"):
    checkpoint.restore(tmp_path, like, config)


def test_uncommitted_checkpoints_are_not_seen(tmp_path):
  config = save(tmp_path)
  (tmp_path / "3" / "commit_success.txt").unlink()
  assert checkpoint.numbers(tmp_path) == [1, 2]
  assert checkpoint.restore(tmp_path, like, config).meta["position"] == {"event": 2}


def test_another_configuration_is_refused_with_the_keys(tmp_path):
  save(tmp_path)
  with pytest.raises(UsageError) as error:
    checkpoint.restore(tmp_path, like, {"a": {"b": 2}, "c": [1, 2], "d": 1})
  assert "a.b: 1 -> 2" in str(error.value)
  assert "d: absent -> 1" in str(error.value)
  assert "c:" not in str(error.value)


def test_another_shape_is_named(tmp_path):
  config = save(tmp_path, count=1)
  wider = lambda: {**like(), "half": jax.ShapeDtypeStruct((5,), jnp.bfloat16)}
  with pytest.raises(CljaxError, match=r"half is bfloat16\[4\]; this run expects bfloat16\[5\]"):
    checkpoint.restore(tmp_path, wider, config)


def test_other_versions_are_told_and_used(tmp_path, monkeypatch):
  config = save(tmp_path, count=1)
  now = checkpoint.versions()
  monkeypatch.setattr(checkpoint, "versions", lambda: {**now, "jaxlib": "9.9.9"})
  found = checkpoint.restore(tmp_path, like, config)
  assert "jaxlib" in found.notes[0]
  assert "bits may differ" in found.notes[0]
  assert_state(found.state, state(1))


def test_unwritable_directory_is_one_line(tmp_path):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(UsageError, match="workdir: cannot write"):
    checkpoint.Writer(tmp_path / "file" / "checkpoints").save(1, state(), {"config": {}, "position": {}})


def test_nothing_on_disk_is_a_pickle(tmp_path):
  save(tmp_path, count=1)
  for path in tmp_path.rglob("*"):
    if path.is_file():
      assert not path.read_bytes().startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")), path


def test_what_is_not_waited_for_is_committed_by_the_next_call_which_raises_what_went_wrong(tmp_path):
  writer = checkpoint.Writer(tmp_path)
  for number in (1, 2):
    writer.save(number, state(number), {"config": {}, "position": {}}, wait=False)
    assert checkpoint.numbers(tmp_path) in (list(range(1, number)), list(range(1, number + 1)))
  writer.drop(1)
  assert checkpoint.numbers(tmp_path) == [2]
  meta = checkpoint.read_meta(tmp_path, 2)
  checkpoint.read_state(tmp_path, 2, meta)  # compares the digest

  def full():
    raise OSError(28, "No space left on device")

  writer._pending = types.SimpleNamespace(result=full)
  with pytest.raises(OSError, match="No space"):
    writer.close()
  assert writer._checkpointer is None, "closed all the same"


def test_a_long_history_is_kept_small(tmp_path):
  rows = [[k / 7 % 1 for _ in range(100)] for k in range(200)]
  writer = checkpoint.Writer(tmp_path)
  writer.save(1, state(1), {"config": {}, "position": {"accuracy": rows}})
  writer.close()
  assert checkpoint.read_meta(tmp_path, 1)["position"]["accuracy"] == rows
  assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) < len(str(rows)) / 5
