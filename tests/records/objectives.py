"""Records of cljax.objectives."""

from records.form import Record

KIND = "objective"
HELPERS = {
  "Chosen": "a named objective with its options",
  "OBJECTIVES": "the table of names",
  "Objective": "the form of an objective",
  "Score": "the form of a score",
  "chosen": "looks a name up",
  "defaults": "lists the options of an objective",
  "given": "looks up what a user gives",
  "supervised": "puts an objective together from its parts",
}
RECORDS: dict[str, Record] = {
  "adversarial": Record(
    spec="regularizers_projectors 8.2",
    compared=(
      "test_the_loss_is_that_of_the_worst_inputs",
      "test_scores_are_of_the_rows_and_of_the_worst_inputs_among_the_open_classes",
      "test_training_on_worst_inputs_is_more_robust_and_a_run_scores_it",
    ),
    invariants=(
      "test_a_radius_of_0_is_classification",
      "test_absent_rows_are_as_if_absent_under_attack",
      "test_inputs_that_can_not_be_moved_are_refused",
      "test_which_way_is_better[adversarial]",
    ),
    deviations=(
      "the attack starts at the row, where Madry et al. start at a random point of the ball",
      "rows that a method replays by its own forward pass are not perturbed",
    ),
  ),
  "classification": Record(
    compared=("test_classification_by_hand", "test_drawn_classes_follow_the_open_softmax"),
    invariants=("test_wrong_objectives_are_one_line", "test_which_way_is_better[classification]"),
  ),
  "contrastive": Record(
    spec="generative_memory 0.6",
    compared=(
      "test_contrastive_is_its_loss_of_two_views",
      "test_default_views_are_noise_and_drops",
      "test_scores_follow_row_ids_and_are_the_loss_and_the_distance",
    ),
    invariants=(
      "test_absent_rows_are_no_negatives_and_evaluations_agree",
      "test_rows_of_a_group_of_scale_0_are_no_negatives",
      "test_a_run_pulls_views_together",
      "test_wrong_views_are_one_line",
      "test_which_way_is_better[contrastive]",
    ),
    deviations=("views are noise and dropped numbers, where SimCLR crops and recolours images: give those as `views`",),
  ),
  "ddpm_sample": Record(
    spec="generative_memory 0.2",
    compared=("test_samples_of_a_gaussian_are_it[linear]", "test_samples_of_a_gaussian_are_it[cosine]"),
    invariants=("test_guidance_is_a_line_through_both_predictions", "test_wrong_diffusions_are_one_line"),
    deviations=("the variance of a step is beta, not the posterior's",),
  ),
  "denoising": Record(
    spec="generative_memory 0.2",
    compared=(
      "test_a_denoising_loss_by_hand[linear]",
      "test_a_denoising_loss_by_hand[cosine]",
      "test_the_best_denoiser_has_the_loss_of_theory",
      "test_schedules_by_hand",
      "test_a_row_s_noise_is_its_own[array]",
      "test_importances_of_denoising_are_those_of_rows",
    ),
    invariants=(
      "test_edits_of_denoising",
      "test_absent_rows_with_noise_are_as_if_absent",
      "test_conditions_are_dropped_in_training_alone",
      "test_scores_with_noise_follow_row_ids",
      "test_a_run_learns_to_denoise_and_samples",
      "test_inputs_that_are_a_dict_are_trained_replayed_and_forgotten",
      "test_wrong_diffusions_are_one_line",
      "test_which_way_is_better[denoising]",
    ),
    deviations=("a linear schedule of other than 1000 steps is scaled by 1000 / steps",),
  ),
  "multi_label": Record(
    compared=("test_multi_label_by_hand", "test_drawn_labels_follow_their_sigmoids"),
    invariants=(
      "test_absent_rows_of_labels_are_as_if_absent",
      "test_a_run_of_labels_learns_and_wrong_shapes_are_one_line",
      "test_which_way_is_better[multi_label]",
      "test_rows_that_do_not_fit::test_refused_in_one_line[a label of two]",
    ),
  ),
  "ranking": Record(
    spec="generative_memory 0.6",
    compared=(
      "test_bpr_of_a_batch_by_hand",
      "test_scores_of_pairs_by_hand",
      "test_negatives_are_uniform_over_the_other_items",
    ),
    invariants=(
      "test_absent_pairs_are_as_if_absent",
      "test_a_run_ranks_known_factors",
      "test_wrong_rankings_are_one_line",
      "test_which_way_is_better[ranking]",
      "test_rows_that_do_not_fit::test_refused_in_one_line[items of the objective]",
    ),
    deviations=("a negative may be another of the user's own items: rows alone do not say which those are",),
  ),
  "reconstruction": Record(
    spec="generative_memory 0.6",
    compared=(
      "test_an_elbo_by_hand[bernoulli]",
      "test_an_elbo_by_hand[gaussian]",
      "test_gaussian_elbo_is_a_bound",
      "test_importances_of_an_autoencoder_are_those_of_rows",
    ),
    invariants=(
      "test_absent_rows_of_an_autoencoder_are_as_if_absent",
      "test_a_run_of_a_vae_learns_to_reconstruct",
      "test_wrong_autoencoders_are_one_line",
      "test_which_way_is_better[reconstruction]",
      "test_rows_that_do_not_fit::test_refused_in_one_line[a likelihood of bytes]",
    ),
    deviations=("scores are of the mean code: what the model predicts in evaluation has no noise",),
  ),
  "regression": Record(
    compared=(
      "test_regression_by_hand",
      "test_one_number_a_row_may_stand_with_or_without_an_axis",
      "test_regression_scores_are_numpy_s",
    ),
    invariants=(
      "test_which_way_is_better[regression]",
      "test_noise_scales_the_step",
      "test_it_resumes_to_the_same_bits_and_another_objective_is_refused",
    ),
  ),
  "sequence": Record(
    compared=(
      "test_sequence_by_hand[tokens-array]",
      "test_sequence_by_hand[rows-array]",
      "test_sequence_by_hand[sum-weights]",
      "test_drawn_tokens_follow_the_softmax_and_leave_ignored_places",
      "test_text_scores_are_ratios_of_sums",
    ),
    invariants=(
      "test_the_loss_of_text_is_the_mean_over_tokens",
      "test_which_way_is_better[sequence]",
      "test_rows_that_do_not_fit::test_refused_in_one_line[a target without a logit]",
      "test_a_request_is_answered_by_retraining_and_leaves_no_target",
    ),
  ),
}
