"""Records of the scenarios that cljax.streams.build knows by name; ``OBJECTS`` holds what makes each of them."""

from cljax.streams import blurry_rows, drawn_subsets, permuted, rotated
from cljax.streams.build import _groups, _shared, _split
from cljax.streams.relabel import permuted_labels, random_labels
from records.form import Record

KIND = "scenario"
UNFILLED = True  # some records here name no comparison yet
OBJECTS = {
  "class": _split,
  "task": _split,
  "domain": _split,
  "group": _groups,
  "permuted": (_shared, permuted),
  "rotated": (_shared, rotated),
  "label_permuted": (_shared, permuted_labels),
  "label_random": (_shared, random_labels),
  "si_blurry": blurry_rows,
  "i_blurry": blurry_rows,
  "scole": (_split, drawn_subsets),
}
RECORDS: dict[str, Record] = {
  "class": Record(spec="replay_architecture_metrics C4"),
  "task": Record(spec="replay_architecture_metrics C4"),
  "domain": Record(spec="replay_architecture_metrics C4"),
  "group": Record(),
  "permuted": Record(spec="replay_architecture_metrics C4"),
  "rotated": Record(),
  "label_permuted": Record(),
  "label_random": Record(),
  "si_blurry": Record(spec="replay_architecture_metrics C6"),
  "i_blurry": Record(spec="replay_architecture_metrics C6"),
  "scole": Record(spec="replay_architecture_metrics C5"),
}
