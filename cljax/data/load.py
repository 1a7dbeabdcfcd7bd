"""Dataset names, their options, and the one function that loads any of them."""

from __future__ import annotations

from typing import Any

from cljax.data import embedded, glyphs, store, types
from cljax.types import UsageError

_OPTIONS: dict[str, dict[str, Any]] = {"digits": {}, "glyphs": glyphs.DEFAULTS}


def options(name: str) -> dict[str, Any]:
  """The options that ``load(name, ...)`` takes, with their defaults. Raises :class:`UsageError` for unknown names."""
  if name not in _OPTIONS:
    raise UsageError(f"name: unknown dataset {name!r}; allowed: {', '.join(_OPTIONS)}")
  return dict(_OPTIONS[name])


def load(name: str, *, data_dir: str | None = None, **given) -> types.Dataset:
  """Loads a dataset by name into memory."""
  known = options(name)
  for key in given:
    if key not in known:
      raise UsageError(f"{key}: not an option of dataset {name!r}; allowed: {', '.join(known) or 'none'}")
  root = store.root(data_dir)
  return embedded.load_digits(root) if name == "digits" else embedded.load_glyphs(root, given)
