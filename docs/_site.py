"""What mkdocs builds beside the pages of this folder: a card for each method, API pages, and what the pages link to.

A page of ``docs/`` stands at the root of the site, so ``../X`` of the checkout is ``X`` there: files that a page links
to are taken along, links to folders and to code lead nowhere on a site and become plain text.
"""

from __future__ import annotations

import html
import pathlib
import re
import sys

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOP = ("BUILD_NOTES.md", "CHANGELOG.md", "CONTRIBUTING.md")
# Families in the order in which one meets them, each with a sentence.
FAMILIES = {
  "cljax": "a run from Python",
  "cljax.streams": "events, tasks, views, requests",
  "cljax.data": "data sets",
  "cljax.models": "networks, and what wraps any of them",
  "cljax.objectives": "what is learned",
  "cljax.evaluators": "what is measured beside the objective",
  "cljax.losses": "losses as pure functions",
  "cljax.regularizers": "penalties as optax transforms",
  "cljax.projectors": "gradient projections as optax transforms",
  "cljax.optimizers": "optimizers of the field",
  "cljax.edits": "edits of weights",
  "cljax.memory": "replay memories as pytrees",
  "cljax.estimators": "Fisher matrices, gradients by row",
  "cljax.unlearning": "forget edits as functions",
  "cljax.methods": "the registry, and parts of methods",
  "cljax.metrics": "metrics of accuracy matrices, scores and representations",
  "cljax.theory": "closed forms",
  "cljax.engine": "compiled steps and the event loop",
}
ENTRY = r"^(#+ )([A-Z]?\d+(?:\.\d+)*)\b.*$"  # a heading of a specification, by its number
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def _generated(config, path: str, text: str) -> File:
  return File.generated(config, path, content=text)


def _anchor(number: str) -> str:
  return "spec-" + number.lower().replace(".", "-")


def _specified(text: str) -> str:
  """``regularizers_projectors 1.3``, of a method's record, with links to the entries that are among the pages."""
  file, *numbers = re.split(r"[\s,]+", text.strip())
  if not (ROOT / "docs" / "specs" / f"{file}.md").exists():
    return text
  entries = set(re.findall(ENTRY, (ROOT / "docs" / "specs" / f"{file}.md").read_text(), re.M))
  linked = [f"[{n}](../specs/{file}.md#{_anchor(n)})" if n in {e[1] for e in entries} else n for n in numbers]
  return f"[{file}](../specs/{file}.md) {', '.join(linked)}"


def _cards(config) -> list[File]:
  sys.path[:0] = [p for p in (str(ROOT), str(ROOT / "tests")) if p not in sys.path]
  from cljax import methods
  from cljax.cli import _card
  from cljax.cli.methods import state_bytes
  from experiments._proof_records import records

  held = state_bytes()
  lines = ["# Method cards", "", "What `python -m launch.methods NAME` prints, for all of them.", ""]
  out = []
  for name in sorted(methods.METHODS):
    entry = methods.METHODS[name]
    lines.append(f"- [`{name}`]({name}.md): {entry.reference}")
    record = records.records().get(("method", name))
    spec = f"\n## Specification\n\n{_specified(record.spec)}\n" if record is not None and record.spec else ""
    out.append(_generated(config, f"cards/{name}.md", _card.page(name, held.get(name, 0)) + spec))
  return [_generated(config, "cards/index.md", "\n".join(lines) + "\n"), *out]


def _api(config) -> list[File]:
  out, lines = [], ["# API by family", ""]
  for module, what in FAMILIES.items():
    lines.append(f"- [`{module}`]({module}.md): {what}")
    out.append(_generated(config, f"api/{module}.md", f"# {module}\n\n::: {module}\n"))
  return [_generated(config, "api/index.md", "\n".join(lines) + "\n"), *out]


def _linked(text: str, base: pathlib.Path) -> list[pathlib.Path]:
  """Files outside ``docs/`` that a page links to."""
  found = [(base / link.partition("#")[0]).resolve() for _, _, link in LINK.findall(text) if link.partition("#")[0]]
  return [p for p in found if p.is_file() and ROOT in p.parents and ROOT / "docs" not in p.parents]


def on_files(files, config):
  """Adds what is made and what is linked to, with what that links to."""
  for file in [*_cards(config), *_api(config)]:
    files.append(file)
  left = [ROOT / name for name in TOP]
  left += [p for page in (ROOT / "docs").glob("*.md") for p in _linked(page.read_text(), page.parent)]
  done: set[pathlib.Path] = set()
  while left:
    path = left.pop()
    if path in done or path.name == "README.md" or path.suffix not in (".md", ".png", ".tsv", ".json", ".csv"):
      continue
    done.add(path)
    place = str(path.relative_to(ROOT))
    files.append(File.generated(config, place, abs_src_path=str(path)))
    if path.suffix == ".md":
      left += _linked(path.read_text(), path.parent)
  return files


def on_page_markdown(markdown, page, config, files):
  """Links of the checkout as links of the site."""
  del config
  source = page.file.src_uri
  if source.startswith("specs/"):
    markdown = re.sub(ENTRY, lambda m: f"{m[0]} {{ #{_anchor(m[2])} }}", markdown, flags=re.M)
  inside = (ROOT / "docs" / source).exists()
  base = (ROOT / "docs" / source if inside else ROOT / source).parent

  def moved(match):
    mark, text, link = match.groups()
    place, sharp, anchor = link.partition("#")
    if source.startswith(("cards/", "api/")) or not place:
      return match.group(0)
    target = (base / place).resolve()
    if target != ROOT and ROOT not in target.parents:
      return text
    here = target.relative_to(ROOT / "docs") if ROOT / "docs" in target.parents else target.relative_to(ROOT)
    uri = "index.md" if str(here) == "README.md" else str(here)
    if files.get_file_from_path(uri) is None:
      return text  # a folder, or code
    up = "../" * source.count("/")
    return f"{mark}[{text}]({up}{uri}{sharp}{anchor})"

  return LINK.sub(moved, markdown)


def on_page_content(content, **_):
  """Roles of docstrings, ``:func:`name```, as names; a table scrolls in itself on a narrow screen."""
  content = re.sub(r":(?:func|class|mod|data|meth|attr|exc):<code>", "<code>", content)
  content = re.sub(r"(<code>)~?(cljax\.[\w.]+)(</code>)", lambda m: m[1] + html.escape(m[2]) + m[3], content)
  return content.replace("<table>", '<div class="scrolls"><table>').replace("</table>", "</table></div>")
