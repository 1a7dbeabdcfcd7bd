"""Records of cljax.regularizers."""

from records.form import Record

KIND = "regularizer"
HELPERS = {
  "EwcState": "a state type",
  "HierarchicalState": "a state type",
  "KfacState": "a state type",
  "L2InitState": "a state type",
  "L2PreviousState": "a state type",
  "MasState": "a state type",
  "OnlineEwcState": "a state type",
  "SiState": "a state type",
  "SpectralState": "a state type",
  "WassersteinState": "a state type",
  "find": "looks up states",
}


def derivatives(name: str) -> tuple[str, ...]:
  """Derivatives against differences in float64; dtypes; misuse; the neutral strength."""
  ends = ("away",) if name == "wasserstein" else ("away", "still")
  return (
    *(f"test_derivatives_are_those_of_differences[{name}-{end}]" for end in ends),
    f"test_neutral_strength_passes_the_gradient_bit_for_bit[{name}]",
    f"test_updates_have_the_dtype_of_gradients_and_states_keep_theirs[bfloat16-float32-{name}]",
    f"test_misuse_is_one_line_that_names_the_transform[{name}]",
  )


def decoupled(name: str) -> tuple[str, ...]:
  """Steps of several tasks behind the optimizer, against the formula."""
  return (
    f"test_the_path_is_that_of_the_raw_gradient[{name}]"
    if name in ("si", "hierarchical")
    else f"test_steps_of_two_tasks_behind_sgd[{name}]",
  )


RECORDS: dict[str, Record] = {
  "attach": Record(
    compared=(
      "test_attach_leaves_the_old_values_and_starts_the_new_at_the_parameters",
      "test_attach_continues_a_trained_optimizer[chain]",
    ),
    invariants=("test_attach_keeps_a_regularizer_that_is_already_there", "test_attach_refuses_another_optimizer"),
  ),
  "bregman_penalty": Record(
    spec="regularizers_projectors 3.1",
    compared=("test_bregman_divergences_of_trees", "test_bregman_penalty_is_that_of_the_potential"),
    invariants=("test_the_log_partition_of_gaussians",),
  ),
  "consolidate": Record(
    compared=(
      "test_consolidate_anchors_what_it_names",
      "test_path_integral_of_two_tasks_by_hand[hierarchical]",
      "test_ewc_of_two_tasks",
      "test_online_ewc_of_two_tasks[True]",
      "test_mas_of_two_tasks[0.25]",
      "test_l2_family",
    ),
    invariants=(
      "test_states_are_found_in_every_wrapper[ewc-partition_both]",
      "test_importance_by_name_and_by_need",
      "test_consolidate_by_name_leaves_the_others_alone",
      "test_boundary::test_misuse_is_one_line",
      "test_wrong_parameters_are_named",
    ),
  ),
  "ewc": Record(
    spec="regularizers_projectors 1.1",
    compared=(
      "test_ewc_of_two_tasks",
      "test_ewc_equals_the_explicit_sum_over_tasks",
      "test_a_weight_without_importance_takes_the_last_anchor",
      *decoupled("ewc"),
    ),
    invariants=(
      "test_one_task_of_online_ewc_with_decay_one_is_ewc",
      "test_ewc_sum_does_not_cancel_at_low_precision",
      *derivatives("ewc"),
      "test_misuse_of_decoupled_is_one_line[ewc]",
    ),
    deviations=("all tasks in one anchor, the weighted mean: exactly their sum but for a constant, in bounded memory",),
  ),
  "ewc_penalty": Record(
    spec="regularizers_projectors 1.1",
    compared=("test_penalties", "test_penalties_of_narrow_parameters_are_made_wide"),
    invariants=("test_penalties_of_complex_parameters",),
  ),
  "export_state": Record(
    compared=("test_exported_states_are_plain_copies_that_fill_another",),
    invariants=("test_export_and_import_round_trip",),
  ),
  "fisher_potential": Record(
    spec="regularizers_projectors 3.1",
    compared=("test_bregman_divergences_of_trees",),
  ),
  "follow_edit": Record(
    compared=("test_follow_edit_moves_the_anchors_at_past_parameters_alone",),
    invariants=(
      "test_a_tree_without_anchors_comes_back",
      "test_ewc_of_two_tasks",  # the boundaries, which go by the same table of states
      "test_online_ewc_of_two_tasks[True]",
      "test_mas_of_two_tasks[0.25]",
      "test_path_integral_of_two_tasks_by_hand[hierarchical]",
      "test_l2_family",
    ),
  ),
  "gaussian_log_partition": Record(
    spec="regularizers_projectors 3.1",
    compared=("test_the_log_partition_of_gaussians",),
    deviations=("that it is the paper's row of VCL is unverified",),
  ),
  "hierarchical": Record(
    spec="regularizers_projectors 7.9",
    compared=(
      "test_path_integral_of_two_tasks_by_hand[hierarchical]",
      "test_hierarchical_weighs_layers",
      "test_blocks_are_layers[none]",
      "test_blocks_are_layers[max]",
      *decoupled("hierarchical"),
    ),
    invariants=(
      "test_layers_are_modules_and_equal_norms_give_si_over_their_number",
      "test_hierarchical_records_its_own_path_as_si_does",
      *derivatives("hierarchical"),
      "test_misuse_of_decoupled_is_one_line[hierarchical]",
    ),
    deviations=(
      "that the layer's weight stands inside the sum is unverified",
      "importance is that of the finished tasks, or one that is given; the paper's comes from a general-knowledge pass",
    ),
  ),
  "hierarchical_penalty": Record(
    spec="regularizers_projectors 7.9",
    compared=("test_penalties",),
    deviations=("that the layer's weight stands inside the sum is unverified",),
  ),
  "import_state": Record(
    compared=("test_exported_states_are_plain_copies_that_fill_another",),
    invariants=("test_export_and_import_round_trip",),
  ),
  "importance_penalty": Record(
    spec="regularizers_projectors 1.3",
    compared=("test_penalties", "test_penalties_of_narrow_parameters_are_made_wide"),
    invariants=("test_penalties_of_complex_parameters",),
  ),
  "kfac_consolidate": Record(
    spec="additions S11.1",
    compared=("test_the_pull_is_the_gradient_of_the_quadratic_form",),
    invariants=(
      "test_a_linear_change_of_a_layer_s_inputs_changes_no_pull",
      "test_a_prior_pulls_to_zero_and_what_does_not_fit_is_refused",
    ),
  ),
  "kfac_ewc": Record(
    spec="additions S11.1",
    compared=("test_the_pull_is_the_gradient_of_the_quadratic_form", "test_acts_in_every_container"),
    invariants=(
      "test_a_linear_change_of_a_layer_s_inputs_changes_no_pull",
      "test_a_prior_pulls_to_zero_and_what_does_not_fit_is_refused",
    ),
    deviations=("a bias goes with its kernel, as the weight of an input of 1",),
  ),
  "kronecker_sum": Record(
    spec="additions S11.1",
    compared=("test_the_merge_is_the_pair_of_least_divergence",),
    invariants=("test_equal_tasks_add_up_and_do_not_grow_as_the_square",),
    deviations=("traces are over the rank, so that singular factors have their own scale",),
  ),
  "l2": Record(
    spec="regularizers_projectors 1.5",
    compared=(
      "test_l2_family",
      *decoupled("l2"),
    ),
    invariants=(
      "test_the_derivative_by_strength_at_strength_zero",
      *derivatives("l2"),
      "test_misuse_of_decoupled_is_one_line[l2]",
    ),
  ),
  "l2_init": Record(
    spec="regularizers_projectors 1.5",
    compared=(
      "test_l2_family",
      *decoupled("l2_init"),
    ),
    invariants=(*derivatives("l2_init"), "test_misuse_of_decoupled_is_one_line[l2_init]"),
    deviations=("that biases are pulled too is recalled, not read",),
  ),
  "l2_penalty": Record(
    spec="regularizers_projectors 1.5",
    compared=("test_penalties", "test_penalties_of_narrow_parameters_are_made_wide"),
    invariants=("test_penalties_of_complex_parameters",),
  ),
  "l2_previous": Record(
    spec="regularizers_projectors 1.5",
    compared=(
      "test_l2_family",
      "test_l2_previous_waits_for_a_boundary_unless_anchored_at_init",
      *decoupled("l2_previous"),
    ),
    invariants=(*derivatives("l2_previous"), "test_misuse_of_decoupled_is_one_line[l2_previous]"),
  ),
  "layer_weights": Record(
    spec="regularizers_projectors 7.9",
    compared=("test_layer_weights",),
    invariants=("test_layers_are_modules_and_equal_norms_give_si_over_their_number",),
  ),
  "mas": Record(
    spec="regularizers_projectors 1.4",
    compared=(
      "test_mas_of_two_tasks[0.25]",
      "test_mas_of_two_tasks[None]",
      "test_mas_merges",
      *decoupled("mas"),
    ),
    invariants=(*derivatives("mas"), "test_misuse_of_decoupled_is_one_line[mas]"),
    deviations=("importances are summed, as the paper's are recalled; average=0.5 is FACIL's code",),
  ),
  "online_ewc": Record(
    spec="regularizers_projectors 1.2",
    compared=(
      "test_online_ewc_of_two_tasks[True]",
      "test_online_ewc_of_two_tasks[False]",
      "test_online_ewc_accumulates_with_decay",
      *decoupled("online_ewc"),
    ),
    invariants=(
      "test_one_task_of_online_ewc_with_decay_one_is_ewc",
      *derivatives("online_ewc"),
      "test_misuse_of_decoupled_is_one_line[online_ewc]",
    ),
    deviations=("decay_in_penalty=False leaves the decay out of the penalty, as Mammoth and Avalanche do",),
  ),
  "si": Record(
    spec="regularizers_projectors 1.3",
    compared=(
      "test_path_integral_of_two_tasks_by_hand[si]",
      "test_importance_is_gradient_times_applied_movement[adam]",
      "test_nonnegative_si_pulls_where_importance_is_positive_alone",
      *decoupled("si"),
    ),
    invariants=(
      "test_sum_of_path_is_the_loss_decrease",
      "test_unmoved_weights_gain_nothing_and_the_last_step_counts",
      "test_negative_importance_pushes_unless_refused",
      *derivatives("si"),
      "test_misuse_of_decoupled_is_one_line[si]",
    ),
    deviations=("importance may be negative, as in FACIL and Mammoth; nonnegative=True pulls with max(importance, 0)",),
  ),
  "spectral": Record(
    spec="regularizers_projectors 2.1",
    compared=(
      "test_spectral_pull_after_one_power_iteration[2.0]",
      "test_spectral_pull_after_one_power_iteration[3.0]",
      "test_spectral_pull_after_one_power_iteration[1.0]",
      "test_spectral_starts_near_the_top_singular_vector",
      "test_spectral_penalty_and_its_gradient[2]",
    ),
    invariants=(
      "test_spectral_survives_zero_matrices_and_pulls_small_layers_up",
      "test_spectral_has_derivatives_at_zero[2.0]",
      "test_spectral_has_derivatives_at_zero[1.0]",
      "test_spectral_has_derivatives_at_zero[3.0]",
      "test_of_equinox_layers_only_convolutions_need_a_layout",
      "test_spectral_reads_convolutions_as_they_lie",
      "test_equinox_modules_with_functions[spectral]",
      *derivatives("spectral"),
    ),
    deviations=(
      "the exponent's place and its value 2 are recalled, not read",
      "that scales go to 1 and convolutions are merged to inputs by outputs is recalled, not read",
    ),
  ),
  "spectral_penalty": Record(
    spec="regularizers_projectors 2.1",
    compared=("test_spectral_penalty_of_each_kind_of_leaf", "test_spectral_penalty_and_its_gradient[1]"),
    invariants=(
      "test_spectral_penalty_is_zero_at_orthogonal_weights_and_invariant_to_rotations",
      "test_of_equinox_layers_only_convolutions_need_a_layout",
      "test_spectral_reads_convolutions_as_they_lie",
    ),
    deviations=("the exponent's place and its value 2 are recalled, not read",),
  ),
  "state_bytes": Record(
    compared=("test_state_bytes_are_those_of_the_leaves", "test_state_bytes_do_not_grow_with_tasks"),
    invariants=("test_bfloat16_parameters_keep_a_wide_state_unless_told",),
  ),
  "wasserstein": Record(
    spec="regularizers_projectors 2.2",
    compared=(
      "test_wasserstein_pulls_each_rank_to_the_initial_value_of_that_rank",
      "test_wasserstein_matches_sorted_values",
      "test_wasserstein_of_equal_weights_meets_no_nan",
      "test_wasserstein_treats_equal_weights_alike",
    ),
    invariants=(*derivatives("wasserstein"), "test_wasserstein_keeps_its_pairs_between_refreshes"),
    deviations=("equal weights share the mean of their partners, the subgradient that treats them alike",),
  ),
  "wasserstein_penalty": Record(
    spec="regularizers_projectors 2.2",
    compared=(
      "test_wasserstein_pulls_each_rank_to_the_initial_value_of_that_rank",
      "test_wasserstein_matches_sorted_values",
    ),
  ),
}
