"""The methods table: what each entry of the registry declares, and the bytes it keeps between tasks."""

from __future__ import annotations

from collections.abc import Mapping

from cljax.methods.registry import METHODS

HEADER = ("method", "stores rows", "task boundaries", "reads task data", "trains on", "forgets", "reference", "bytes")


def table(state_bytes: Mapping[str, int]) -> str:
  """The registry as a Markdown table; ``state_bytes`` gives the last column by method name."""
  yes = lambda flag: "yes" if flag else ""
  lines = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
  for name, entry in METHODS.items():
    a = entry.access
    needs = [word for word, flag in (("forget rows", a.forget_data), ("retain rows", a.retain_data)) if flag]
    forgets = entry.exactness + (f" ({', '.join(needs)})" if needs else " (all past data)" if a.prefix else "")
    cells = (
      f"`{name}`",
      yes(a.stores_data),
      yes(a.task_boundaries),
      yes(a.boundary_data),
      {"current": "the task", "seen": "all tasks seen", "all": "all tasks"}[a.trains_on],
      forgets,
      entry.reference,
      f"{state_bytes[name]:,}",
    )
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)
