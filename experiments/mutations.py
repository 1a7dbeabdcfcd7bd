"""Breaks each method on purpose and checks that a test fails: ``python -m experiments.mutations [--only=NAME]``.

Works on a copy of the tree. Each mutation is one replaced piece of text and the tests that must notice it; the tests
must pass on the copy before anything is broken. Exits with code 1 where a mutation survives.
"""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

from absl import app, flags

_ONLY = flags.DEFINE_list("only", [], "names of the mutations to run (default: all)")
_CHECK = flags.DEFINE_boolean("check", True, "first run the tests on the unbroken tree")
ROOT = pathlib.Path(__file__).parent.parent


class Mutation(NamedTuple):
  file: str
  old: str
  new: str
  tests: str  # arguments of pytest


MUTATIONS = {
  "penalty sign": Mutation(
    "cljax/regularizers/quadratic.py", "state.anchor, state.importance, strength)",
    "state.anchor, state.importance, -strength)", "tests/methods -k ewc_pulls",
  ),
  "reservoir off by one": Mutation(
    "cljax/memory/reservoir.py", "(bits % (n + 1)", "(bits % (n + 2)", "tests/memory/test_reservoir.py"
  ),
  "reservoir keeps absent rows": Mutation(
    "cljax/memory/reservoir.py", "real = slots.mask(weight, rows)", "real = slots.mask(weight + 1, rows)",
    "tests/memory/test_reservoir.py",
  ),
  "si path sign": Mutation(
    "cljax/regularizers/path.py", "- g.astype(wide(g.dtype)) * difference", "+ g.astype(wide(g.dtype)) * difference",
    "tests/regularizers/test_path.py",
  ),
  "agem fires on agreement": Mutation(
    "cljax/projectors/agem.py", "fires = (inner < 0)", "fires = (inner > 0)", "tests/projectors/test_agem.py"
  ),
  "gpm on the wrong side": Mutation(
    "cljax/projectors/gpm.py", "return a - jnp.matmul(basis, inner", "return a + jnp.matmul(basis, inner",
    "tests/projectors/test_gpm.py",
  ),
  "fisher forgets the square": Mutation(
    "cljax/estimators/fisher.py", "weighted, jnp.square)", "weighted, jnp.abs)", "tests/methods -k ewc_pulls"
  ),
  "lwf distils nothing": Mutation(
    "cljax/methods/distillation.py", "jnp.arange(spec.num_tasks) < teacher.tasks", "jnp.arange(spec.num_tasks) < 0",
    "tests/methods -k lwf",
  ),
  "er never replays": Mutation(
    "cljax/methods/replay.py", "weight=own)\n    return learner", "weight=own * 0)\n    return learner",
    "tests/methods -k er_",
  ),
  "derpp beta ignored": Mutation(
    "cljax/methods/replay.py", "beta * mean_share(seen_two)", "0 * mean_share(seen_two)", "tests/methods -k derpp"
  ),
  "derpp stores late logits": Mutation(
    "cljax/methods/replay.py", "logits=info.outputs.logits[own]", "logits=2 * info.outputs.logits[own]",
    "tests/methods -k derpp",
  ),
  "supsup moves old masks": Mutation(
    "cljax/methods/masks.py", "finalize=hold_other_tasks(),", "", "tests/methods -k supsup"
  ),
  "ncm divides by one count": Mutation(
    "cljax/methods/prototypes.py", "/ jnp.maximum(total, 1.0)[:, None]", "/ jnp.maximum(counts, 1.0)[:, None]",
    "tests/methods -k ncm",
  ),
  "ssd selects the other weights": Mutation(
    "cljax/unlearning/dampening.py", "chosen = f > alpha * d", "chosen = f < alpha * d", "tests/methods -k ssd"
  ),
  "graddiff descends on the forget rows": Mutation(
    "cljax/methods/forgetting.py", "- forget_weight * mean_loss", "+ forget_weight * mean_loss",
    "tests/methods -k graddiff",
  ),
  "retrain keeps the rows": Mutation(
    "cljax/feed.py", "= ~deleted[index]", "= 1", "tests/test_engine.py -k forgotten_row"
  ),
  "nothing is consolidated": Mutation(
    "cljax/methods/penalties.py", "return learner._replace(opt_state=state)", "return learner",
    "tests/methods -k ewc_pulls",
  ),
  "boundary run twice": Mutation(
    "cljax/loop.py", "if not state.ended:", "if True:", "tests/test_engine.py -k stopped_in_evaluation"
  ),
}  # fmt: skip


def tests_fail(tree: pathlib.Path, tests: str) -> bool:
  command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)]
  environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
  out = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
  if out.returncode not in (0, 1):
    raise SystemExit(f"{tests}: pytest exited with {out.returncode}: {out.stdout[-800:]}")
  return out.returncode == 1


def survives(name: str, mutation: Mutation) -> bool:
  """True where the tests pass on the broken tree."""
  with tempfile.TemporaryDirectory() as root:
    tree = pathlib.Path(root) / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "runs"))
    path = tree / mutation.file
    text = path.read_text()
    if mutation.old not in text:
      raise SystemExit(f"{name}: {mutation.file} no longer holds {mutation.old!r}")
    if _CHECK.value and tests_fail(tree, mutation.tests):
      raise SystemExit(f"{name}: {mutation.tests} fails before anything is broken")
    path.write_text(text.replace(mutation.old, mutation.new))
    return not tests_fail(tree, mutation.tests)


def main(argv) -> None:
  del argv
  chosen = _ONLY.value or list(MUTATIONS)
  alive = []
  for name in chosen:
    alive += [name] if survives(name, MUTATIONS[name]) else []
    print(f"{name}: {'SURVIVES' if name in alive else 'caught'}", flush=True)
  if alive:
    raise SystemExit(f"survivors: {', '.join(alive)}")


if __name__ == "__main__":
  app.run(main)
