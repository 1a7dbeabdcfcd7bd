"""Records of further methods that train small parts beside or behind a frozen network."""

from records.form import Record

KIND = "method"
RECORDS: dict[str, Record] = {
  "clr": Record(
    spec="replay_architecture_metrics B7",
    compared=("test_clr_s_steps_by_hand", "test_a_filter_is_of_its_channel"),
    invariants=(
      "test_filters_begin_as_the_identity_and_count_nine_a_channel",
      "test_old_answers_of_clr_stay_to_the_bit",
      "test_old_answers_stay_with_batch_norm",
      "test_convolutions_of_one_place",
      "test_what_networks_clr_takes",
    ),
    claim=("clr",),
    deviations=("biases of convolutions stand with their kernels; the paper's have none",),
    arguments={},
    first_task_plain=False,
  ),
}
