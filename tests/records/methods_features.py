"""Records of methods that hold features: relations of prototypes, of rows, and intervals of activations."""

from records.form import Record

KIND = "method"
FIRST_VIEW = "the first view is the row as the run shows it, augmented where the run augments"
RECORDS: dict[str, Record] = {
  "prd": Record(
    spec="regularizers_projectors 7.3",
    compared=("test_prd_s_loss_and_step_are_by_hand[rows]", "test_prd_s_loss_and_step_are_by_hand[classes]"),
    invariants=(
      "test_relations_are_least_where_nothing_moved[rows]",
      "test_relations_are_least_where_nothing_moved[classes]",
      "test_relations_run_over_the_axis_that_is_said",
      "test_absent_rows_have_no_relations",
      "test_prototypes_pull_no_features",
      "test_the_first_task_of_prd_holds_nothing",
      "test_prd_answers_by_cosines_among_begun_classes",
      "test_a_forgotten_class_is_neither_answered_nor_held",
      "test_prd_s_teacher_is_in_eval_mode",
      "test_a_task_that_comes_back_is_not_held_to_itself",
      "test_prd_needs_pictures_and_features",
      "test_a_term_alone_leaves_rows_no_loss_of_their_own",
    ),
    claim=("prd",),
    deviations=(
      "the teacher's entropy is subtracted, so that relations that agree give 0; the gradient is the cross-entropy's",
      "the mean over a task's prototypes, where the paper's sum over them is unverified",
      "prototypes are trained by the run's optimizer, where the released code has one of their own",
      "classes of tasks that were not begun are not answered",
      FIRST_VIEW,
    ),
    arguments={"width": 16, "least_area": 0.9, "jitter": 0.1, "flip": False},
    first_task_plain=False,
  ),
}
