"""Records of methods that choose what is replayed, when, and in which form."""

from records.form import Record

KIND = "method"
VIEWS = "values of views are not cut to [0, 1]; their hue is turned in YIQ, not HSV; colours in one order"
RECORDS: dict[str, Record] = {
  "mix_cd": Record(
    spec="replay_architecture_metrics A11",
    compared=(
      "test_mix_cd_s_step_is_of_new_rows_and_of_those_that_were_right",
      "test_where_a_task_begins_stored_rows_are_judged",
      "test_rates_follow_the_damage_that_the_step_s_pass_sees",
      "test_bins_are_drawn_by_their_damage[rows-both]",
      "test_bins_are_drawn_by_their_damage[bins-class]",
      "test_rows_are_drawn_by_weight_without_replacement",
    ),
    invariants=(
      "test_no_pass_beyond_the_training_s_own",
      "test_a_rate_is_an_unbiased_one_where_the_network_stands_still",
      "test_one_bin_is_uniform_replay_of_rows_that_were_right",
      "test_rows_are_right_among_the_classes_that_take_part",
      "test_mix_cd_forgets_rows_and_draws_what_is_left",
      "test_mix_cd_refuses_what_it_does_not_read",
    ),
    claim=("mix_cd",),
    deviations=(
      "written from the paper's abstract: the forms of rate, chance and weight are readings",
      "the prior data is a memory of bounded size, judged anew where a task begins",
      "rows are drawn without replacement within a step; a rate counts as at least 0.001 in a draw",
    ),
    arguments={"capacity": 20, "bins": 3},
    neutral={"beta": 0.0},
  ),
  "view_batch": Record(
    spec="replay_architecture_metrics A10",
    compared=(
      "test_view_batch_s_step_is_of_views_and_of_their_gap",
      "test_presentations_are_the_list_that_is_cut_by_passes",
      "test_neighbours_of_one_label_are_no_views",
    ),
    invariants=(
      "test_in_v_passes_each_row_comes_v_times_in_a_run",
      "test_the_gap_counts_behind_so_many_passes",
      "test_a_task_that_comes_back_has_no_new_rows",
      "test_deleted_rows_are_absent_where_they_would_come",
      "test_beside_replay_the_memory_takes_what_was_shown",
      "test_one_view_is_plain_training",
    ),
    claim=("view_batch",),
    deviations=(
      "views are known by their row, where the released code takes neighbours of one label for views of one",
      "the KL is summed over classes, where the released code takes the mean over them",
      "the end of a pass is not dropped, and no number of rows a step is fixed",
      "the task's rows are kept from its beginning, as the stream's own order is another",
    ),
    arguments={"views": 2},
    neutral={"views": 1},
    first_task_plain=False,
  ),
  "fpf": Record(
    spec="replay_architecture_metrics A13",
    compared=(
      "test_fpf_trains_the_modules_that_moved_most_on_stored_rows",
      "test_sensitivity_is_the_mean_movement_of_a_module",
      "test_stored_logits_are_held_where_asked_for",
    ),
    invariants=(
      "test_times_are_every_so_many_steps_or_the_ends_of_tasks",
      "test_running_statistics_follow_stored_rows_where_they_are_chosen",
      "test_without_stored_rows_or_steps_fpf_is_plain_training",
      "test_movements_are_measured_behind_an_edit_as_before_it",
      "test_fpf_forgets_rows_and_says_where_it_does_nothing",
    ),
    claim=("fpf",),
    deviations=(
      "written from the paper's abstract and notes: steps, rate and the number of modules are not the paper's",
      "movements of running statistics do not count; all layers with such statistics are one module",
      "modules are chosen anew at each time, by the movement since the last one",
      "times of k-FPF are every so many steps, as a method is not told how many there will be",
    ),
    arguments={"capacity": 20, "replay_batch": 8, "steps": 5},
    neutral={"steps": 0},
    first_task_plain=False,
  ),
  "dual_mix": Record(
    spec="replay_architecture_metrics A14",
    compared=(
      "test_mixtures_teach_both_labels[adaptive]",
      "test_mixtures_teach_both_labels[plain]",
      "test_labels_lean_to_the_class_of_fewer_rows",
    ),
    invariants=(
      "test_each_row_has_another_for_a_partner",
      "test_both_rows_of_a_mixture_are_seen_in_a_view",
      "test_mixtures_without_strength_are_experience_replay",
      "test_mixtures_are_not_counted_by_batch_norm",
      "test_mixtures_of_two_tasks_have_the_classes_of_both",
      "test_dual_mix_refuses_what_it_cannot_mix",
    ),
    claim=("dual_mix",),
    deviations=(
      "written from the paper's abstract: the form of the label weights and all numbers are readings",
      "mixtures come beside the rows themselves, in a pass of their own",
      VIEWS,
    ),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
  "replay_scheduling": Record(
    spec="replay_architecture_metrics A12",
    compared=(
      "test_a_step_replays_what_the_schedule_has_in_memory",
      "test_the_memory_is_filled_by_shares",
      "test_shares_are_all_multisets_and_schedules_have_numbers",
      "test_the_search_finds_the_best_schedule",
    ),
    invariants=(
      "test_a_history_of_each_task_is_kept_class_by_class",
      "test_numbers_texts_and_reserves_fill_the_memory",
      "test_rows_in_memory_are_drawn_alike",
      "test_a_history_forgets_rows_and_closes_up",
      "test_the_search_follows_the_largest_reward_not_the_mean",
    ),
    claim=("replay_scheduling",),
    deviations=(
      "what is left of the memory goes to tasks of positive share alone",
      "the learned policies (DQN, A2C) and the heuristics by accuracy are left out",
      "the search is for up to 6 tasks; the paper draws random shares from the seventh on",
    ),
    arguments={"capacity": 8, "history": 10},
  ),
}
