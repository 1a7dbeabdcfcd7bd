"""What the templates make of names, and of matrices that are too large for a table."""

import html.parser
import io

import numpy as np
from made_sweeps import result, write

from cljax.cli import report
from cljax.cli.reporting import _data, _html, _page, _templates

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=1>&amp;"


class _Read(html.parser.HTMLParser):
  def __init__(self):
    super().__init__()
    self.tags: list[str] = []
    self.handlers: list[str] = []
    self.words = ""

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.handlers += [name for name, _ in attrs if name.startswith("on")]
    self.words += " ".join(value or "" for _, value in attrs)

  def handle_data(self, data):
    self.words += data


def read(page: str) -> _Read:
  found = _Read()
  found.feed(page)
  return found


def test_no_name_becomes_markup(tmp_path):
  rng = np.random.default_rng(0)
  found = [result("finetune", 0.3, rng=rng), result("er", 0.8, rng=rng)]
  made = report.build([write(tmp_path, found)], "finetune", "validation")
  plain = read(_page.page(made))
  (block,) = made.blocks
  named = lambda line: line._replace(run=line.run._replace(label=line.run.label + HOSTILE))
  lines = [named(x) for x in block.lines]
  hostile = made._replace(
    blocks=[block._replace(name=HOSTILE, lines=lines, notes=[HOSTILE])], sources=[HOSTILE], notes=[HOSTILE]
  )
  page = read(_page.page(hostile))
  assert page.tags.count("script") == plain.tags.count("script") == 1
  assert page.tags.count("img") == plain.tags.count("img")
  assert page.handlers == []
  assert page.words.count(HOSTILE) > 10, "and all of it can be read"


def test_a_large_matrix_becomes_a_picture(tmp_path):
  from matplotlib import image

  values = np.random.default_rng(0).random((40, 31)) * 100
  pixels = image.imread(io.BytesIO(_html._png(values)))
  np.testing.assert_allclose(pixels[..., 0], 1 - values / 100, atol=0.003)
  run = _data.read(write(tmp_path, [result("er", 0.8, rng=np.random.default_rng(0))]))[0][0]
  panel = _html._matrix(values / 100, run, "")
  one = {"label": "er", "opened": True, "tag": "", "score": "1", "panels": [panel]}
  assert 'alt="accuracy matrix of er: 40 rows' in _templates.render("matrices", runs=[one])
