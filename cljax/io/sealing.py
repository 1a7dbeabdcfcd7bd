"""A run that keeps no ids (``checkpoint.keep_ids=false``): what it writes names requests by salted hashes alone.

The salt is the ledger's (``deletions.salt``): with it, whoever has the request again can show that it is the same, and
a run resumes only with the request that it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cljax.core.types import UsageError
from cljax.io import ledger

MARK = "sealed:"


def seal(salt: str, text: str) -> str:
  """``sealed:`` and a salted hash of a request's text; what is empty or sealed stays as it is."""
  return text if not text or text.startswith(MARK) else MARK + ledger.salted(salt, "request", [text])[0]


def events(workdir, lines) -> list[str]:
  """Events as they are written down, one text each: those that ask to forget are sealed."""
  salt = ledger.salt_of(workdir)
  return [line if line.startswith("Learn(") else seal(salt, line) for line in lines]


def config(workdir, whole: Mapping[str, Any]) -> dict[str, Any]:
  """A run's configuration, sealed: its events, the text of ``stream.forget``, and the digest over both."""
  salt, out = ledger.salt_of(workdir), dict(whole)
  if isinstance(out.get("stream"), Mapping):
    out["stream"] = {**out["stream"], "forget": seal(salt, str(out["stream"].get("forget", "")))}
  if "events" in out:
    out["events"] = events(workdir, out["events"])
  if "stream_digest" in out:  # a hash without a salt tells whoever tries requests which it was
    out["stream_digest"] = seal(salt, out["stream_digest"])
  return out


def is_sealed(whole: Mapping[str, Any]) -> bool:
  """Whether a configuration names its requests by hashes."""
  stream = whole.get("stream")
  text = str(stream.get("forget", "")) if isinstance(stream, Mapping) else ""
  return any(str(line).startswith(MARK) for line in (text, *whole.get("events", ())))


def check_open(whole: Mapping[str, Any], what: str) -> None:
  """UsageError where ``what`` needs the requests of a run that kept none of them."""
  if is_sealed(whole):
    raise UsageError(f"workdir: the run there keeps no ids (checkpoint.keep_ids=false), so {what}")
