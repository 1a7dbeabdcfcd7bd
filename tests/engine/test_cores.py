"""From Python as fast as from the launchers: a host device a core, where nothing has started JAX with one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import quick

RUN = """
import cljax
from cljax import data, models, streams
stream = streams.build(data.load("digits"), "class", tasks=2, rows=80)
model, training = models.mlp((8, 8, 1), 10, hidden=(8,)), cljax.Recipe(epochs=1)
result = cljax.run(stream, model, "er", {"capacity": 20}, training=training, seeds=3)
import jax
print(jax.local_device_count(), *result.params_sha256)
"""


def ran(source: str, **environment: str) -> tuple[list[str], str]:
  """``(words printed, standard error)`` of a process that may use three cores."""
  env = {**os.environ, "NPROC": "3", "XLA_FLAGS": quick.FLAGS, **environment}
  out = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, env=env)
  assert out.returncode == 0, out.stderr
  return out.stdout.split(), out.stderr


def test_a_run_takes_all_cores_and_says_nothing():
  (devices, *digests), said = ran(RUN)
  assert (devices, said) == ("3", "")
  launched, _ = ran(RUN, XLA_FLAGS=quick.with_devices(3))  # what the launchers set
  assert [devices, *digests] == launched


@pytest.mark.parametrize(
  ("first", "environment", "devices"),
  [
    ("import cljax; cljax.use_cores(2)", {}, "2"),
    ("import cljax; cljax.use_cores()", {}, "3"),
    ("import cljax; cljax.use_cores(1)", {}, "1"),
    ("import cljax; assert cljax.use_cores() == 2", {"XLA_FLAGS": quick.with_devices(2)}, "2"),
    ("import jax; jax.config.update('jax_num_cpu_devices', 2)", {}, "2"),
  ],
)
def test_what_the_user_says_wins(first, environment, devices):
  found, said = ran(first + RUN, **environment)
  assert (found[0], said) == (devices, "")


def test_where_jax_has_started_one_line_says_what_it_costs():
  (devices, *_), said = ran("import jax.numpy as jnp; jnp.ones(3)" + RUN + RUN)
  assert devices == "1"
  assert said.count("UserWarning") == 1, "once"
  assert (
    "<string>:6: UserWarning: cljax: JAX has started with one host device, so 3 members train on one of 3 cores" in said
  )
  assert "call cljax.use_cores() before the first array" in said


def test_too_late_is_refused_and_so_is_no_number():
  late = """
import jax.numpy as jnp, cljax
jnp.ones(3)
print(cljax.use_cores(1))
for count in (2, 0, True, "2"):
  try:
    cljax.use_cores(count)
  except cljax.UsageError as error:
    print(str(error).replace(" ", "_"))
"""
  words, _ = ran(late)
  assert words[0] == "1"
  assert words[1] == "use_cores:_JAX_has_started_with_1_host_devices;_call_it_before_the_first_array"
  assert [w.startswith("use_cores:_count:_got") for w in words[2:]] == [True] * 3
