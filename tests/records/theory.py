"""Records of cljax.theory."""

from records.form import Record

KIND = "theory"
UNFILLED = True  # some records here name no comparison yet
HELPERS = {
  "Errors": "a type",
}
RECORDS: dict[str, Record] = {
  "draw_errors": Record(),
  "expected_errors": Record(),
  "haar": Record(),
  "learn": Record(),
  "partial_rotation": Record(),
  "rotation_draw": Record(),
  "rotation_forgetting": Record(),
}
