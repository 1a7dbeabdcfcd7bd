"""``glyphs``: characters of many alphabets in many styles, rendered from the fonts that matplotlib ships.

Samples are ``[28, 28, 1]`` uint8, white on black, under random rotation, shear, scale, shift and elastic distortion.
Classes are characters, groups are styles, so the same rows serve class- and domain-incremental streams. In the
tradition of notMNIST (Bulatov, 2011) and of Omniglot's many small classes.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cljax.core.extras import needed
from cljax.core.types import UsageError
from cljax.data import glyph_render as gr

# Inclusive codepoint ranges.
ALPHABETS: dict[str, tuple[tuple[int, int], ...]] = {
  "latin": ((0x41, 0x5A), (0x61, 0x7A)),
  "digits": ((0x30, 0x39),),
  "greek": ((0x391, 0x3A9), (0x3B1, 0x3C9)),
  "cyrillic": ((0x410, 0x44F),),
  "latin_extended": ((0xC0, 0x24F),),
  "ipa": ((0x250, 0x2AF),),
  "cyrillic_extended": ((0x400, 0x40F), (0x450, 0x52F)),
  "armenian": ((0x531, 0x556), (0x561, 0x587)),
  "hebrew": ((0x5D0, 0x5EA),),
  "arabic": ((0x621, 0x63A), (0x641, 0x64A)),
  "nko": ((0x7C0, 0x7EA),),
  "lao": ((0xE81, 0xEAE),),
  "georgian": ((0x10A0, 0x10C5), (0x10D0, 0x10FA)),
  "syllabics": ((0x1401, 0x1676),),
  "ogham": ((0x1681, 0x169A),),
  "tifinagh": ((0x2D30, 0x2D67),),
  "math": ((0x2200, 0x22FF),),
  "arrows": ((0x2190, 0x21FF),),
}

STYLES: dict[str, str] = {
  "sans": "DejaVuSans",
  "sans_bold": "DejaVuSans-Bold",
  "sans_oblique": "DejaVuSans-Oblique",
  "sans_bold_oblique": "DejaVuSans-BoldOblique",
  "mono": "DejaVuSansMono",
  "mono_bold": "DejaVuSansMono-Bold",
  "mono_oblique": "DejaVuSansMono-Oblique",
  "mono_bold_oblique": "DejaVuSansMono-BoldOblique",
  "serif": "DejaVuSerif",
  "serif_bold": "DejaVuSerif-Bold",
  "serif_italic": "DejaVuSerif-Italic",
  "serif_bold_italic": "DejaVuSerif-BoldItalic",
  "stix": "STIXGeneral",
  "stix_bold": "STIXGeneralBol",
  "stix_italic": "STIXGeneralItalic",
  "stix_bold_italic": "STIXGeneralBolIta",
  "cm": "cmr10",
  "cm_bold": "cmb10",
  "cm_sans": "cmss10",
  "cm_italic": "cmti10",
  "cm_mono": "cmtt10",
}
# Computer Modern keeps TeX's own symbols elsewhere in its table; only these are what the codepoint says.
_CM_ALPHABETS = ("latin", "digits")

DEFAULTS: dict[str, Any] = {
  "alphabets": ("latin", "greek", "cyrillic"),
  "styles": (
    *("sans", "sans_bold", "sans_oblique", "mono", "mono_bold", "mono_oblique"),
    *("serif", "serif_bold", "serif_italic", "stix", "stix_bold", "stix_italic"),
  ),
  "samples_per_class": 96,
  "test_samples_per_class": 24,
  "classes": None,
  "seed": 0,
}

# Two characters are one class if ||a - b||^2 / (||a||^2 + ||b||^2) of their undistorted images, in the median over the
# chosen styles, is below this. Over Latin, Greek and Cyrillic in the default styles, pairs that are drawn alike (Latin
# A, Greek Alpha) lie at 0.001 or below, the nearest others at 0.021 (Greek kappa, Cyrillic ka).
SAME = 0.01


class Character(NamedTuple):
  """A class: its codepoint and the alphabet it was taken from."""

  codepoint: int
  alphabet: str


def check(given: Mapping[str, Any]) -> dict[str, Any]:
  """The options with defaults filled in and values checked; raises :class:`UsageError`. Touches no font."""
  o = {**DEFAULTS, **given}
  for key, known in (("alphabets", ALPHABETS), ("styles", STYLES)):
    names = o[key].split(",") if isinstance(o[key], str) else o[key]
    try:
      names = tuple(names)
    except TypeError:
      names = (names,)
    wrong = [n for n in names if not isinstance(n, str) or n not in known]
    if wrong or not names:
      raise UsageError(f"{key}: got {wrong[0] if wrong else names!r}; allowed: one or more of {', '.join(known)}")
    if len(set(names)) != len(names):
      raise UsageError(f"{key}: {', '.join(names)} names one twice; each may stand once")
    o[key] = names
  for key, low in (("samples_per_class", 1), ("test_samples_per_class", 1), ("classes", 2), ("seed", 0)):
    value = o[key]
    if key == "classes" and value is None:
      continue
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
      allowed = f"a whole number of at least {low}" + (", or None for all" if key == "classes" else "")
      raise UsageError(f"{key}: got {value!r}; allowed: {allowed}")
    o[key] = int(value)
  return o


@functools.cache
def font_file(style: str) -> str:
  """Path of the style's font file; a UsageError where this matplotlib comes without it (cm_italic's came with 3.11)."""
  with needed("data.name=glyphs"):
    import matplotlib

  file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{STYLES[style]}.ttf")
  if not file.exists():
    raise UsageError(f"styles: got {style!r}, which matplotlib {matplotlib.__version__} has no font of; 3.11 has all")
  return str(file)


def _has(style: str, character: Character) -> bool:
  if style.startswith("cm") and character.alphabet not in _CM_ALPHABETS:
    return False
  return gr.has(font_file(style), character.codepoint)


def _candidates(alphabet: str, styles: tuple[str, ...]) -> list[Character]:
  """The letters, digits and symbols (no combining marks) of an alphabet that every style has."""
  every = [
    Character(c, alphabet)
    for low, high in ALPHABETS[alphabet]
    for c in range(low, high + 1)
    if unicodedata.category(chr(c))[0] in "LNS"
  ]
  mine = [c for c in every if all(_has(s, c) for s in styles)]
  if not mine:
    having = ", ".join(s for s in STYLES if any(_has(s, c) for c in every))
    raise UsageError(f"styles: no character of {alphabet!r} is in all of {', '.join(styles)}; allowed for it: {having}")
  return mine


@functools.cache
def characters(alphabets: tuple[str, ...], styles: tuple[str, ...], limit: int | None = None) -> tuple[Character, ...]:
  """The classes, in the order of ``alphabets`` and of Unicode; the first ``limit`` of them.

  A character is kept if every style has it (so every class exists in every domain), if it leaves ink, and if it does
  not look, in most of the chosen styles, like one kept before it: of Latin A, Greek Alpha and Cyrillic A the first
  stays. Raises :class:`UsageError` where an alphabet gives nothing, naming the styles that have it.
  """
  kept: list[Character] = []
  images = np.zeros((len(styles), 0, gr.SIZE**2), np.float32)
  for mine in [_candidates(a, styles) for a in alphabets]:
    if limit is not None and len(kept) >= limit:
      break
    drawn = np.stack([[gr.base(font_file(s), c.codepoint) for c in mine] for s in styles])
    drawn = drawn.reshape(*drawn.shape[:2], gr.SIZE, gr.FINE, gr.SIZE, gr.FINE).mean((3, 5))
    old, images = images.shape[1], np.concatenate([images, drawn.reshape(*drawn.shape[:2], -1)], 1)
    norm = (images**2).sum(2)
    total = norm[:, None, :] + norm[:, old:, None]
    distance = (total - 2 * images[:, old:] @ images.swapaxes(1, 2)) / np.maximum(total, 1e-6)
    same = np.median(distance, 0) < SAME  # [new, old and new]
    stay = list(range(old))
    for k, character in enumerate(mine):
      if norm[:, old + k].all() and not same[k, stay].any():
        stay.append(old + k)
        kept.append(character)
    images = images[:, stay]
  return tuple(kept[:limit])


def classes(options: Mapping[str, Any]) -> tuple[Character, ...]:
  """The classes of checked options; raises :class:`UsageError` where there are fewer than asked for."""
  limit = options["classes"]
  found = characters(options["alphabets"], options["styles"], limit)
  if limit is not None and limit > len(found):
    given = f"alphabets {', '.join(options['alphabets'])}"
    raise UsageError(f"classes: got {limit}; allowed: 2 to {len(found)}, which is what {given} give in these styles")
  return found


def arrays(options: Mapping[str, Any], workers: int | None = None, progress: bool = False) -> dict[str, tuple]:
  """Renders the set: ``{'train': (x, y, group), 'test': (x, y, group)}``.

  Rows are in the order of the classes; sample ``i`` of a class has style ``i mod len(styles)``.
  """
  chosen = classes(options)
  styles = options["styles"]
  counts = (options["samples_per_class"], options["test_samples_per_class"])
  jobs = [
    gr.Job(font_file(s), s, c.codepoint, part, len(range(k, n, len(styles))))
    for part, n in enumerate(counts)
    for c in chosen
    for k, s in enumerate(styles)
  ]
  with needed("data.name=glyphs"):
    from tqdm import tqdm

  with tqdm(total=sum(j.number for j in jobs), desc="rendering glyphs", unit="image", disable=not progress) as bar:
    images = gr.render(jobs, options["seed"], workers=workers, done=bar.update)
  out = {}
  each = iter(images)
  for part, n in zip(("train", "test"), counts, strict=True):
    x = np.zeros((len(chosen), n, gr.SIZE, gr.SIZE, 1), np.uint8)
    for c in range(len(chosen)):
      for k in range(len(styles)):
        x[c, k :: len(styles), ..., 0] = next(each)
    y = np.repeat(np.arange(len(chosen), dtype=np.int32), n)
    group = np.tile(np.arange(n, dtype=np.int32) % len(styles), len(chosen))
    out[part] = (x.reshape(-1, gr.SIZE, gr.SIZE, 1), y, group)
  return out
