"""Seeds from Python: a number of them or a list; what only looks like one of these is refused."""

from __future__ import annotations

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import UsageError
from cljax.engine.arguments import seeds_of

GOOD = [
  (2, [0, 1]), (np.int64(2), [0, 1]), (np.uint8(1), [0]), ([3, 7], [3, 7]), ((7, 3), [7, 3]), (range(2), [0, 1]),
  (np.asarray([3, 7]), [3, 7]), (jnp.asarray([3, 7]), [3, 7]), ([np.int32(5)], [5]), ([2**32 - 1], [2**32 - 1]),
]  # fmt: skip
# Text is a sequence too: "10" once meant the seeds 1 and 0. A seed of 2**32 would be that of 0 again.
BAD = ["10", "5", b"10", ["1"], True, [True], np.bool_(True), 0, np.int64(0), -1, [], [1, 1], [-1], 1.5, [1.5], None,
       {1, 2}, {"a": 1}, np.asarray(3.0), np.ones((2, 2), int), [2**32], [2**70]]  # fmt: skip


@pytest.mark.parametrize(("seeds", "listed"), GOOD, ids=[repr(s) for s, _ in GOOD])
def test_seeds(seeds, listed):
  found = seeds_of(seeds)
  assert found == listed
  assert all(type(s) is int for s in found)


@pytest.mark.parametrize("seeds", BAD, ids=repr)
def test_what_are_no_seeds(class_stream, small_model, seeds):
  with pytest.raises(UsageError, match="seeds: got "):
    cljax.run(class_stream, small_model, seeds=seeds)


ALONE = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import cljax
from cljax import data, models, streams
stream = streams.build(data.load("digits"), "class", tasks=2, rows=80)
model = models.mlp((8, 8, 1), 10, hidden=(8,))
for seeds in ([0, 1, 2, 3], [2]):
  result = cljax.run(stream, model, "er", {"capacity": 20}, training=cljax.Recipe(epochs=1), seeds=seeds)
  print(result.params_sha256[seeds.index(2)])
"""


def test_a_member_among_others_is_the_member_alone():
  """To the bit, on one device and on two that share out the population (docs/versions.md)."""
  found = []
  for devices in ("1", "2"):
    out = subprocess.run([sys.executable, "-c", ALONE, devices], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    found += out.stdout.split()
  assert len(found) == 4
  assert len(set(found)) == 1
