"""Text that a package carries: a tiny package stands in for the real one, and no network is asked."""

import hashlib
import os
import pathlib

import numpy as np
import pytest
import tiny_debian

from cljax import data
from cljax.core.types import UsageError
from cljax.data import corpora, prepare, store

NAME = "languages"


@pytest.fixture
def packed(tmp_path, monkeypatch):
  def pack(inside):
    monkeypatch.setitem(corpora.DEBS, NAME, tiny_debian.write(tmp_path, inside))
    return tmp_path

  return pack


def test_pages_become_lines_with_what_a_reader_sees(packed, capsys):
  root = packed(tiny_debian.files())
  assert prepare.main([NAME, f"--data_dir={root}"]) == 0
  said = capsys.readouterr().out
  assert said.startswith(f"{NAME}: ")
  assert said.endswith(f"under the licence {root / NAME / 'LICENCE'}\n")
  assert (root / NAME / "LICENCE").read_text() == "free"
  for language in tiny_debian.WORDS:
    pages = (root / NAME / f"{language}.txt").read_text(encoding="utf-8").split("\n\n")
    assert len(pages) == 8
    for number, text in enumerate(pages):
      lines = text.strip().split("\n")
      title = lambda n, of=language: f"{tiny_debian.WORDS[of][3]} p{n}"
      there = number + 1 < 8  # a link to a page that is not there says nothing
      link = f"{tiny_debian.WORDS[language][0]}:" + f" {title(number + 1)}" * there
      told = [tiny_debian.sentence(language, 6 * number + i) for i in range(6)]
      assert lines == [title(number), *told, link]
  before = os.stat(root / NAME / "english.txt").st_mtime_ns
  assert prepare.main([NAME, f"--data_dir={root}"]) == 0
  assert os.stat(root / NAME / "english.txt").st_mtime_ns == before, "it is left alone"


def test_rows_of_it_are_groups_in_tokens_of_its_own(packed, monkeypatch):
  root = packed(tiny_debian.files())
  with pytest.raises(UsageError, match=rf"python -m cljax\.data\.prepare {NAME} --data_dir="):
    data.load(f"text:{NAME}", data_dir=root)
  corpora.prepare(NAME, root)
  rows = data.load(f"text:{NAME}", data_dir=root, tokenizer="own", length=16)
  assert rows.group_names == ("english", "german", "russian")
  assert rows.tokenizer == str(root / NAME)
  words = data.tokenizer(rows.tokenizer)
  mine = np.asarray(rows.train.group) == 2
  text = words.decode(rows.train.y["token"][mine][rows.train.y["weight"][mine] > 0])
  assert "клавиатура" in text
  elsewhere = root / "elsewhere"
  (root / NAME).rename(elsewhere)
  again = data.load(f"text:{elsewhere}", tokenizer="own", length=16)
  assert again._replace(name=rows.name).train.y["token"].tolist() == rows.train.y["token"].tolist()
  assert again.tokenizer == str(elsewhere)


def test_what_is_no_such_package_is_refused_in_one_line(packed, tmp_path, monkeypatch):
  def fails(message):
    with pytest.raises(UsageError, match=message) as error:
      corpora.prepare(NAME, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / NAME).exists()

  root = packed(tiny_debian.files())
  whole = (root / corpora.DEBS[NAME].file).read_bytes()
  (root / corpora.DEBS[NAME].file).write_bytes(whole + b"!")
  fails("is not the known file")
  for content, message in (
    (b"!<arch>\n" + b"x" * 90, "there is no data.tar in it"),
    (b"PK", "there is no data.tar in it"),
    (whole[:-40], "data.tar.xz is cut short"),
    (tiny_debian.packed(b"no archive"), "data.tar.xz cannot be read"),
  ):
    (root / corpora.DEBS[NAME].file).write_bytes(content)
    known = corpora.DEBS[NAME]._replace(sum=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(corpora.DEBS, NAME, known)
    fails(message)
  less = {k: v for k, v in tiny_debian.files().items() if "/ru/" not in k}
  packed(less)
  fails("has no pages in usr/share/help/ru")
  packed({k: v for k, v in tiny_debian.files().items() if "copyright" not in k})
  fails("is not as expected")
  packed({**tiny_debian.files(), "usr/share/help/C/guide/p0.page": b"<page>"})
  fails("is not as expected")
  (root / corpora.DEBS[NAME].file).unlink()
  monkeypatch.setenv("PATH", "")
  fails("the command apt-get is not at hand; put gnome-user-docs_43.0-2_all.deb")
  with pytest.raises(UsageError, match="name: got 'other'; allowed: languages"):
    corpora.prepare("other", tmp_path)


def test_apt_get_is_asked_where_the_package_is_not_there(packed, tmp_path, monkeypatch):
  root = packed(tiny_debian.files())
  kept = root / "kept.deb"
  (root / corpora.DEBS[NAME].file).rename(kept)
  tools = tmp_path / "tools"
  tools.mkdir()
  script = tools / "apt-get"
  script.write_text(f'#!/bin/sh\n[ "$*" = "download gnome-user-docs=43.0-2" ] || exit 1\n/bin/cp {kept} got_all.deb\n')
  script.chmod(0o755)
  monkeypatch.setenv("PATH", str(tools))
  assert (corpora.prepare(NAME, root) / "german.txt").is_file()
  assert (root / corpora.DEBS[NAME].file).is_file()
  for path in (root / NAME).iterdir():
    path.unlink()
  (root / corpora.DEBS[NAME].file).unlink()
  script.write_text("#!/bin/sh\necho no network >&2\nexit 100\n")
  with pytest.raises(UsageError, match=r"apt-get download gnome-user-docs=43\.0-2 failed: no network; put"):
    corpora.prepare(NAME, root)


def test_the_real_text():
  """Three languages of help pages, hardly any English in the others."""
  folder = pathlib.Path(store.root(None)) / NAME
  if not (folder / "tokenizer.json").is_file():
    pytest.skip(f"the package's text is not in {folder}; python -m cljax.data.prepare {NAME} makes it")
  texts = {p.stem: p.read_text(encoding="utf-8") for p in folder.glob("*.txt")}
  assert {k: len(v) for k, v in texts.items()} == {"english": 397_528, "german": 466_075, "russian": 420_044}
  long = {k: [line for line in v.split("\n") if len(line) > 40] for k, v in texts.items()}
  english = set(long["english"])
  for name, most in (("german", 0.01), ("russian", 0.02)):
    assert np.mean([line in english for line in long[name]]) < most
  words = data.tokenizer(folder)
  assert words.vocabulary == corpora.VOCABULARY
  for text in texts.values():
    assert words.decode(words.encode(text[:2000])) == text[:2000]
