"""Arrays of the caller's own, mapped files, sizes without a bound, and damaged files: one line each."""

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cljax import data, streams
from cljax.core.types import UsageError
from cljax.data import arrays, limits


def one_line(message, function, *args, **kwargs):
  with pytest.raises(UsageError) as e:
    function(*args, **kwargs)
  assert message in str(e.value), str(e.value)
  assert "\n" not in str(e.value)


def test_plain_lists_are_arrays():
  x, y = [[0.0, 1.5], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]], [0, 1, 0, 1]
  d = data.from_arrays("mine", {"x": x, "y": y, "group": [0, 0, 1, 1]})
  same = data.from_arrays("mine", {"x": np.float32(x), "y": np.array(y), "group": np.array([0, 0, 1, 1])}, {"seed": 0})
  assert d.digest == same.digest
  both = data.from_arrays("mine", {"x_train": x, "y_train": y, "x_test": x, "y_test": tuple(y)})
  np.testing.assert_array_equal(both.test.x, np.float32(x))


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"x": [[0.0], [1.0, 2.0]]}, "x: rows of uneven length are float32; allowed: whole numbers (tokens)"),
    ({"x": [[0, 1], [2, 3]]}, "x: dtype is int64; allowed: uint8 or a float type"),
    ({"x": [0.0, 1.0]}, "x: shape is (2,)"),
    ({"x": 3.0}, "x: shape is ()"),
    ({"x": None}, "x: dtype is object"),
    ({"x": [["a"], ["b"]]}, "x: dtype is <U1"),
    ({"x": np.zeros((2, 0))}, "x: shape is (2, 0); allowed: axes of at least 1"),
    ({"y": [["a"], ["b"]]}, "y: dtype is <U1; allowed: whole numbers or words (classes), or floats (real targets, or"),
    ({"y": [0.5, np.nan]}, "y: 1 of 2 rows hold NaN or infinity; every value must be finite"),
    ({"y": [[0.5, 1.0]]}, "y: shape is (1, 2); allowed: (2, ...), real numbers for each row of x"),
    ({"y": [True, False]}, "y: dtype is bool"),
    ({"y": 1}, "y: shape is ()"),
    ({"y": [[0], ["a", 1]]}, "y[1]: dtype is <U21"),
    ({"y": [0]}, "y: shape is (1,); allowed: (2,)"),
    ({"group": [0.5, 1.0]}, "group: dtype is float64"),
  ],
)
def test_what_is_no_array_is_refused(change, said):
  one_line(said, data.from_arrays, "mine", {"x": [[0.0], [1.0]], "y": [0, 1], **change})


def test_what_is_no_mapping_is_refused():
  one_line("mine: got a list; allowed: a mapping of x_train", data.from_arrays, "mine", [[0.0], [1.0]])


def numbers(**more):
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(24, 50)).astype(np.float32), np.arange(24) % 3
  return {"x_train": x, "y_train": y, "x_test": x[:6], "y_test": y[:6], **more}


def based_on_a_map(x):
  while x is not None and not isinstance(x, np.memmap):
    x = x.base
  return x is not None


def test_large_arrays_are_mapped_and_the_same(tmp_path, monkeypatch):
  made = numbers()
  np.savez(tmp_path / "a.npz", **made)
  np.savez_compressed(tmp_path / "b.npz", **made)
  (tmp_path / "c").mkdir()
  for key, value in made.items():
    np.save(tmp_path / "c" / f"{key}.npy", value)
  names = [f"npz:{tmp_path}/a.npz", f"npz:{tmp_path}/b.npz", f"embeddings:{tmp_path}/c"]
  read = [data.load(n) for n in names]
  monkeypatch.setattr(arrays, "MAPPED", 1000)
  mapped = [data.load(n) for n in names]
  assert [based_on_a_map(d.train.x) for d in read] == [False] * 3
  assert [based_on_a_map(d.train.x) for d in mapped] == [True, False, True]
  for a, b in zip(read, mapped, strict=True):
    assert a.digest == b.digest
    np.testing.assert_array_equal(b.train.x, made["x_train"])
  damaged = bytearray((tmp_path / "a.npz").read_bytes())
  at = bytes(damaged).index(made["x_train"].tobytes())
  damaged[at + 100] ^= 1
  (tmp_path / "a.npz").write_bytes(damaged)
  one_line("bad checksum", data.load, names[0])
  np.savez(tmp_path / "a.npz", **numbers(x_train=np.array([None] * 2000)))
  one_line("holds Python objects, which are never unpickled", data.load, names[0])


def test_what_does_not_fit_is_refused_with_estimate_and_limit(tmp_path, monkeypatch):
  np.savez_compressed(tmp_path / "a.npz", **numbers())
  one_line("samples_per_class: ", data.load, "glyphs", data_dir=tmp_path, classes=2, alphabets="digits",
           samples_per_class=2147483648)  # fmt: skip
  (tmp_path / "x.idx").write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 2**31, 2**31))
  from cljax.data.archives import read_idx

  one_line("needs about over a million TiB of memory", read_idx, tmp_path / "x.idx")
  monkeypatch.setattr(limits, "available", lambda: 2000)
  one_line("x_train needs about 0.0 MiB of memory; 0.0 MiB are free; store it with np.savez", data.load,
           str(tmp_path / "a.npz"))  # fmt: skip


@pytest.mark.parametrize("kind", streams.KINDS)
@pytest.mark.parametrize("tasks", [2147483648, 10**6])
def test_more_tasks_than_memory_are_refused(dataset, monkeypatch, kind, tasks):
  monkeypatch.setattr(limits, "available", lambda: 10**6)
  if kind == "scole":
    tasks = 10**7  # a million events of it are possible
  one_line("stream.", streams.build, dataset, kind, tasks=tasks)


def test_free_memory_is_what_the_system_says():
  total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
  assert 0 < limits.available() <= int(total.split()[1]) * 1024
  limits.check_memory("x", 1, "")
  with pytest.raises(UsageError, match=r"x needs about 20480 TiB of memory; .* are free; ask for less"):
    limits.check_memory("x", 20 * 2**50, "ask for less")


def idx(shape, n=None):
  return b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(n or int(np.prod(shape)))


def mnist(root):
  for stem, n in (("train", 20), ("t10k", 10)):
    (root / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx((n, 4, 4))))
    (root / f"{stem}-labels-idx1-ubyte").write_bytes(idx((n,)))
  return ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"]


def cifar10(root):
  rows = bytes(3073 * 2)
  with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz") as tar:
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt"):
      content = "\n".join("abcdefghij").encode() if name.endswith("txt") else rows
      member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return ["cifar-10-binary.tar.gz"]


def tiny_imagenet(root):
  handle = io.BytesIO()
  Image.new("RGB", (4, 4)).save(handle, "JPEG")
  with zipfile.ZipFile(root / "tiny-imagenet-200.zip", "w", zipfile.ZIP_DEFLATED) as z:
    z.writestr("tiny-imagenet-200/wnids.txt", "n1\n")
    z.writestr("tiny-imagenet-200/train/n1/images/a.JPEG", handle.getvalue())
    z.writestr("tiny-imagenet-200/val/images/b.JPEG", handle.getvalue())
    z.writestr("tiny-imagenet-200/val/val_annotations.txt", "b.JPEG\tn1\n")
  return ["tiny-imagenet-200.zip"]


def npz(root):
  np.savez(root / "npz", **numbers())
  np.savez_compressed(root / "small.npz", **numbers())
  return ["npz.npz", "small.npz"]


def folder(root):
  for c in ("a", "b"):
    (root / "folder" / c).mkdir(parents=True)
    for k, end in enumerate(("png", "jpg", "gif", "bmp", "tif", "webp")):
      Image.fromarray(np.random.default_rng(k).integers(0, 255, (8, 8, 3), np.uint8)).save(
        root / "folder" / c / f"{k}.{end}"
      )
  return [f"folder/a/{k}.{end}" for k, end in enumerate(("png", "jpg", "gif", "bmp", "tif", "webp"))]


def npy(root):
  (root / "npy").mkdir()
  for key, value in numbers().items():
    np.save(root / "npy" / f"{key}.npy", value)
  return ["npy/x_train.npy", "npy/y_test.npy"]


NAMES = {mnist: "mnist", cifar10: "cifar10", tiny_imagenet: "tiny_imagenet", folder: "folder:folder"}


@pytest.mark.parametrize("make", [mnist, cifar10, tiny_imagenet, npz, folder, npy], ids=lambda f: f.__name__)
def test_a_damaged_file_is_one_line_or_data(tmp_path, make):
  """Cut, flipped, overwritten and lengthened files: a data set, or one line of UsageError; nothing else."""
  files = make(tmp_path)
  rng = np.random.default_rng(0)
  for file in files:
    path = tmp_path / file
    good = path.read_bytes()
    name = NAMES.get(make) or (f"npz:{path.name}" if make is npz else "embeddings:npy")
    data.load(name, data_dir=tmp_path)
    for trial in range(40):
      bad = bytearray(good)
      at = int(rng.integers(len(bad))) if trial % 2 else int(rng.integers(min(len(bad), 200)))
      match trial % 4:
        case 0:
          bad = bad[:at]
        case 1 | 2:
          bad[at : at + 4] = rng.bytes(4)
        case 3:
          bad = bad[:at] + rng.bytes(8) + bad[at:]
      path.write_bytes(bad)
      said = ""
      try:
        data.load(name, data_dir=tmp_path)
      except UsageError as e:
        said = str(e)
      assert "\n" not in said
      assert len(said) < 600
    path.write_bytes(good)


@pytest.mark.parametrize("info", ["", "{", "[]", "[" * 100_000, '{"fileFormat": "array_record"}', "\xff", '{"a": NaN}'])
def test_a_damaged_tfds_set_is_one_line(tmp_path, info):
  folder = tmp_path / "some" / "1.0.0"
  folder.mkdir(parents=True)
  (folder / "dataset_info.json").write_bytes(info.encode("latin-1"))
  one_line("data_dir: ", data.load, "tfds:some", data_dir=tmp_path)


def test_so_many_groups_are_refused():
  made = {"x": [[0.0], [1.0], [2.0], [3.0]], "y": [0, 1, 0, 1], "group": [0, 1, 2, 2**31 - 1]}
  one_line("group: values go up to 2147483647; allowed: below 1000000", data.from_arrays, "mine", made)
