"""Classification ends on the bits that are on record: finetune, er and ssd after a request, two seeds each."""

import json
import os
import subprocess
import sys

from experiments import digests

RUNS = ("finetune", "er", "ssd")
NOT_OF_RUNS = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")  # tests compile quickly, to other bits


def said(runs) -> dict[str, list[str]]:
  """The lines of a process of its own, compiled as users compile, by their first word."""
  env = {k: v for k, v in os.environ.items() if k not in NOT_OF_RUNS} | {"JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "experiments.digests", f"--only={','.join(runs)}", "--seeds=2"]
  done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
  assert done.returncode in (0, 1), done.stderr
  return {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}


def test_runs_end_on_the_bits_on_record():
  """Where the table has no column for these versions, this processor and thread count, two processes that run them in
  another order are compared with each other."""
  first = said(RUNS)
  assert all(len(set(first[name])) == 2 and len(first[name][0]) == 16 for name in RUNS)
  if "no" in first:  # "no digests on record for ..."
    assert said(RUNS[::-1]) == first
  else:
    assert first["3"] == ["of", "3", "as", "on", "record"], f"other bits than on record: {first}"


def test_a_digest_of_its_own_differs_from_the_record():
  column = {"er": ["a", "b", "c"], "ssd": ["d", "e"]}
  assert digests.compared({"er": ["a", "b"], "ssd": ["d", "e"]}, column) == []
  assert digests.compared({"er": ["a", "c"], "ssd": ["d", "e"], "ewc": ["f"]}, column) == ["er", "ewc"]


def test_every_column_has_all_runs():
  for place, column in json.loads(digests.TABLE.read_text()).items():
    assert {n: len(d) for n, d in column.items()} == {
      **dict.fromkeys(digests.LEARNING, digests.SEEDS), **dict.fromkeys(digests.FORGETTING, 2)
    }, place  # fmt: skip


def test_processors_of_one_name_are_told_apart():
  """By family, model and stepping, and by the vector instructions that a virtual machine offers."""
  say = lambda model, flags: (
    f"processor\t: 0\ncpu family\t: 25\nmodel\t\t: {model}\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
    f"flags\t\t: {flags}\n\nprocessor\t: 1\ncpu family\t: 99\n"
  )
  names = [
    digests.processor(say(m, f)) for m, f in ((1, "fpu avx2 fma"), (17, "fpu avx2 fma"), (1, "avx2 avx512f fma"))
  ]
  assert len(set(names)) == 3
  assert [n.rpartition(" ")[0] for n in names] == ["AMD EPYC 25-1-1", "AMD EPYC 25-17-1", "AMD EPYC 25-1-1"]
  assert digests.processor(say(1, "fma avx2 smep")) == names[0], "what compiled code does not choose from says nothing"
