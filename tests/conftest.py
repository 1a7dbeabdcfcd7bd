"""Shared fixtures: a dataset that the tests make themselves, and streams over it."""

from __future__ import annotations

import gc
import os
import pathlib

import numpy as np
import pytest
import quick  # noqa: F401  (before JAX)
import sampling
from sampling import pytest_addoption, pytest_configure, pytest_terminal_summary  # noqa: F401  (hooks)

import cljax
from cljax._cores import FLAG

if FLAG not in os.environ["XLA_FLAGS"]:  # as most tests take it; those of several devices start processes of their own
  cljax.use_cores(1)


def blobs(classes=4, rows=24, test_rows=8, seed=0, shape=(4, 4, 1)):
  """Gaussian blobs as tiny images: one centre a class, float32, easy to learn."""
  from cljax.data import Dataset, Split

  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(classes, *shape))

  def split(n, first):
    y = np.repeat(np.arange(classes), n).astype(np.int32)
    x = (centres[y] + 0.3 * rng.normal(size=(len(y), *shape))).astype(np.float32)
    order = rng.permutation(len(y))
    ids = np.arange(first, first + len(y), dtype=np.int32)
    return Split(x[order], y[order], ids, (ids % 2).astype(np.int32))

  names = tuple(f"class{c}" for c in range(classes))
  return Dataset(
    "blobs", split(rows, 1000), split(test_rows, 9000), classes, names, ("even", "odd"), 1.0, f"blobs{seed}"
  )


@pytest.fixture(scope="session")
def make_blobs():
  return blobs


@pytest.fixture(scope="session")
def dataset():
  return blobs()


@pytest.fixture(scope="session")
def class_stream(dataset):
  from cljax import streams

  return streams.build(dataset, "class", tasks=2, validation=0.125)


@pytest.fixture(scope="session")
def task_stream(dataset):
  from cljax import streams

  return streams.build(dataset, "task", tasks=2, validation=0.125)


@pytest.fixture(scope="session")
def small_model():
  from cljax import models

  return models.mlp((4, 4, 1), 4, hidden=(8,))


IN_EVERY_LOOP = ("er", "ewc", "ssd")  # with -m "not slow" the contract is tried on these entries alone


# A session holds millions of objects, and Python's collector would walk them all again and again.
gc.set_threshold(100_000, 20, 100)


def pytest_collection_finish():
  """What the imports made lives as long as the session."""
  gc.collect()
  gc.freeze()


def share_contexts(programs=200):
  """To make a context of MLIR takes 3 ms, a quarter of what a small program costs: so many programs share one."""
  import threading

  from jax._src.interpreters import mlir

  make, local = mlir.make_ir_context, threading.local()

  def shared():
    local.count = getattr(local, "count", -1) + 1
    if local.count % programs == 0:
      local.context = make()
    return local.context

  mlir.make_ir_context = shared


share_contexts()


def programs_shared(nodeid):
  """What shares a worker: the tests of a file, and in the contract suite those of a method."""
  path, _, test = nodeid.partition("::")
  return path + test.partition("[")[2] if path.endswith("tests/test_contract.py") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """Tests that share programs share a worker. The mark ``xdist_group`` is lost between pytest 9.2 and xdist 3.8."""
  from xdist.scheduler import LoadScopeScheduling

  if config.getvalue("dist") not in ("load", "loadgroup"):
    return None
  scheduler = LoadScopeScheduling(config, log)
  scheduler._split_scope = programs_shared
  return scheduler


def pytest_collection_modifyitems(config, items):
  """Draws the cases of this run and marks what is slow. Contract tests of one method follow one another, so that its
  programs can be dropped when the next one begins."""
  if not sampling.whole(config):
    items[:], left = sampling.split(items, os.environ[sampling.SEED], IN_EVERY_LOOP)
    config.hook.pytest_deselected(items=left)
  for item in items:
    if item.path == pathlib.Path(__file__).parent / "test_contract.py":
      slow = item.callspec.params["name"] not in IN_EVERY_LOOP
    else:
      slow = sampling.function(item) in sampling.SLOW  # more than a fifth of a second: experiments.suite_times
    if slow:
      item.add_marker(pytest.mark.slow)
  at = [i for i, item in enumerate(items) if item.path == pathlib.Path(__file__).parent / "test_contract.py"]
  ordered = sorted((items[i] for i in at), key=lambda item: item.callspec.params["name"])
  for i, item in zip(at, ordered, strict=True):
    items[i] = item


MAPS = "/proc/self/maps"
MOST_MAPS = 20_000


@pytest.fixture(autouse=True)
def few_programs(request):
  """Every compiled program keeps memory maps of its own, and a process may have 65,530: past that XLA crashes."""
  yield
  request.config.tests_since = getattr(request.config, "tests_since", 0) + 1
  if request.config.tests_since % 10 or not os.path.exists(MAPS):
    return
  with open(MAPS) as lines:
    count = sum(1 for _ in lines)
  if count > MOST_MAPS:
    import jax

    jax.clear_caches()
    gc.collect()
