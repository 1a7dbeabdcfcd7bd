"""Records of cljax.memory."""

from records.form import Record

KIND = "memory"
UNFILLED = True  # some records here name no comparison yet
HELPERS = {
  "ClassBalancedState": "a state type",
  "ReservoirState": "a state type",
  "RingState": "a state type",
}
RECORDS: dict[str, Record] = {
  "class_balanced": Record(),
  "greedy_balanced": Record(),
  "reservoir": Record(
    spec="replay_architecture_metrics A1",
    compared=("test_equals_the_sequential_algorithm", "test_draw_equals_a_fisher_yates_shuffle"),
    invariants=(
      "test_every_row_is_stored_with_probability_m_over_n",
      "test_reservoir::test_rows_of_weight_zero_are_as_if_absent",
    ),
  ),
  "ring": Record(),
}
