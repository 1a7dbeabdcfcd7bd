"""Records of cljax."""

from records.form import Record

KIND = "engine"
UNFILLED = True  # some records here name no comparison yet
HELPERS = {
  "Access": "a type",
  "AccessError": "an error",
  "Batch": "a type",
  "CljaxError": "an error",
  "DivergedError": "an error",
  "Forget": "a type",
  "Learn": "a type",
  "Learner": "a type",
  "Member": "a type",
  "Memory": "a type",
  "Method": "a type",
  "Model": "a type",
  "Options": "a type",
  "Outputs": "a type",
  "Recipe": "a type",
  "Reference": "a type",
  "RunResult": "a type",
  "Stopped": "an error",
  "UsageError": "an error",
  "attach": "of cljax.regularizers",
  "consolidate": "of cljax.regularizers",
}
RECORDS: dict[str, Record] = {
  "compose": Record(),
  "load": Record(),
  "run": Record(),
}
