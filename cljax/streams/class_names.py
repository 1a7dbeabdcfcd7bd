"""Classes as users name them: by the data set's own names, or by place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cljax.core.types import UsageError
from cljax.streams.options import plain


def class_places(names: Sequence[str], given: Iterable[Any], what: str) -> list[int]:
  """The places ``0..C-1`` of the classes that ``given`` names, in its order.

  ``given`` is a list, or text divided by commas. An item is a name (``cat``), a number (``3``, or ``'3'`` as text), a
  quoted name (``"'3'"``) or a place with a sign (``'#3'``). A number is the place of a class and the name of a class
  that is called so; where these differ, it is refused with both readings, since the wrong one would name the wrong
  rows. Raises UsageError, beginning with ``what``.
  """
  given = words(given) if isinstance(given, str) else [plain(v) for v in plain(given)]
  numbers = {int(v) for v in given if _number(v)}
  for name in names:
    found = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", name)  # 1-3 has become 1, 2, 3 by now
    low, high = map(int, found.groups()) if found else (1, 0)
    if low <= high < low + len(numbers) and numbers.issuperset(range(low, high + 1)):
      raise UsageError(f"{what}: {name} is a range of numbers and the name of a class; write '{name}' for the name, "
                       f"#{low} and so on for places")  # fmt: skip
  return [_place(names, v, what) for v in given]


def class_values(names: Sequence[str], given: Mapping[Any, Any], default: float, what: str) -> list[Any]:
  """``[C]``: the value that a mapping gives each class, by name or place; ``default`` for classes it does not name."""
  out: list[Any] = [default] * len(names)
  places = class_places(names, given, what)
  if len(set(places)) < len(places):
    raise UsageError(f"{what}: names a class twice: {', '.join(map(str, given))}")
  for place, value in zip(places, given.values(), strict=True):
    out[place] = value
  return out


def class_as_named(names: Sequence[str], place: int) -> int | str:
  """What :func:`class_places` reads as this class: its number where it is called so, else its name."""
  name = names[place]
  if name == str(place):
    return place
  if _readings(names, name) == [place]:
    return name
  return f"'{name}'" if list(names).count(name) == 1 else f"#{place}"


def _number(value) -> bool:
  if isinstance(value, str):
    return value.isascii() and value.isdigit() and len(value) < 19
  return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _readings(names: Sequence[str], value) -> list[int]:
  """All places that ``value`` may mean."""
  found: set[int] = set()
  if _number(value):
    number = int(value)
    found |= {number} if 0 <= number < len(names) else set()
    found |= {p for p, n in enumerate(names) if n.isascii() and n.isdigit() and int(n) == number}
  elif isinstance(value, str):
    quoted = len(value) > 2 and value[0] == value[-1] and value[0] in "'\""
    found |= {p for p, n in enumerate(names) if n == value or (quoted and n == value[1:-1])}
    if re.fullmatch(r"#[0-9]{1,9}", value) and int(value[1:]) < len(names):
      found.add(int(value[1:]))
  return sorted(found)


def _place(names: Sequence[str], value, what: str) -> int:
  found = _readings(names, value)
  if len(found) == 1:
    return found[0]
  shown = str(value) if _number(value) else repr(value)[:60]
  if not found:
    some = " ".join(", ".join(names[:12]).split())[:300] + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    some = f"0..{len(names) - 1}" if all(n == str(p) for p, n in enumerate(names)) else some
    raise UsageError(f"{what}: class {shown} does not exist; classes are {some}")
  readings = " or ".join(f"#{p} (the class called {names[p]!r})" for p in found)
  raise UsageError(f"{what}: class {shown} may mean {readings}; write the name in quotes, or # before the place")


def cut(text: str, marks: str) -> list[str]:
  """``text`` cut at any of ``marks`` outside of quotes; a quote is one only where a value begins."""
  parts, start = [], 0
  for found in re.finditer(rf"(?<=[=,])\s*(?:'[^']*'|\"[^\"]*\")|([{re.escape(marks)}])", text):
    if found[1]:
      parts.append(text[start : found.start()])
      start = found.end()
  return [*parts, text[start:]]


def words(text: str) -> list[str]:
  """The items of a text divided by commas; quotes, which stay, keep a comma."""
  first, *rest = cut(f"={text}", ",")  # a quote opens a value
  return [item.strip() for item in (first[1:], *rest)]
