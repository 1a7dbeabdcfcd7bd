"""Runs that the claims of prompt methods share: each is made once."""

from __future__ import annotations

import functools

from experiments.claims import Measured
from experiments.claims._pretrained import downstream, vit
from experiments.claims._runs import forgetting, learned, percent, train

PROTOCOL = (
  "ViT 8x8, patches of 2, 32 wide, 4 blocks, which has learned digits 6 to 9; then digits 0 to 5 in three tasks of two "
  "classes, 8 epochs in batches of 32, Adam 0.003 (finetune: 0.001); "
)
POOL = "pool of 10, length 5, 4 chosen, strength 1"
OPTIONS = {
  "l2p": {"length": 5}, "dualprompt": {}, "coda_prompt": {"components": 12}, "finetune": {}, "hide_prompt": {},
}  # fmt: skip


@functools.cache
def _run(name: str, seeds):
  rate = 1e-3 if name == "finetune" else 3e-3
  return train(downstream(), name, seeds, epochs=8, optimizer="adam", learning_rate=rate, model=vit(), **OPTIONS[name])


def compared(name: str, other: str, seeds) -> Measured:
  """Final average accuracy of ``name`` minus that of ``other``, in points."""
  runs = {n: _run(n, seeds if isinstance(seeds, int) else tuple(seeds)) for n in (name, other)}
  figures = {f"{n} accuracy": percent(run) for n, run in runs.items()}
  figures |= {f"{n} forgetting": forgetting(run) for n, run in runs.items()}
  figures |= {f"{n} learned": learned(run) for n, run in runs.items()}
  return Measured({f"accuracy of {name} - {other}": percent(runs[name]) - percent(runs[other])}, figures)
