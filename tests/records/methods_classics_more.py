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
  "dvc": Record(
    spec="its released code; classic_methods has no entry",
    compared=(
      "test_dvc_replays_the_rows_whose_gradients_grow_most",
      "test_dvc_s_gradient_by_differences",
      "test_where_tasks_have_softmaxes_of_their_own_views_agree_within_them",
      "test_without_views_dvc_is_retrieval_for_replay",
      "test_a_row_s_size_is_the_norm_of_its_gradient",
    ),
    invariants=(
      "test_rows_are_offered_once_and_absent_ones_never[dvc]",
      "test_one_view_that_says_all_classes_alike_is_the_least",
      "test_the_virtual_step_leaves_running_statistics",
      "test_dvc_forgets_rows",
      "test_dvc_refuses_what_it_cannot_do",
    ),
    claim=("dvc",),
    deviations=(
      "written from the released code; the paper's own symbols could not be verified",
      "the second view of the virtual step is another than the step's; the released code makes one for both",
      "candidates are scored in eval mode, so that a row's score does not depend on the others",
      "logarithms have no eps",
      "values of second views are not cut to [0, 1]; their hue is turned in YIQ, not HSV; colours in one order",
      "each row is offered to the memory once in a run; insert='every_pass' is the released code's",
    ),
    arguments={"capacity": 20, "replay_batch": 4, "candidates": 8},
    neutral={"views": False, "beta": 0.0},
    first_task_plain=False,
  ),
}
