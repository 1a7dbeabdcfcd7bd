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
      "test_what_finds_nothing_is_told_by_o_lora",
      "test_convolutions_have_pairs_too",
    ),
    claim=("o_lora",),
    deviations=(ANY, HEAD),
    arguments={"rank": 2},
    first_task_plain=False,
  ),
  "inflora": Record(
    spec="classic_methods F8",
    compared=(
      "test_the_span_is_the_fewest_directions_of_inputs_by_hand",
      "test_rows_of_a_pair_are_principal_and_off_the_span",
      "test_inflora_s_step_by_hand",
      "test_the_released_code_squares_twice_and_is_one_short",
      "test_moments_are_of_all_rows_that_are_there",
    ),
    invariants=(
      "test_what_lies_in_the_span_keeps_its_hidden_values",
      "test_directions_run_out",
      "test_convolutions_and_wrong_patterns",
    ),
    claim=("inflora",),
    deviations=(
      ANY,
      HEAD,
      "the span of old inputs is kept as it is, and not the smaller of it and its complement: the same projection",
    ),
    arguments={"rank": 2},
    first_task_plain=False,
  ),
  "sd_lora": Record(
    spec="classic_methods F9",
    compared=("test_sd_lora_s_step_by_hand", "test_sizes_of_factors_against_each_other_do_not_count"),
    invariants=(
      "test_the_function_goes_on_at_the_border",
      "test_a_scaled_pair_begins_without_effect",
      "test_base_and_old_directions_stand_to_the_bit",
      "test_moments_of_old_pairs_fade_while_others_learn",
      "test_what_finds_nothing_is_told_by_sd_lora",
    ),
    claim=("sd_lora",),
    deviations=(
      ANY,
      HEAD,
      "a finished pair's norms go into its scale, so that nothing jumps; border='released' sets the scale anew",
      "as many scales as the stream has tasks; the released code has 20",
      "the variants that lower the rank or drop directions are left out",
    ),
    arguments={"rank": 2},
    first_task_plain=False,
  ),
}
