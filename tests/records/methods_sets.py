"""Records of methods whose features keep sets of rows apart."""

from records.form import Record

KIND = "method"
RECORDS: dict[str, Record] = {
  "smile": Record(
    spec="additions S4",
    compared=(
      "test_smile_s_loss_is_replay_s_and_the_information[facility_location]",
      "test_smile_s_loss_is_replay_s_and_the_information[graph_cut]",
      "test_smile_s_loss_is_replay_s_and_the_information[log_determinant]",
    ),
    invariants=(
      "test_without_strength_smile_is_er",
      "test_of_the_first_rows_nothing_is_new_beside_anything",
    ),
    claim=("smile",),
    deviations=(
      "image rows in the place of regions of an object detector; nothing is frozen",
      "the weight is constant; the released code halves it at two fixed steps",
      "log det over the number of rows",
    ),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
}
