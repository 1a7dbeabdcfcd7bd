"""Records of cljax.theory."""

from records.form import Record

KIND = "theory"
HELPERS = {
  "Errors": "a type",
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
}
