"""Inputs and targets of several arrays, tokens, and rows of uneven length: what a file holds against NumPy."""

import jax
import numpy as np
import pytest

from cljax import data, streams
from cljax.core.types import UsageError
from cljax.data import from_arrays

RNG = np.random.default_rng(0)
ROWS = [[5, 1, 2], [3], [4, 4, 4, 4], [7, 0]]  # of uneven length
PADDED = np.array([[5, 1, 2, 0], [3, 0, 0, 0], [4, 4, 4, 4], [7, 0, 0, 0]])
THERE = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]])


def flat(key, rows):
  return {key: np.concatenate(rows), f"{key}.lengths": np.array([len(r) for r in rows])}


def load(tmp_path, arrays, **options):
  np.savez(tmp_path / "a.npz", **arrays)
  return data.load(f"npz:{tmp_path / 'a.npz'}", **options)


def test_names_make_dicts(tmp_path):
  """Of inputs and targets; bytes, real and whole numbers stay what they are, and of 'x' alone bytes are scaled."""
  x, kind = RNG.integers(0, 256, (6, 2, 2), dtype=np.uint8), np.array([-1, 2, 0, 1, 1, 0])
  y, there = RNG.integers(0, 9, (6, 3)), RNG.random((6, 3)) < 0.5
  cut = lambda s: {f"x_{s}/x": x, f"x_{s}/kind": kind, f"y_{s}/token": y, f"y_{s}/weight": there.astype(float)}
  d = load(tmp_path, cut("train") | cut("test"))
  assert d.scale == 1 / 255
  assert not d.has_classes
  for part in (d.train, d.test):
    kinds = jax.tree.map(lambda a: a.dtype.name, (part.x, part.y))
    assert kinds == ({"kind": "int32", "x": "uint8"}, {"token": "int32", "weight": "float32"})
    for got, want in (
      (part.x["x"], x[..., None]),
      (part.x["kind"], kind),
      (part.y["token"], y),
      (part.y["weight"], there),
    ):
      np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(part.id, np.arange(6))
  other = load(tmp_path, cut("train") | cut("test") | {"x_train/kind": kind[::-1]})
  assert other.digest != d.digest
  swapped = {k.replace("kind", "sort"): v for k, v in (cut("train") | cut("test")).items()}
  assert load(tmp_path, swapped).digest != d.digest, "names are part of the contents"


def test_a_dict_beside_classes_is_held_out_by_class(tmp_path):
  a = RNG.normal(size=(20, 3))
  d = load(tmp_path, {"x/a": a, "x/b": np.arange(20), "y": np.arange(20) % 2}, test_fraction=0.2)
  assert (d.num_classes, d.scale) == (2, None)
  assert [np.sum(d.test.y == c) for c in (0, 1)] == [2, 2]
  for part in (d.train, d.test):
    np.testing.assert_array_equal(part.x["a"], a.astype(np.float32)[part.x["b"]])
    np.testing.assert_array_equal(part.y, part.x["b"] % 2)


@pytest.mark.parametrize("form", ["file", "lists"])
def test_uneven_rows_are_padded_once(tmp_path, form):
  """To the longest of both splits; inputs with a mask, targets of a dict with weights, of one array with -1."""
  long = [[1, 2, 3, 4, 5], [6]]
  given = {}
  for key, rows in (("x_train/token", ROWS), ("y_train", ROWS), ("x_test/token", long), ("y_test", long)):
    given |= flat(key, rows) if form == "file" else {key: rows}
  d = load(tmp_path, given) if form == "file" else from_arrays("lists", given)
  wide = np.pad(PADDED, ((0, 0), (0, 1)))
  np.testing.assert_array_equal(d.train.x["token"], wide)
  np.testing.assert_array_equal(d.train.x["mask"], np.pad(THERE, ((0, 0), (0, 1))))
  np.testing.assert_array_equal(d.train.y, np.where(np.pad(THERE, ((0, 0), (0, 1))) > 0, wide, -1))
  np.testing.assert_array_equal(d.test.x["token"], [[1, 2, 3, 4, 5], [6, 0, 0, 0, 0]])
  assert (d.train.x["token"].dtype, d.train.y.dtype, d.scale) == (np.int32, np.int32, None)
  weight = [[0.5, 1, 0], [2], [1, 1, 0, 1], [0, 1]]
  named = from_arrays(
    "a", {"x": ROWS, "y/token": ROWS, "y/weight": weight, "group": np.array([0, 0, 1, 1])}, {"seed": 3}
  )
  both = [np.concatenate([getattr(s, f)[k] for s in (named.train, named.test)]) for f, k in
          (("x", "token"), ("x", "mask"), ("y", "token"), ("y", "weight"))]  # fmt: skip
  order = [int(np.flatnonzero((r == PADDED).all(1))[0]) for r in both[0]]
  assert sorted(order) == [0, 1, 2, 3]
  np.testing.assert_array_equal(both[1], THERE[order])
  np.testing.assert_array_equal(both[2], PADDED[order])
  want = np.array([[0.5, 1, 0, 0], [2, 0, 0, 0], [1, 1, 0, 1], [0, 1, 0, 0]])
  np.testing.assert_array_equal(both[3], want[order])


def test_one_array_of_tokens_and_of_ids(tmp_path):
  """Whole numbers where targets are no classes; a model has an output for each token there is."""
  x, y = RNG.integers(0, 12, (8, 4)), RNG.integers(-1, 7, (8, 4))
  group = np.arange(8) % 2
  d = load(
    tmp_path,
    {"x_train": x, "y_train": y, "x_test": x[:4], "y_test": y[:4], "group_train": group, "group_test": group[:4]},
  )
  np.testing.assert_array_equal(d.train.x, x)
  np.testing.assert_array_equal(d.train.y, y)
  s = streams.build(d, "group", tasks=2, validation=0.25, rows=6)
  assert s.num_classes == 1 + max(x.max(), y.max())
  assert sum(map(len, (*s.train, *s.validation))) == 6
  assert all((d.train.group[rows] == t).all() for t, rows in enumerate(s.train))
  pairs = from_arrays("pairs", {"x": np.arange(16).reshape(8, 2), "y": RNG.random(8)})
  assert (pairs.train.x.dtype, pairs.scale) == (np.int32, None)


def sides(**more):
  a = {f"x_{s}/{n}": np.zeros((4, 2)) for s in ("train", "test") for n in "ab"}
  return {k: v for k, v in (a | {"y_train": np.zeros(4), "y_test": np.zeros(4)} | more).items() if v is not None}


REFUSED = [
  (sides(x_train=np.zeros((4, 2))), "x_train: stands beside x_train/a; allowed: one array, or arrays by name"),
  (sides() | {"x_test/b": None}, "x_test: has a; x_train has a, b: the same names are needed"),
  (sides() | {"x_test/a": None, "x_test/b": None, "x_test": np.zeros((4, 2))}, "x_test: has one array; x_train has"),
  (sides() | {"x_train/b": np.zeros((3, 2))}, "x_train/b: has 3 rows; x_train/a has 4"),
  (sides(y_train=np.zeros(5)), "y_train: has 5 rows; x_train has 4"),
  (sides() | {"x_train/c/d": np.zeros(4)}, "x_train/c/d: is no name; allowed: x_train/NAME, without a further slash"),
  (sides() | {"x_train/a": np.zeros((4, 3))}, "test.x/a: rows are float32 (2,); train.x/a has float32 (3,)"),
  (sides() | {"x_train/a": np.full((4, 2), np.nan)}, "train.x/a: 4 of 4 rows hold NaN or infinity"),
  (sides() | {"x_train/a": np.full((4, 2), "a")}, "x_train/a: dtype is <U1; allowed: an integer type, bool or a float"),
  (sides() | {"x_train/a": np.full((4, 2), 2**40)}, "x_train/a: values span 1099511627776..1099511627776; allowed"),
  (sides() | {"x_train/c.lengths": np.ones(4, int)}, "x_train/c.lengths: are the lengths of x_train/c, which is not"),
  (sides() | {"x_train/a": np.arange(5), "x_train/a.lengths": np.array([1, 1, 1, 1])},
   "x_train/a.lengths: are int64[4] with the sum 4; allowed: whole numbers of at least 0, one for each row"),
  ({"x/a": ROWS, "x/b": ROWS[::-1], "y": np.zeros(4)}, "x/b: row 0 has length 2; in x/a it has 3"),
  ({"x/a": ROWS, "x/mask": np.ones((4, 4)), "y": np.zeros(4)}, "x/mask: is made from the lengths of x/a; leave it out"),
  ({"x/a": ROWS, "y/token": ROWS, "y/weight": np.ones(4)}, "y/weight: shape is (4,); allowed: (4, 4), one for each"),
  ({"x": [[0.5], [1.5, 2]], "y": np.zeros(2)}, "x: rows of uneven length are float32; allowed: whole numbers (tokens)"),
  ({"x": [[[1], [2]], [3]], "y": np.zeros(2)}, "x[0]: shape is (2, 1); allowed where rows are uneven: [L]"),
  ({"x": np.arange(8).reshape(4, 2), "y": np.arange(4) % 2}, "x: dtype is int64; allowed: uint8 or a float type"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=range(len(REFUSED)))
def test_refused_in_one_line(given, said):
  with pytest.raises(UsageError) as error:
    from_arrays("a", {k: v for k, v in given.items() if v is not None})
  assert str(error.value).startswith(said)
  assert "\n" not in str(error.value)


def test_views_and_noise_need_one_array():
  d = from_arrays("a", sides())
  for options, said in (
    ({"kind": "permuted", "tasks": 2}, "stream.kind: 'permuted' needs inputs that are one array; these are a, b"),
    ({"kind": "group", "tasks": 1, "input_noise": 0.1}, "stream.input_noise: is added to inputs that are one array"),
  ):
    with pytest.raises(UsageError) as error:
      streams.build(d, **options)
    assert str(error.value).startswith(said)
