"""Methods by family: one short factory each, only composing the layers below; and the registry.

Every module below this package is imported with it, and registers its entries: there is no list to edit.
"""

import importlib
import pkgutil

from cljax import _old_names
from cljax.methods.papers import Paper
from cljax.methods.registry import (
  METHODS,
  Entry,
  Option,
  Plan,
  check_options,
  lookup,
  make,
  of_one_model,
  plan,
  register,
)

for _found in pkgutil.walk_packages(__path__, f"{__name__}."):
  importlib.import_module(_found.name)

from cljax.methods.replay.refresh import refresh  # noqa: E402  (the plug-in, not its module)

__all__ = [
  "METHODS", "Entry", "Option", "Paper", "Plan", "check_options", "lookup", "make", "of_one_model", "plan", "refresh",
  "register",
]  # fmt: skip
__getattr__ = _old_names.from_package(__name__, {})
