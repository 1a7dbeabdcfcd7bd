"""Folders of real pictures: layouts, names, modes, and all that can lie about in them."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cljax import data, streams
from cljax.core.types import UsageError


def picture(path, value=7, shape=(4, 4), mode="L", **more):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, shape[::-1], value).save(path, **more)


def filled(root, *folders, rows=3):
  """Pictures of one grey each; ``{value: (folder, number)}``."""
  out = {}
  for f, folder in enumerate(folders):
    for k in range(rows):
      out[10 * f + k + 1] = (folder, k)
      picture(root / folder / f"{k}.png", 10 * f + k + 1)
  return out


def fails(message, root, **options):
  with pytest.raises(UsageError) as e:
    data.load(f"folder:{root}", **options)
  assert message in str(e.value), str(e.value)
  assert "\n" not in str(e.value)


def shown(part):
  return part.x[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("other", ["test", "Test", "val", "VAL", "valid", "Validation", "testing"])
def test_usual_layouts_in_any_case(tmp_path, train, other):
  filled(tmp_path, f"{train}/cat", f"{train}/dog", f"{other}/dog")
  d = data.load(f"folder:{tmp_path}")
  assert d.class_names == ("cat", "dog")
  assert (shown(d.train), shown(d.test)) == ([1, 2, 3, 11, 12, 13], [21, 22, 23])
  assert d.test.y.tolist() == [1, 1, 1]
  assert d.held is None


def test_val_beside_test_are_the_validation_rows(tmp_path):
  filled(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog")
  d = data.load(f"folder:{tmp_path}")
  assert sorted(shown(d.test)) == [41, 42, 43, 51, 52, 53]
  assert sorted(np.asarray(shown(d.train))[d.held]) == [21, 22, 23, 31, 32, 33]
  for kind in ("class", "permuted", "si_blurry"):
    s = streams.build(d, kind, tasks=2)
    for t in range(2):
      assert d.held[s.validation[t]].all()
      assert not d.held[s.train[t]].any()
    assert len(np.unique(np.concatenate(s.validation))) == 6
    none = streams.build(d, kind, tasks=2, validation=0.0)
    assert not d.held[np.concatenate([*none.train, *none.validation])].any()
  assert not d.held[np.concatenate(streams.build(d, "label_random", tasks=2).train)].any()
  some = streams.build(d, "class", tasks=2, rows=4)
  assert len(np.concatenate(some.train)) == 4
  with pytest.raises(UsageError, match="validation rows of its own"):
    streams.build(d, "class", tasks=2, validation=0.3)
  digest = d.digest
  shutil.move(tmp_path / "val/cat/0.png", tmp_path / "train/cat/0a.png")
  assert data.load(f"folder:{tmp_path}").digest != digest


def test_train_alone_is_split_as_classes_are(tmp_path):
  filled(tmp_path, "train/cat", "train/dog", rows=5)
  d = data.load(f"folder:{tmp_path}")
  assert (d.class_names, len(d.train.y), len(d.test.y)) == (("cat", "dog"), 8, 2)


def test_a_class_may_be_called_train(tmp_path):
  filled(tmp_path, "train", "car", "plane")
  assert data.load(f"folder:{tmp_path}").class_names == ("car", "plane", "train")


@pytest.mark.parametrize(
  ("folders", "said"),
  [
    (["train/cat", "test/cat", "Test/cat"], "both look like the test split; keep one"),
    (["train/cat", "val/cat", "valid/cat"], "both look like the val split"),
    (["train/cat", "extra/cat"], "train looks like a split with classes in it, but extra stands beside it"),
    (["train", "val"], "train: holds no class folders; allowed: train/CLASS/*.png"),
    (["val/cat", "test/cat"], "has test, val but no train folder"),
    (["train/cat", "train/ant", "val/cow"], "val: class 'cow' is not in train; allowed: ant, cat"),
    (["pets/cat", "pets/dog"], "holds one class, 'pets', with folders in it; if these are the classes, give"),
  ],
)
def test_layouts_that_may_be_misread_are_refused(tmp_path, folders, said):
  filled(tmp_path, *folders)
  fails(said, tmp_path)


def test_numbers_sort_as_numbers(tmp_path):
  filled(tmp_path, *map(str, range(12)), "x", "a", rows=2)
  d = data.load(f"folder:{tmp_path}")
  assert d.class_names == (*map(str, range(12)), "a", "x")
  s = streams.build(d, tasks=1, validation=0.0, forget="1:class=2")
  gone = s.train[0][streams.resolve_pairs(s.events[-1], s)[0]]
  assert all(21 <= v <= 22 for v in d.train.x[gone, 0, 0, 0]), "folder 2, not folder 10"


def test_numbers_that_are_no_places_are_refused_with_both_readings(tmp_path):
  filled(tmp_path, "1", "2", "10", rows=2)
  d = data.load(f"folder:{tmp_path}")
  assert d.class_names == ("1", "2", "10")
  with pytest.raises(UsageError, match=r"class 2 may mean #1 \(the class called '2'\) or #2 \(the class called '10'\)"):
    streams.build(d, tasks=1, forget="1:class=2")
  s = streams.build(d, tasks=1, validation=0.0, forget="1:class=10")
  gone = s.train[0][streams.resolve_pairs(s.events[-1], s)[0]]
  assert set(d.train.x[gone, 0, 0, 0]) <= {21, 22}
  assert s.events[-1].classes == ("10",)


def test_what_systems_leave_about_is_no_data(tmp_path):
  filled(tmp_path, "cat", "dog")
  picture(tmp_path / "cat" / ".hidden.png")
  picture(tmp_path / "cat" / "._0.png")
  picture(tmp_path / "cat" / "@eaDir" / "0.png" / "thumb.jpg")
  picture(tmp_path / "dog" / ".thumbnails" / "0.png")
  picture(tmp_path / "__MACOSX" / "cat" / "x.png")
  picture(tmp_path / ".git" / "x.png")
  for name in (".DS_Store", "Thumbs.db", "notes.txt"):
    (tmp_path / "cat" / name).write_text("x")
  (tmp_path / "README.md").write_text("x")
  d = data.load(f"folder:{tmp_path}")
  assert d.class_names == ("cat", "dog")
  assert sorted(shown(d.train) + shown(d.test)) == [1, 2, 3, 11, 12, 13]


def test_suffixes_and_nested_folders(tmp_path):
  for k, end in enumerate((".PNG", ".JPG", ".jpeg", ".JPE", ".jfif", ".TIF", ".GIF")):
    kind = {"format": "JPEG"} if end.lower() in (".jpe", ".jfif") else {}
    picture(tmp_path / "a" / f"deep{k}" / "er" / f"x{end}", 100, **kind)
    picture(tmp_path / "b" / f"{k}.png", 200)
  d = data.load(f"folder:{tmp_path}")
  assert np.bincount([*d.train.y, *d.test.y]).tolist() == [7, 7]


def test_links_are_followed_once(tmp_path):
  real, root = tmp_path / "real", tmp_path / "set"
  filled(real, "cats/more", "dogs")
  root.mkdir()
  os.symlink(real / "cats", root / "cat")
  os.symlink(real / "cats", real / "cats" / "more" / "round")
  (root / "dog").mkdir()
  os.symlink(real / "dogs" / "0.png", root / "dog" / "0.png")
  os.symlink(real / "dogs", root / "dog" / "all")
  d = data.load(f"folder:{root}")
  assert sorted(shown(d.train) + shown(d.test)) == [1, 2, 3, 11, 11, 12, 13]


@pytest.mark.parametrize(
  ("make", "said"),
  [
    (lambda p: os.symlink(p.parent / "gone.png", p), "bad.png: is a broken link, or no regular file"),
    (lambda p: os.mkfifo(p), "bad.png: is a broken link, or no regular file"),
    (lambda p: p.write_bytes(b""), "bad.png: cannot be read as a picture (no picture that Pillow knows)"),
    (lambda p: p.write_bytes(b"GIF89a"), "bad.png: cannot be read as a picture ("),
    (lambda p: p.write_bytes((p.parent / "0.png").read_bytes()[:-20]), "bad.png: cannot be read as a picture ("),
    (lambda p: Image.new("I;16", (4, 4)).save(p), "more than 8 bits a channel)"),
    (lambda p: Image.new("F", (4, 4)).save(p, format="TIFF"), "bad.png: cannot be read as a picture (mode F"),
    (lambda p: (p.parent / "bad.HEIC").write_bytes(b"x"), "bad.HEIC: .heic pictures are not read; convert it"),
    (lambda p: (p.parent.parent / "cow").mkdir(), "cow: is a class folder without pictures; add some, or remove it"),
    (lambda p: picture(p, shape=(5, 4)), "size: got None, and "),
  ],
)
def test_what_cannot_be_read_is_named(tmp_path, make, said):
  filled(tmp_path, "cat", "dog")
  make(tmp_path / "cat" / "bad.png")
  fails(said, tmp_path)


def test_modes_become_one(tmp_path):
  """Grey, palette, CMYK, one bit and transparent ones; what a viewer shows on white is what is read."""
  picture(tmp_path / "a" / "0.png", 50)
  picture(tmp_path / "a" / "1.png", (10, 20, 30), mode="RGB")
  palette = Image.new("P", (4, 4), 1)
  palette.putpalette([0, 0, 0, 200, 100, 0])
  palette.save(tmp_path / "a" / "2.png")
  picture(tmp_path / "a" / "3.png", 1, mode="1")
  picture(tmp_path / "a" / "4.png", (0, 0, 0, 0), mode="RGBA")
  picture(tmp_path / "a" / "5.png", (0, 100), mode="LA")
  palette.save(tmp_path / "a" / "6.png", transparency=1)
  picture(tmp_path / "a" / "7.tif", (255, 0, 0, 0), mode="CMYK")
  picture(tmp_path / "b" / "0.png", 60)
  picture(tmp_path / "b" / "1.png", 61)
  shutil.copytree(tmp_path / "a", tmp_path / "all" / "train" / "a")
  shutil.copytree(tmp_path / "b", tmp_path / "all" / "train" / "b")
  shutil.copytree(tmp_path / "b", tmp_path / "all" / "val" / "b")
  d = data.load(f"folder:{tmp_path / 'all'}")
  expected = [(50,) * 3, (10, 20, 30), (200, 100, 0), (255,) * 3, (255,) * 3, (155,) * 3, (255,) * 3, (0, 255, 255)]
  assert d.train.x[:8, 0, 0].tolist() == [list(e) for e in expected]


def test_pictures_are_set_upright(tmp_path):
  """EXIF 6: the camera was turned; the first row as stored is the right column as seen."""
  stored = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
  exif = Image.Exif()
  exif[0x0112] = 6
  for k in range(2):
    (tmp_path / f"c{k}").mkdir()
    for i in range(2):
      Image.fromarray(stored).save(tmp_path / f"c{k}" / f"{i}.png", exif=exif)
  d = data.load(f"folder:{tmp_path}")
  np.testing.assert_array_equal(d.train.x[0, ..., 0], np.rot90(stored, -1))


def test_names_that_look_alike_are_one_or_refused(tmp_path):
  filled(tmp_path, "train/cafe\u0301", "train/b", "test/caf\u00e9")
  d = data.load(f"folder:{tmp_path}")
  assert d.class_names == ("b", "caf\u00e9")
  filled(tmp_path, "train/caf\u00e9")
  fails("holds two folders that are both called 'caf\u00e9'", tmp_path)


def test_a_folder_larger_than_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
  filled(tmp_path, "cat", "dog")
  fails("pictures of 100000000x100000000 needs about ", tmp_path, size=100_000_000)
  monkeypatch.setattr("cljax.data.limits.available", lambda: 6 * 16)
  fails("data: 6 pictures of 4x4 needs about 0.0 MiB of memory; 0.0 MiB are free; give a smaller size=", tmp_path)
  monkeypatch.setattr("cljax.data.limits.available", lambda: 2 * 6 * 16)
  data.load(f"folder:{tmp_path}")
