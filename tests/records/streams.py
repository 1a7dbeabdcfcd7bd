"""Records of cljax.streams."""

from records.form import Record

KIND = "stream"
HELPERS = {
  "KINDS": "the names of the scenarios",
  "READS": "which options a scenario reads",
  "Stream": "a type",
  "View": "a type",
  "class_places": "reads names of classes",
  "identity": "the view that changes nothing",
  "learned_tasks": "lists the tasks of events",
  "parse_forget": "reads the text of requests",
  "parse_request": "reads the text of a request",
}
PAIRS = Record(compared=("test_pairs_and_labels_gone_equal_a_loop",))
RECORDS: dict[str, Record] = {
  "at_most": Record(
    compared=(
      "test_a_share_of_rows_by_class_is_as_even_as_can_be",
      "test_at_most_so_many_rows_are_drawn_by_class",
    )
  ),
  "blurry_rows": Record(
    spec="replay_architecture_metrics C6",
    compared=("test_i_blurry_row_by_row", "test_si_blurry_row_by_row[0]", "test_si_blurry_row_by_row[1]"),
    invariants=(
      "test_blurry_streams_keep_what_the_generator_promises",
      "test_as_many_tasks_as_rows_are_possible_and_more_are_not",
      "test_what_a_task_gives_to_the_pool_is_a_random_choice_and_the_remainder_is_dropped",
    ),
    deviations=(
      "the rows given to the pool are a random choice, not the first in stored order",
      "a draw that leaves a task without a row is made again",
    ),
  ),
  "build": Record(
    spec="replay_architecture_metrics C4",
    compared=(
      "test_the_three_splits_by_class[class]",
      "test_class_order_is_a_list_or_its_own_seed",
      "test_task_stream_masks_and_uneven_sizes",
      "test_a_share_that_holds_each_class_is_the_plain_draw",
      "test_wrong_labels_are_uniform_over_the_others",
      "test_input_noise_has_the_asked_deviation_in_what_the_model_sees",
      "test_events_hold_classes_by_a_name_that_reads_back",
      "test_noisy_labels_are_so_many_wrong_and_of_the_task",
    ),
    invariants=(
      "test_class_split_is_a_partition",
      "test_outputs_are_places_in_the_members_own_order",
      "test_a_subset_is_balanced_and_held_out_rows_come_from_it",
      "test_noise_may_differ_by_task_where_rows_do_not_meet",
      "test_validation_leaves_each_class_a_row_in_each_task",
      "test_a_share_of_a_task_holds_each_of_its_classes[0.1]",
      "test_class_order_and_weights_take_names",
      "test_rows_without_labels_keep_them_where_they_are_measured",
      "test_withheld_labels_decide_nothing",
      "test_labels_of_a_task_without_any_are_gone_with_all_of_its_rows",
      "test_classes_return_in_parts_that_no_two_tasks_share",
      "test_an_order_comes_back_to_tasks",
      "test_an_option_changes_the_stream_or_is_refused",
    ),
  ),
  "deleted_pairs": PAIRS,
  "drawn_subsets": Record(
    spec="replay_architecture_metrics C5",
    compared=("test_drawn_subsets_one_by_one", "test_scole_draws_each_class_as_often_as_it_weighs"),
    invariants=("test_scole_learns_drawn_subsets_and_comes_back",),
    deviations=("classes are skewed by weights that are given; the paper's parameter is another",),
  ),
  "instance_rows": Record(
    spec="additions S11",
    compared=("test_instance_rows_are_each_class_dealt_in_turn",),
    invariants=("test_an_instance_stream_is_a_partition_with_every_class_in_every_task",),
  ),
  "forgotten_classes": PAIRS._replace(
    invariants=(
      "test_three_spellings_of_the_same_pairs",
      "test_the_last_of_two_requests_takes_the_label",
      "test_a_label_that_another_class_of_the_same_task_uses_is_not_gone",
    )
  ),
  "from_tasks": Record(
    compared=("test_rows_of_ones_own_by_hand", "test_a_mask_is_a_mask"),
    invariants=(
      "test_labels_come_from_the_rows_as_in_build",
      "test_hundreds_of_tasks_share_an_array",
      "test_events_in_any_order_with_requests_by_name",
    ),
  ),
  "from_timestamps": Record(
    compared=(
      "test_tasks_by_time_row_by_row",
      "test_timestamps_split_by_quantiles[datetime64[s]]",
      "test_a_boundary_at_noon_cuts_after_midnight",
    ),
    invariants=("test_whole_times_are_compared_as_whole_numbers",),
  ),
  "pair_table": PAIRS,
  "permuted": Record(
    spec="replay_architecture_metrics C4",
    compared=("test_pixels_are_permuted_by_each_tasks_own_permutation",),
    invariants=("test_permuted_view_is_a_permutation_and_the_first_task_is_permuted_too",),
    deviations=("images are not padded first",),
  ),
  "resolve": Record(
    compared=(
      "test_rows_of_a_request_are_joined_as_asked[any]",
      "test_rows_of_a_request_are_joined_as_asked[all]",
      "test_resolve_names_rows",
    )
  ),
  "resolve_pairs": PAIRS._replace(
    invariants=(
      "test_three_spellings_of_the_same_pairs",
      "test_a_task_of_shared_rows_is_forgotten_alone",
      "test_hundreds_of_tasks_over_shared_rows_cost_one_mask",
    )
  ),
  "rotated": Record(
    compared=(
      "test_images_are_turned_about_their_centre",
      "test_rotation_is_scipys[30.0]",
      "test_rotation_is_scipys[-45.0]",
    )
  ),
  "with_forget": Record(
    compared=("test_requests_stand_behind_so_many_tasks", "test_events_hold_classes_by_a_name_that_reads_back"),
    invariants=("test_forget_events_stand_where_they_were_asked",),
  ),
}
