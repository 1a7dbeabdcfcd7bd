"""What a program follows from: equal for equal code and values, another for any change, refused where nobody knows."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax.engine import origin


@pytest.fixture(autouse=True)
def long_running(monkeypatch):
  """Files of cljax may have been edited while the tests run; here that is not the question."""
  monkeypatch.setattr(cljax, "_BEGAN", time.time() + 1e6)
  # Texts of one length within a second are one to Python's cache of bytecode.
  monkeypatch.setattr(sys, "dont_write_bytecode", True)


def of(value):
  walk = origin._Walk()
  walk.add(value)
  return walk.told()


def module(tmp_path, text, name="own_origin"):
  """A file of the user's own, loaded under the same name and from the same place each time."""
  path = tmp_path / f"{name}.py"
  path.write_text(text)
  spec = importlib.util.spec_from_file_location(name, path)
  made = importlib.util.module_from_spec(spec)
  sys.modules[name] = made
  spec.loader.exec_module(made)
  return made


def closing_over(value):
  return lambda: value


class Kept(NamedTuple):
  """A record of the user's own."""

  rows: int = 3


VALUES = [
  None, True, 1, 1.0, -0.0, 0.0, "a", b"a", (1, 2), [1, 2], {"a": 1}, {1, 2}, np.arange(3), np.arange(3.0),
  np.float32(1), jnp.arange(3), jax.random.key(0), jax.random.key(1), jnp.float32, np.dtype("int8"),
  jax.ShapeDtypeStruct((2,), jnp.int32), jax.nn.relu, jnp.add, np.tanh, functools.partial(jnp.sum, axis=0),
  Kept(3), Kept(4), cljax.Recipe(), cljax.Recipe(epochs=2),
]  # fmt: skip


def test_values_that_differ_have_other_digests_and_equal_ones_the_same():
  told = [of(closing_over(v)) for v in VALUES]
  assert len(set(told)) == len(VALUES)
  assert told == [of(closing_over(v)) for v in VALUES]


@pytest.mark.parametrize(
  ("before", "after"),
  [
    ("def f(x):\n  return x + 1\n", "def f(x):\n  return x + 2\n"),
    ("def f(x):\n  return x + 1\n", "def f(x):\n  return x - 1\n"),
    ("A = 1\ndef f(x):\n  return x + A\n", "A = 2\ndef f(x):\n  return x + A\n"),
    ("A = {'a': [1]}\ndef f(x):\n  return A['a']\n", "A = {'a': [2]}\ndef f(x):\n  return A['a']\n"),
    ("def g(x):\n  return x\ndef f(x):\n  return g(x)\n", "def g(x):\n  return -x\ndef f(x):\n  return g(x)\n"),
    ("def f(x, a=1):\n  return x\n", "def f(x, a=2):\n  return x\n"),
    ("f = lambda x: x + 1\n", "f = lambda x: x + 2\n"),
    ("def f(x):\n  def g():\n    return x + 1\n  return g\n", "def f(x):\n  def g():\n    return x + 2\n  return g\n"),
    ("import jax\nf = lambda x: jax.nn.relu(x)\n", "import jax\nf = lambda x: jax.nn.gelu(x)\n"),
  ],
)
def test_an_edit_of_the_user_s_own_code_is_another_origin(tmp_path, before, after):
  first, again = (of(module(tmp_path, before).f) for _ in range(2))
  assert first == again
  assert of(module(tmp_path, after).f) != first


def test_a_module_that_is_changed_from_outside_is_another_origin(tmp_path):
  helper = module(tmp_path, "S = 1\ndef g(x):\n  return S * x\n", "own_helper")
  made = module(tmp_path, "import own_helper\ndef f(x):\n  return own_helper.g(x)\n")
  before = of(made.f)
  helper.S = 2
  assert of(made.f) != before


@pytest.mark.parametrize(
  "text",
  [
    "def f(x):\n  return open('file').read()\n",
    "import os\ndef f(x):\n  return os.environ['A']\n",
    "import time\ndef f(x):\n  return time.time()\n",
    "import random\ndef f(x):\n  return random.random()\n",
    "import numpy as np\ndef f(x):\n  return np.random.normal()\n",
    "from numpy import random\ndef f(x):\n  return random.normal()\n",
    "import numpy as np\nR = np.random.default_rng(0)\ndef f(x):\n  return R.normal()\n",
    "import numpy as np\ndef f(x):\n  return np.load('file')\n",
    "def f(x):\n  import own_helper\n  return own_helper.g(x)\n",
    "def f(x):\n  return getattr(x, 'y')\n",
    "import pytest\ndef f(x):\n  return pytest.approx(x)\n",
    "class A:\n  def __call__(self, x):\n    return x\nf = A()\n",
    "class A:\n  s = 1\na = A()\ndef f(x):\n  return a.s * x\n",
    "exec('def f(x):\\n  return x')\n",
  ],
)
def test_what_nobody_knows_is_refused(tmp_path, text):
  with pytest.raises(origin.Undetermined):
    of(module(tmp_path, text).f)


def test_jax_s_random_numbers_are_no_reason_to_refuse(tmp_path):
  assert of(module(tmp_path, "import jax\ndef f(k):\n  return jax.random.normal(k)\n").f)
  assert of(module(tmp_path, "from jax import random\ndef f(k):\n  return random.normal(k)\n").f)


def test_a_function_of_cljax_that_is_replaced_is_refused(monkeypatch):
  assert origin.registered() == origin.registered()
  monkeypatch.setattr("cljax.losses.supervised.cross_entropy", closing_over(1))
  with pytest.raises(origin.Undetermined, match="cross_entropy is not cljax's own any more"):
    origin.registered()


def test_a_plain_value_of_cljax_that_is_changed_is_another_origin(monkeypatch):
  before = of(origin.registered())
  monkeypatch.setattr("cljax.engine.loop._BRIEF_S", 7.0)
  assert of(origin.registered()) != before


def test_what_the_user_registers_is_part_of_it(tmp_path, monkeypatch):
  from cljax import methods

  text = "import cljax\nfrom cljax.methods import METHODS\ndef f(model, spec):\n  return cljax.Method()\n"
  before, entry = of(origin.registered()), methods.METHODS["finetune"]
  told = []
  for body in (text, text + "  # the same\n", text.replace("Method()", "Method(terms={})")):
    monkeypatch.setitem(methods.METHODS, "origin_own", entry._replace(factory=module(tmp_path, body).f))
    told.append(of(origin.registered()))
  assert told[0] == told[1] != told[2]
  assert before not in told


def test_an_edit_of_a_method_of_cljax_is_another_origin(tmp_path, monkeypatch):
  copy = tmp_path / "cljax"
  shutil.copytree(origin._CLJAX, copy, ignore=shutil.ignore_patterns("__pycache__"))
  before = origin.sources()
  monkeypatch.setattr(origin, "_CLJAX", f"{copy}/")
  origin._read.cache_clear()
  assert origin.sources() == before
  path = copy / "methods" / "replay" / "unified.py"
  path.write_text(path.read_text() + "\nMORE = 1\n")
  origin._read.cache_clear()
  assert origin.sources() != before


def test_files_that_are_younger_than_the_process_are_refused(tmp_path, monkeypatch):
  (tmp_path / "late.py").write_text("A = 1\n")
  monkeypatch.setattr(origin, "_CLJAX", f"{tmp_path}/")
  origin.check_unchanged()
  monkeypatch.setattr(cljax, "_BEGAN", time.time() - 60)
  with pytest.raises(origin.Undetermined, match="changed while this process was running"):
    origin.check_unchanged()
