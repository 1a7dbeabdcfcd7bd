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
  "co2l": Record(
    spec="classic_methods A15",
    compared=(
      "test_co2l_s_loss_and_step_are_by_hand",
      "test_the_mean_is_over_anchors_whatever_is_stored",
      "test_the_first_task_of_co2l_is_the_contrast",
      "test_the_linear_classifier_is_momentum_descent",
      "test_the_classifier_is_of_the_task_and_what_is_stored_and_answers",
    ),
    invariants=(
      "test_equal_relations_are_not_pulled",
      "test_absent_rows_are_related_to_none",
      "test_classes_are_drawn_alike_for_the_classifier",
      "test_stored_lists_of_co2l_are_drawn_uniformly",
      "test_co2l_s_teacher_is_in_eval_mode",
      "test_co2l_draws_no_more_than_it_stores",
      "test_co2l_needs_pictures_features_and_room",
      "test_a_term_alone_leaves_rows_no_loss_of_their_own",
    ),
    claim=("co2l",),
    deviations=(
      "the mean is over anchors; average='rows': over all rows, as the released code has it",
      "the teacher's entropy is subtracted, so that relations that agree give 0; the gradient is the cross-entropy's",
      "the contrast is not multiplied by temperature / 0.07, as in the released code",
      "the classifier sees rows without augmentation, at a task's end alone",
      "stored rows come beside a task's, not shuffled in; what is left of M after M // K is not used",
      FIRST_VIEW,
    ),
    arguments={
      "capacity": 20,
      "replay_batch": 8,
      "width": 16,
      "least_area": 0.9,
      "jitter": 0.1,
      "flip": False,
      "passes": 20,
      "head_batch": 16,
      "rate": 0.1,
    },
    first_task_plain=False,
  ),
}
