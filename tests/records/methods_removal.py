"""Records of certified removal and of edits over a part of the rows."""

from records.form import Record

KIND = "method"
RECORDS: dict[str, Record] = {
  "certified_removal": Record(
    spec="additions S12.1",
    compared=("test_requests_are_steps_within_the_budget_and_training_anew_beyond",),
    invariants=("test_no_step_moves_the_features", "test_requests_in_turn_spend_one_budget"),
    claim=("certified_removal",),
    deviations=(
      "the constant is the tight one unless 'constant' says otherwise",
      "epsilon and delta are of all heads together; the released code has them for each",
      "features are unit rows with a constant; noise is Gaussian; the exponential variant is left out",
    ),
    arguments={"sigma": 0.1},
    first_task_plain=False,
  ),
  "coreset_forget": Record(
    spec="additions S12.2",
    compared=("test_the_edit_sees_the_chosen_rows_alone",),
    invariants=("test_a_coreset_of_all_rows_is_the_edit_to_the_bit", "test_the_method_scores_with_its_own_damping"),
    claim=("coreset_forget",),
    deviations=("selectors are standard forms; the source's coresets are random",),
    arguments={"options": "steps=3", "share": 0.5},
    neutral={"options": "steps=0"},
  ),
}
