"""digits: contents against scikit-learn's loader, the split, the cache, light imports."""

import subprocess
import sys

import numpy as np
import pytest

from cljax import data
from cljax.core.types import UsageError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def digits(root):
  return data.load("digits", data_dir=str(root))


def test_contents_are_sklearns(digits):
  from sklearn.datasets import load_digits

  x, y = load_digits(return_X_y=True)
  ours = np.concatenate([digits.train.x, digits.test.x]).reshape(-1, 64)
  labels = np.concatenate([digits.train.y, digits.test.y])
  expected = sorted(map(tuple, np.c_[x, y].astype(int)))
  assert sorted(map(tuple, np.c_[ours, labels].astype(int))) == expected


def test_shapes_and_split(digits):
  assert digits.train.x.shape == (1438, 8, 8, 1)
  assert digits.train.x.dtype == np.uint8
  assert digits.test.x.shape[0] == 359
  assert int(digits.train.x.max()) == 16
  assert digits.scale == 1 / 16
  assert digits.num_classes == 10
  assert digits.train.y.dtype == digits.train.id.dtype == digits.train.group.dtype == np.int32
  np.testing.assert_array_equal(digits.train.id, np.arange(1438))
  share = np.bincount(digits.test.y) / np.bincount(np.r_[digits.train.y, digits.test.y])
  assert np.all(abs(share - 0.2) < 0.01)


def test_second_load_is_equal_and_light(root, digits):
  code = (
    "import sys; from cljax import data\n"
    f"d = data.load('digits', data_dir={str(root)!r})\n"
    "heavy = [m for m in ('tensorflow', 'tensorflow_datasets', 'sklearn', 'matplotlib', 'grain') if m in sys.modules]\n"
    "print(d.digest, heavy)"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
  assert out.split(maxsplit=1) == [digits.digest, "[]\n"]


def test_damaged_files_are_made_again(tmp_path, digits):
  for cut in (0, 1000):
    data.load("digits", data_dir=str(tmp_path))
    (tmp_path / "cache" / "digits.npz").unlink()
    shard = next((tmp_path / "cljax_digits" / "1.0.0").glob("*train.array_record*"))
    shard.write_bytes(shard.read_bytes()[:cut])
    assert data.load("digits", data_dir=str(tmp_path)).digest == digits.digest


def test_digest_is_the_same_everywhere(digits):
  assert digits.digest == "5c654226c65b1492c762e004631320bad364b89932360df580f1d961f4ea6ca2"


def test_unknown_name_and_option(root):
  with pytest.raises(UsageError, match="name: unknown dataset 'digitz'"):
    data.load("digitz", data_dir=str(root))
  with pytest.raises(UsageError, match="seed: not an option of dataset 'digits'"):
    data.load("digits", data_dir=str(root), seed=1)
