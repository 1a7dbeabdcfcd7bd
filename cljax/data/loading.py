"""Dataset names, their options, and the one function that loads any of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cljax.core.types import UsageError
from cljax.data import archives, arrays, authors, embedded, folders, glyphs, store, texts, tfds_sets, types

_ARCHIVES = {
  "mnist": archives.mnist,
  "cifar10": archives.cifar10,
  "cifar100": archives.cifar100,
  "tiny_imagenet": archives.tiny_imagenet,
}
_OPTIONS: dict[str, dict[str, Any]] = {
  "digits": {},
  "glyphs": glyphs.DEFAULTS,
  "authors": authors.DEFAULTS,
  **{name: {} for name in _ARCHIVES},
  "tfds": tfds_sets.DEFAULTS,
  "npz": arrays.SPLIT_DEFAULTS,
  "embeddings": arrays.SPLIT_DEFAULTS,
  "folder": folders.DEFAULTS,
  "text": texts.DEFAULTS,
}
_WITH_TARGET = ("tfds", "npz", "embeddings", "folder", "text")
_NAMES = (
  "digits, glyphs, authors, mnist, cifar10, cifar100, tiny_imagenet, tfds:NAME, npz:FILE, embeddings:PATH, folder:DIR, "
  "text:PATH"
)


def _kind(name: str, root: Path) -> tuple[str, str]:
  """``(kind, target)``: kinds are the keys of ``_OPTIONS``, targets what follows the colon."""
  if not isinstance(name, str) or not name:
    raise UsageError(f"name: got {name!r}; allowed: {_NAMES}")
  if "\0" in name or len(os.fsencode(Path(name).name)) > 255:
    raise UsageError(f"name: got {name[:40]!r}..., which no file can be called; allowed: {_NAMES}")
  kind, colon, target = name.partition(":")
  if colon and kind in _WITH_TARGET and target:
    return kind, target
  if name in _OPTIONS and name not in _WITH_TARGET:
    return name, ""
  if name.endswith(".npz"):
    return "npz", name
  if tfds_sets.prepared(root, name):
    return "tfds", name
  folder = next((p for p in _places(name, root) if p.is_dir()), None)
  if folder is not None and name not in _WITH_TARGET:
    return ("embeddings" if any(folder.glob("*.npy")) else "folder"), name
  raise UsageError(f"name: unknown dataset {name!r}; allowed: {_NAMES}")


def _places(target: str, root: Path) -> tuple[Path, Path]:
  return Path(target).expanduser(), root / target


def _path(kind: str, target: str, root: Path) -> Path:
  """A file or folder, as given or under the data directory."""
  for place in _places(target, root):
    if place.is_dir() if kind == "folder" else place.exists():
      return place
  here = " or ".join(str(p) for p in dict.fromkeys(_places(target, root)))
  raise UsageError(
    f"name: {kind}:{target} not found; looked for {here}; data_dir (--config.data.data_dir=DIR) is where it lies; "
    + (store.how_to_get(target, root) if target in store.TEXTS else store.how_to_get())
  )


def options(name: str, *, data_dir: str | os.PathLike | None = None) -> dict[str, Any]:
  """The options that ``load(name, ...)`` takes, with their defaults. Raises :class:`UsageError` for unknown names."""
  return dict(_OPTIONS[_kind(name, store.root(data_dir))[0]])


def load(name: str, *, data_dir: str | os.PathLike | None = None, **given: Any) -> types.Dataset:
  """Loads a dataset: into memory, but for large arrays in ``.npy`` and uncompressed ``.npz`` files, which are mapped.

  ``name`` is one of

  - ``digits``: 1,797 handwritten digits, 8x8, a fixed stratified split (see ``cljax.data.digits``);
  - ``glyphs``: characters rendered from fonts, 28x28 (options: see ``cljax.data.glyphs``);
  - ``authors``: questions about fictitious authors and their answers, as tokens, a group an author (options
    ``authors``, ``questions``, ``seed``: see :func:`cljax.data.fictitious_authors`);
  - ``mnist``, ``cifar10``, ``cifar100``, ``tiny_imagenet``: the official archives, or their folders, in ``data_dir``;
    where there are none, a TFDS set of that name prepared in ``data_dir``;
  - ``tfds:NAME[/CONFIG][:VERSION]``, or plainly NAME where it is prepared in ``data_dir`` (options ``train_split``,
    ``test_split``, ``size``);
  - ``npz:FILE`` or ``FILE.npz`` (keys x_train, y_train, x_test, y_test, or x, y with a stratified held-out split;
    ``y`` of floats are real targets, without classes; ``x_train/NAME`` and the like make dicts, and tokens of uneven
    length are padded, :func:`cljax.data.from_arrays`; ``group_train`` and the like for streams by group; options
    ``test_fraction``, ``seed``), ``embeddings:PATH`` (the same, float [N, D], or a folder of ``.npy`` files),
    ``folder:DIR`` (pictures by class, or splits of such folders: :func:`cljax.data.folders.load_folder`; the option
    ``size`` resizes them). Paths are as given, else in ``data_dir``;
  - ``text:PATH``: a ``.txt`` or ``.jsonl`` file or a folder of them, as rows of tokens by groups
    (:func:`cljax.data.texts.load_text`; options ``tokenizer``, ``length``, ``tokens`` and others).

  Where the rows lie: an array of 256 MiB or more in a ``.npy`` or uncompressed ``.npz`` file that needs no conversion
  (uint8 or float32, with test rows given) stays in its file, which must not be changed meanwhile; all else is read into
  memory, pictures decoded. What would not fit is refused with the estimate and the limit.

  ``data_dir`` defaults to ``$CLJAX_DATA_DIR``, else ``~/.cache/cljax``. Raises :class:`UsageError` for unknown names,
  options and values, for files that are missing or damaged, for wrong shapes and dtypes, labels out of range and NaN.
  """
  root = store.root(data_dir)
  kind, target = _kind(name, root)
  known = _OPTIONS[kind]
  for key in given:
    if key not in known:
      raise UsageError(f"{key}: not an option of dataset {name!r}; allowed: {', '.join(known) or 'none'}")
  if kind == "digits":
    return embedded.load_digits(root)
  if kind == "glyphs":
    return embedded.load_glyphs(root, given)
  if kind == "authors":
    return authors.load_authors(given)
  if kind in _ARCHIVES:
    try:
      return _ARCHIVES[kind](root)
    except UsageError as e:
      if "not found" in str(e) and tfds_sets.prepared(root, kind):
        return tfds_sets.load(root, kind, {})
      raise
  if kind == "tfds":
    return tfds_sets.load(root, target, given)
  path = _path(kind, target, root)
  loaders = {"npz": arrays.load_npz, "embeddings": arrays.load_embeddings, "folder": folders.load_folder,
             "text": texts.load_text}  # fmt: skip
  return loaders[kind](path, given)
