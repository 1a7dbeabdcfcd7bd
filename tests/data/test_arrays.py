"""User data: .npz files, embeddings, folders of pictures; every refusal is one line."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cljax import data
from cljax.core.types import UsageError
from cljax.data import types

RNG = np.random.default_rng(1)


def arrays(**more):
  x = RNG.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
  y = np.arange(30) % 3
  return dict(x_train=x[:24], y_train=y[:24], x_test=x[24:], y_test=y[24:]) | more


def save(path, **a):
  np.savez(path, **a)
  return str(path)


def fails(message, name, **options):
  with pytest.raises(UsageError) as e:
    data.load(name, **options)
  assert message in str(e.value)
  assert "\n" not in str(e.value)


def test_npz(tmp_path):
  a = arrays()
  d = data.load(save(tmp_path / "set.npz", **a))
  np.testing.assert_array_equal(d.train.x, a["x_train"])
  np.testing.assert_array_equal(d.test.y, a["y_test"])
  assert d.train.y.dtype == np.int32
  assert (d.num_classes, d.scale, d.name) == (3, 1 / 255, "set.npz")
  assert data.load("npz:set.npz", data_dir=str(tmp_path)).digest == d.digest
  a["x_train"] = a["x_train"].copy()
  a["x_train"][3, 1, 1] ^= 1
  assert data.load(save(tmp_path / "set.npz", **a)).digest != d.digest


def test_npz_holds_out_a_stratified_part(tmp_path):
  x, y = RNG.normal(size=(50, 6)), np.repeat([0, 1], [40, 10])
  path = save(tmp_path / "set.npz", x=x, y=y, group=y + 1)
  d = data.load(path, test_fraction=0.3, seed=4)
  np.testing.assert_array_equal(np.bincount(d.test.y), [12, 3])
  every = np.concatenate([d.train.x, d.test.x])
  np.testing.assert_array_equal(np.sort(every, 0), np.sort(x.astype(np.float32), 0))
  np.testing.assert_array_equal(d.train.group, d.train.y + 1)
  assert d.scale == 1.0
  assert d.train.x.dtype == np.float32
  assert data.load(path, test_fraction=0.3, seed=4).digest == d.digest
  assert data.load(path, test_fraction=0.3, seed=5).digest != d.digest


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.floats(0.01, 0.99), st.integers(0, 99))
def test_held_out_keeps_a_training_row_of_each_class(counts, fraction, seed):
  y = np.repeat(np.arange(len(counts)), counts)
  mask = types.held_out(y, fraction, seed)
  for c, n in enumerate(counts):
    taken = mask[y == c].sum()
    assert taken == min(max(1, round(fraction * n)), n - 1)


def test_gray_pictures_get_a_channel(tmp_path):
  a = arrays()
  d = data.load(save(tmp_path / "a.npz", **a | {k: a[k][..., 0] for k in ("x_train", "x_test")}))
  assert d.train.x.shape == (24, 4, 4, 1)


NAN = np.zeros((24, 4, 4, 1), np.float32)
NAN[5, 0, 0, 0], NAN[7, 1, 1, 0] = np.nan, np.inf


@pytest.mark.parametrize(
  ("labels", "names"),
  [
    (np.array(["eel", "cat", "dog"]), ("cat", "dog", "eel")),
    (np.array([1, 2, 3]), ("1", "2", "3")),
    (np.array([30, 4, 2**40]), ("4", "30", "1099511627776")),
    (np.array([0, 2, 5]), ("0", "2", "5")),
    (np.array([0, 1, 2]), ("0", "1", "2")),
  ],
)
def test_labels_are_places_in_their_sorted_list_and_keep_their_names(tmp_path, labels, names):
  a = arrays(y_train=labels[np.arange(24) % 3], y_test=labels[[2, 0, 1, 1, 0, 2]])
  for d in (data.load(save(tmp_path / "a.npz", **a)), data.from_arrays("mine", {k: list(v) for k, v in a.items()})):
    assert d.class_names == names
    for split, told in ((d.train, a["y_train"]), (d.test, a["y_test"])):
      assert [d.class_names[i] for i in split.y] == [str(v) for v in told]
  whole = data.from_arrays("mine", {"x": a["x_train"], "y": a["y_train"]})
  assert whole.class_names == names
  assert sorted(np.unique(whole.train.y)) == [0, 1, 2]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(y_test=None), "a.npz: lacks 'y_test', has x_train, y_train, x_test; allowed: x_train, y_train"),
    (dict(y_train=np.arange(23) % 3), "y_train: shape is (23,); allowed: (24,)"),
    (dict(y_train=np.zeros((24, 3), int)), "y_train: shape is (24, 3); allowed: (24,)"),
    (dict(y_train=np.zeros(24)), "y_test: dtype is int32; y_train has float32: both integers, or both floats"),
    (dict(y_train=np.zeros(24), y_test=np.zeros((6, 2))), "test.y: is float32[6, 2]; train.y is float32[24]"),
    (dict(y_train=np.full(24, "a")), "y_train: dtype is <U1; allowed: whole numbers or words (classes), or floats"),
    (dict(x_train=np.zeros((24, 4, 4, 1), int)), "x_train: dtype is int64; allowed: uint8 or a float type"),
    (dict(x_train=np.zeros(24, np.uint8)), "x_train: shape is (24,); allowed: [N, ...]"),
    (dict(y_train=np.arange(24) % 3 - 1), "y_train: values span -1..1; allowed: 0..2147483647"),
    (dict(y_train=np.arange(24) % 3 * 2), "y_test: '1' has no row in y_train; allowed: classes that are trained on"),
    (dict(y_train=np.full(24, "a"), y_test=np.full(6, "b")), "y_test: 'b' has no row in y_train"),
    (dict(y_test=np.full(6, 3)), "test.y: values span 3..3; allowed: 0..2"),
    (dict(x_test=np.zeros((6, 5, 4, 1), np.uint8)), "test.x: rows are uint8 (5, 4, 1); train.x has uint8 (4, 4, 1)"),
    (dict(x_test=np.zeros((6, 4, 4, 1))), "test.x: rows are float32 (4, 4, 1); train.x has uint8 (4, 4, 1)"),
    (dict(x_train=NAN, x_test=NAN[:6]), "train.x: 2 of 24 rows hold NaN or infinity"),
    (dict(x_test=np.zeros((0, 4, 4, 1), np.uint8), y_test=np.zeros(0, int)), "test: has no rows"),
    (dict(x_train=np.zeros((0, 4, 4, 1), np.uint8), y_train=np.zeros(0, int)), "x_train: has no rows"),
    (dict(group_train=np.full(24, -1)), "group_train: values span -1..-1"),
    (dict(y_train=np.array([{}] * 24)), "y_train: holds Python objects, which are never unpickled"),
  ],
)
def test_npz_refusals(tmp_path, change, message):
  a = {k: v for k, v in arrays(**change).items() if v is not None}
  fails(message, save(tmp_path / "a.npz", **a))


def test_files_that_are_no_npz(tmp_path):
  fails("name: npz:no.npz not found; looked for", "no.npz", data_dir=str(tmp_path))
  for content in (b"junk", b"", b"PK\x03\x04 cut"):
    (tmp_path / "a.npz").write_bytes(content)
    fails("cannot be read as .npz", str(tmp_path / "a.npz"))
  with open(tmp_path / "a.npz", "wb") as f:
    np.save(f, np.zeros(3))
  fails("it is one array, not an archive of arrays", str(tmp_path / "a.npz"))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(test_fraction=1.0), "test_fraction: got 1.0; allowed: a number between 0 and 1"),
    (dict(test_fraction="0.2"), "test_fraction: got '0.2'; allowed"),
    (dict(seed=-1), "seed: got -1; allowed: a whole number of at least 0"),
    (dict(split=3), "split: not an option of dataset"),
  ],
)
def test_split_options(tmp_path, options, message):
  fails(message, save(tmp_path / "a.npz", x=np.zeros((6, 2)), y=np.arange(6) % 2), **options)


def test_one_row_a_class_cannot_be_split(tmp_path):
  fails("y: no class has two rows", save(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.arange(3)))


def test_embeddings(tmp_path):
  x, y = RNG.normal(size=(20, 8)).astype(np.float32), np.arange(20) % 4
  folder = tmp_path / "vectors"
  folder.mkdir()
  for key, v in dict(x_train=x[:12], y_train=y[:12], x_test=x[12:], y_test=y[12:]).items():
    np.save(folder / f"{key}.npy", v)
  d = data.load("embeddings:vectors", data_dir=str(tmp_path))
  np.testing.assert_array_equal(d.train.x, x[:12])
  assert (d.scale, d.num_classes) == (1.0, 4)
  assert data.load(str(folder)).digest == d.digest
  one = data.load("embeddings:" + save(tmp_path / "e.npz", x=x, y=y))
  assert len(one.train.x) + len(one.test.x) == 20
  np.save(folder / "x_train.npy", x[:12, None])
  fails("x_train: is float32 (12, 1, 8); allowed for embeddings: float [N, D]", "embeddings:" + str(folder))
  np.save(folder / "x_train.npy", np.array([None] * 12), allow_pickle=True)
  fails("x_train.npy: holds Python objects", "embeddings:" + str(folder))
  (folder / "x_train.npy").write_bytes(b"junk")
  fails("x_train.npy: ", "embeddings:" + str(folder))
  (tmp_path / "none").mkdir()
  fails("holds no .npy file", "embeddings:none", data_dir=str(tmp_path))


def picture(path, value, shape=(6, 5), mode="L"):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, shape[::-1], value).save(path)


def test_folder_with_given_splits(tmp_path):
  for c, base in (("cat", 10), ("ant", 100)):
    for k in range(3):
      picture(tmp_path / "train" / c / f"{k}.png", base + k)
    picture(tmp_path / "test" / c / "t.bmp", base + 9)
  (tmp_path / "train" / "cat" / "notes.txt").write_text("not a picture")
  d = data.load(f"folder:{tmp_path}")
  assert d.class_names == ("ant", "cat")
  assert d.train.x.shape == (6, 6, 5, 1)
  np.testing.assert_array_equal(d.train.x[:, 0, 0, 0], [100, 101, 102, 10, 11, 12])
  np.testing.assert_array_equal(d.train.y, [0, 0, 0, 1, 1, 1])
  np.testing.assert_array_equal(d.test.x[:, 0, 0, 0], [109, 19])
  picture(tmp_path / "test" / "cow" / "t.png", 1)
  fails("class 'cow' is not in train; allowed: ant, cat", f"folder:{tmp_path}")


def test_folder_with_held_out_split(tmp_path):
  for k in range(5):
    picture(tmp_path / "a" / f"{k}.png", k)
    picture(tmp_path / "b" / "deeper" / f"{k}.png", (k, 100, 200), mode="RGB")
  d = data.load(str(tmp_path))
  assert d.train.x.shape == (8, 6, 5, 3)  # one has colour, so all have
  np.testing.assert_array_equal(np.bincount(d.test.y), [1, 1])
  assert data.load(str(tmp_path), seed=3).digest != d.digest


def test_pictures_of_several_sizes(tmp_path):
  for k in range(2):
    picture(tmp_path / "a" / f"{k}.png", 7)
    picture(tmp_path / "b" / f"{k}.png", 9, shape=(12, 10))
  fails("size: got None, and ", str(tmp_path))
  d = data.load(str(tmp_path), size=(4, 3))
  assert d.train.x.shape[1:] == (4, 3, 1)
  assert set(np.unique(d.train.x)) == {7, 9}
  fails("size: got 0; allowed: None, a side in pixels, or (height, width)", str(tmp_path), size=0)
  fails("size: got (1, 2, 3); allowed", str(tmp_path), size=(1, 2, 3))


def test_folder_refusals(tmp_path):
  fails("name: folder:nowhere not found; looked for", "folder:nowhere", data_dir=str(tmp_path))
  (tmp_path / "a").mkdir()
  fails("no pictures; allowed: CLASS/*{.png", str(tmp_path))
  picture(tmp_path / "a" / "0.png", 1)
  (tmp_path / "a" / "1.png").write_bytes(b"junk")
  fails("1.png: cannot be read as a picture", str(tmp_path))
  Image.new("I;16", (5, 6)).save(tmp_path / "a" / "1.png")
  fails("more than 8 bits a channel", str(tmp_path))


@pytest.mark.parametrize("name", ["", None, "no such", "npz", "npz:", "folder", "tfds", 3, "../digits"])
def test_unknown_names(tmp_path, name):
  fails("allowed: digits, glyphs, authors, mnist", name, data_dir=str(tmp_path))


def test_unwritable_data_dir(tmp_path):
  (tmp_path / "file").write_text("")
  fails("data_dir: cannot write", "digits", data_dir=str(tmp_path / "file"))


def test_real_targets_have_no_classes(tmp_path):
  """Floats stay what they are; what is held out is the same share of each group."""
  rng = np.random.default_rng(0)
  x, y, group = rng.random((40, 3)), rng.random((40, 2)), np.repeat([0, 1], [30, 10])
  d = data.load(save(tmp_path / "a.npz", x=x, y=y, group=group), test_fraction=0.2)
  assert not d.has_classes
  assert (d.num_classes, d.class_names, d.group_names) == (0, (), ("0", "1"))
  assert d.train.y.dtype == np.float32
  assert [np.sum(d.test.group == g) for g in (0, 1)] == [6, 2]
  where = np.asarray([np.flatnonzero((x.astype(np.float32) == r).all(1))[0] for r in d.test.x])
  np.testing.assert_array_equal(d.test.y, y.astype(np.float32)[where])
  moved = data.load(save(tmp_path / "b.npz", x=x, y=y + 1e-3, group=group), test_fraction=0.2)
  assert moved.digest != d.digest, "targets are part of the contents"


def test_arrays_in_the_place_of_the_name_are_not_printed():
  with pytest.raises(UsageError, match=r"^name: got a ndarray; allowed: a text, before the arrays") as error:
    data.from_arrays(np.zeros((100, 100)), np.zeros(100))
  assert len(str(error.value)) < 120
