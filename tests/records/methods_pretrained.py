"""Records of methods made for pre-trained networks."""

from records.form import Record

KIND = "method"
GAUSSIANS = (
  "test_gaussians_are_means_and_covariances_of_rows_that_are_there",
  "test_a_class_of_one_row_has_the_ridge_alone",
  "test_draws_have_the_mean_and_the_covariance",
  "test_alignment_is_sgd_on_drawn_features",
  "test_without_passes_or_classes_the_classifier_stands",
  "test_cleared_classes_are_as_if_never_met",
)
RECORDS: dict[str, Record] = {
  "slca": Record(
    spec="classic_methods F3",
    compared=(
      "test_slca_s_step_by_hand",
      "test_slca_measures_and_aligns_when_a_task_ends",
      "test_levelled_logits_have_a_mean_norm_of_tasks_that_are_there",
      "test_slca_answers_by_labels_that_rows_had",
    ),
    invariants=(
      "test_a_rate_for_each_group_whatever_the_optimizer",
      "test_the_first_end_leaves_the_classifier",
      "test_means_are_shrunk_by_the_place_of_their_task",
      "test_uneven_tasks_have_their_own_places",
      "test_a_task_that_comes_back_is_measured_as_the_newest",
      *GAUSSIANS,
    ),
    claim=("slca",),
    deviations=(
      "a class's task is the one that it was met in; the released code divides its number by the size of the task at "
      "hand",
      "a classifier that begins at 0 stands in place of the model's own",
      "covariances are drawn from by their eigenvectors, so that rounding makes none of them negative",
    ),
    arguments={"slow": 0.5, "passes": 2, "samples": 16},
    first_task_plain=False,
  ),
}
