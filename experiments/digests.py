"""The parameters that named runs end with, as digests: ``python -m experiments.digests [--record]``.

The README's main job (split digits, five seeds) and a run that forgets, for the methods below. Compares with
``results/digests.json`` and exits with code 1 where one differs; ``--record`` writes it. Digests hold for equal
versions, processor and thread count only: the table has one column for each such place, and where this one has none
there is nothing to compare with, which is said.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import Any

from absl import app, flags

TABLE = pathlib.Path(__file__).parent / "results" / "digests.json"
SEEDS = 5
LEARNING = ("finetune", "joint", "ewc", "si", "er", "derpp", "agem", "gem", "gpm", "lwf", "ncm")
FORGETTING = ("ssd", "graddiff", "retrain")


def place() -> str:
  """What digests depend on beside the code, as one line."""
  from cljax.io import checkpoint

  with open("/proc/cpuinfo") as lines:
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
  threads = os.environ.get("NPROC") or len(os.sched_getaffinity(0))
  said = {**checkpoint.versions(), "processor": processor, "threads": threads}
  return ", ".join(f"{k} {v}" for k, v in said.items() if v)


def digests(only=()) -> dict[str, list[str]]:
  """``{run: params_sha256 of each seed}``."""
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
  for name in [*LEARNING, *FORGETTING]:
    if only and name not in only:
      continue
    hyper = config.method_defaults.to_dict().get(name, {})
    if name in FORGETTING:
      given: dict[str, Any] = {"method": "finetune", "forget": name, "training": cljax.Recipe(batch_size=32, epochs=2)}
      out[name] = cljax.run(forgets, model, optimizer_options=rate, seeds=2, **given).params_sha256
    else:
      training = cljax.Recipe(batch_size=config.train.batch_size, epochs=config.train.epochs)
      out[name] = cljax.run(plain, model, name, hyper, optimizer_options=rate, training=training,
                            seeds=SEEDS).params_sha256  # fmt: skip
    print(name, *(d[:16] for d in out[name]), flush=True)
  return out


def main(argv) -> None:
  del argv
  table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
  here, found = place(), digests(flags.FLAGS.only)
  if flags.FLAGS.record:
    table.setdefault(here, {}).update(found)
    TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    return
  if here not in table:
    print(f"no digests on record for {here}")
    return
  differ = [name for name, digest in found.items() if table[here].get(name) != digest]
  print(
    f"{len(found) - len(differ)} of {len(found)} as on record" + (f"; differ: {', '.join(differ)}" if differ else "")
  )
  sys.exit(1 if differ else 0)


if __name__ == "__main__":
  flags.DEFINE_boolean("record", False, "write the table instead of comparing with it")
  flags.DEFINE_list("only", [], "names of runs (default: all)")
  app.run(main)
