"""Event streams: what is learned, what is forgotten, in which order, from which rows."""

from cljax.streams.build import KINDS, Stream, build, from_tasks
from cljax.streams.requests import parse_forget, resolve
from cljax.streams.views import View, identity, permuted, rotated

__all__ = [
  "KINDS",
  "Stream",
  "View",
  "build",
  "from_tasks",
  "identity",
  "parse_forget",
  "permuted",
  "resolve",
  "rotated",
]
