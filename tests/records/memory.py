"""Records of cljax.memory."""

from records.form import Record

KIND = "memory"
HELPERS = {
  "ClassBalancedState": "a state type",
  "ReservoirState": "a state type",
  "RingState": "a state type",
}
RECORDS: dict[str, Record] = {
  "class_balanced": Record(),
  "greedy_balanced": Record(),
  "reservoir": Record(),
  "ring": Record(),
}
