"""Records of cljax.theory."""

from records.form import Record

KIND = "theory"
HELPERS = {
  "Errors": "a type",
  "FactorState": "a state type",
  "IdealState": "a state type",
  "RehearsalErrors": "a type",
}
LINEAR, ROTATION = "replay_architecture_metrics C15", "replay_architecture_metrics C14"
IDEAL = "replay_architecture_metrics C17"
RECORDS: dict[str, Record] = {
  "draw_errors": Record(
    spec=LINEAR,
    compared=("test_errors_of_one_draw",),
    invariants=("test_theorem_agrees_with_draws[6-24-12-0.7]",),
  ),
  "expected_errors": Record(
    spec=LINEAR,
    compared=("test_formula_is_the_recursion[3-17-0.4]", "test_formula_is_the_recursion[6-18-1.0]"),
    invariants=("test_what_the_theorem_says", "test_theorem_agrees_with_draws[6-24-12-0.7]"),
    deviations=("from memory of the paper, re-derived",),
  ),
  "factor_forgetting": Record(
    spec=IDEAL,
    compared=("test_what_random_directions_leave_over[3-8]",),
    invariants=("test_the_parts_of_the_command_agree_with_the_closed_forms",),
  ),
  "factor_init": Record(spec=IDEAL, compared=("test_a_factor_keeps_the_span_of_all_rows_while_it_has_columns",)),
  "factor_learn": Record(
    spec=IDEAL,
    compared=(
      "test_a_factor_keeps_the_span_of_all_rows_while_it_has_columns",
      "test_with_no_column_left_earlier_tasks_win",
    ),
    invariants=("test_tasks_with_a_shared_minimiser_end_alike_in_any_order",),
    deviations=("from memory of the paper, the algebra checked",),
  ),
  "factor_loss": Record(spec=IDEAL, compared=("test_with_no_column_left_earlier_tasks_win",)),
  "factor_member": Record(spec=IDEAL, compared=("test_every_member_of_the_set_has_the_loss",)),
  "haar": Record(
    spec=ROTATION, compared=("test_haar_makes_the_diagonal_of_r_positive",), invariants=("test_haar_moments",)
  ),
  "learn": Record(
    spec=LINEAR,
    compared=("test_learn_is_minimum_norm_and_absent_rows_are_absent", "test_errors_of_one_draw"),
  ),
  "partial_rotation": Record(
    spec=ROTATION,
    compared=("test_a_subspace_of_the_asked_dimension_is_turned",),
    invariants=("test_draw_is_the_forgetting_of_minimum_norm_solutions",),
  ),
  "rehearsal_errors": Record(
    spec=IDEAL,
    compared=("test_expected_errors_agree_with_draws[16-3-1-5]", "test_expected_errors_agree_with_draws[20-4-2-5]"),
    invariants=("test_expected_errors_agree_with_draws[18-4-0-4]", "test_expected_errors_agree_with_draws[24-5-5-4]"),
    deviations=("our own derivation; the paper bounds what samples generalise to",),
  ),
  "rehearse": Record(
    spec=IDEAL,
    compared=("test_a_step_is_the_least_that_fits_the_task_and_what_is_stored[2]",),
    invariants=("test_the_ends_are_learning_in_turn_and_the_ideal_learner",),
    deviations=("stored rows are held exactly, where the paper allows a slack",),
  ),
  "rotation_draw": Record(
    spec=ROTATION,
    compared=("test_draw_is_the_forgetting_of_minimum_norm_solutions",),
    invariants=("test_rotation::test_limits",),
  ),
  "rotation_forgetting": Record(
    spec=ROTATION,
    compared=("test_forgetting_under_rotation_at_the_reference_pairs",),
    invariants=("test_reference_pairs_within_three_percent", "test_closed_form_over_the_whole_square"),
    deviations=("from memory of the paper, re-derived by free probability",),
  ),
  "ideal_init": Record(spec="replay_architecture_metrics C17", compared=("test_ideal_set_against_its_null_spaces",)),
  "ideal_learn": Record(
    spec="replay_architecture_metrics C17",
    compared=("test_ideal_set_against_its_null_spaces", "test_ideal_learner_keeps_the_exact_set"),
    invariants=("test_ideal_learner_without_a_shared_minimiser_is_lexicographic_and_is_projected_descent",),
    claim=("ideal",),
    deviations=("from memory of the paper, the algebra checked",),
  ),
  "ideal_member": Record(
    spec="replay_architecture_metrics C17",
    compared=("test_ideal_set_against_its_null_spaces",),
    invariants=("test_ideal_learner_keeps_the_exact_set",),
  ),
  "ntk_forgetting": Record(
    spec="replay_architecture_metrics C16",
    compared=(
      "test_forgetting_has_a_slope_in_the_ridge",
      "test_forgetting_is_that_of_ridge_regression[0.3]",
      "test_forgetting_is_that_of_ridge_regression[0.0]",
      "test_forgetting_equals_the_overlap_formula",
    ),
    invariants=("test_overlap_invariants", "test_pca_ogd_leaves_the_residual_overlap"),
    claim=("ntk_overlap",),
    deviations=("from memory of the paper, the algebra checked",),
  ),
  "ntk_overlap": Record(
    spec="replay_architecture_metrics C16",
    compared=("test_overlaps_are_the_cosines_of_the_angles_between_row_spaces",),
    invariants=("test_overlap_invariants",),
  ),
}
