"""Tables of words, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: int | None = 1, ruled: bool = False) -> list[str]:
  """Rows of words, the first the head, as lines with aligned columns two spaces apart.

  The first ``left`` columns are aligned to the left, the others to the right; None: all to the left. ``ruled``: a line
  of dashes below the head.
  """
  widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
  fits = [str.ljust if left is None or c < left else str.rjust for c in range(len(widths))]
  shown = [rows[0], ["-" * w for w in widths], *rows[1:]] if ruled else rows
  return ["  ".join(f(v, w) for f, v, w in zip(fits, row, widths, strict=True)).rstrip() for row in shown]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """The lines of a Markdown table."""
  line = lambda cells: f"| {' | '.join(cells)} |"
  return [line(head), line(["---"] * len(head)), *map(line, rows)]
