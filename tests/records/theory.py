"""Records of cljax.theory."""

from records.form import Record

KIND = "theory"
HELPERS = {
  "Errors": "a type",
  "IdealState": "a state type",
}
LINEAR, ROTATION = "replay_architecture_metrics C15", "replay_architecture_metrics C14"
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
