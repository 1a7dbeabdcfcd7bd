"""glyphs: determinism, worker independence, look-alikes, missing characters, two processes at once, bad options."""

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from cljax import data
from cljax.core.types import UsageError
from cljax.data import builders, glyph_render, glyphs, store

OPTIONS = dict(
  alphabets=("latin",), styles=("sans", "serif_bold", "cm"), samples_per_class=30, test_samples_per_class=5, classes=6
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def small(root):
  return data.load("glyphs", data_dir=str(root), **OPTIONS)


def test_shapes(small):
  assert small.train.x.shape == (180, 28, 28, 1)
  assert small.test.x.shape == (30, 28, 28, 1)
  assert small.train.x.dtype == np.uint8
  assert small.class_names == tuple("ABCDEF")
  assert small.group_names == ("sans", "serif_bold", "cm")
  np.testing.assert_array_equal(np.bincount(small.train.y), [30] * 6)
  np.testing.assert_array_equal(np.bincount(small.train.group), [60] * 3)
  assert small.scale == 1 / 255
  assert small.train.x.reshape(180, -1).max(1).min() > 100  # every image holds ink


def test_array_record_holds_the_same_rows(root, small):
  """The TFDS builder on disk, read as a data source, is what load returned."""
  builder = builders.prepare("glyphs", root, glyphs.check(OPTIONS))
  files = [p.name for p in builder.data_path.iterdir()]
  assert sum(".array_record" in f for f in files) == 2
  source = builder.as_data_source(split="test")
  assert len(source) == 30
  for row in (source[0], source[17]):
    i = int(row["id"])
    np.testing.assert_array_equal(row["image"], small.test.x[i])
    assert (row["label"], row["style"]) == (small.test.y[i], small.test.group[i])


def test_no_two_rows_are_equal(small):
  rows = np.concatenate([small.train.x, small.test.x]).reshape(210, -1)
  assert len(np.unique(rows, axis=0)) == 210


def test_classes_are_learnable(small):
  """A nearest-centroid rule on raw pixels is far above the 1/6 of chance."""
  x, t = (s.x.reshape(len(s.x), -1).astype(np.float32) for s in (small.train, small.test))
  centre = np.stack([x[small.train.y == c].mean(0) for c in range(6)])
  guess = ((t[:, None] - centre) ** 2).sum(2).argmin(1)
  assert (guess == small.test.y).mean() > 0.6


def test_workers_and_order_change_nothing():
  jobs = [glyph_render.Job(glyphs.font_file(s), s, ord(c), 0, 3) for c in "ABg" for s in ("sans", "stix_italic")]
  alone = glyph_render.render(jobs, 5, workers=0)
  for workers in (1, 2):
    for a, b in zip(alone, glyph_render.render(jobs, 5, workers=workers), strict=True):
      np.testing.assert_array_equal(a, b)
  backwards = glyph_render.render(jobs[::-1], 5, workers=0)[::-1]
  for a, b in zip(alone, backwards, strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_sample_depends_on_its_own_coordinates_only():
  job = glyph_render.Job(glyphs.font_file("sans"), "sans", ord("R"), 0, 70)
  many = glyph_render.samples(job, 1)
  np.testing.assert_array_equal(many[:3], glyph_render.samples(job._replace(number=3), 1))
  for other, seed in ((job, 2), (job._replace(split=1), 1), (job._replace(style="mono"), 1)):
    assert (glyph_render.samples(other._replace(number=1), seed) != many[:1]).any()


def test_failing_worker_is_an_error():
  with pytest.raises(RuntimeError, match="rendering process ended early"):
    glyph_render.render([glyph_render.Job("no such font", "sans", 65, 0, 1)], 0, workers=1)


def test_no_distortion_gives_the_character_itself():
  image = glyph_render.base(glyphs.font_file("sans"), ord("E"))
  still = glyph_render.distort(image, np.zeros((1, glyph_render._DRAWS)))[0].astype(float) / 255
  small = image.reshape(28, 3, 28, 3).mean((1, 3))
  assert abs(still - small).mean() < 0.02
  ink = np.argwhere(image > 0.5)
  np.testing.assert_allclose(ink.mean(0), 41.5, atol=5)  # centred; an E is a little heavier on the left


def test_look_alikes_keep_the_first():
  kept = glyphs.characters(("latin", "greek", "cyrillic"), ("sans", "serif"))
  names = [chr(c.codepoint) for c in kept]
  assert {"A", "O", "c", "Ω", "Ж"} <= set(names)
  assert not {"Α", "А", "Ο", "О", "с"} & set(names)  # Greek and Cyrillic twins of A, O, c
  first = glyphs.characters(("greek", "latin"), ("sans", "serif"))
  assert "Α" in [chr(c.codepoint) for c in first]  # the first alphabet named wins
  assert kept[:20] == glyphs.characters(("latin", "greek", "cyrillic"), ("sans", "serif"), 20)


def test_missing_characters_are_never_drawn():
  assert not glyph_render.has(glyphs.font_file("serif"), 0x5D0)  # no Hebrew in DejaVu Serif
  assert glyph_render.has(glyphs.font_file("sans"), 0x5D0)
  with pytest.raises(UsageError, match=r"styles: no character of 'hebrew' is in all of serif; allowed for it: sans, "):
    glyphs.characters(("hebrew",), ("serif",))
  with pytest.raises(UsageError, match="no character of 'greek' is in all of cm"):
    glyphs.characters(("greek",), ("cm",))


def test_every_style_has_letters_and_digits():
  later = () if tuple(map(int, matplotlib.__version__.split(".")[:2])) >= (3, 11) else ("cm_italic",)
  styles = tuple(s for s in glyphs.STYLES if s not in later)
  assert len(glyphs.characters(("latin", "digits"), styles)) == 62


def test_a_font_that_did_not_come_with_matplotlib_is_named(monkeypatch, tmp_path):
  monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
  with pytest.raises(UsageError, match=r"styles: got 'cm_italic', which matplotlib \S+ has no font of; 3.11 has all"):
    glyphs.font_file.__wrapped__("cm_italic")  # not the kept path


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (dict(alphabets="klingon"), "alphabets: got 'klingon'; allowed: one or more of latin, digits"),
    (dict(alphabets=()), "alphabets: got (); allowed"),
    (dict(alphabets=[["latin"]]), "alphabets: got ['latin']; allowed"),
    (dict(styles=3), "styles: got 3; allowed"),
    (dict(styles=("sans", "comic")), "styles: got 'comic'; allowed: one or more of sans"),
    (dict(styles="sans,sans"), "styles: sans, sans names one twice"),
    (dict(samples_per_class=0), "samples_per_class: got 0; allowed: a whole number of at least 1"),
    (dict(test_samples_per_class=2.5), "test_samples_per_class: got 2.5; allowed: a whole number of at least 1"),
    (dict(seed=-1), "seed: got -1; allowed: a whole number of at least 0"),
    (dict(seed=True), "seed: got True; allowed"),
    (dict(classes=1), "classes: got 1; allowed: a whole number of at least 2, or None for all"),
    (dict(alphabets=("digits",), styles=("sans",), classes=11), "classes: got 11; allowed: 2 to 10"),
    (dict(font="sans"), "font: not an option of dataset 'glyphs'; allowed: alphabets, styles"),
  ],
)
def test_bad_options(root, given, message):
  with pytest.raises(UsageError) as e:
    data.load("glyphs", data_dir=str(root), **given)
  assert str(e.value).startswith(message)
  assert "\n" not in str(e.value)


def test_comma_separated_text_is_a_list(root, small):
  again = data.load("glyphs", data_dir=str(root), **{**OPTIONS, "alphabets": "latin", "styles": "sans,serif_bold,cm"})
  assert again.digest == small.digest


def test_damaged_cache_is_made_again(root, small):
  path = root / "cache" / f"glyphs-{builders.key(glyphs.check(OPTIONS))}.npz"
  good = path.read_bytes()
  for bad in (good[:1000], good[:5000] + bytes([good[5000] ^ 255]) + good[5001:], b""):
    path.write_bytes(bad)
    assert store.read(path, glyphs.check(OPTIONS)) is None
    assert data.load("glyphs", data_dir=str(root), **OPTIONS).digest == small.digest
    assert store.read(path, glyphs.check(OPTIONS)) is not None


def test_altered_cache_is_not_believed(root, small):
  """A well-formed file whose contents are not what its digest says."""
  path = root / "cache" / f"glyphs-{builders.key(glyphs.check(OPTIONS))}.npz"
  with np.load(path) as f:
    parts = dict(f)
  parts["train_x"][0, 0, 0, 0] ^= 1
  np.savez(path, **parts)
  assert data.load("glyphs", data_dir=str(root), **OPTIONS).digest == small.digest
  assert store.read(path, glyphs.check(OPTIONS)) is not None


def test_two_processes_preparing_at_once(tmp_path, small):
  code = (
    "import sys; sys.stdin.readline(); from cljax import data\n"
    f"d = data.load('glyphs', data_dir={str(tmp_path)!r}, **{OPTIONS!r})\n"
    "print(d.digest, 'tensorflow' in sys.modules)"
  )
  start = lambda: subprocess.Popen(
    [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )
  processes = [start(), start()]
  for p in processes:
    p.stdin.write("go\n")
    p.stdin.flush()
  out = [p.communicate()[0].split() for p in processes]
  assert [p.returncode for p in processes] == [0, 0]
  assert out == [[small.digest, "False"]] * 2
  left = [f for _, _, files in os.walk(tmp_path) for f in files if f.startswith(".glyphs") or "incomplete" in f]
  assert left == []


def test_options_are_the_defaults():
  assert data.options("glyphs") == glyphs.DEFAULTS
  assert data.options("digits") == {}
