"""Event streams: what is learned, what is forgotten, in which order, from which rows."""

from cljax.streams.blurry import blurry_rows
from cljax.streams.build import KINDS, Stream, build, from_tasks
from cljax.streams.recurring import drawn_subsets
from cljax.streams.requests import parse_forget, parse_request, resolve
from cljax.streams.timestamps import from_timestamps
from cljax.streams.views import View, identity, permuted, rotated

__all__ = [
  "KINDS",
  "Stream",
  "View",
  "blurry_rows",
  "build",
  "drawn_subsets",
  "from_tasks",
  "from_timestamps",
  "identity",
  "parse_forget",
  "parse_request",
  "permuted",
  "resolve",
  "rotated",
]
