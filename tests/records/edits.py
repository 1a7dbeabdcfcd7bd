"""Records of cljax.unlearning."""

from records.form import Record

KIND = "edit"
HELPERS = {"Removed": "a type"}
WEIGHTS = "test_laws_of_edits::test_rows_of_weight_zero_are_as_if_absent"
EMPTY = "test_a_request_without_rows_changes_nothing"
LAWS = (WEIGHTS, EMPTY)
BATCHES = "random batches, where the releases make passes over the data"
RECORDS: dict[str, Record] = {
  "adaptive_orthogonality": Record(
    spec="unlearning B16",
    compared=(
      "test_adaptive_orthogonality_through_both_gradients[True]",
      "test_adaptive_orthogonality_through_both_gradients[False]",
    ),
    invariants=LAWS,
    deviations=(
      "the base is GradDiff where the paper has NPO, and its adversarial perturbation of hidden states is left out",
      "differentiated through both gradients over all layers: the released code's penalty is a constant",
    ),
  ),
  "bad_teacher": Record(
    spec="unlearning A7",
    compared=(
      "test_bad_teacher_of_real_targets",
      "test_teachers_of_text_are_asked_at_tokens_that_count",
      "test_bad_teacher_and_itself_by_hand",
    ),
    invariants=(*LAWS, "test_an_edit_does_not_aim_at_what_is_gone[bad_teacher]"),
    deviations=(
      "batches of all retain rows, weighed as the union of the forget rows with 30 % of them would be",
      "KL is a mean over rows; the release also divides by the number of classes",
      "Adam at 1e-3, where the release has 1e-4",
    ),
  ),
  "certified_budget": Record(spec="additions S12.1", compared=("test_the_budget_by_hand",)),
  "fit_head": Record(spec="additions S12.1", compared=("test_a_head_is_the_minimum_of_the_perturbed_loss",)),
  "head_gradient": Record(spec="additions S12.1", compared=("test_a_head_is_the_minimum_of_the_perturbed_loss",)),
  "remove_rows": Record(
    spec="additions S12.1",
    compared=("test_a_removal_is_the_newton_step_and_its_bound",),
    invariants=("test_residuals_of_removals_in_turn_stay_under_the_sum_of_their_bounds",),
    deviations=(
      "the constant is the tight one, 1 / (6 sqrt 3), where the released code has 1/4",
      "the norm of the rows is by eigenvalues, where the released power iteration gives less",
    ),
  ),
  "unit_features": Record(spec="additions S12.1", compared=("test_features_are_of_length_one_at_most_row_by_row",)),
  "coreset_rows": Record(
    spec="additions S12.2",
    compared=("test_a_coreset_is_the_share_of_the_highest_scores",),
    invariants=("test_a_coreset_of_all_rows_is_the_edit_to_the_bit",),
  ),
  "coreset_scores": Record(
    spec="additions S12.2",
    compared=("test_scores_of_forget_rows_by_hand",),
    invariants=("test_rows_in_another_order_have_their_scores_in_that_order",),
    deviations=("standard forms of the scores; the sources name no formula",),
  ),
  "core_rows": Record(spec="unlearning B14", compared=("test_the_core_is_that_of_scikit_learns_forest",)),
  "dampen": Record(
    spec="unlearning B1", compared=("test_dampening_by_hand", "test_dampening_divides_in_float32_and_never_by_0")
  ),
  "datamodel_effect": Record(
    spec="unlearning B9",
    compared=(
      "test_a_datamodel_is_the_ridge_regression_of_outputs_on_rows",
      "test_a_datamodel_is_exact_for_additive_outputs",
    ),
  ),
  "datamodel_matching": Record(
    spec="unlearning B9",
    compared=("test_datamodel_matching_by_nets_on_random_subsets",),
    invariants=(*LAWS, "test_two_sets_are_joined_and_thinned_by_id"),
    deviations=("random batches, where the release does not shuffle", "targets have the row mean of the model's own"),
  ),
  "donsker_varadhan": Record(spec="unlearning B13", compared=("test_the_bound_of_a_constant_critic_is_zero",)),
  "erase_at_the_core": Record(
    spec="unlearning B4",
    compared=(
      "test_erase_at_the_core_by_hand[False]",
      "test_erase_at_the_core_by_hand[True]",
    ),
    invariants=(*LAWS, "test_erase_at_the_core_reaches_the_first_layer"),
    deviations=(
      "only the structure was read: weights, temperature, heads, optimizer and which contrast are not verified",
      "against retain rows; variant='within_forget' is the released code's",
    ),
  ),
  "famr": Record(
    spec="unlearning B8",
    compared=(
      "test_famr_ends_where_the_anchor_balances_the_pull",
      "test_famr_of_real_targets_descends_towards_0",
      "test_famr_of_text_makes_the_tokens_that_count_uniform",
    ),
    invariants=(*LAWS, "test_an_edit_does_not_aim_at_what_is_gone[famr]"),
    deviations=("only the objective was read: anchor and steps are not verified, nor Adam at 1e-3",),
  ),
  "fast_ntk": Record(
    spec="unlearning B12",
    compared=(
      "test_tangent_kernels_by_the_normal_equations[cross_entropy-paper]",
      "test_tangent_kernels_by_the_normal_equations[cross_entropy-released]",
      "test_tangent_kernels_by_the_normal_equations[squared-paper]",
      "test_fast_ntk_moves_its_leaves_alone_and_exactly",
    ),
    invariants=LAWS,
    deviations=("the paper's linearisation point, weight decay and numbers of rows are not verified",),
  ),
  "feature_statistics": Record(
    spec="unlearning B7",
    compared=(
      "test_statistics_of_features_are_sums_by_class",
      "test_what_stands_behind_the_rows_of_a_set_does_not_count",
    ),
    invariants=("test_statistics_without_rows_are_those_of_the_rest",),
  ),
  "fidelity": Record(
    spec="unlearning D4",
    compared=("test_fidelity_is_one_minus_residual_over_energy",),
    invariants=("test_a_silent_unit_has_no_fidelity", "test_dampening_divides_in_float32_and_never_by_0"),
  ),
  "fidelity_sums": Record(spec="unlearning D4", compared=("test_fidelity_is_one_minus_residual_over_energy",)),
  "finetune_retain": Record(
    spec="unlearning A2",
    compared=("test_finetuning_is_descent_on_the_retain_row",),
    invariants=("test_updates_wider_than_the_parameters_leave_their_dtype", WEIGHTS),
    deviations=("without the release's one-cycle schedule; steps replace its 5 epochs",),
  ),
  "fisher_forgetting": Record(
    spec="unlearning A10",
    compared=(
      "test_fisher_forgetting_for_one_key[paper]",
      "test_fisher_forgetting_for_one_key[released]",
      "test_exact_fisher_and_the_noise_by_numpy",
    ),
    invariants=(WEIGHTS,),
    deviations=("the exponent -1/2 of the SSD repository, where the first paper has -1/4",),
  ),
  "geometric_disentanglement": Record(
    spec="unlearning B15",
    compared=(
      "test_geometric_disentanglement_is_the_nearest_allowed_update[descent]",
      "test_geometric_disentanglement_is_the_nearest_allowed_update[orthogonal]",
      "test_any_forget_loss_goes_in_adam_s_metric",
      "test_back_tracking_takes_the_first_share_within_the_budget",
    ),
    invariants=(*LAWS, "test_a_foreign_model_forgets_and_keeps", "test_forget_losses_and_optimizers_of_ones_own"),
    deviations=(
      "forget and retain updates are made apart, each by a state of the optimizer; weights scale updates",
      "the metric is over all leaves at once; a step that no share of which fits the budget is not taken",
    ),
  ),
  "graddiff": Record(
    spec="unlearning A4, A5",
    compared=(
      "test_graddiff_holds_the_predictions_of_real_targets",
      "test_graddiff_is_descent_on_one_side_and_ascent_on_the_other",
      "test_graddiff_towards_the_model_as_it_was",
    ),
    invariants=(*LAWS, "test_kl_to_the_model_as_it_was_is_stationary_at_the_start"),
    deviations=(BATCHES,),
  ),
  "gradient_ascent": Record(
    spec="unlearning A3",
    compared=("test_ascent_raises_the_forget_loss_to_first_order",),
    invariants=(
      *LAWS,
      "test_a_descent_in_float16_has_its_moments_in_float32",
      "test_updates_wider_than_the_parameters_leave_their_dtype",
      "test_narrow_parameters_keep_their_dtype_under_careful_settings[float32-gradient_ascent]",
    ),
    deviations=(BATCHES,),
  ),
  "group_reweight": Record(
    spec="unlearning B13",
    compared=("test_reweighting_by_the_groups_shares",),
    invariants=(*LAWS, "test_reweighting_descends_on_the_weighted_loss"),
    deviations=(
      "weights multiply the losses of uniformly drawn rows, where the release draws rows by them",
      "a group of which no row is left weighs nothing, where the release has infinity",
    ),
  ),
  "group_weights": Record(
    spec="unlearning B13",
    compared=("test_weights_restore_the_groups_shares", "test_a_group_of_which_all_rows_go_weighs_nothing"),
  ),
  "gs_lora": Record(
    spec="unlearning B6",
    compared=(
      "test_gs_lora_trains_the_factors_of_a_bounded_loss[2.0-False]",
      "test_gs_lora_trains_the_factors_of_a_bounded_loss[2.0-True]",
      "test_gs_lora_trains_the_factors_of_a_bounded_loss[0.1-True]",
      "test_gs_lora_of_real_targets_is_bounded_by_what_a_guess_costs",
      "test_gs_lora_of_text_is_bounded_by_the_log_of_the_vocabulary",
      "test_gs_lora_trains_the_factors_of_a_bounded_loss[cosine]",
      "test_gs_lora_trains_the_factors_of_a_bounded_loss[cosine-True]",
    ),
    invariants=(
      *LAWS,
      "test_gs_lora_changes_dense_kernels_by_few_directions",
      "test_gs_lora_stops_ascending_at_the_bound",
      "test_prototypes_weigh_as_in_the_release_where_they_are_asked_for",
      "test_layers_of_one_block_are_a_group",
      "test_few_shots_are_the_rows_that_are_kept_right",
    ),
    deviations=(
      "any 2-D leaf is a layer; the release has the feed-forward layers of a vision transformer's blocks",
      "bounds are multiples of ln K: those of the release fit a head of scale 64 alone",
      "weights are averaged at each step",
    ),
  ),
  "iau": Record(
    spec="unlearning B2",
    compared=("test_iau_is_the_papers_sum_and_the_released_sign",),
    invariants=(*LAWS, "test_a_bfloat16_edit_is_the_float32_edit_rounded"),
    deviations=(
      "training under a penalty on the gradient's norm is the method's",
      "the rate of the paper is not verified",
    ),
  ),
  "inliers": Record(
    spec="unlearning B14",
    compared=("test_the_core_is_that_of_scikit_learns_forest",),
    invariants=("test_the_core_is_nine_in_ten_the_same_each_time_and_without_outliers",),
    deviations=("a forest of its own in JAX, of the same definition as scikit-learn's but with other draws",),
  ),
  "miu": Record(
    spec="unlearning B13",
    compared=("test_miu_by_two_critics", "test_miu_by_hand"),
    invariants=(*LAWS, "test_miu_unlinks_features_from_the_group", "test_of_one_group_miu_has_nothing_to_unlink"),
    deviations=(
      "the critic of the original model stands still after its warm-up, which the release goes on tuning",
      "the passes over the forget and the retain rows are one step on the sum of both",
    ),
  ),
  "modhifi_u": Record(
    spec="unlearning D4",
    compared=("test_modhifi_by_the_definition_of_fidelity", "test_modhifi_zeroes_the_units_of_highest_fidelity"),
    invariants=LAWS,
    deviations=("read in summary: how the paper chooses the share and compares layers is not verified",),
  ),
  "ntk": Record(
    spec="unlearning A10",
    compared=(
      "test_tangent_kernels_by_the_normal_equations[cross_entropy-paper]",
      "test_tangent_kernels_by_the_normal_equations[cross_entropy-released]",
      "test_tangent_kernels_by_the_normal_equations[squared-paper]",
      "test_ntk_is_retraining_on_a_linear_model",
      "test_ntk_is_fast_ntk_of_all_leaves_with_the_rows_of_its_key",
    ),
    invariants=LAWS,
    deviations=("linearised at the initial parameters, where the published copy takes the trained ones",),
  ),
  "one_point_contraction": Record(
    spec="unlearning B5",
    compared=("test_one_point_contraction_pulls_at_constant_strength",),
    invariants=(*LAWS, "test_an_edit_does_not_aim_at_what_is_gone[one_point_contraction]"),
    deviations=("the optimizer is not verified: Adam at 1e-3",),
  ),
  "oracle_matching": Record(
    spec="unlearning B9",
    compared=(
      "test_oracle_matching_takes_predictions_as_they_are",
      "test_oracles_of_text_are_matched_at_tokens_that_count",
      "test_oracle_matching_descends_on_the_distance_to_the_mean_oracle[False]",
      "test_oracle_matching_descends_on_the_distance_to_the_mean_oracle[True]",
    ),
    invariants=(
      *LAWS,
      "test_oracle_matching_ends_at_the_oracles_mean",
      "test_oracles_never_see_a_forget_row_and_the_nets_of_a_datamodel_do",
    ),
    deviations=("random batches, where the release does not shuffle", "targets have the row mean of the model's own"),
  ),
  "pareto_front": Record(
    spec="unlearning B3",
    compared=("test_the_pareto_front_by_definition", "test_layers_that_tie_do_not_beat_each_other"),
  ),
  "path_lengths": Record(
    spec="unlearning B14",
    compared=(
      "test_path_lengths_in_expectation[6-3]",
      "test_path_lengths_in_expectation[3-2]",
      "test_path_lengths_in_expectation[2-1]",
      "test_path_lengths_are_those_of_an_isolation_forest",
    ),
  ),
  "random_labels": Record(
    spec="unlearning A6",
    compared=("test_random_labels_weigh_both_sets_as_their_union_does",),
    invariants=(
      *LAWS,
      "test_an_edit_does_not_aim_at_what_is_gone[random_labels]",
      "test_wrong_labels_are_never_right_and_stay_with_their_row",
    ),
    deviations=("Adam at 1e-3, where the release has 1e-4", "batches of either set, weighed as their union"),
  ),
  "scrub": Record(
    spec="unlearning A9",
    compared=("test_scrub_of_real_targets", "test_scrub_by_hand", "test_scrub_rewinds_to_the_error_of_unseen_rows"),
    invariants=LAWS,
    deviations=(
      "a round of steps stands for an epoch, and 5 rounds ascend where the release has 3",
      "without the release's weight decay and its rate drops",
      "the rewinding is from memory of the paper",
    ),
  ),
  "shard_of": Record(
    compared=("test_shards_by_the_hash_and_what_they_cost",),
    invariants=("test_shards_are_even_and_the_same_for_numpy_and_jax",),
  ),
  "sisa_cost": Record(
    compared=(
      "test_shards_by_the_hash_and_what_they_cost",
      "test_the_predicted_cost_counts_the_touched_shards",
      "test_the_cost_of_lists",
    ),
  ),
  "slug": Record(
    spec="unlearning B3",
    compared=("test_slug_by_the_search_of_its_release", "test_slug_by_hand[0.5]"),
    invariants=(*LAWS, "test_slug_moves_one_tensor_up_its_forget_gradient", "test_slug_needs_a_matrix"),
    deviations=(
      "the criterion is top-1 accuracy; the release's for CLIP is top-5",
      "the least step that forgot is kept, where the release keeps the last that was tried",
      "of the layers on the front the one with the best retain accuracy is changed",
    ),
  ),
  "squared_gradients": Record(
    spec="unlearning B1",
    compared=(
      "test_squared_gradients_are_a_weighted_mean_of_squares",
      "test_what_stands_behind_the_rows_of_a_set_does_not_count",
    ),
    deviations=("row by row, as the paper defines it; the released code squares the gradient of a batch mean",),
  ),
  "ssd": Record(
    spec="unlearning B1",
    compared=("test_ssd_on_a_foreign_model_against_numpy",),
    invariants=("test_a_stored_importance_needs_no_retain_data", EMPTY),
    deviations=("importance row by row, as the paper defines it; the released code squares a batch mean",),
  ),
  "stochastic_teacher": Record(
    spec="unlearning A8",
    compared=(
      "test_stochastic_teacher_of_real_targets",
      "test_stochastic_teacher_erases_then_reconstructs",
    ),
    invariants=(
      "test_updates_wider_than_the_parameters_leave_their_dtype",
      *LAWS,
      "test_an_edit_does_not_aim_at_what_is_gone[stochastic_teacher]",
    ),
    deviations=("a reconstruction: the paper's own text was not available, only the two phases were confirmed",),
  ),
  "streaming": Record(
    spec="unlearning B7",
    compared=("test_streaming_replays_the_gaussians_of_what_is_left",),
    invariants=(*LAWS, "test_streaming_forgets_a_class_by_statistics_alone"),
    deviations=("a reconstruction: the paper's own text was not available, only its abstract",),
  ),
  "unsir": Record(
    spec="unlearning A12",
    compared=("test_unsir_learns_noise_then_impairs_then_repairs",),
    invariants=(
      WEIGHTS,
      "test_unsir_forgets_a_class_whose_rows_it_never_saw",
      "test_unsir_noise_raises_the_loss_and_scales_with_the_inputs",
    ),
    deviations=(
      "x = mean + std n, in the units of the retain rows, where the release has n for x",
      "Adam at 1e-3, where the release has 1e-4",
    ),
  ),
  "upcore": Record(
    spec="unlearning B14",
    compared=(
      "test_upcore_of_real_targets",
      "test_upcore_leaves_the_outlier_alone",
    ),
    invariants=("test_upcore_hands_its_seed_to_the_forest", *LAWS, "test_upcore_descends_on_the_core_alone"),
    deviations=("GradDiff alone unlearns the core, where the paper has ascent, refusal and NPO",),
  ),
}
