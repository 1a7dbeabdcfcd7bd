"""Values as text or as a file gives them: read, put into the type that a field has, and shown in errors."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping

from cljax import UsageError

# These take a number for each of some classes, {'cat': 3}, as well as a list.
_MAPPED = ("stream.class_weights",)
_MOST = 2**63
_MOST_SEEDS = 100_000  # more members than one would want; each has a learner
# These take names, which need no quotes.
_NAMES = ("stream.class_order",)
# These take a single number as well as a list.
_SCALAR_TOO = ("stream.classes_per_task", "stream.label_noise", "stream.input_noise")


def coerce(key: str, value, default, text: bool = False):
  """``value`` in the type of ``default``; ``text`` says that it is command-line text. Raises UsageError."""
  shown = value
  if text and not isinstance(default, str):
    value = literal(value)
  kind = type(default)
  if key in _MAPPED and isinstance(value, Mapping):
    names = all(isinstance(k, str | int) and not isinstance(k, bool) for k in value)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in value.values())
    if not names or not numbers:
      raise UsageError(f"{key}: got {short(shown)}; expected a number for each name, such as {{'cat': 3}}")
    return {str(k): _plain(key, v, shown) for k, v in value.items()}
  value = _plain(key, value, shown)
  if default is None:
    if key in _NAMES and text and isinstance(value, str):
      return [part.strip() for part in str(shown).split(",")]
    return value
  if isinstance(default, tuple | list):
    if isinstance(value, int | float) and not isinstance(value, bool):
      return value if key in _SCALAR_TOO else (value,)
    if isinstance(value, list):
      return tuple(value)
  elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
    return float(value)
  elif kind in (int, bool, str) and type(value) is kind:
    return value
  words = {float: "a number", int: "an integer", bool: "true or false", str: "text", tuple: "a list such as 1,2"}
  raise UsageError(f"{key}: got {short(shown)}; expected {words.get(kind, kind.__name__)}")


def _plain(key: str, value, shown):
  """A number, a word, None or a list of such, tuples as lists: what JSON can hold. Raises UsageError."""
  if isinstance(value, tuple | list):
    return [_plain(key, v, shown) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    raise UsageError(f"{key}: got {shown if isinstance(shown, str) else short(shown)}; expected a finite number")
  if isinstance(value, int) and not -_MOST <= value < _MOST:
    raise UsageError(f"{key}: got {short(shown)}; expected integers of at most 63 bits")
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise UsageError(f"{key}: got {short(shown)}; expected numbers, words or lists of them")


def short(value) -> str:
  """As an error line shows it: at most some 80 characters."""
  try:
    shown = repr(value)
  except ValueError:  # Python writes no numbers of more than 4,300 digits
    return "a number of thousands of digits"
  return shown if len(shown) <= 80 else f"{shown[:60]}... ({len(shown)} characters)"


def literal(text: str):
  words = {"true": True, "false": False, "none": None, "null": None}
  if text.strip().lower() in words:
    return words[text.strip().lower()]
  try:
    return ast.literal_eval(text.strip())
  # TypeError: such as {[]: 1}, which can be written but not made.
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    return text


def parse_seeds(text: str) -> list[int]:
  """``'5'`` -> ``[0, 1, 2, 3, 4]``; ``'[3,7]'`` or ``'3,7'`` -> ``[3, 7]``."""
  value = literal(text)
  whole = lambda v: isinstance(v, int) and not isinstance(v, bool)
  if whole(value) and 1 <= value <= _MOST_SEEDS:
    return list(range(value))
  listed = isinstance(value, tuple | list) and value and all(whole(v) and 0 <= v < 2**32 for v in value)
  if listed and len(set(value)) == len(value) <= _MOST_SEEDS:
    return list(value)
  raise UsageError(
    f"seeds: got {short(text)}; expected a number of at least 1 and at most {_MOST_SEEDS:,}, or distinct seeds below "
    "2**32 such as 3,7"
  )
