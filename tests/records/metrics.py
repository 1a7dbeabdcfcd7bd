"""Records of cljax.metrics."""

from records.form import Record

KIND = "metric"
HELPERS = {
  "Effect": "a type",
  "Events": "a type",
  "ROW_METRICS": "the table of row metrics",
  "Gap": "a type",
  "Interference": "a type",
  "ScalingLaw": "a type",
  "module_names": "names in a tree, in their order",
  "of_rows": "calls every metric of that table",
  "unlearning": "the sub-package of unlearning metrics",
}
GEM = "replay_architecture_metrics C1"
TEN = "replay_architecture_metrics C2"
GAP = "replay_architecture_metrics C3"
MATRIX = ("test_matrix::test_by_hand", "test_against_loops")
MATRIX_LAWS = ("test_bounds_shift_and_scale", "test_a_constant_matrix_forgets_nothing", "test_leading_axes")
BEYOND = ("test_beyond_forgetting::test_by_hand", "test_beyond_forgetting::test_against_loops_and_bounds")
RECALLED = "recalled, not compared with the paper's text"
AXES = "test_one_task_axes_and_missing_entries"
CURVES = ("test_stability_gap::test_by_hand", "test_stability_gap::test_against_loops_and_bounds")
EVENTS = ("test_events_by_hand", "test_events_against_a_loop")
SHARP = ("test_sharpness[convex]", "test_sharpness[indefinite]", "test_sharpness[concave]")
ROWS = ("test_scores_over_rows_classes_and_groups[True-]", "test_scores_over_rows_classes_and_groups[False-sqrt]")
DEAD = ("test_dead_are_dormant", "test_other_shapes_are_refused")
RECORDS: dict[str, Record] = {
  "average_accuracy": Record(
    spec=GEM,
    compared=MATRIX,
    invariants=(*MATRIX_LAWS, "test_entries_that_are_not_needed_may_be_missing"),
  ),
  "average_incremental_accuracy": Record(
    spec="classic_methods A1",
    compared=MATRIX,
    invariants=MATRIX_LAWS,
    deviations=("tasks weigh alike in a row, where iCaRL averages over classes",),
  ),
  "average_over_all": Record(
    spec="replay_architecture_metrics B22 (MTIL's Avg)",
    compared=BEYOND,
    invariants=("test_transfer_reads_the_upper_triangle_only",),
  ),
  "backward_transfer": Record(
    spec=GEM,
    compared=(*MATRIX, "test_one_task_transfers_nothing_without_a_division"),
    invariants=(*MATRIX_LAWS, "test_entries_that_are_not_needed_may_be_missing"),
  ),
  "character_profile": Record(
    spec="language_systems L12",
    compared=("test_a_language_is_the_likeliest_profile", "test_profiles_count_lower_case_and_single_blanks"),
  ),
  "cka_drift": Record(spec="replay_architecture_metrics C13", compared=("test_drift_by_gram_matrices",)),
  "cl_score": Record(
    spec=TEN,
    compared=("test_score_and_stability",),
    invariants=("test_score_and_stability_are_bounded",),
    deviations=(RECALLED,),
  ),
  "cl_stability": Record(
    spec=TEN,
    compared=("test_score_and_stability",),
    invariants=("test_score_and_stability_are_bounded",),
    deviations=(RECALLED,),
  ),
  "class_scores": Record(
    compared=ROWS,
    invariants=("test_what_a_log_does_not_allow_is_left_out",),
  ),
  "computational_efficiency": Record(spec=TEN, compared=("test_efficiencies",), deviations=(RECALLED,)),
  "confusion": Record(compared=("test_confusion_is_scikit_learns", "test_confusion_of_lists")),
  "ensemble_accuracy": Record(
    compared=("test_predictions_by_loops",),
    invariants=("test_what_a_log_does_not_allow_is_left_out",),
    deviations=("of equal votes the class of the lowest number wins",),
  ),
  "error_recency": Record(
    compared=("test_predictions_by_loops",),
    invariants=("test_what_a_log_does_not_allow_is_left_out",),
  ),
  "event_gap": Record(spec=GAP, compared=("test_a_gap_is_a_fall_that_is_regained",)),
  "examples_forgotten": Record(
    compared=("test_examples_by_loops",),
    invariants=("test_what_a_log_does_not_allow_is_left_out",),
  ),
  "examples_shaken": Record(
    compared=("test_examples_by_loops",),
    invariants=("test_what_a_log_does_not_allow_is_left_out",),
    deviations=("of test rows from evaluation to evaluation, where Toneva counts presentations of training rows",),
  ),
  "feature_drift": Record(spec=GAP, compared=("test_feature_drift", "test_feature_drift_of_three_rows_of_two")),
  "fit_forgetting_tradeoff": Record(
    spec="replay_architecture_metrics C9",
    compared=("test_tradeoff_is_recovered", "test_a_constant_has_no_share_of_variance"),
  ),
  "fit_scaling_law": Record(
    spec="replay_architecture_metrics C9",
    compared=(
      "test_scaling_law_is_recovered[0.3-0.7]",
      "test_scaling_law_is_recovered[1.2-0.15]",
      "test_a_scaling_law_is_the_best_of_all_exponents",
      "test_a_constant_has_no_share_of_variance",
    ),
    deviations=("k A^alpha and k B^beta are one number each: F alone cannot tell them apart",),
  ),
  "forgetting": Record(
    spec=GEM,
    compared=MATRIX,
    invariants=(*MATRIX_LAWS, "test_entries_that_are_not_needed_may_be_missing", "test_input_is_not_changed"),
    deviations=("the maximum excludes the last row, as in the paper; Mammoth takes all rows",),
  ),
  "approximate_rank": Record(
    spec="additions S8", compared=("test_ranks_of_known_singular_values",), invariants=("test_ranks_turn_with_nothing",)
  ),
  "dead_units": Record(spec="additions S8", compared=("test_units_by_loops",), invariants=DEAD),
  "dormant_units": Record(spec="additions S8", compared=("test_units_by_loops",), invariants=DEAD),
  "effective_rank": Record(
    spec="additions S8", compared=("test_ranks_of_known_singular_values",), invariants=("test_ranks_turn_with_nothing",)
  ),
  "weight_magnitude": Record(spec="additions S8", compared=("test_weights_by_numpy",)),
  "memorisation": Record(
    spec="additions S6",
    compared=("test_memorisation_by_loops", "test_of_the_nearest_row_it_is_one_less_what_others_answer"),
    invariants=(
      "test_a_constant_answer_remembers_nothing",
      "test_the_error_is_the_spread_over_banks",
      "test_two_models_with_and_without_are_enough",
      "test_banks_that_say_nothing_are_refused",
    ),
  ),
  "influence": Record(
    spec="additions S6",
    compared=("test_influence_by_loops",),
    invariants=("test_on_its_copy_a_row_s_influence_is_its_memorisation", "test_banks_that_say_nothing_are_refused"),
  ),
  "singleton_mass": Record(
    spec="additions S6",
    compared=("test_the_mass_of_what_was_seen_once",),
    invariants=("test_counts_are_checked",),
  ),
  "ends_in_loop": Record(spec="language_systems L12", compared=("test_loops_by_trying_all_spans",)),
  "language": Record(
    spec="language_systems L12",
    compared=("test_a_language_is_the_likeliest_profile",),
    invariants=("test_wrong_profiles_are_refused", "test_profiles_count_lower_case_and_single_blanks"),
    deviations=("the specification names no tool: naive Bayes over trigrams of known texts",),
  ),
  "repetition": Record(
    spec="language_systems L12",
    compared=("test_repetition_against_windows_of_an_array",),
    invariants=("test_repetition_of_one_token_and_of_none_twice",),
  ),
  "forgetting_events": Record(spec="replay_architecture_metrics C7", compared=EVENTS),
  "forgetting_score": Record(spec="replay_architecture_metrics C7", compared=("test_events_by_hand",)),
  "forward_kl": Record(spec="replay_architecture_metrics C12", compared=("test_forward_kl",)),
  "forward_transfer": Record(spec=GEM, compared=MATRIX, invariants=MATRIX_LAWS),
  "fuar": Record(
    spec="replay_architecture_metrics C11",
    compared=("test_fuar",),
    deviations=("recalled, not compared with the paper's text; that both sums run over the corpora is our reading",),
  ),
  "gradient_interference": Record(
    spec="replay_architecture_metrics C13",
    compared=("test_interference",),
    invariants=("test_interference_edges",),
    deviations=("the cosine of a zero gradient is 0",),
  ),
  "learning_curve_area": Record(
    spec=GAP,
    compared=("test_stability_gap::test_by_hand",),
    deviations=("A-GEM's LCA also counts the accuracy before the first update",),
  ),
  "linear_cka": Record(
    spec="replay_architecture_metrics C13",
    compared=("test_mechanism::test_cka",),
    invariants=("test_cka_edges",),
  ),
  "matched_clusters": Record(
    compared=("test_matched_clusters_are_the_best_of_all_assignments",),
    invariants=("test_matched_clusters_do_not_know_names", "test_matched_clusters_say_what_they_need"),
  ),
  "mean_backward_transfer": Record(spec=TEN, compared=BEYOND, invariants=(AXES,), deviations=(RECALLED,)),
  "mean_curvature": Record(
    spec="replay_architecture_metrics C13",
    compared=("test_mean_curvature_is_exact_on_a_diagonal", *SHARP),
  ),
  "minimum_accuracy": Record(spec=GAP, compared=CURVES),
  "model_size_efficiency": Record(spec=TEN, compared=("test_efficiencies",), deviations=(RECALLED,)),
  "module_sensitivity": Record(
    compared=("test_sensitivity_is_the_mean_change_of_a_module", "test_a_leaf_at_the_top_is_a_module_of_its_own"),
    deviations=("of Zhao et al. 2023 only a secondary source was read",),
  ),
  "netscore": Record(
    spec="replay_architecture_metrics C8",
    compared=("test_netscore",),
    invariants=("test_netscore_shapes_and_errors",),
    deviations=("the exponents of the variant for continual learning are not verified",),
  ),
  "over_events": Record(
    spec="replay_architecture_metrics C1, over any sequence of Learn events",
    compared=("test_a_b_a_c_by_hand", "test_one_task_again_and_again_forgets_nothing"),
    invariants=("test_each_task_once_is_the_matrix",),
  ),
  "over_rows": Record(
    spec="PyCIL, PILOT and LUCIR: accuracy over all test rows seen so far, and its mean over events",
    compared=("test_rows_are_counted_one_by_one", "test_the_tasks_of_three_one_two_and_one_classes"),
    invariants=("test_over_rows_of_tasks_of_one_size_is_the_mean_over_tasks",),
    deviations=("PyCIL rounds each event's accuracy to two digits of a percent before the mean",),
  ),
  "per_class_accuracy": Record(compared=("test_confusion_is_scikit_learns",)),
  "per_class_forgetting": Record(
    spec="replay_architecture_metrics C1 (Chaudhry 2018), by class",
    compared=("test_forgetting_by_class_is_from_the_best_before",),
    deviations=("by class instead of by task",),
  ),
  "positive_backward_transfer": Record(
    spec=TEN,
    compared=("test_positive_transfer_by_hand", "test_beyond_forgetting::test_against_loops_and_bounds"),
    deviations=(RECALLED,),
  ),
  "recall": Record(
    spec="replay_architecture_metrics C10",
    compared=("test_recall",),
    deviations=("that the paper's score is ROUGE-2 is not verified",),
  ),
  "recency_bias": Record(compared=("test_recency_bias_counts_errors_on_old_classes_only",)),
  "recognition": Record(spec="replay_architecture_metrics C10", compared=("test_recognition",)),
  "remembering": Record(spec=TEN, compared=BEYOND, deviations=(RECALLED,)),
  "row_weighted": Record(
    compared=ROWS,
    invariants=("test_what_a_log_does_not_allow_is_left_out",),
  ),
  "sample_storage_efficiency": Record(spec=TEN, compared=("test_efficiencies",), deviations=(RECALLED,)),
  "moved_share": Record(spec="regularizers_projectors 5.5", compared=("test_the_share_of_weights_that_moved",)),
  "seen_rows": Record(compared=("test_what_is_seen",)),
  "sharpness": Record(spec="replay_architecture_metrics C13", compared=SHARP),
  "summarize": Record(compared=("test_summarize",)),
  "transfer_before_learning": Record(
    spec="replay_architecture_metrics B22 (MTIL's Transfer)",
    compared=BEYOND,
    invariants=("test_transfer_reads_the_upper_triangle_only", AXES),
  ),
  "triangle_accuracy": Record(spec=TEN, compared=BEYOND, invariants=(AXES,), deviations=(RECALLED,)),
  "windowed_forgetting": Record(
    spec=GAP,
    compared=CURVES,
    invariants=("test_a_rising_curve_does_not_forget",),
  ),
  "windowed_plasticity": Record(
    spec=GAP,
    compared=(*CURVES, "test_plasticity_is_the_largest_pair_and_not_the_released_scan"),
    invariants=("test_a_rising_curve_does_not_forget",),
    deviations=("over all pairs, as defined; the released scan skips starts below the running maximum",),
  ),
  "with_module": Record(compared=("test_one_module_of_another_time", "test_a_leaf_at_the_top_is_a_module_of_its_own")),
  "worst_case_accuracy": Record(spec=GAP, compared=CURVES),
  "worst_class": Record(
    compared=ROWS,
    invariants=("test_what_a_log_does_not_allow_is_left_out",),
  ),
  "worst_group": Record(
    compared=ROWS,
    invariants=("test_what_a_log_does_not_allow_is_left_out",),
  ),
  "zero_shot_transfer": Record(
    spec=TEN,
    compared=BEYOND,
    invariants=("test_transfer_reads_the_upper_triangle_only", AXES),
    deviations=(RECALLED,),
  ),
  "barrier": Record(
    spec="additions S9",
    compared=("test_barriers_by_hand",),
    invariants=("test_alignment_takes_the_barrier_away",),
  ),
}
