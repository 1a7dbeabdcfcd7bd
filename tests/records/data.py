"""Records of cljax.data."""

from records.form import Record

KIND = "data"
UNFILLED = True  # some records here name no comparison yet
HELPERS = {
  "Dataset": "a type",
  "Split": "a type",
  "options": "looks up the options of a loader",
}
RECORDS: dict[str, Record] = {
  "from_arrays": Record(),
  "load": Record(),
}
