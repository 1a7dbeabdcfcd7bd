"""A package that can not be imported is named in one line, not by a traceback from its inside."""

from __future__ import annotations

import importlib
import importlib.metadata
import pathlib
import sys
from types import TracebackType

OWN = pathlib.Path(__file__).parent


class BrokenPackageError(ImportError):
  """A package that cljax needs cannot be imported under the versions at hand."""


def told(error: BaseException) -> str:
  """``'optax 0.2.6 cannot be imported here (AttributeError: ...)...'`` where the error arose while a package of others
  was imported for cljax; '' for any other error."""
  if isinstance(error, BrokenPackageError):
    return str(error)
  broken, for_us = "", False
  trace = error.__traceback__
  while trace is not None:
    path, code = pathlib.Path(trace.tb_frame.f_code.co_filename), trace.tb_frame.f_code
    if OWN in path.parents:
      for_us, broken = True, ""
    elif for_us and not broken and "site-packages" in path.parts and code.co_name == "<module>":
      broken = path.parts[path.parts.index("site-packages") + 1].removesuffix(".py")
    trace = trace.tb_next
  if not broken:
    return ""
  names = importlib.metadata.packages_distributions().get(broken, [broken])
  try:
    version = f" {importlib.metadata.version(names[0])}"
  except importlib.metadata.PackageNotFoundError:
    version = ""
  text = (str(error).strip().splitlines() or [""])[0]
  jax = importlib.metadata.version("jax")
  return (
    f"{names[0]}{version} cannot be imported here, beside jax {jax} on Python {sys.version.partition(' ')[0]} "
    f"({type(error).__name__}: {text}); install another version of it (setup.cfg has the lowest that were tried)"
  )


def imported(name: str):
  """A module of cljax; BrokenPackageError, in one line, where a package that it needs breaks."""
  try:
    return importlib.import_module(name)
  except BrokenPackageError:
    raise
  except Exception as error:
    line = told(error)
    if not line:
      raise
    raise BrokenPackageError(line) from error


def say_so() -> None:
  """From here on a program that ends in such an error ends with that line."""
  before = sys.excepthook

  def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    line = told(error) if isinstance(error, Exception) else ""
    if line:
      print(f"error: {line}", file=sys.stderr)
    else:
      before(kind, error, trace)

  sys.excepthook = hook
