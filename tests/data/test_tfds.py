"""TFDS sets on disk: ArrayRecord read without TensorFlow, TFRecord converted by the printed command."""

import json
import shlex
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from cljax import data
from cljax.core.types import UsageError
from cljax.data import builders, convert


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A data directory with ``cljax_digits`` prepared: a TFDS set like any other."""
  root = tmp_path_factory.mktemp("tfds")
  builders.prepare("digits", root)
  return root


def fails(message, name, root, **options):
  with pytest.raises(UsageError) as e:
    data.load(name, data_dir=str(root), **options)
  assert message in str(e.value)
  assert "\n" not in str(e.value)
  return str(e.value)


def test_a_prepared_set_loads_by_name_without_tensorflow(root):
  code = (
    "import sys; from cljax import data\n"
    f"d = data.load('cljax_digits', data_dir={str(root)!r})\n"
    "print(d.digest, d.train.x.shape, d.num_classes, 'tensorflow' in sys.modules, 'sklearn' in sys.modules)"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
  ours = data.load("tfds:cljax_digits:1.0.0", data_dir=str(root))
  assert out.strip() == f"{ours.digest} (1438, 8, 8, 1) 10 False False"
  digits = data.load("digits", data_dir=str(root))
  rows = lambda s: np.sort(np.c_[s.x.reshape(len(s.x), -1), s.y], axis=0)
  np.testing.assert_array_equal(rows(ours.train), rows(digits.train))
  np.testing.assert_array_equal(rows(ours.test), rows(digits.test))


def test_splits_may_be_slices_and_pictures_resized(root):
  d = data.load("cljax_digits", data_dir=str(root), train_split="train[:40]", test_split="train[40:50]", size=4)
  assert d.train.x.shape == (40, 4, 4, 1)
  assert d.test.x.shape == (10, 4, 4, 1)
  assert data.options("cljax_digits", data_dir=str(root)) == {
    "train_split": "train",
    "test_split": "test",
    "size": None,
  }


def test_refusals(root):
  command = f"tfds build nosuch --data_dir={root} --file_format=array_record"
  assert fails("name: tfds:nosuch is not prepared in", "tfds:nosuch", root).endswith(command)
  fails("tfds:cljax_digits:2.0.0 is not prepared in", "tfds:cljax_digits:2.0.0", root)
  fails("allowed: tfds:NAME[/CONFIG][:VERSION]", "tfds:../cljax_digits", root)
  fails(
    "train_split: got 'validation'; allowed: train, test, or a slice", "cljax_digits", root, train_split="validation"
  )
  fails("test_split: got 3; allowed", "cljax_digits", root, test_split=3)
  fails(
    "test_split: got 'test[:0]'; allowed: train, test, or a slice of one", "cljax_digits", root, test_split="test[:0]"
  )
  fails("split: not an option of dataset 'cljax_digits'; allowed: train_split", "cljax_digits", root, split="x")


def test_several_configs(tmp_path):
  for config in ("big", "small"):
    folder = tmp_path / "things" / config / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
  fails("has several configs; allowed: things/big, things/small", "things", tmp_path)


def test_damaged_files(root, tmp_path):
  shutil.copytree(root / "cljax_digits", tmp_path / "cljax_digits")
  shard = next((tmp_path / "cljax_digits" / "1.0.0").glob("*train.array_record*"))
  shard.write_bytes(shard.read_bytes()[:1000])
  fails("data_dir: ", "tfds:cljax_digits", tmp_path)
  shard.unlink()
  fails("data_dir: ", "tfds:cljax_digits", tmp_path)


def tfrecord(records):
  """TFRecord framing, written independently of the reader: the CRC-32C comes from its polynomial, bit by bit."""

  def crc(b):
    c = 0xFFFFFFFF
    for byte in b:
      c ^= byte
      for _ in range(8):
        c = c >> 1 ^ 0x82F63B78 * (c & 1)
    c ^= 0xFFFFFFFF
    return struct.pack("<I", (((c >> 15) | (c << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

  heads = (struct.pack("<Q", len(r)) for r in records)
  return b"".join(h + crc(h) + r + b"\0\0\0\0" for h, r in zip(heads, records, strict=True))


@pytest.fixture
def as_tfrecord(root, tmp_path):
  """The digits set as TFDS would have left it in TFRecord."""
  from array_record.python.array_record_module import ArrayRecordReader

  source, folder = root / "cljax_digits" / "1.0.0", tmp_path / "cljax_digits" / "1.0.0"
  folder.mkdir(parents=True)
  for path in source.iterdir():
    if ".array_record" in path.name:
      reader = ArrayRecordReader(str(path))
      (folder / path.name.replace("array_record", "tfrecord")).write_bytes(tfrecord(reader.read_all()))
    else:
      (folder / path.name).write_bytes(path.read_bytes())
  info = json.loads((folder / "dataset_info.json").read_text())
  del info["fileFormat"]  # older TFDS versions wrote none for TFRecord
  (folder / "dataset_info.json").write_text(json.dumps(info))
  return tmp_path


def test_tfrecord_gets_a_command_that_converts_it(root, as_tfrecord):
  message = fails("is prepared as TFRecord; convert it with: python -m cljax.data.convert", "cljax_digits", as_tfrecord)
  command = shlex.split(message.partition("convert it with: ")[2])
  done = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stdout == "1797 records converted to ArrayRecord\n"
  converted = data.load("cljax_digits", data_dir=str(as_tfrecord))
  assert converted.digest == data.load("cljax_digits", data_dir=str(root)).digest
  assert convert.convert(as_tfrecord / "cljax_digits" / "1.0.0") == 0  # a second time does nothing


def test_convert_refuses_damage(as_tfrecord, capsys):
  folder = as_tfrecord / "cljax_digits" / "1.0.0"
  shard = next(folder.glob("*test.tfrecord*"))
  good = shard.read_bytes()
  for bad, message in (
    (good[:-5], "is cut short"),
    (good[:3] + b"\x07" + good[4:], "is damaged at byte 0"),
    (b"", "records; dataset_info.json says"),
  ):
    shard.write_bytes(bad)
    assert convert.main([str(folder)]) == 2
    assert message in capsys.readouterr().err
    fails("is prepared as TFRecord", "cljax_digits", as_tfrecord)
  assert convert.main([str(as_tfrecord)]) == 2
  assert "has no dataset_info.json" in capsys.readouterr().err
  assert convert.main([]) == 2


def test_checksum_of_the_standard():
  """RFC 3720 B.4: 32 bytes of zeros have CRC-32C 0x8a9136aa."""
  crc = 0x8A9136AA
  assert convert.masked_crc(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
  assert zlib.crc32(bytes(32)) != crc  # it is not zip's polynomial


def test_archive_names_fall_back_to_tfds(root, tmp_path):
  """load('mnist') takes a TFDS set of that name where there are no IDX files."""
  shutil.copytree(root / "cljax_digits", tmp_path / "mnist")
  info_file = tmp_path / "mnist" / "1.0.0" / "dataset_info.json"
  info_file.write_text(info_file.read_text().replace('"cljax_digits"', '"mnist"'))
  for path in (tmp_path / "mnist" / "1.0.0").glob("cljax_digits-*"):
    path.rename(path.with_name(path.name.replace("cljax_digits", "mnist")))
  assert data.load("mnist", data_dir=str(tmp_path)).train.x.shape == (1438, 8, 8, 1)


def test_encoded_pictures_configs_and_versions(tmp_path):
  """A set with PNG pictures of two sizes, as most TFDS image sets store them, under a config and two versions."""
  import io

  import tensorflow_datasets as tfds
  from PIL import Image

  def png(value, side):
    out = io.BytesIO()
    Image.new("RGB", (side, side), (value, 0, 9)).save(out, "PNG")
    return out.getvalue()

  class Pets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    SUPPORTED_VERSIONS = [tfds.core.Version("1.0.0"), tfds.core.Version("1.10.0")]
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="all")]
    code_path = None

    def _info(self):
      features = tfds.features.FeaturesDict(
        {
          "name": tfds.features.Text(),
          "image": tfds.features.Image(),
          "kind": tfds.features.ClassLabel(names=["a", "b"]),
        }
      )
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples(6), "test": self._generate_examples(2)}

    def _generate_examples(self, n):
      for i in range(n):
        side = 8 if self.version == "1.10.0" and i % 2 else 4
        yield i, {"name": "x", "image": io.BytesIO(png(10 * i, side)), "kind": i % 2}

  for version in ("1.0.0", "1.10.0"):
    with builders.quiet():
      Pets(data_dir=str(tmp_path), file_format="array_record", version=version).download_and_prepare()
  old = data.load("pets:1.0.0", data_dir=str(tmp_path))
  assert old.train.x.shape == (6, 4, 4, 3)
  np.testing.assert_array_equal(old.train.x[:, 0, 0, 0] // 10 % 2, old.train.y)
  assert old.class_names == ("a", "b")
  fails("size: got None, and pictures are", "pets/all", tmp_path)  # the newest version has two sizes
  assert data.load("tfds:pets/all:1.10.0", data_dir=str(tmp_path), size=8).train.x.shape == (6, 8, 8, 3)
