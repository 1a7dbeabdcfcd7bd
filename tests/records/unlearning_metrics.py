"""Records of cljax.metrics.unlearning."""

from records.form import Record

KIND = "unlearning metric"
HELPERS = {
  "Accuracies": "a type",
  "Attack": "a type",
  "Completeness": "a type",
  "Inverted": "a type",
  "Klom": "a type",
  "Recovered": "a type",
  "Relearned": "a type",
  "SvcAttacks": "a type",
}
EDGES = "test_features_at_the_edges"
BOUNDS = "test_bounds_symmetry_and_fixed_points"
LIRA = ("recalled and reconstructed, checked in the margin's identity alone",)
BLIND = "test_exact_unlearning_is_blind_and_none_is_not"
RECORDS: dict[str, Record] = {
  "dense_leak": Record(spec="additions S7", compared=("test_a_dense_layer_gives_its_row_away",)),
  "gradient_inversion": Record(
    spec="additions S7",
    compared=("test_a_row_is_found_from_its_gradient", "test_of_all_starts_the_best_is_kept"),
    invariants=("test_the_size_of_the_gradient_does_not_count",),
    deviations=("Adam's own steps, without the sign of the gradient; one cosine over all leaves",),
  ),
  "recovered": Record(
    spec="additions S7",
    compared=("test_scores_by_hand",),
    invariants=("test_inversion::test_wrong_arguments_are_one_line",),
  ),
  "total_variation": Record(spec="additions S7", compared=("test_total_variation_by_hand",)),
  "accuracies": Record(spec="unlearning E1", compared=("test_accuracy",)),
  "accuracy": Record(
    spec="unlearning E1",
    compared=("test_accuracy",),
    invariants=("test_logits_of_another_shape_are_refused[accuracy]",),
  ),
  "activation_distance": Record(
    spec="unlearning E8",
    compared=("test_values",),
    invariants=(BOUNDS, "test_disjoint_outputs_are_furthest"),
  ),
  "attack": Record(
    spec="unlearning E5",
    compared=("test_the_three_numbers_of_an_attack_by_hand", "test_rows_that_no_model_was_in_do_not_count"),
    invariants=(BLIND, "test_lira::test_edges"),
  ),
  "attack_accuracy": Record(
    spec="unlearning E5",
    compared=(
      "test_the_three_numbers_of_an_attack_by_hand",
      "test_curve_by_brute_force",
      "test_rows_that_no_model_was_in_do_not_count",
    ),
  ),
  "auc": Record(
    spec="unlearning E5",
    compared=("test_curve_by_brute_force",),
    invariants=("test_lira::test_edges",),
  ),
  "average_gap": Record(
    spec="unlearning E1",
    compared=("test_gaps_by_hand",),
    invariants=("test_gap_and_tug_of_war_bounds",),
  ),
  "completeness": Record(
    spec="unlearning E10",
    compared=("test_completeness_by_hand",),
    invariants=(
      "test_logits_of_another_shape_are_refused[completeness]",
      BOUNDS,
    ),
    deviations=("no formula could be verified: agreement and Jaccard index of the predictions, as stated",),
  ),
  "closest_classes": Record(
    spec="unlearning E11",
    compared=("test_closest_classes_by_counting",),
    deviations=("closeness is counted in features, where the paper chooses classes by their meaning",),
  ),
  "confidence": Record(spec="unlearning E4", compared=("test_membership::test_features",)),
  "correctness": Record(
    spec="unlearning E4",
    invariants=("test_logits_of_another_shape_are_refused[correctness]",),
    compared=("test_membership::test_features",),
  ),
  "cross_entropy": Record(spec="unlearning E3", compared=("test_membership::test_features",)),
  "entropy": Record(
    spec="unlearning E2",
    invariants=("test_logits_of_another_shape_are_refused[entropy]",),
    compared=("test_membership::test_features", EDGES),
  ),
  "entropy_attack": Record(
    spec="unlearning E2",
    compared=("test_the_entropy_attack_is_a_threshold_of_a_balanced_fit",),
    invariants=("test_membership::test_entropy_attack", "test_uniform_answers_fool_these_attacks"),
  ),
  "epochs_to_reach": Record(spec="unlearning E3", compared=("test_epochs_to_reach",)),
  "equalized_odds": Record(
    spec="unlearning B13",
    compared=(
      "test_equalized_odds_of_two_classes_and_two_groups_are_rates",
      "test_equalized_odds_of_several_by_loops",
    ),
    deviations=("of more than two classes or groups: the largest total variation between groups, meaned over labels",),
  ),
  "forest_attack": Record(
    spec="unlearning B13",
    compared=(
      "test_a_tree_of_the_attack_is_scikit_learn_s",
      "test_the_forest_is_scikit_learn_s_but_for_its_draws",
    ),
    invariants=("test_the_attack_sees_what_is_there_and_nothing_else",),
    deviations=("losses are clipped to 100 nats, and both sides cut to the shorter one",),
  ),
  "group_accuracies": Record(spec="unlearning B13", compared=("test_accuracy_by_group_counts_rows",)),
  "feature_cka": Record(
    spec="unlearning E11",
    compared=("test_feature_cka_is_one_minus_the_angle_of_centred_kernels", "test_representation::test_cka"),
    invariants=(
      "test_debiased_cka_of_independent_wide_features_is_near_0",
      "test_debiased_cka_of_features_far_from_the_origin",
    ),
    deviations=("over the whole set, where the code averages over mini-batches, which is biased upwards",),
  ),
  "feature_mapping_attack": Record(
    spec="unlearning E12",
    compared=("test_recovery_attacks_by_least_squares",),
    invariants=(
      "test_logits_of_another_shape_are_refused[feature_mapping_attack]",
      "test_recovery_of_the_original_is_its_own_accuracy",
      "test_an_affine_distortion_is_undone",
      "test_erased_features_stay_erased",
    ),
    deviations=("features are standardised first, so that no contraction escapes the ridge",),
  ),
  "h_mean": Record(
    spec="unlearning B6",
    compared=("test_h_mean", "test_h_mean_by_hand"),
    deviations=("a forget accuracy that grew counts as no drop, where the released code goes negative",),
  ),
  "head_recovery_attack": Record(
    spec="unlearning E12",
    compared=("test_recovery_attacks_by_least_squares",),
    invariants=("test_head_recovery_without_the_forgotten_class", "test_erased_features_stay_erased"),
    deviations=("features are standardised first",),
  ),
  "js_divergence": Record(
    spec="unlearning E9",
    compared=("test_values",),
    invariants=(BOUNDS, "test_disjoint_outputs_are_furthest"),
  ),
  "klom": Record(
    spec="unlearning E13",
    compared=("test_klom_and_its_floor_by_histograms",),
    invariants=("test_bounds_and_invariances", "test_klom::test_fixed_points"),
    deviations=("the joint maximum counts, which the released code drops",),
  ),
  "klom_floor": Record(
    spec="unlearning E13",
    compared=("test_klom_and_its_floor_by_histograms",),
    invariants=("test_floor_is_what_a_second_set_of_oracles_scores",),
  ),
  "klom_points": Record(
    spec="unlearning E13",
    compared=("test_klom::test_against_numpy", "test_the_joint_maximum_counts", "test_clip_bounds_a_diverged_margin"),
    invariants=("test_bounds_and_invariances", "test_klom::test_fixed_points"),
    deviations=(
      "the joint maximum counts, which the released code drops",
      "KL(ours || oracles) by default, where the released runner computes the other direction",
    ),
  ),
  "knn_probe": Record(
    spec="unlearning E11",
    compared=(
      "test_knn_probe_is_that_of_scikit_learn[1]",
      "test_knn_probe_is_that_of_scikit_learn[4]",
      "test_knn_probe_is_that_of_scikit_learn[5]",
    ),
    invariants=("test_knn_probe_of_zero_features",),
    deviations=("a row of zeros is nobody's neighbour and counts as wrong",),
  ),
  "lira": Record(
    spec="unlearning E5", compared=("test_lira_is_the_ratio_of_two_gaussians",), invariants=(BLIND,), deviations=LIRA
  ),
  "logit_margin": Record(
    spec="unlearning E5",
    invariants=("test_logits_of_another_shape_are_refused[logit_margin]",),
    compared=("test_margin_of_a_population", "test_membership::test_features"),
  ),
  "loss_attack": Record(
    spec="unlearning E3",
    compared=(
      "test_the_loss_attack_by_five_fits[0]",
      "test_the_loss_attack_by_five_fits[3]",
    ),
    invariants=("test_loss_attack", "test_loss_attack_sees_only_the_forgotten_classes"),
    deviations=("the subsample is balanced class by class", "losses are clipped above alone: none is below 0"),
  ),
  "map_features": Record(
    spec="unlearning E12",
    compared=(
      "test_ridge_solution",
      "test_a_constant_column_stays_out_of_the_map[0.1]",
      "test_a_constant_column_stays_out_of_the_map[-0.1]",
    ),
    invariants=("test_erased_features_stay_erased", "test_recovery_of_the_original_is_its_own_accuracy"),
    deviations=("features are standardised first, and there is a bias",),
  ),
  "modified_entropy": Record(
    spec="unlearning E4",
    compared=("test_membership::test_features", EDGES),
    deviations=("as published, not as the UUEF code has it, which takes ln p for ln (1 - p)",),
  ),
  "over_forgetting": Record(spec="unlearning E1", compared=("test_over_forgetting",)),
  "recovery_gap": Record(spec="unlearning E15", compared=("test_attack_measures_on_held_out_rows",)),
  "relearn": Record(
    spec="unlearning E3",
    compared=("test_relearn_is_descent_on_rows_drawn_with_replacement",),
    deviations=("the batch size is not from the paper or its code",),
  ),
  "relearn_time": Record(
    spec="unlearning E3",
    compared=("test_epochs_to_reach", "test_relearn_is_descent_on_rows_drawn_with_replacement"),
  ),
  "relearning_attack": Record(
    spec="unlearning E15",
    compared=("test_attack_measures_on_held_out_rows",),
    invariants=("test_what_only_the_logits_forgot_comes_back_faster",),
  ),
  "split_forget": Record(spec="unlearning E15", compared=("test_split_is_disjoint_and_whole",)),
  "svc_attacks": Record(
    spec="unlearning E4",
    compared=(
      "test_svc_attacks_on_each_feature_alone",
      "test_svc_attacks_cut_both_sides_alike[5000-12]",
      "test_svc_attacks_cut_both_sides_alike[8-8]",
    ),
    invariants=("test_svc_attacks", "test_uniform_answers_fool_these_attacks"),
    deviations=("both sides are cut to the shorter one, which the released code leaves to its caller",),
  ),
  "tpr_at_fpr": Record(
    spec="unlearning E5",
    compared=("test_curve_by_brute_force",),
    invariants=("test_lira::test_edges",),
  ),
  "tradeoff_auc": Record(
    spec="unlearning B14",
    compared=("test_tradeoff_auc_is_the_area_under_the_line_through_checkpoints",),
    invariants=("test_tradeoff_auc_at_fixed_points",),
    deviations=("checkpoints of one x count as one of their mean y, which the released code takes as they come",),
  ),
  "tug_of_war": Record(
    spec="unlearning E1",
    compared=("test_gaps_by_hand",),
    invariants=("test_gap_and_tug_of_war_bounds",),
  ),
  "u_lira": Record(
    spec="unlearning E5",
    compared=("test_u_lira_against_scipy",),
    invariants=("test_u_lira_scores_a_model_by_the_others", BLIND),
    deviations=LIRA,
  ),
  "unlearning_accuracy": Record(spec="unlearning E1", compared=("test_accuracy",)),
  "zrf": Record(
    spec="unlearning E9",
    compared=("test_values",),
    invariants=("test_logits_of_another_shape_are_refused[zrf]", BOUNDS, "test_disjoint_outputs_are_furthest"),
    deviations=("the proper Jensen-Shannon divergence by default; variant='released' is the code's",),
  ),
}
