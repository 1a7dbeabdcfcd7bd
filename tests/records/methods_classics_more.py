"""Records of further classic methods: sigmoids held to the last network's, two views that agree, replay by feedback."""

from records.form import Record

KIND = "method"
RECORDS: dict[str, Record] = {
  "lwf_mc": Record(
    spec="classic_methods B6",
    compared=(
      "test_lwf_mc_s_loss_has_the_teacher_s_sigmoids_at_old_classes",
      "test_the_first_task_of_lwf_mc_is_of_labels_and_its_own_outputs",
      "test_sigmoids_are_held_row_by_row",
    ),
    invariants=(
      "test_at_its_own_teacher_lwf_mc_pulls_no_old_output",
      "test_lwf_mc_s_teacher_is_of_the_boundary_and_follows_edits",
      "test_where_no_class_is_old_lwf_mc_learns_labels",
    ),
    claim=("lwf_mc",),
    first_task_plain=False,
  ),
}
