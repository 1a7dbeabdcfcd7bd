"""Runs that the claims of methods with parts beside a pre-trained transformer share: each is made once."""

from __future__ import annotations

import functools

from experiments.claims import Measured
from experiments.claims._pretrained import downstream, vit
from experiments.claims._runs import forgetting, learned, percent, train

PROTOCOL = (
  "ViT 8x8, patches of 2, 32 wide, 4 blocks, which has learned digits 6 to 9; then digits 0 to 5 in three tasks of two "
  "classes, 8 epochs in batches of 32, "
)


@functools.cache
def _run(name: str, seeds, optimizer: str, rate: float, options):
  how = {"epochs": 8, "optimizer": optimizer, "learning_rate": rate, "model": vit()}
  return train(downstream(), name, seeds, **how, **dict(options))


def run(name: str, seeds, optimizer: str, rate: float, **options):
  """A run of the protocol; ``seeds`` a number or those themselves."""
  return _run(name, seeds if isinstance(seeds, int) else tuple(seeds), optimizer, rate, tuple(sorted(options.items())))


def compared(first: str, second: str, runs) -> Measured:
  """Final average accuracy of the first of ``runs {what it is called: run}`` minus that of the second, in points."""
  figures = {f"{n} accuracy": percent(r) for n, r in runs.items()}
  figures |= {f"{n} forgetting": forgetting(r) for n, r in runs.items()}
  figures |= {f"{n} learned": learned(r) for n, r in runs.items()}
  return Measured({f"accuracy of {first} - {second}": percent(runs[first]) - percent(runs[second])}, figures)
