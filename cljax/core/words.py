"""The ``tokenizer.json`` of a folder, as its package reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cljax.core.extras import needed
from cljax.core.types import UsageError


def read(folder: Path) -> Any:
  """The folder's ``tokenizers.Tokenizer`` without truncation or padding. Needs ``cljax[pretrained]``. UsageError for a
  folder without a tokenizer and for a file that is none."""
  path = folder / "tokenizer.json"
  if not path.is_file():
    raise UsageError(f"folder: {folder} has no tokenizer.json; expected a Hugging Face folder with one")
  with needed("tokenizer"):
    import tokenizers
  try:
    made = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the library raises Exception itself
    raise UsageError(f"folder: {path} cannot be read ({' '.join(str(error).split())[:120]})") from None
  made.no_truncation()
  made.no_padding()
  return made
