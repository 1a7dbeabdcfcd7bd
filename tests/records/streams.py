"""Records of cljax.streams."""

from records.form import Record

KIND = "stream"
UNFILLED = True  # some records here name no comparison yet
HELPERS = {
  "KINDS": "the names of the scenarios",
  "READS": "which options a scenario reads",
  "Stream": "a type",
  "View": "a type",
  "class_places": "reads names of classes",
  "identity": "the view that changes nothing",
  "learned_tasks": "lists the tasks of events",
  "parse_forget": "reads the text of requests",
  "parse_request": "reads the text of a request",
}
RECORDS: dict[str, Record] = {
  "at_most": Record(),
  "blurry_rows": Record(spec="replay_architecture_metrics C6"),
  "build": Record(),
  "deleted_pairs": Record(),
  "drawn_subsets": Record(),
  "forgotten_classes": Record(),
  "from_tasks": Record(),
  "from_timestamps": Record(),
  "pair_table": Record(),
  "permuted": Record(),
  "resolve": Record(),
  "resolve_pairs": Record(),
  "rotated": Record(),
  "with_forget": Record(),
}
