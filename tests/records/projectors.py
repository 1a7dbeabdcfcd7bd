"""Records of cljax.projectors."""

from records.form import Record

KIND = "projector"
HELPERS = {
  "AGEMState": "a state type",
  "CUBERBlocked": "a type",
  "CUBERKernel": "a type",
  "CUBERState": "a state type",
  "CoSOHistory": "a type",
  "CoSOKernel": "a type",
  "CoSOState": "a state type",
  "GEMState": "a state type",
  "GPMState": "a state type",
  "GeometricState": "a state type",
  "NCLState": "a state type",
  "NSCLState": "a state type",
  "OGDState": "a state type",
  "OWMState": "a state type",
  "SGPState": "a state type",
}
CUBER = (
  "written from memory of the paper, no code found; one basis of all blocked spans stands for projections in turn",
)
COSO = ("the paper says that old outputs are kept; they are along the history only",)
RECORDS: dict[str, Record] = {
  "adaptive_orthogonality": Record(
    spec="unlearning B16",
    compared=(
      "test_adaptive_orthogonality_of_quadratic_losses[1.0]",
      "test_adaptive_orthogonality_of_quadratic_losses[2.0]",
    ),
    invariants=("test_adaptive_orthogonality_value_and_second_order_gradient",),
    deviations=("differentiated through both gradients; the released code detaches them, where it trains nothing",),
  ),
  "adaptive_orthogonality_grad": Record(
    spec="unlearning B16",
    compared=(
      "test_adaptive_orthogonality_of_quadratic_losses[1.0]",
      "test_adaptive_orthogonality_of_quadratic_losses[2.0]",
      "test_adaptive_orthogonality_at_its_borders",
    ),
    invariants=("test_adaptive_orthogonality_value_and_second_order_gradient",),
    deviations=("differentiated through both gradients; the released code detaches them, where it trains nothing",),
  ),
  "agem": Record(
    spec="regularizers_projectors 4.2",
    compared=("test_matches_the_formula_when_it_fires", "test_reads_its_own_reference"),
    invariants=("test_agem_meets_its_constraint_and_does_not_grow", "test_untouched_to_the_bit_when_aligned_or_empty"),
  ),
  "basis_bytes": Record(spec="regularizers_projectors 4.3", compared=("test_bytes_of_bases",)),
  "coso": Record(
    spec="regularizers_projectors 4.7",
    compared=(
      "test_coso_over_two_tasks[1-reach]",
      "test_coso_over_two_tasks[2-released]",
      "test_first_task_is_adam_in_the_gradient_subspace",
      "test_sketch_brackets_the_covariance",
    ),
    invariants=(
      "test_updates_stay_off_the_history_and_bases_stay_orthonormal",
      "test_nothing_moves_once_the_history_is_full",
    ),
    deviations=COSO,
  ),
  "coso_end_task": Record(
    spec="regularizers_projectors 4.7",
    compared=(
      "test_coso_over_two_tasks[1-reach]",
      "test_coso_over_two_tasks[2-released]",
      "test_coso_drops_what_finds_no_room_in_the_history",
    ),
    invariants=("test_released_rule_keeps_one_fewer_and_every_reuses_the_axes",),
    deviations=("rule 'reach' keeps the first count that reaches the threshold; the released one is 'released'",),
  ),
  "coso_projection": Record(
    spec="regularizers_projectors 4.7",
    compared=("test_coso_over_two_tasks[1-reach]",),
    invariants=(
      "test_what_is_empty_passes_anything_to_the_bit",
      "test_coso_projection_behind_any_optimizer",
    ),
    deviations=("on the final update, so that it holds behind any optimizer",),
  ),
  "cuber": Record(
    spec="regularizers_projectors 4.6",
    compared=("test_cuber_over_three_tasks", "test_blocked_inputs_keep_their_outputs_and_open_ones_may_move"),
    invariants=(
      "test_what_is_empty_passes_anything_to_the_bit",
      "test_sufficient_above_one_is_gpm",
      "test_first_task_is_bit_equal",
    ),
    deviations=CUBER,
  ),
  "cuber_end_task": Record(
    spec="regularizers_projectors 4.6", compared=("test_cuber_over_three_tasks",), deviations=CUBER
  ),
  "cuber_projection": Record(
    spec="regularizers_projectors 4.6",
    compared=("test_cuber_over_three_tasks", "test_cuber_in_two_parts"),
    invariants=(
      "test_what_is_empty_passes_anything_to_the_bit",
      "test_before_the_first_task_both_parts_pass_to_the_bit",
    ),
    deviations=CUBER,
  ),
  "cuber_pull": Record(
    spec="regularizers_projectors 4.6",
    compared=("test_cuber_over_three_tasks", "test_cuber_in_two_parts"),
    invariants=(
      "test_what_is_empty_passes_anything_to_the_bit",
      "test_before_the_first_task_both_parts_pass_to_the_bit",
    ),
    deviations=CUBER,
  ),
  "cuber_start_task": Record(
    spec="regularizers_projectors 4.6",
    compared=("test_cuber_over_three_tasks", "test_the_three_regimes"),
    invariants=("test_old_loss_does_not_rise_to_first_order_in_regime_three",),
    deviations=CUBER,
  ),
  "current_weight": Record(
    spec="regularizers_projectors 4.8",
    compared=("test_weights_of_the_current_loss", "test_epsilon_of_er_agem"),
  ),
  "er_agem": Record(
    spec="regularizers_projectors 4.8",
    compared=("test_epsilon_of_er_agem",),
  ),
  "er_gem": Record(
    spec="regularizers_projectors 4.8",
    compared=("test_er_gem_with_one_reference",),
    deviations=("the released code leaves BatchNorm out, and does not project where its solver fails",),
  ),
  "gem": Record(
    spec="regularizers_projectors 4.1",
    compared=(
      "test_gem_with_margin_and_ridge_is_the_dual_solution",
      "test_gem_is_the_projection_on_the_cone",
      "test_matches_enumeration",
    ),
    invariants=(
      "test_the_residual_of_the_program_is_reported",
      "test_one_constraint_gem_is_agem",
      "test_zero_references_leave_bits",
    ),
  ),
  "geometric_disentanglement": Record(
    spec="unlearning B15",
    compared=(
      "test_geometric_update_is_the_nearest_in_adams_metric[descent]",
      "test_geometric_update_is_the_nearest_in_adams_metric[orthogonal]",
      "test_orthogonal_is_the_nearest_point_in_adams_metric",
      "test_descent_moves_only_what_would_raise_the_retain_loss",
    ),
    invariants=(
      "test_the_residual_of_the_program_is_reported",
      "test_geometric_constraints",
      "test_history_constrains_by_past_gradients",
    ),
    deviations=(
      "products run over all leaves and past gradients are the latest; release 1 works per parameter, on a basis that "
      "stays as it began and at half precision",
      "no back-tracking on the retain loss",
    ),
  ),
  "gpm": Record(
    spec="regularizers_projectors 4.5",
    compared=("test_gpm_over_two_tasks", "test_many_columns_in_blocks"),
    invariants=(
      "test_what_is_empty_passes_anything_to_the_bit",
      "test_old_inputs_keep_their_outputs",
      "test_empty_basis_is_bit_equal",
    ),
  ),
  "gpm_bytes": Record(
    spec="regularizers_projectors 4.5", compared=("test_bytes_of_bases", "test_gpm::test_bytes_and_errors")
  ),
  "gpm_extend": Record(
    spec="regularizers_projectors 4.5",
    compared=("test_gpm_over_two_tasks", "test_rank_follows_the_threshold_rule"),
    invariants=(
      "test_energy_bound_of_what_is_not_captured",
      "test_orthonormal_after_20_tasks_and_frozen_when_full",
      "test_max_rank_drops_and_says_so",
      "test_zero_rows_count_for_nothing",
    ),
    deviations=(
      "every task keeps the first rank that reaches the threshold; 'released' keeps one fewer on the first",
      "new directions are orthogonalised again; the released code stacks and truncates",
    ),
  ),
  "ogd": Record(
    spec="regularizers_projectors 4.3",
    compared=("test_ogd_removes_the_span_of_stored_directions",),
    invariants=(
      "test_what_is_empty_passes_anything_to_the_bit",
      "test_ogd_with_full_memory_never_forgets",
      "test_spans_on_the_update",
    ),
  ),
  "ogd_extend": Record(
    spec="regularizers_projectors 4.3",
    compared=("test_ogd_removes_the_span_of_stored_directions",),
    invariants=(
      "test_directions_of_any_size_and_with_zeros_are_stored",
      "test_part_of_a_tree_takes_its_part_of_the_directions",
      "test_full_basis_drops_and_says_so",
    ),
    claim=("ideal", "ogd"),
    deviations=("each direction is orthogonalised twice; once in the released code, which drifts",),
  ),
  "on_update": Record(
    spec="regularizers_projectors 4.8",
    compared=("test_agem_on_updates_removes_what_would_raise_the_reference_loss",),
    invariants=("test_cones_on_the_gradient_and_on_the_update[agem-adam]", "test_vmap_equals_a_loop"),
    deviations=("in no paper: the projectors' promise for the step instead of the gradient",),
  ),
  "ncl": Record(
    spec="additions S11.2",
    compared=("test_ncl_multiplies_by_both_damped_inverses", "test_acts_in_every_container"),
    invariants=(
      "test_ncl_is_plain_descent_at_first_and_under_much_damping",
      "test_ncl_changes_the_path_and_not_the_optimum",
    ),
    deviations=("a bias goes with its kernel",),
  ),
  "ncl_end_task": Record(
    spec="additions S11.2",
    compared=("test_ncl_multiplies_by_both_damped_inverses",),
    invariants=(
      "test_ncl_is_plain_descent_at_first_and_under_much_damping",
      "test_ncl_refuses_what_does_not_fit",
    ),
    deviations=("one damping for both factors, where the released code has 1e-6 and, for the inverses, 1e-9",),
  ),
  "owm": Record(
    spec="additions S11.3",
    compared=("test_owm_projects_kernels_with_their_biases_from_the_first_batch_on", "test_acts_in_every_container"),
    invariants=("test_owm_leaves_biases_alone_where_told_and_refuses_what_does_not_fit",),
    deviations=("a bias goes with its kernel; the released networks have none",),
  ),
  "owm_extend": Record(
    spec="additions S11.3",
    compared=("test_owm_is_the_recursion_and_its_closed_form_in_any_cut_and_order",),
    invariants=("test_owm_protects_an_input_the_better_the_oftener_it_was_seen",),
  ),
  "pca_ogd": Record(
    spec="regularizers_projectors 4.4",
    compared=(
      "test_pca_ogd_removes_the_leading_directions[False]",
      "test_pca_ogd_removes_the_leading_directions[True]",
    ),
  ),
  "pca_ogd_extend": Record(
    spec="regularizers_projectors 4.4",
    compared=(
      "test_pca_ogd_removes_the_leading_directions[False]",
      "test_pca_ogd_removes_the_leading_directions[True]",
      "test_pca_ogd_leaves_the_residual_overlap",
    ),
    claim=("ntk_overlap",),
    deviations=("uncentred by default, as the theory is; the released code centres",),
    invariants=("test_part_of_a_tree_takes_its_part_of_the_directions",),
  ),
  "principal_directions": Record(
    spec="regularizers_projectors 4.4",
    compared=(
      "test_principal_directions_match_svd_and_centring_drops_the_mean",
      "test_pca_ogd_removes_the_leading_directions[True]",
    ),
  ),
  "scaled_projection": Record(
    spec="regularizers_projectors 4.6",
    compared=("test_scaled_projection", "test_anchor_is_a_copy_and_scaled_projection"),
  ),
  "nscl": Record(
    spec="classic_methods E2",
    compared=("test_nscl_over_two_tasks", "test_acts_in_every_container"),
    invariants=("test_what_nscl_has_not_seen_passes_to_the_bit", "test_nscl_in_a_chain_and_what_it_refuses"),
    deviations=("biases and norm parameters are held; the paper has EWC on those of BatchNorm",),
  ),
  "nscl_extend": Record(
    spec="classic_methods E2",
    compared=("test_nscl_over_two_tasks", "test_every_row_counts_not_the_mean"),
    invariants=(
      "test_the_released_norm_ties_the_step_to_the_dimension",
      "test_a_least_eigenvalue_of_rounding_is_no_measure",
      "test_nscl_in_a_chain_and_what_it_refuses",
    ),
    deviations=(
      "no division by the Frobenius norm unless norm='frobenius', the released code's",
      "a least eigenvalue below rounding, or below 'floor', counts as that",
    ),
  ),
  "sgp": Record(
    spec="classic_methods E3",
    compared=("test_sgp_over_two_tasks", "test_acts_in_every_container", "test_columns_of_sgp_in_blocks"),
    invariants=(
      "test_much_alpha_is_gpm",
      "test_what_sgp_has_not_seen_passes_to_the_bit",
      "test_sgp_without_room_and_what_it_refuses",
    ),
  ),
  "sgp_extend": Record(
    spec="classic_methods E3",
    compared=("test_sgp_over_two_tasks", "test_importances_of_the_spec_s_singular_values"),
    invariants=(
      "test_importances_add_up_and_never_fall",
      "test_sgp_without_room_and_what_it_refuses",
    ),
    deviations=("the first task reaches the threshold too, where the released code stays one direction below it",),
  ),
  "trgp_extend": Record(
    spec="classic_methods E4",
    compared=("test_trgp_s_memory_over_three_tasks", "test_the_first_new_direction_is_kept"),
    invariants=("test_trgp_without_room_and_what_its_memory_refuses",),
    deviations=("the first new direction joins the memory; the released code drops it",),
  ),
  "trust_regions": Record(
    spec="classic_methods E4",
    compared=("test_regions_are_the_spans_that_take_most_of_the_gradient",),
  ),
  "rescaled": Record(
    spec="classic_methods E4",
    compared=("test_weights_are_scaled_inside_each_span",),
    deviations=("by R = Q - I",),
  ),
}
