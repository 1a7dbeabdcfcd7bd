"""What a projector costs on the small CNN; the MLP is in ``projectors``."""

from __future__ import annotations

from experiments.benchmarks import Table, projectors


def suite(report, repeats: int) -> Table:
  return projectors.suite(report, repeats, kinds=("cnn",))
