"""Which cases of a law that is tried on many entries a run takes: a seeded third, or with ``--every`` all of them.

A law of the whole registry costs more with each entry. ``tests/sampled.txt`` names the test functions whose cases are
sampled; of the contract suite all tests of the methods drawn are taken, so that their programs are shared. Another
commit draws other cases: the seed is the number of commits, or ``--sample-seed``. Tests that are asked for by name
(``-k``, ``FILE::test``) are taken whole.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess

SHARE, LEAST = 3, 4  # one in three, and no fewer than four
SEED, EVERY = "CLJAX_SAMPLE_SEED", "CLJAX_TEST_EVERY"  # in the environment of processes that tests start
CONTRACT = "tests/test_contract.py"
SAMPLED = frozenset((pathlib.Path(__file__).parent / "sampled.txt").read_text().split())


def pytest_addoption(parser):
  parser.addoption("--every", action="store_true", help="all cases of the laws that are tried on many entries")
  parser.addoption("--sample-seed", type=int, default=None, help="which of them; default: the number of commits")


def whole(config) -> bool:
  """Whether every case is asked for, or tests by name."""
  asked = config.option.every or EVERY in os.environ
  return asked or bool(config.option.keyword) or any("::" in a for a in config.args)


def pytest_configure(config):
  if config.option.sample_seed is not None:
    os.environ[SEED] = str(config.option.sample_seed)
  elif SEED not in os.environ:
    command = ["git", "rev-list", "--count", "HEAD"]
    counted = subprocess.run(command, cwd=config.rootpath, capture_output=True, text=True)
    os.environ[SEED] = counted.stdout.strip() or "0"


def pytest_terminal_summary(terminalreporter, config):
  if not whole(config):
    text = f"one case in {SHARE} of {len(SAMPLED)} laws of many entries, --sample-seed={os.environ[SEED]}; all: --every"
    terminalreporter.write_line(text)


def drawn(cases, seed: str, always=()) -> set:
  """A third of the cases by the hash of each with the seed, no fewer than four, and those ``always`` taken."""
  rank = sorted(set(cases), key=lambda case: hashlib.sha256(f"{seed} {case}".encode()).hexdigest())
  return set(rank[: max(LEAST, -(-len(rank) // SHARE))]) | set(always)


def law(item) -> tuple[str, str]:
  """What cases are drawn together, and which of them this is: of the contract suite the methods."""
  path = item.nodeid.partition("::")[0]
  if path == CONTRACT:
    return path, item.callspec.params["name"]
  return f"{item.path.stem}::{getattr(item, 'originalname', item.name)}", item.nodeid


def split(items, seed: str, always=()) -> tuple[list, list]:
  """The items that are taken, and those that are left out."""
  cases: dict[str, set[str]] = {}
  at = [law(item) for item in items]
  for name, case in at:
    if name in SAMPLED:
      cases.setdefault(name, set()).add(case)
  taken = {name: drawn(found, seed, always if name == CONTRACT else ()) for name, found in cases.items()}
  keep = [name not in taken or case in taken[name] for name, case in at]
  return [i for i, k in zip(items, keep, strict=True) if k], [i for i, k in zip(items, keep, strict=True) if not k]
