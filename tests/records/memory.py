"""Records of cljax.memory."""

from records.form import Record

KIND = "memory"
HELPERS = {
  "ClassBalancedState": "a state type",
  "Diverse": "a memory's functions",
  "DiverseState": "a state type",
  "ExemplarState": "a state type",
  "Exemplars": "a memory's functions",
  "FirstComeState": "a state type",
  "ReservoirState": "a state type",
  "RingState": "a state type",
}
LAWS = (  # of every buffer, in tests/memory/test_contract.py
  "test_stored_rows_are_whole_distinct_and_real",
  "test_sampled_rows_are_whole_and_distinct",
  "test_empty_rows_change_nothing",
  "test_remove_erases_and_packs",
  "test_slots_written_in_one_call_are_distinct",
  "test_memories_under_careful_settings",
)
RECORDS: dict[str, Record] = {
  "class_balanced": Record(
    spec="replay_architecture_metrics A1",
    compared=(
      "test_balanced_buffers_equal_plain_python[uniform]",
      "test_a_batch_has_the_law_of_keys_row_by_row[1]",
      "test_a_batch_has_the_law_of_keys_row_by_row[4]",
      "test_balanced_buffers_read_what_is_stored",
      "test_draw_equals_a_fisher_yates_shuffle",
      "test_a_large_buffer_equals_plain_python",
    ),
    invariants=(
      "test_sizes_are_the_quotas",
      "test_levels_are_those_of_taking_one_by_one",
      "test_rows_of_a_class_are_kept_alike",
      "test_after_a_removal_new_rows_enter_at_the_old_rate",
      "test_class_balanced::test_rows_of_weight_zero_are_as_if_absent",
      *LAWS,
    ),
    deviations=(
      "a class shrinks only when its slots are needed, not whenever a class comes",
      "which classes have one row more goes by class number, not by the order of a Python set",
      "keys are not kept: of a class only the chance to enter is, from which its least key is drawn when it is needed",
      "a removal keeps the rates of the classes that are left, so new rows enter at the old rate to O(1 / rows seen)",
    ),
  ),
  "greedy_balanced": Record(
    spec="replay_architecture_metrics A8",
    compared=(
      "test_balanced_buffers_equal_plain_python[greedy]",
      "test_balanced_buffers_read_what_is_stored",
      "test_draw_equals_a_fisher_yates_shuffle",
      "test_greedy_evicts_any_row_of_the_largest_class",
    ),
    invariants=("test_greedy_favours_recent_rows", *LAWS),
    deviations=("of a batch all rows enter before any is evicted, and a new one may be; REMIND adds single rows",),
  ),
  "diverse": Record(
    spec="classic_methods A6",
    compared=("test_one_row_against_a_full_memory", "test_rows_enter_while_there_is_room"),
    invariants=(
      "test_a_row_like_others_is_the_least_wanted",
      "test_a_closed_memory_stays_and_a_request_opens_it",
      "test_slots_of_one_call_differ",
    ),
  ),
  "exemplars": Record(
    spec="classic_methods A1",
    compared=("test_lists_are_cut_to_the_quota_and_are_prefixes",),
    invariants=("test_exemplars_arguments",),
    deviations=(
      "lists are cut to the integer part of M / K; rounding='ceil' is the released code's, above M by up to K - 1",
    ),
  ),
  "herding": Record(
    spec="classic_methods A1",
    compared=(
      "test_herding_is_the_greedy_list_of_each_group",
      "test_herding_without_repeats_is_the_nearest_mean_at_each_step",
    ),
    invariants=("test_herding_knows_no_scale_and_no_absent_row",),
    deviations=("a row is picked once; repeats=True is the released code's, whose mean is further off",),
  ),
  "first_come_balanced": Record(
    spec="classic_methods A3",
    compared=("test_first_come_equals_row_by_row",),
    invariants=(
      "test_sizes_differ_by_one_at_most",
      "test_a_full_balanced_memory_takes_no_more",
      "test_first_come_s_arguments",
      *LAWS,
    ),
    deviations=("the paper's rule; the released code takes the first M // classes of an unstable sort of all labels",),
  ),
  "reservoir": Record(
    spec="replay_architecture_metrics A1",
    compared=(
      "test_equals_the_sequential_algorithm",
      "test_draw_equals_a_fisher_yates_shuffle",
      "test_a_call_of_very_many_rows_equals_the_sequential_algorithm",
      "test_asking_for_more_than_is_stored_and_removal",
    ),
    invariants=(
      "test_every_row_is_stored_with_probability_m_over_n",
      "test_sample_is_without_replacement_and_uniform",
      "test_after_a_removal_old_and_new_rows_are_kept_alike",
      "test_reservoir::test_rows_of_weight_zero_are_as_if_absent",
      *LAWS,
    ),
    deviations=("after a removal new rows enter at the rate of the old ones until the buffer is full again (ours)",),
  ),
  "ring": Record(
    spec="replay_architecture_metrics A1",
    compared=(
      "test_ring_equals_slots_by_hand",
      "test_a_sample_of_a_ring_reads_the_slots_drawn",
      "test_slots_are_those_of_the_formula",
      "test_keeps_the_last_rows_of_every_task",
      "test_draw_equals_a_fisher_yates_shuffle",
    ),
    invariants=(
      "test_sample_is_uniform_over_uneven_groups",
      "test_rows_as_tuples_and_own_groups",
      "test_ring::test_bad_arguments",
      *LAWS,
    ),
    deviations=(
      "a counter a group, where Mammoth counts all rows in one: the same while tasks come one after another",
      "samples are uniform however unevenly groups are filled; Mammoth's only while the filled slots are contiguous",
    ),
  ),
}
