"""MNIST, CIFAR and Tiny-ImageNet from tiny archives written here in the official formats."""

import gzip
import io
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from cljax import data
from cljax.core.types import UsageError

RNG = np.random.default_rng(0)


def load(name, root, **options):
  return data.load(name, data_dir=str(root), **options)


def fails(name, root, message, **options):
  with pytest.raises(UsageError) as e:
    load(name, root, **options)
  assert message in str(e.value)
  assert "\n" not in str(e.value)


def idx(a):
  return b"\0\0\x08" + bytes([a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape) + a.tobytes()


def write_mnist(root, end="", labels=10):
  pack = gzip.compress if end else bytes
  out = {}
  for stem, n in (("train", 20), ("t10k", 10)):
    x, y = RNG.integers(0, 256, (n, 5, 4), dtype=np.uint8), (np.arange(n) % labels).astype(np.uint8)
    (root / f"{stem}-images-idx3-ubyte{end}").write_bytes(pack(idx(x)))
    (root / f"{stem}-labels-idx1-ubyte{end}").write_bytes(pack(idx(y)))
    out[stem] = x, y
  return out


@pytest.mark.parametrize(("end", "folder"), [("", "."), (".gz", "mnist"), (".gz", "MNIST/raw")])
def test_mnist(tmp_path, end, folder):
  (tmp_path / folder).mkdir(parents=True, exist_ok=True)
  written = write_mnist(tmp_path / folder, end)
  d = load("mnist", tmp_path)
  for part, stem in ((d.train, "train"), (d.test, "t10k")):
    np.testing.assert_array_equal(part.x[..., 0], written[stem][0])
    np.testing.assert_array_equal(part.y, written[stem][1])
  assert d.num_classes == 10
  assert d.scale == 1 / 255


def test_mnist_refusals(tmp_path):
  fails("mnist", tmp_path, "data_dir: files of 'mnist' not found; looked for train-images-idx3-ubyte[.gz] in")
  write_mnist(tmp_path, labels=11)
  fails("mnist", tmp_path, "train.y: values span 0..10; allowed: 0..9")
  write_mnist(tmp_path)
  images = tmp_path / "train-images-idx3-ubyte"
  good = images.read_bytes()
  images.write_bytes(good[:-1])
  fails("mnist", tmp_path, "holds 399 bytes; its header says (20, 5, 4)")
  images.write_bytes(b"\x89PNG" + good)
  fails("mnist", tmp_path, "is no IDX file of unsigned bytes")
  images.write_bytes(b"\0\0")
  fails("mnist", tmp_path, "is no IDX file")
  images.write_bytes(idx(np.zeros((19, 5, 4), np.uint8)))
  fails("mnist", tmp_path, "train images are (19, 5, 4) and labels (20,)")
  images.unlink()
  (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
  fails("mnist", tmp_path, "train-images-idx3-ubyte.gz cannot be read")


def cifar_rows(n, labels):
  """Records and the [N, 32, 32, 3] pictures they hold."""
  x = RNG.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
  y = np.stack([np.arange(n) % k for k in labels], 1).astype(np.uint8)
  return np.concatenate([y, x.transpose(0, 3, 1, 2).reshape(n, -1)], 1).tobytes(), x, y


def write_tar(path, files):
  with tarfile.open(path, "w:gz") as tar:
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))


def write_folder(root, files):
  for name, content in files.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_cifar10(tmp_path, kind):
  files, xs, ys = {}, [], []
  for i in range(1, 6):
    files[f"cifar-10-batches-bin/data_batch_{i}.bin"], x, y = cifar_rows(4, (10,))
    xs.append(x)
    ys.append(y[:, 0])
  files["cifar-10-batches-bin/test_batch.bin"], tx, ty = cifar_rows(3, (10,))
  files["cifar-10-batches-bin/batches.meta.txt"] = b"\n".join(f"class{i}".encode() for i in range(10)) + b"\n\n"
  if kind == "tar":
    write_tar(tmp_path / "cifar-10-binary.tar.gz", files)
  else:
    write_folder(tmp_path, files)
  d = load("cifar10", tmp_path)
  np.testing.assert_array_equal(d.train.x, np.concatenate(xs))
  np.testing.assert_array_equal(d.train.y, np.concatenate(ys))
  np.testing.assert_array_equal(d.test.x, tx)
  np.testing.assert_array_equal(d.test.y, ty[:, 0])
  assert d.class_names[3] == "class3"


def cifar100_files(top="cifar-100-binary"):
  train, x, y = cifar_rows(6, (3, 5))
  test = cifar_rows(5, (3, 5))[0]
  fine, coarse = b"apple\nbed\ncat\ndog\nelk\n", b"plant\nthing\nanimal\n"
  names = ("train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt")
  return {f"{top}/{n}": f for n, f in zip(names, (train, test, fine, coarse), strict=True)}, x, y


def test_cifar100_has_superclasses_as_groups(tmp_path):
  files, x, y = cifar100_files()
  write_tar(tmp_path / "cifar-100-binary.tar.gz", files)
  d = load("cifar100", tmp_path)
  np.testing.assert_array_equal(d.train.x, x)
  np.testing.assert_array_equal(d.train.group, y[:, 0])
  np.testing.assert_array_equal(d.train.y, y[:, 1])
  assert d.class_names == ("apple", "bed", "cat", "dog", "elk")
  assert d.group_names == ("plant", "thing", "animal")


def test_cifar_refusals(tmp_path):
  fails("cifar100", tmp_path, "looked for cifar-100-binary.tar.gz, or cifar-100-binary/ with train.bin")
  files, _, _ = cifar100_files()
  archive = tmp_path / "cifar-100-binary.tar.gz"
  write_tar(archive, {k: v for k, v in files.items() if "test" not in k})
  fails("cifar100", tmp_path, "lacks test.bin")
  write_tar(archive, files | {"cifar-100-binary/train.bin": files["cifar-100-binary/train.bin"][:-7]})
  fails("cifar100", tmp_path, "train.bin holds 18437 bytes; needed: a multiple of 3074")
  write_tar(archive, files)
  archive.write_bytes(archive.read_bytes()[:3000])
  fails("cifar100", tmp_path, "cannot be read")
  fails("cifar100", tmp_path, "size: not an option of dataset 'cifar100'; allowed: none", size=3)


def test_hostile_members_stay_in_memory(tmp_path):
  """Names that climb out of the folder are read like any other and never written."""
  root = tmp_path / "in" / "side"
  root.mkdir(parents=True)
  write_tar(root / "cifar-100-binary.tar.gz", cifar100_files("../../escaped")[0])
  assert len(load("cifar100", root).train.x) == 6
  assert sorted(p.name for p in tmp_path.rglob("*")) == ["cifar-100-binary.tar.gz", "in", "side"]


def test_links_in_archives_are_not_followed(tmp_path):
  files, _, _ = cifar100_files()
  secret = files.pop("cifar-100-binary/train.bin")
  (tmp_path / "secret").write_bytes(secret)
  with tarfile.open(tmp_path / "cifar-100-binary.tar.gz", "w:gz") as tar:
    link = tarfile.TarInfo("cifar-100-binary/train.bin")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
    tar.addfile(link)
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  fails("cifar100", tmp_path, "lacks train.bin")


def jpeg(value, gray=False):
  out = io.BytesIO()
  Image.fromarray(np.full((8, 8) if gray else (8, 8, 3), value, np.uint8)).save(out, "JPEG")
  return out.getvalue()


def tiny_files():
  top = "tiny-imagenet-200"
  files = {f"{top}/wnids.txt": b"n02\nn01\n", f"{top}/test/images/test_0.JPEG": jpeg(9)}
  for i, w in enumerate(("n01", "n02")):
    for k in range(3):
      files[f"{top}/train/{w}/images/{w}_{k}.JPEG"] = jpeg(100 * i + 10 * k, gray=k == 1)
  files[f"{top}/val/images/val_0.JPEG"] = jpeg(200)
  files[f"{top}/val/images/val_1.JPEG"] = jpeg(50)
  files[f"{top}/val/val_annotations.txt"] = b"val_0.JPEG\tn01\t0\t0\t1\t1\nval_1.JPEG\tn02\t0\t0\t1\t1\n"
  return files


def write_zip(path, files):
  with zipfile.ZipFile(path, "w") as z:
    for name, content in files.items():
      z.writestr(name, content)


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_tiny_imagenet(tmp_path, kind):
  (write_folder if kind == "folder" else lambda r, f: write_zip(r / "tiny-imagenet-200.zip", f))(tmp_path, tiny_files())
  d = load("tiny_imagenet", tmp_path)
  assert d.train.x.shape == (6, 8, 8, 3)
  assert d.class_names == ("n02", "n01")
  np.testing.assert_array_equal(d.train.y, [1, 1, 1, 0, 0, 0])
  np.testing.assert_allclose(d.train.x.mean((1, 2, 3)), [0, 10, 20, 100, 110, 120], atol=2)
  np.testing.assert_array_equal(d.test.y, [1, 0])
  np.testing.assert_allclose(d.test.x.mean((1, 2, 3)), [200, 50], atol=2)


def test_tiny_imagenet_refusals(tmp_path):
  fails("tiny_imagenet", tmp_path, "looked for tiny-imagenet-200.zip or tiny-imagenet-200/wnids.txt")
  archive, files = tmp_path / "tiny-imagenet-200.zip", tiny_files()
  archive.write_bytes(b"PK nonsense")
  fails("tiny_imagenet", tmp_path, "cannot be read")
  write_zip(archive, {k: v for k, v in files.items() if "annotations" not in k})
  fails("tiny_imagenet", tmp_path, "lacks val/val_annotations.txt")
  write_zip(archive, files | {"tiny-imagenet-200/train/n07/images/n07_0.JPEG": jpeg(1)})
  fails("tiny_imagenet", tmp_path, "has the class 'n07'; allowed: the 2 of wnids.txt")
  write_zip(archive, files | {"tiny-imagenet-200/train/n01/images/n01_0.JPEG": b"junk"})
  fails("tiny_imagenet", tmp_path, "train/n01/images/n01_0.JPEG: cannot be read as a picture")
