"""The parameters that named runs end with, as digests: ``python -m experiments.digests [--record]``.

The README's main job (split digits, five seeds) and a run that forgets, for the methods below. Compares with
``results/digests.json`` and exits with code 1 where one differs; ``--record`` writes it. Digests hold for equal
versions, processor and thread count only: the table has one column for each such place, and where this one has none
there is nothing to compare with, which is said. (Columns whose processor has a name alone are older than the numbers
beside it: no place is theirs.) ``tests/engine/test_digests.py`` runs a few of them with ``--seeds=2``.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import platform
import sys
from collections.abc import Mapping
from typing import Any

from absl import app, flags

TABLE = pathlib.Path(__file__).parent / "results" / "digests.json"
SEEDS = 5
LEARNING = ("finetune", "joint", "ewc", "si", "er", "derpp", "agem", "gem", "gpm", "lwf", "ncm")
FORGETTING = ("ssd", "graddiff", "retrain")


def processor(cpuinfo: str) -> str:
  """``NAME FAMILY-MODEL-STEPPING FEATURES``: different processors share a name, and a virtual machine may give another
  model number than what it offers, so the vector instructions that compiled code chooses from stand there as a digest.
  """
  first = dict(line.split(":", 1) for line in cpuinfo.split("\n\n")[0].splitlines() if ":" in line)
  said = {k.strip(): v.strip() for k, v in first.items()}
  numbers = "-".join(said.get(k, "?") for k in ("cpu family", "model", "stepping"))
  vector = sorted(f for f in said.get("flags", "").split() if f.startswith(("sse", "avx", "fma", "f16c", "amx")))
  return f"{said.get('model name', '?')} {numbers} {hashlib.sha256(' '.join(vector).encode()).hexdigest()[:8]}"


def place() -> str:
  """What digests depend on beside the code, as one line."""
  from cljax.io import checkpoint

  threads = os.environ.get("NPROC") or len(os.sched_getaffinity(0))
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  name = processor(cpuinfo.read_text()) if cpuinfo.exists() else platform.processor()
  said = {**checkpoint.versions(), "processor": name, "threads": threads}
  return ", ".join(f"{k} {v}" for k, v in said.items() if v)


def digests(only=(), most: int = SEEDS) -> dict[str, list[str]]:
  """``{run: params_sha256 of each seed}`` of at most so many seeds, in the order of ``only`` where it is given."""
  import cljax
  from cljax import data, models, streams
  from experiments import split_digits

  config = split_digits.get_config()
  digits, model = data.load("digits"), models.mlp((8, 8, 1), 10, hidden=tuple(config.model.hidden))
  rate = {"learning_rate": config.optimizer.learning_rate}
  stream = lambda forget: streams.build(digits, "class", tasks=5, forget=forget)
  plain = stream("")
  forgets = stream([(2, cljax.Forget(classes=(1,))), (5, cljax.Forget(ids=tuple(range(40, 60))))])
  out = {}
  for name in only or [*LEARNING, *FORGETTING]:
    hyper = config.method_defaults.to_dict().get(name, {})
    if name in FORGETTING:
      given: dict[str, Any] = {"method": "finetune", "forget": name, "training": cljax.Recipe(batch_size=32, epochs=2)}
      out[name] = cljax.run(forgets, model, optimizer_options=rate, seeds=min(most, 2), **given).params_sha256
    else:
      training = cljax.Recipe(batch_size=config.train.batch_size, epochs=config.train.epochs)
      out[name] = cljax.run(plain, model, name, hyper, optimizer_options=rate, training=training,
                            seeds=min(most, SEEDS)).params_sha256  # fmt: skip
    print(name, *(d[:16] for d in out[name]), flush=True)
  return out


def compared(found: Mapping[str, list[str]], column: Mapping[str, list[str]]) -> list[str]:
  """The runs whose digests are not the first of the column's."""
  return [name for name, digest in found.items() if column.get(name, [])[: len(digest)] != digest]


def main(argv) -> None:
  del argv
  only, seeds, record = flags.FLAGS.only, flags.FLAGS.seeds, flags.FLAGS.record
  unknown = [n for n in only if n not in (*LEARNING, *FORGETTING)]
  if unknown:
    sys.exit(f"only: unknown {unknown[0]!r}; allowed: {', '.join((*LEARNING, *FORGETTING))}")
  if record and seeds < SEEDS:
    sys.exit(f"seeds: got {seeds}; the table holds {SEEDS}")
  table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
  here, found = place(), digests(only, seeds)
  if record:
    table.setdefault(here, {}).update(found)
    TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    return
  if here not in table:
    print(f"no digests on record for {here}")
    return
  differ = compared(found, table[here])
  print(
    f"{len(found) - len(differ)} of {len(found)} as on record" + (f"; differ: {', '.join(differ)}" if differ else "")
  )
  sys.exit(1 if differ else 0)


if __name__ == "__main__":
  flags.DEFINE_boolean("record", False, "write the table instead of comparing with it")
  flags.DEFINE_list("only", [], "names of runs (default: all)")
  flags.DEFINE_integer("seeds", SEEDS, "how many seeds, at most the table's", 1, SEEDS)
  app.run(main)
