"""What a plain install lacks: features whose packages come with an extra say which, in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cljax.core.types import UsageError

PACKAGES = {
  "ml_collections": "run", "matplotlib": "run", "tqdm": "run", "jinja2": "run", "markupsafe": "run",
  "array_record": "data", "grain": "data", "sklearn": "data", "PIL": "data",
  "safetensors": "pretrained", "tokenizers": "pretrained",
}  # fmt: skip


@contextlib.contextmanager
def needed(what: str) -> Iterator[None]:
  """Around imports for ``what``: UsageError, with the extra to install, where one of :data:`PACKAGES` is missing."""
  try:
    yield
  except ModuleNotFoundError as error:
    name = (error.name or "").partition(".")[0]
    if name not in PACKAGES:
      raise
    raise UsageError(
      f"{what}: needs {name}, which is not installed; pip install 'cljax[{PACKAGES[name]}]', or 'cljax[all]'"
    ) from error
