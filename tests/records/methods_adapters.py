"""Records of methods with a low-rank pair for each task."""

from records.form import Record

KIND = "method"
ANY = "kernels of any layers, where the paper has the attention of a transformer"
HEAD = "the classifier is trained in full and shared by all tasks"
RECORDS: dict[str, Record] = {
  "o_lora": Record(
    spec="classic_methods F10",
    compared=(
      "test_o_lora_s_step_by_hand",
      "test_overlap_is_zero_of_orthogonal_spaces_and_depends_on_bases",
      "test_merged_changes_are_the_sum_of_pairs",
    ),
    invariants=(
      "test_a_pair_begins_without_effect_and_within_its_bound",
      "test_old_pairs_and_the_base_stand_to_the_bit",
      "test_moments_of_a_pair_begin_when_its_task_does",
      "test_without_strengths_o_lora_is_low_rank_tuning_of_the_first_task",
      "test_a_length_of_zero_has_no_slope",
      "test_squares_act_in_a_step",
      "test_pairs_begin_by_how_many_tasks_were_met",
      "test_patterns_that_find_nothing_are_told",
      "test_convolutions_have_pairs_too",
    ),
    claim=("o_lora",),
    deviations=(ANY, HEAD),
    arguments={"rank": 2},
    first_task_plain=False,
  ),
}
