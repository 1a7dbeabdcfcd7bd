"""The table of papers: whom it names, that docstrings cite what it has, and the BibTeX that cards show."""

import configparser
import inspect
import pathlib
import re
import tomllib
import unicodedata

import pytest

from cljax import methods, optimizers, projectors, regularizers, unlearning
from cljax.cli import _card
from cljax.methods.papers import TABLE, Paper, escaped, papers, table

# What no paper introduced: its reference says what it is.
NO_PAPER = {"finetune", "joint", "cumulative", "retrain", "finetune_retain", "gradient_ascent", "l2", "l2_previous"}
METHODS = {n: e for n, e in methods.METHODS.items() if e.factory.__module__.startswith("cljax")}
PARTS = {
  f"{package.__name__.removeprefix('cljax.')}.{name}": getattr(package, name)
  for package in (optimizers, projectors, regularizers, unlearning)
  for name in package.__all__
  if callable(getattr(package, name))
}
_FAMILY = r"(?:(?:van|de|von|De|Van) )*[A-Z][\w'-]*[a-z][\w'-]*"
CITED = re.compile(
  rf"({_FAMILY})(?:, {_FAMILY})*( et al\.?| (?:and|&) {_FAMILY})?,?(?: (?!arXiv)[A-Z]\w+)?,? ((?:19|20)\d\d)\b"
)


def plain(text):
  letters = unicodedata.normalize("NFD", " ".join(text.split()))
  return "".join(c for c in letters if not unicodedata.combining(c))


def family(author):
  """``van de Ven`` of ``Gido M. van de Ven``."""
  return re.search(rf"(?:^| )({_FAMILY})$", plain(author))[1]


def label(paper):
  first, *rest = paper.authors
  return family(first) + (
    "" if not rest else f" and {family(rest[0])}" if len(rest) == 1 and rest[0] != "others" else " et al."
  )


def citations(text):
  """``{(first author, year)}`` of 'Name et al., year' and its like, and the numbers of arXiv."""
  text = plain(text)
  return {(m[1], int(m[3])) for m in CITED.finditer(text)} | set(re.findall(r"arXiv[: ]?(\d{4}\.\d{5})", text))


def names_of(paper):
  return {(family(paper.authors[0]), paper.year), paper.eprint[:10]}


def told(name):
  entry = METHODS.get(name)
  return inspect.getdoc(entry.factory if entry else PARTS[name]) or ""


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_with_a_paper_has_it_in_the_table(name):
  found, reference = papers(name), plain(METHODS[name].reference).replace("&", "and")
  assert bool(found) == (name not in NO_PAPER)
  assert not METHODS[name].papers  # in the table, so not in the entry too
  forms = [f"{label(p)} {p.year}" for p in found] + [f"arXiv {p.eprint}" for p in found]
  forms += [f"{p.title.partition(':')[0].lower()} {p.year}" for p in found]
  assert not found or any(form.lower() in reference.lower() for form in forms), (reference, forms)


@pytest.mark.parametrize("name", sorted({**METHODS, **PARTS}))
def test_papers_are_those_that_the_docstring_cites(name):
  cited = citations(told(name))
  there = [names_of(p) for p in papers(name)]
  assert all(any(c in one for one in there) for c in cited), cited
  beside = citations(METHODS[name].reference) if name in METHODS else set()
  titles = plain(told(name) + (METHODS[name].reference if name in METHODS else "")).lower()
  for paper, one in zip(papers(name), there, strict=True):
    assert one & (cited | beside) or paper.title.partition(":")[0].lower() in titles, paper.key


def test_the_reader_of_citations_reads_each_form():
  read = citations("Kirkpatrick et al., 2017; Saha and Roy, AAAI 2023; Yang 2025; Lin, Yang, Fan & Zhang, NeurIPS 2022")
  assert read == {("Kirkpatrick", 2017), ("Saha", 2023), ("Yang", 2025), ("Lin", 2022)}
  assert citations("von Oswald et al. 2020, CVPR 2024 and TPAMI 2026; arXiv 2410.23232, Serrà\net al., 2018") == {
    ("von Oswald", 2020), ("Serra", 2018), "2410.23232",
  }  # fmt: skip
  assert [family(a) for a in ("Gido M. van de Ven", "Li", "Joan Serrà")] == ["van de Ven", "Li", "Serra"]


def test_keys_and_fields_of_the_table():
  rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))  # TOML refuses a key that stands twice
  assert list(rows) == sorted(rows) == list(table())
  served = [name for row in rows.values() for name in row["of"]]
  assert set(served) <= {*METHODS, *PARTS}
  for paper, names in table().values():
    start = re.sub(r"[ '-]", "", family(paper.authors[0])).lower() + str(paper.year)
    assert paper.key.startswith(start), paper.key
    assert re.fullmatch(r"(\d{4}\.\d{4,5}(v\d+)?)?", paper.eprint)
    assert not (paper.booktitle and paper.journal)
    assert len(set(names)) == len(names) > 0
    assert "others" not in paper.authors[:-1]
    assert paper.title
    assert paper.title == paper.title.strip()
    assert 1990 < paper.year < 2027


def test_bibtex_by_hand():
  paper = Paper(
    "one2020a", "Rows & Costs: 50% of A_1", ("Gödel Łuk", "Ana Três"), 2020, journal="J", eprint="2001.00001"
  )
  assert paper.bibtex() == "\n".join((
    "@article{one2020a,",
    "  title = {{Rows \\& Costs: 50\\% of A\\_1}},",
    "  author = {G{\\\"o}del {\\L}uk and Ana Tr{\\^e}s},",
    "  journal = {J},",
    "  year = {2020},",
    "  eprint = {2001.00001},",
    "  archivePrefix = {arXiv},",
    "  url = {https://arxiv.org/abs/2001.00001},",
    "}",
  ))  # fmt: skip
  bare = paper._replace(journal="", eprint="")
  assert bare.link == ""
  assert bare.bibtex().startswith("@misc{")
  assert "url" not in bare.bibtex()
  assert bare._replace(booktitle="B", url="https://x").bibtex().startswith("@inproceedings{")
  assert bare._replace(url="https://x", eprint="2001.00001").link == "https://x"
  assert escaped("~{}\\^č") == "{\\textasciitilde}\\{\\}{\\textbackslash}{\\textasciicircum}{\\v c}"


@pytest.mark.parametrize("key", list(table()))
def test_bibtex_is_ascii_with_balanced_braces(key):
  text = table()[key][0].bibtex()
  assert text.isascii(), [c for c in text if not c.isascii()]
  depth = 0
  for brace in re.findall(r"(?<!\\)[{}]", text):
    depth += 1 if brace == "{" else -1
    assert depth >= 0
  assert depth == 0


@pytest.mark.parametrize("name", sorted(METHODS))
def test_cards_and_pages_show_title_link_and_bibtex(name):
  card, page = _card.card(name, 5), _card.page(name, 5)
  for paper in papers(name):
    assert f"{paper.title}\n" in card
    assert paper.bibtex() in card
    assert f"```bibtex\n{paper.bibtex()}\n```" in page
    assert (f"[{paper.title}]({paper.link})" if paper.link else paper.title) in page
    assert paper.link in card
  assert ("@" in "".join(line[:1] for line in card.splitlines())) == bool(papers(name))


def test_an_entry_brings_its_own_paper(monkeypatch):
  paper = Paper("own2026a", "Own", ("A Own",), 2026, url="https://own")
  entry = methods.METHODS["er"]._replace(papers=(paper, *papers("er")))
  monkeypatch.setitem(methods.METHODS, "own", entry)
  assert "Own\nhttps://own\n@misc{own2026a," in _card.card("own", 5)
  monkeypatch.setitem(methods.METHODS, "er", entry)
  assert _card.card("er", 5).count("@misc{chaudhry2019tiny,") == 1  # of both, once


def test_papers_of_a_name_begin_with_its_own():
  assert [p.key for p in papers("gem")] == ["lopezpaz2017gradient", "chaudhry2019efficient"]
  assert papers("no such name") == ()


def test_the_table_is_packaged():
  setup = configparser.ConfigParser()
  setup.read(pathlib.Path(__file__).parents[2] / "setup.cfg")
  assert "methods/papers.toml" in setup["options.package_data"]["cljax"]
