"""What a search varies: a range for each float option, by one rule for all methods, and what the user gives instead.

The rule. A rate, strength or other number whose default is above 0: from a tenth of it to ten times it, evenly in the
logarithm, widened to the values that the table of presets has, cut to what is allowed. A number between two limits: all
that is allowed, evenly; where the default lies in the uppermost tenth (an averaging rate such as 0.999), evenly in the
logarithm of what is missing to the upper limit. A default of 0 is off and stays so, as do integers, switches and words:
those are searched where a range is given for them. Nothing of this looks at any result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cljax import UsageError, methods
from cljax.cli import presets
from cljax.cli._values import literal, short

FACTOR = 10.0
LEARNING_RATE = "optimizer.learning_rate"
SCALES = ("linear", "log", "log to the upper limit")


class Range(NamedTuple):
  """What one key takes: a value between ``low`` and ``high`` on a scale of :data:`SCALES`, or one of ``values``."""

  key: str
  low: float = 0.0
  high: float = 0.0
  scale: str = "linear"
  limit: float = 1.0  # the upper limit that the third scale counts from
  values: tuple = ()
  whole: bool = False  # of an integer option: rounded

  def at(self, u: float) -> Any:
    """The value at ``0 <= u < 1``."""
    if self.values:
      return self.values[min(int(u * len(self.values)), len(self.values) - 1)]
    if self.scale == "linear":
      value = self.low + u * (self.high - self.low)
    elif self.scale == "log":
      value = self.low * (self.high / self.low) ** u
    else:
      near, far = self.limit - self.high, self.limit - self.low
      value = self.limit - far * (near / far) ** u
    return round(value) if self.whole else float(f"{value:.4g}")

  def text(self) -> str:
    """In words."""
    if self.values:
      return f"{self.key}: {', '.join(map(str, self.values))}"
    return f"{self.key}: {self.low:g} to {self.high:g}, {self.scale}{', whole' if self.whole else ''}"


def _rule(key: str, default: float, low: float | None, high: float | None, known: Sequence[float] = ()) -> Range | None:
  if default <= 0:
    return None
  if low is not None and high is not None:
    if default > low + 0.9 * (high - low):
      missing = high - default
      if missing <= 0:
        return Range(key, low, high)
      return Range(key, max(low, high - FACTOR * missing), high - missing / FACTOR, SCALES[2], high)
    return Range(key, low, high)
  first, last = min([default / FACTOR, *known]), max([default * FACTOR, *known])
  first = first if low is None else max(first, low)
  last = last if high is None else min(last, high)
  return Range(key, first, last, "log") if 0 < first < last else None


def _of_integer(given: Range, config: Mapping[str, Mapping[str, Any]]) -> Range:
  """A range between whole numbers takes whole numbers, where the configuration has an integer."""
  section, _, field = given.key.partition(".")
  now = config.get(section, {}).get(field)
  whole = isinstance(now, int) and not isinstance(now, bool) and not given.values
  return given._replace(whole=whole and given.low.is_integer() and given.high.is_integer())


def of(
  config: Mapping[str, Mapping[str, Any]], fixed: Sequence[str] = (), given: Mapping[str, Range] = {}
) -> list[Range]:
  """The ranges of a configuration's method, the learning rate first. ``fixed`` keys keep their value; ``given`` ranges
  stand before the rule's, where the method has such an option."""
  given = {key: _of_integer(r, config) for key, r in given.items()}
  name = config["method"]["name"]
  options, mine = methods.lookup(name).options, presets.of_method(name)
  out: list[Range | None] = []
  if LEARNING_RATE in given:
    out.append(given[LEARNING_RATE])
  elif LEARNING_RATE not in fixed:
    out.append(_rule(LEARNING_RATE, float(config["optimizer"]["learning_rate"]), 0.0, None))
  for field, option in options.items():
    key = f"method.{field}"
    if key in given:
      out.append(given[key])
    elif key in fixed or not isinstance(option.default, float):
      continue
    elif all(config["method"][other] in allowed for other, allowed in option.needs.items()):
      known = [float(v) for p in mine if isinstance(v := p.sections["method"].get(field), int | float) and v > 0]
      out.append(_rule(key, float(config["method"][field]), option.low, option.high, known))
  others = [r for key, r in given.items() if key != LEARNING_RATE and not key.startswith("method.")]
  return [r for r in [*out, *others] if r is not None]


def parse(text: str) -> Range:
  """One ``--range``: ``KEY=LOW..HIGH`` (logarithmic where HIGH is ten times LOW or more) or ``KEY=[VALUE,...]``."""
  key, equals, values = text.partition("=")
  key = key.strip().removeprefix("config.")
  expected = "expected KEY=LOW..HIGH or KEY=[VALUE,...], such as method.strength=1..1000"
  if not equals or not re.fullmatch(r"[a-z_]+\.[a-z_0-9]+", key):
    raise UsageError(f"range: got {text!r}; {expected}")
  low, dots, high = values.partition("..")
  if dots:
    ends = [literal(low.strip()), literal(high.strip())]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in ends) or not ends[0] < ends[1]:
      raise UsageError(f"range: {key} got {short(values)}; expected two numbers LOW..HIGH, the lower one first")
    first, last = map(float, ends)
    return Range(key, first, last, "log" if first > 0 and last / first >= 10 else "linear")
  read = literal(values)
  if not isinstance(read, list | tuple) or not read:
    raise UsageError(f"range: got {text!r}; {expected}")
  return Range(key, values=tuple(read))


def candidates(ranges: Sequence[Range], count: int, sampler: str, seed: int) -> list[dict[str, Any]]:
  """``count`` points, the configuration as it stands first: ``{}``. Of more, the first ones are the same.

  ``sampler``: ``'halton'`` (scrambled, of SciPy) or ``'random'``. Fewer where all values are few: none stands twice.
  """
  import numpy as np
  from scipy.stats import qmc

  out: list[dict[str, Any]] = [{}]
  if not ranges:
    return out
  rng = np.random.default_rng(seed)
  source = qmc.Halton(d=len(ranges), scramble=True, seed=rng) if sampler == "halton" else None
  for _ in range(20 * count):
    if len(out) == count:
      break
    u = rng.random(len(ranges)) if source is None else source.random(1)[0]
    point = {r.key: r.at(float(v)) for r, v in zip(ranges, u, strict=True)}
    if point not in out:
      out.append(point)
  return out[:count]
