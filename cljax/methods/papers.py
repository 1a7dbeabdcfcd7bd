"""The papers that methods and parts are from, with BibTeX: the table ``papers.toml``, and what an entry brings."""

from __future__ import annotations

import functools
import pathlib
import tomllib
import unicodedata
from typing import NamedTuple

TABLE = pathlib.Path(__file__).parent / "papers.toml"
# LaTeX's marks by their combining characters, letters that are not made of two, and what BibTeX reads as its own.
_MARKS = {
  "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0307": ".", "\u0308": '"', "\u030c": "v ",
  "\u0327": "c ", "\u0328": "k ",
}  # fmt: skip
_LETTERS = {"ł": "{\\l}", "Ł": "{\\L}", "ø": "{\\o}", "Ø": "{\\O}", "ß": "{\\ss}", "ı": "{\\i}"}
_SPECIAL = {
  "\\": "{\\textbackslash}", "~": "{\\textasciitilde}", "^": "{\\textasciicircum}", **{c: f"\\{c}" for c in "&%$#_{}"}
}  # fmt: skip


def escaped(text: str) -> str:
  r"""Text as LaTeX reads it: special characters behind a backslash, letters with one mark as ``{\'e}``."""
  out = []
  for char in unicodedata.normalize("NFC", text):
    base, mark = (*unicodedata.normalize("NFD", char), "")[:2]
    out.append(f"{{\\{_MARKS[mark]}{base}}}" if mark in _MARKS else _LETTERS.get(char) or _SPECIAL.get(char, char))
  return "".join(out)


class Paper(NamedTuple):
  """A paper: ``authors`` as 'Given Family', 'others' at the end where the rest was not read; one of ``booktitle`` and
  ``journal``, or none; ``eprint`` is arXiv's number. What is not known is left empty."""

  key: str
  title: str
  authors: tuple[str, ...]
  year: int
  booktitle: str = ""
  journal: str = ""
  eprint: str = ""
  url: str = ""
  note: str = ""

  @property
  def link(self) -> str:
    """Where it can be read: ``url``, or the page of ``eprint``; empty without either."""
    return self.url or (f"https://arxiv.org/abs/{self.eprint}" if self.eprint else "")

  def bibtex(self) -> str:
    """The entry for a ``.bib`` file, with braces around the title, which keep its capitals."""
    kind = "inproceedings" if self.booktitle else "article" if self.journal else "misc"
    fields = {
      "title": f"{{{escaped(self.title)}}}",
      "author": " and ".join(map(escaped, self.authors)),
      "booktitle": escaped(self.booktitle),
      "journal": escaped(self.journal),
      "year": str(self.year),
      "eprint": self.eprint,
      "archivePrefix": "arXiv" if self.eprint else "",
      "url": self.link,
      "note": escaped(self.note),
    }
    body = "".join(f"  {name} = {{{text}}},\n" for name, text in fields.items() if text)
    return f"@{kind}{{{self.key},\n{body}}}"


@functools.cache
def table() -> dict[str, tuple[Paper, tuple[str, ...]]]:
  """The packaged table: by key, the paper and the names that it serves, those that are of it first."""
  out = {}
  for key, row in tomllib.loads(TABLE.read_text(encoding="utf-8")).items():
    names = tuple(row.pop("of"))
    out[key] = (Paper(key, **{**row, "authors": tuple(row["authors"])}), names)
  return out


def papers(name: str) -> tuple[Paper, ...]:
  """The papers of a method of cljax (``'ewc'``), or of a part with its package in front (``'regularizers.ewc'``)."""
  found = sorted((names.index(name), i, paper) for i, (paper, names) in enumerate(table().values()) if name in names)
  return tuple(paper for _, _, paper in found)
