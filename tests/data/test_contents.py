"""What a loaded set contains, value by value: the caller's arrays, a held-out part by its rule, and the digest."""

import hashlib
import json

import numpy as np
import pytest

from cljax import data
from cljax.core.types import UsageError

RNG = np.random.default_rng(8)


def check(part, x, y, group):
  np.testing.assert_array_equal(part.x, x)
  assert part.x.dtype == x.dtype
  for got, want in ((part.y, y), (part.group, group), (part.id, np.arange(len(y)))):
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.int32


def digest_of(d, options):
  """SHA-256 of a JSON line on top, then each part's dtype, shape and bytes."""
  head = {"name": d.name, "options": options, "classes": list(d.class_names), "groups": list(d.group_names)}
  h = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
  for part in (d.train, d.test):
    for a in (part.x, part.y, part.id, part.group):
      h.update(f"{a.dtype.str}{a.shape}".encode() + np.ascontiguousarray(a).tobytes())
  return h.hexdigest()


def test_given_parts_are_kept_as_they_are():
  x, y = RNG.integers(0, 256, (9, 3, 2), dtype=np.uint8), np.array([2, 0, 1, 2, 0, 1, 0, 2, 1])
  given = {"x_train": x[:6], "y_train": y[:6], "x_test": x[6:], "y_test": y[6:]}
  d = data.from_arrays("mine", given)
  check(d.train, x[:6, ..., None], y[:6], np.zeros(6))  # gray pictures get a channel; without groups all are of one
  check(d.test, x[6:, ..., None], y[6:], np.zeros(3))
  assert d.name == "mine"
  assert (d.num_classes, d.class_names, d.group_names, d.scale) == (3, ("0", "1", "2"), ("0",), 1 / 255)
  assert d.digest == digest_of(d, {})
  groups = {"group_train": [3, 0, 1, 1, 0, 0], "group_test": [2, 4, 0]}
  d = data.from_arrays("mine", {**given, **groups, "x_train": x[:6] / 7, "x_test": x[6:] / 7})
  check(d.train, (x[:6] / 7).astype(np.float32), y[:6], groups["group_train"])
  check(d.test, (x[6:] / 7).astype(np.float32), y[6:], groups["group_test"])
  assert (d.scale, d.group_names) == (1.0, ("0", "1", "2", "3", "4"))


def test_a_part_is_held_out_of_each_class_by_draws_of_its_seed():
  """Of each class the round(fraction n) rows with the least draws of PCG64(seed), at least one, never all."""
  y = np.array([0, 1, 0, 2, 0, 1, 0, 2, 0, 0, 0, 1, 0, 3])
  x, group = RNG.normal(size=(14, 2)), np.arange(14) % 2
  d = data.from_arrays("mine", {"x": x, "y": y, "group": group}, {"test_fraction": 0.3, "seed": 5})
  draws, out = np.random.Generator(np.random.PCG64(5)).random(14), []
  for c, take in enumerate((2, 1, 1, 0)):  # of 8, 3, 2 and 1 rows
    of = sorted(np.flatnonzero(y == c), key=lambda i: draws[i])
    out += of[:take]
  test = np.sort(out)
  train = np.setdiff1d(np.arange(14), test)
  check(d.train, x[train].astype(np.float32), y[train], group[train])
  check(d.test, x[test].astype(np.float32), y[test], group[test])
  assert d.digest == digest_of(d, {"test_fraction": 0.3, "seed": 5})
  plain = data.from_arrays("mine", {"x": x, "y": y, "group": group})
  assert plain.digest == digest_of(plain, {"test_fraction": 0.2, "seed": 0})


def test_classes_and_numbers_at_their_bounds():
  x = np.zeros((4, 1), np.float32)
  both = lambda y, **more: {"x_train": x, "y_train": y, "x_test": x, "y_test": y} | more
  top = data.from_arrays("mine", both([0, 1, 0, 1], group_train=[10**6 - 1] * 4))
  assert len(top.group_names) == 10**6
  for change, said in (
    ({"group_train": [10**6] * 4}, "group: values go up to 1000000; allowed: below 1000000"),
    ({"y_train": [0, 2, 0, 2]}, "y_test: '1' has no row in y_train"),
    ({"y_train": [0, 1, 0, -1]}, "y_train: values span -1..1; allowed: 0..2147483647"),
    ({"y_train": [0, 1, 0, 2**31], "y_test": [0, 3, 0, 0]}, "y_test: '3' has no row in y_train"),
    ({"x_test": None, "y_test": None}, "x_test: "),
    ({"y_train": [[0, np.nan], [np.inf, np.nan], [1, 2], [0, 0.5]]}, "y_train: 2 of 4 rows hold NaN or infinity"),
  ):
    with pytest.raises(UsageError) as e:
      data.from_arrays("mine", both([0, 1, 0, 1]) | change)
    assert said in str(e.value)
  with pytest.raises(UsageError, match="mine: lacks 'y_test', has x_train, y_train, x_test"):
    data.from_arrays("mine", {"x_train": x, "y_train": [0, 1, 0, 1], "x_test": x})
  for options, said in (
    ({"x": x}, "got x; allowed: test_fraction, seed"),
    (0.2, "got a float; allowed: test_fraction"),
  ):
    with pytest.raises(UsageError, match=f"options of the split: {said}"):
      data.from_arrays("mine", both([0, 1, 0, 1]), options)


def test_a_name_means_a_file_an_archive_or_a_folder(tmp_path):
  """The same arrays, whichever way they are named; in the caller's folder before the data directory."""
  x, y = RNG.normal(size=(6, 2)).astype(np.float32), np.arange(6) % 2
  given = {"x_train": x[:4], "y_train": y[:4], "x_test": x[4:], "y_test": y[4:]}
  np.savez(tmp_path / "set.npz", **given)
  (tmp_path / "vectors").mkdir()
  for key, value in given.items():
    np.save(tmp_path / "vectors" / f"{key}.npy", value)
  here = str(tmp_path)
  for name in ("set.npz", "npz:set.npz", "embeddings:set.npz", f"npz:{here}/set.npz", f"{here}/set.npz"):
    d = data.load(name, data_dir=here)
    check(d.train, x[:4], y[:4], np.zeros(4))
    check(d.test, x[4:], y[4:], np.zeros(2))
    assert (d.name, d.digest) == ("set.npz", digest_of(d, {}))
  for name in ("vectors", "embeddings:vectors", f"{here}/vectors"):
    d = data.load(name, data_dir=here)
    check(d.train, x[:4], y[:4], np.zeros(4))
    assert d.name == "vectors"
  for name in ("folder:vectors", "npz:", "vector", "embeddings"):
    with pytest.raises(UsageError):
      data.load(name, data_dir=here)
  for name, said in (("npz:set.npz", "test_fraction, seed"), ("digits", "none")):
    with pytest.raises(UsageError, match=f"^size: not an option of dataset {name!r}; allowed: {said}$"):
      data.load(name, data_dir=here, size=3)
