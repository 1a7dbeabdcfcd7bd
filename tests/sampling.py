"""Which tests a run takes: the quick ones and a seeded twelfth of what is dear, or with ``--every`` all of them.

The suite costs more with each entry, its whole is what a change has to pass, and a twelfth is what people will run. Of
a law that is tried on many entries (``tests/sampled.txt`` names the functions) a twelfth of the cases is drawn, at most
``MOST``; of the contract suite all tests of the methods drawn, so that their programs are shared; of what else is slow
(``tests/slow.txt``) that of a twelfth of the files of each folder, for the same reason. Another commit draws others:
the seed is the number of commits, or ``--sample-seed``. Tests that are asked for by name (``-k``, ``FILE::test``) are
taken whole.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess

SHARE, LEAST, MOST = 12, 4, 8  # one in twelve, no fewer than four of a law and no more than eight
SEED, EVERY = "CLJAX_SAMPLE_SEED", "CLJAX_TEST_EVERY"  # in the environment of processes that tests start
CONTRACT = "tests/test_contract.py"
SAMPLED, SLOW = (
  frozenset((pathlib.Path(__file__).parent / name).read_text().split()) for name in ("sampled.txt", "slow.txt")
)


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
    seed = f"--sample-seed={os.environ[SEED]}"
    terminalreporter.write_line(f"one in {SHARE} of slow tests and of laws of many entries, {seed}; all: --every")


def drawn(cases, seed: str, always=(), least: int = LEAST, most: int = MOST) -> set:
  """A twelfth of the cases by the hash of each with the seed, ``least`` to ``most``, and those ``always`` taken."""
  rank = sorted(set(cases), key=lambda case: hashlib.sha256(f"{seed} {case}".encode()).hexdigest())
  return set(rank[: min(max(least, -(-len(rank) // SHARE)), most)]) | set(always)


def function(item) -> str:
  """``file::function``, as the two lists have it."""
  return f"{item.path.stem}::{getattr(item, 'originalname', item.name)}"


def pool(item) -> tuple[str, str] | None:
  """What is drawn together with this item, and which of it this is; None for what is always taken.

  Cases of a sampled law, of the contract suite the methods; the files of a folder with their other slow functions."""
  path = item.nodeid.partition("::")[0]
  if path == CONTRACT and path in SAMPLED:
    return path, item.callspec.params["name"]
  name = function(item)
  if name in SAMPLED:
    return name, item.nodeid
  return (path.rpartition("/")[0], path) if name in SLOW else None


def split(items, seed: str, always=()) -> tuple[list, list]:
  """The items that are taken, and those that are left out."""
  cases: dict[str, set[str]] = {}
  at = [pool(item) for item in items]
  for name, case in filter(None, at):
    cases.setdefault(name, set()).add(case)
  law = lambda name: name in SAMPLED
  taken = {
    name: drawn(found, seed, always if name == CONTRACT else (), *((LEAST, MOST) if law(name) else (1, len(found))))
    for name, found in cases.items()
  }
  keep = [one is None or one[1] in taken[one[0]] for one in at]
  return [i for i, k in zip(items, keep, strict=True) if k], [i for i, k in zip(items, keep, strict=True) if not k]
