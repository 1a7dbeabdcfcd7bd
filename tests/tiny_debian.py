"""A package of Debian made in the test: the layout of the real one that carries text, with a few pages of its own."""

from __future__ import annotations

import hashlib
import io
import tarfile

from cljax.data import corpora

WORDS = {
  "english": ("the screen", "a keyboard", "this window", "opens", "closes", "shows", "quickly", "again"),
  "german": ("der Bildschirm", "eine Tastatur", "dieses Fenster", "öffnet", "schließt", "zeigt", "schnell", "wieder"),
  "russian": ("экран", "клавиатура", "это окно", "открывает", "закрывает", "покажет", "быстро", "снова"),
}


def sentence(language: str, number: int) -> str:
  """One of 45 sentences."""
  w = WORDS[language]
  return f"{w[number % 3]} {w[3 + number // 3 % 3]} {w[(number + 1) % 3]} {w[6 + number // 9 % 2]} {number}."


def page(language: str, number: int, sentences: int = 6) -> bytes:
  lines = "".join(f"<p>{sentence(language, sentences * number + i)}</p>\n" for i in range(sentences))
  link = f'<p>{WORDS[language][0]}: <link xref="p{number + 1}#there"/></p>'
  xml = f'<page xmlns="http://projectmallard.org/1.0/" id="p{number}"><info><desc>left out</desc></info>'
  return f"{xml}<title>{WORDS[language][3]}  <gui>p{number}</gui></title>\n{lines}{link}</page>".encode()


def deb(inside: dict[str, bytes]) -> bytes:
  """``ar`` of a version, a ``control.tar.xz`` of odd size and ``data.tar.xz`` with ``inside``."""
  data = io.BytesIO()
  with tarfile.open(fileobj=data, mode="w:xz") as tar:
    for name, content in inside.items():
      info = tarfile.TarInfo(f"./{name}")
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return packed(data.getvalue())


def packed(data: bytes) -> bytes:
  out = b"!<arch>\n"
  for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", data)):
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
    out += head.encode() + content + b"\n" * (len(content) % 2)
  return out


def files(pages: int = 8) -> dict[str, bytes]:
  of = corpora.DEBS["languages"]
  of_language = lambda name, folder: {f"{folder}/guide/p{i}.page": page(name, i) for i in range(pages)}
  found = {k: v for name, folder in of.pages.items() for k, v in of_language(name, folder).items()}
  return {**found, of.licence: b"free"}


def write(root, inside: dict[str, bytes]) -> corpora.Deb:
  """Puts the package into ``root``, and gives what would stand for it in ``corpora.DEBS``."""
  whole = deb(inside)
  of = corpora.DEBS["languages"]
  root.mkdir(parents=True, exist_ok=True)
  (root / of.file).write_bytes(whole)
  return of._replace(sum=hashlib.sha256(whole).hexdigest())
