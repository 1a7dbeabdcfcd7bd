"""Records of methods that answer by statistics of classes: closed forms on the features of a frozen network."""

from records.form import Record

KIND = "method"
FROZEN = (
  "test_the_network_moves_in_the_first_task_alone",
  "test_rows_that_made_the_network_are_not_subtracted",
  "test_closed_forms_need_features",
)


def laws(name: str, subtracted: str) -> tuple[str, ...]:
  """Those of every closed form."""
  return (
    f"test_a_task_that_comes_back_is_counted_once[{name}]",
    f"test_before_the_first_end_the_logits_answer_and_then_classes_with_rows[{name}]",
    f"test_rows_that_are_asked_for_are_subtracted[{subtracted}]",
    *FROZEN,
  )


AT_ENDS = (
  "statistics are taken when a task ends, of un-augmented rows in eval mode; within a task the earlier ones answer"
)
RECORDS: dict[str, Record] = {
  "simplecil": Record(
    spec="classic_methods F1",
    compared=(
      "test_simplecil_is_the_cosine_to_means_that_are_not_normalised",
      "test_aper_is_simplecil_on_both_networks_features",
    ),
    invariants=(
      "test_simplecil_knows_no_order_and_new_classes_move_no_mean",
      *laws("simplecil", "simplecil-hyper0"),
    ),
    claim=("simplecil", "aper"),
    deviations=(
      AT_ENDS,
      "APER (first_task=train, features=both) tunes what the run trains; tuning of few parameters is a model's affair",
    ),
    arguments={"first_task": "frozen"},
    first_task_plain=False,
  ),
  "slda": Record(
    spec="classic_methods C1",
    compared=(
      "test_slda_is_the_discriminant_of_its_streamed_covariance[exact]",
      "test_slda_is_the_discriminant_of_its_streamed_covariance[released]",
      "test_the_released_slda_counts_first_rows_from_zero_and_the_exact_one_does_not",
    ),
    invariants=(
      "test_slda_under_an_identity_covariance_is_the_nearest_mean",
      "test_another_answer_leaves_the_clearing_of_classes[slda]",
      *laws("slda", "slda-hyper1"),
    ),
    claim=("slda",),
    deviations=(
      "the covariance is the pooled one within classes, in any order of rows; form='released': as the code counts",
      AT_ENDS,
      "no OAS estimate of the covariance of a first batch",
    ),
    arguments={"first_task": "frozen"},
    first_task_plain=False,
  ),
  "ranpac": Record(
    spec="classic_methods F2",
    compared=(
      "test_ranpac_is_ridge_regression_on_its_projections[12]",
      "test_ranpac_is_ridge_regression_on_its_projections[0]",
      "test_ranpac_s_strength_has_the_least_error_on_a_fifth_of_the_rows_of_one_task",
      "test_ridge_regression_knows_no_batches_and_no_order",
    ),
    invariants=("test_a_ridge_below_the_rounding_of_the_moments_is_raised", *laws("ranpac", "ranpac-hyper2")),
    claim=("ranpac",),
    deviations=(
      AT_ENDS,
      "1,000 projections by default, the paper's 10,000 as an option",
      "the fifth of a task's rows that is held out is drawn; the released code takes the last rows",
      "in float32 the strength is at least eps tr G",
    ),
    arguments={"first_task": "frozen", "width": 20},
    first_task_plain=False,
  ),
  "acil": Record(
    spec="classic_methods C3",
    compared=(
      "test_acil_is_ridge_regression_on_its_projections[moments]",
      "test_acil_is_ridge_regression_on_its_projections[recursion]",
      "test_acil_s_recursion_is_joint_ridge_regression_in_any_batches_and_order",
    ),
    invariants=(
      "test_acil_s_recursion_stays_symmetric_in_float32",
      "test_another_answer_leaves_the_clearing_of_classes[acil]",
      "test_rows_that_are_asked_for_are_subtracted[acil-hyper5]",
      *laws("acil", "acil-hyper3"),
    ),
    claim=("acil",),
    deviations=(
      AT_ENDS,
      "the normal equations are solved when a task ends; form='recursion': the paper's recursion",
      "1,000 projections by default, the paper's 8,192 as an option; no second stream (DS-AL)",
    ),
    arguments={"first_task": "frozen", "width": 20},
    first_task_plain=False,
  ),
  "fetril": Record(
    spec="classic_methods C4",
    compared=(
      "test_fetril_s_moved_features_have_the_old_mean_and_the_donor_s_covariance",
      "test_fetril_s_layer_is_sgd_on_real_and_moved_features",
      "test_fetril_answers_by_its_layer",
    ),
    invariants=(
      "test_fetril_keeps_means_and_a_layer_that_requests_clear",
      "test_a_task_that_comes_back_is_counted_once[fetril]",
      "test_before_the_first_end_the_logits_answer_and_then_classes_with_rows[fetril]",
      "test_closed_forms_need_features",
    ),
    claim=("fetril",),
    deviations=(
      AT_ENDS,
      "a linear layer fitted by SGD, as PyCIL's, where the released code fits support vectors",
      "a batch is of rows, each with every class that it stands for",
    ),
    arguments={"first_task": "frozen", "passes": 40, "batch_size": 8},
    first_task_plain=False,
  ),
  "pass": Record(
    spec="classic_methods C5",
    compared=(
      "test_the_first_task_learns_turned_rows_of_its_classes",
      "test_pass_s_loss_is_by_hand[paper]",
      "test_pass_s_loss_is_by_hand[released]",
      "test_means_are_of_all_rows_and_the_radius_of_the_first_task",
      "test_turned_rows_are_classes_of_their_own",
    ),
    invariants=(
      "test_the_radius_is_the_deviation_of_a_feature",
      "test_old_classes_are_drawn_evenly_with_noise_of_the_radius",
      "test_the_released_distance_grows_with_the_batch_and_the_paper_s_does_not",
      "test_at_its_own_teacher_the_distance_has_no_gradient",
      "test_pass_turns_square_pictures_alone",
    ),
    claim=("pass",),
    deviations=(
      "the distance of features is the mean over rows; form='released': the norm of the whole batch",
      "means are of all rows; the released loop drops the last short batch",
      "statistics of BatchNorm move by unturned rows",
    ),
    arguments={"distillation": 1.0, "prototypes": 1.0, "temperature": 1.0},  # the suite trains by SGD 0.1
    first_task_plain=False,
  ),
  "fecam": Record(
    spec="classic_methods C2",
    compared=(
      "test_fecam_is_the_mahalanobis_distance_of_each_class[2-True]",
      "test_fecam_is_the_mahalanobis_distance_of_each_class[1-False]",
    ),
    invariants=(
      "test_fecam_s_shrinks_and_correlations",
      "test_new_classes_change_no_old_score_of_fecam",
      "test_another_answer_leaves_the_clearing_of_classes[fecam]",
      *laws("fecam", "fecam-hyper4"),
    ),
    claim=("fecam",),
    deviations=(
      AT_ENDS,
      "the mean off the diagonal is of all entries; the released code leaves zeros out",
      "negative features are rooted by sign(f) sqrt|f|, where the released code has NaN",
    ),
    arguments={"first_task": "frozen"},
    first_task_plain=False,
  ),
  "fscil_tricks": Record(
    spec="replay_architecture_metrics A19",
    compared=(
      "test_the_first_task_begins_with_contrast_alone",
      "test_classes_get_the_targets_of_their_running_means",
      "test_later_classes_get_the_best_that_are_left",
      "test_later_tasks_move_the_part_alone_at_their_rate",
      "test_the_contrast_is_of_second_views_turned_rows_and_mixtures[turns]",
      "test_the_contrast_is_of_second_views_turned_rows_and_mixtures[pseudo]",
      "test_the_contrast_is_of_second_views_turned_rows_and_mixtures[views]",
      "test_without_its_tricks_it_is_plain_training",
    ),
    invariants=(
      "test_targets_are_a_simplex[4-6]",
      "test_the_match_is_the_best_of_all_and_moves_none_that_is_taken[0]",
      "test_a_mean_that_says_nothing_has_no_preference",
      "test_the_part_is_the_smallest_share_of_each_kernel",
      "test_mixtures_are_classes_of_pairs",
      "test_a_first_task_that_ends_in_its_warm_up_gets_its_targets_then",
      "test_running_statistics_stay_where_a_part_moves[0.5]",
      "test_running_statistics_stay_where_a_part_moves[1.0]",
      "test_all_of_the_contrast_at_once",
      "test_targets_of_classes_that_go_whole_are_free_again",
      "test_the_tricks_refuse_what_they_can_not_do",
    ),
    claim=("fscil_tricks",),
    deviations=(
      "UNVERIFIED as a whole: the form of each trick, how they are joined and all numbers are readings of the abstract",
      "mixtures and turned rows are classes of the contrast alone; targets are of classes of the stream",
      "the small part is each kernel's smallest weights when the first task ends, as few-shot lifelong learning has it",
      "a larger or self-supervised encoder is the model's affair",
    ),
    arguments={"later_rate": 1.0, "subnet": 0.5},  # the suite's later tasks have as many rows
    first_task_plain=False,
  ),
}
