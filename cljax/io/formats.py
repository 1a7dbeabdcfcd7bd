"""The format of what a run leaves on disk, and what is said of a file whose format this version cannot read.

Checkpoints, results, rows, ledgers, histories, configurations, sweeps and their units say ``format`` and ``cljax``, the
version that wrote them. Version 0.1.0 wrote neither: format 1. Format 2: batches drawn by the order law of 0.2, noise
of requests by event, optimizer state in the order of that law.

What is read of which: results, rows, ledgers, histories and parameters of every format up to this version's; a run goes
on from a checkpoint of its own format alone, as its remaining steps would else be those of another run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cljax._version import __version__
from cljax.core.types import CljaxError

FORMAT = 2
# What methods of format 1 did where now there is an option: a configuration that says nothing of it meant this.
ABSENT: dict[str, dict[str, Any]] = {
  **{name: {"insert": "every_pass"} for name in ("er", "ema", "reptile")},
  **{name: {"on": "gradient"} for name in ("gpm", "ogd", "pca_ogd", "cuber", "coso")},
  "clnp": {"held_out": 0.0},
  "elephant": {"learned": False},
  "er_agem": {"balance": "task"},
  "er_gem": {"norms": "projected"},
  "gs_lora": {"rate_schedule": "constant"},
  "hierarchical": {"normalise": "none"},
  "zeroth_order": {"shrink": False},
  **{
    name: {"bound": 1e9}
    for name in ("adaptive_orthogonality", "geometric_disentanglement", "graddiff", "gradient_ascent", "upcore")
  },
  **{name: {"search": 0} for name in ("iau", "ntk", "ssd")},
  "datamodel_matching": {"rescale": False},
  "famr": {"bound": 1e9, "optimizer": "adam"},
  "modhifi_u": {"contrast": 0.0, "search": 0},
  "streaming": {"bound": 1e9, "part": "all"},
}
# What is called otherwise now: format 1 knew classification alone, where 'auto' is 'exact'.
_AUTO = ("ewc", "online_ewc", "refresh", "unified")
_KEYS = ("format", "cljax")


def noted() -> dict[str, Any]:
  """What a file says of itself."""
  return {"format": FORMAT, "cljax": __version__}


def of(content: Mapping[str, Any], what: Any = "the file") -> int:
  """The format of what was read from ``what``; 1 where it does not say. CljaxError for what is no such number."""
  found = content.get("format", 1)
  if isinstance(found, bool) or not isinstance(found, int) or found < 1:
    raise CljaxError(f"format: got {found!r}; expected a number from 1 on; {what} is damaged")
  return found


def writer(content: Mapping[str, Any]) -> str:
  """The version that wrote it, in words."""
  return f"cljax {content.get('cljax', '0.1.0' if of(content) == 1 else 'of an unknown version')}"


def check(what, content: Mapping[str, Any]) -> None:
  """Raises CljaxError where ``what``, a path or the name of a file, is of a newer format than this version reads."""
  if of(content, what) > FORMAT:
    raise CljaxError(
      f"{what} is of format {of(content)}, written by {writer(content)}; cljax {__version__} reads formats up to "
      f"{FORMAT}: use that version or a later one"
    )


def unsaid(held: Mapping[str, Any], keys) -> list[str]:
  """Of the differing ``keys`` of a configuration of format 1 those that are options which came later, as flags that say
  what it meant; [] unless all of them are."""
  found = []
  for key in keys:
    section, _, option = key.partition(".")
    given = held.get(section)
    if not isinstance(given, Mapping):
      return []
    known = ABSENT.get(str(given.get("name")), {})
    if option not in known or given.get(option) != known[option]:
      return []
    found.append(f"--config.{key}={known[option]}")
  return found


def meant(content):
  """What was written by format 1, with what its configurations, wherever they stand in it, meant where they say nothing
  of an option that came later."""
  if isinstance(content, list):
    return [meant(part) for part in content]
  if not isinstance(content, dict):
    return content
  out = {key: meant(value) for key, value in content.items()}
  for section in ("method", "forget"):
    given = out.get(section)
    if isinstance(given, dict) and isinstance(given.get("name"), str):
      name = given["name"]
      out[section] = {**ABSENT.get(name, {}), **given}
      if name in _AUTO and given.get("fisher") == "exact":
        out[section]["fisher"] = "auto"
  return out


def read(what, content: dict[str, Any]) -> dict[str, Any]:
  """What was read from ``what``: its format is checked, and what format 1 left unsaid is said; what is no object comes
  back as it is, for its reader."""
  if not isinstance(content, dict):
    return content
  check(what, content)
  return {"format": 1, "cljax": "0.1.0", **meant(content)} if of(content) == 1 else content


def bare(what, content: dict[str, Any]) -> dict[str, Any]:
  """As :func:`read`, without what it says of its format."""
  return (
    content
    if not isinstance(content, dict)
    else {key: value for key, value in read(what, content).items() if key not in _KEYS}
  )
