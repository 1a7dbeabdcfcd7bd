"""Where tasks share their head, projecting it too keeps a projector above plain training."""

from __future__ import annotations

from experiments.permuted_projectors import run


def test_gpm_and_ogd_end_above_finetune():
  """The head left alone, as the default once was everywhere, is what let GPM end below."""
  final = {name: run(name).accuracy[0, -1].mean() for name in ("finetune", "gpm", "ogd")}
  assert min(final["gpm"], final["ogd"]) > final["finetune"] + 0.05
  assert run("gpm", {"skip": "head"}).accuracy[0, -1].mean() < final["gpm"] - 0.05
