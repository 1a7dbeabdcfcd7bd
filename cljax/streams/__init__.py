"""Event streams: what is learned, what is forgotten, in which order, from which rows."""

from cljax.streams.blurry import blurry_rows
from cljax.streams.build import KINDS, Stream, build, with_forget
from cljax.streams.class_names import class_places
from cljax.streams.instances import instance_rows
from cljax.streams.options import READS
from cljax.streams.recurring import drawn_subsets
from cljax.streams.requests import (
  deleted_pairs,
  forgotten_classes,
  learned_tasks,
  pair_table,
  parse_forget,
  parse_request,
  resolve,
  resolve_pairs,
)
from cljax.streams.rows import at_most
from cljax.streams.tasks import from_tasks
from cljax.streams.timestamps import from_timestamps
from cljax.streams.views import View, identity, permuted, rotated

__all__ = [
  "KINDS",
  "READS",
  "Stream",
  "View",
  "at_most",
  "blurry_rows",
  "build",
  "class_places",
  "deleted_pairs",
  "drawn_subsets",
  "forgotten_classes",
  "from_tasks",
  "from_timestamps",
  "identity",
  "instance_rows",
  "learned_tasks",
  "pair_table",
  "parse_forget",
  "parse_request",
  "permuted",
  "resolve",
  "resolve_pairs",
  "rotated",
  "with_forget",
]
