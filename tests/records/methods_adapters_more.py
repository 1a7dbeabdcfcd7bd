"""Records of further methods that train small parts beside or behind a frozen network."""

from records.form import Record

KIND = "method"
RECORDS: dict[str, Record] = {
  "clr": Record(
    spec="replay_architecture_metrics B7",
    compared=("test_clr_s_steps_by_hand", "test_a_filter_is_of_its_channel"),
    invariants=(
      "test_filters_begin_as_the_identity_and_count_nine_a_channel",
      "test_old_answers_of_clr_stay_to_the_bit",
      "test_old_answers_stay_with_batch_norm",
      "test_convolutions_of_one_place",
      "test_what_networks_clr_takes",
    ),
    claim=("clr",),
    deviations=("biases of convolutions stand with their kernels; the paper's have none",),
    arguments={},
    first_task_plain=False,
  ),
  "i_lora": Record(
    spec="replay_architecture_metrics B4",
    compared=("test_i_lora_s_step_by_hand", "test_the_pull_is_one_sided"),
    invariants=(
      "test_the_first_task_learns_by_its_own_rows",
      "test_the_slow_copy_begins_as_the_fast_one_and_follows",
      "test_the_base_stands_and_who_answers",
      "test_after_a_request_the_slow_copy_is_the_parameters",
      "test_what_i_lora_refuses",
    ),
    claim=("i_lora",),
    deviations=(
      "kernels of any layers, where the paper has the attention of a language model",
      "the classifier is trained in full, shared by all tasks and averaged with the adapter",
      "the slow copy follows the fast adapter; in the released code it stays zero, for names of leaves do not match",
      "the slow copy answers; the released code saves the fast one (answers='fast')",
      "the mean is over a layer's numbers and then over layers, the same where they are of one width",
    ),
    arguments={"rank": 2, "capacity": 20},
    first_task_plain=False,
  ),
  "key_value_bottleneck": Record(
    spec="replay_architecture_metrics B14",
    compared=(
      "test_key_value_bottleneck_s_steps_by_hand",
      "test_keys_are_averaged_by_hand",
      "test_keys_are_fitted_to_rows_without_labels",
    ),
    invariants=(
      "test_a_step_moves_what_its_rows_read_alone",
      "test_a_bottleneck_begins_without_keys_and_values",
      "test_a_bottleneck_needs_features",
    ),
    claim=("key_value_bottleneck",),
    deviations=(
      "keys are fitted to rows of the first task, where the paper also has other data",
      "a default for small networks: 32 codebooks of 64 pairs; no learned decoder behind the values",
    ),
    arguments={"codebooks": 8, "pairs": 16},
    first_task_plain=False,
  ),
  "niwf": Record(
    spec="replay_architecture_metrics B13",
    compared=("test_niwf_s_steps_by_hand", "test_coordinates_compose"),
    invariants=(
      "test_a_field_begins_without_effect",
      "test_a_lock_keeps_what_was_committed",
      "test_a_task_that_comes_back_is_unlocked_and_committed_anew",
      "test_after_a_request_all_is_committed_anew",
      "test_old_answers_stay_with_disjoint_regions",
      "test_disjoint_regions_need_units",
    ),
    claim=("niwf",),
    deviations=(
      "read in the abstract alone: the form of the field, the number of anchors and the strength are chosen here",
      "the field makes low-rank factors, not all weights; each task has a classifier and BatchNorm of its own",
    ),
    arguments={"rank": 2, "width": 8},
    first_task_plain=False,
  ),
  "mrn": Record(
    spec="replay_architecture_metrics B24",
    compared=(
      "test_an_expert_learns_its_own_classes_by_hand",
      "test_the_router_s_fit_by_hand",
      "test_answers_by_hand",
      "test_domains_and_mixtures",
    ),
    invariants=(
      "test_before_the_first_end_the_first_expert_answers",
      "test_experts_stand_to_the_bit",
      "test_a_request_leaves_no_exemplar_and_the_router_to_its_next_fit",
      "test_what_mrn_refuses",
    ),
    claim=("mrn",),
    deviations=(
      "the router is a network of one hidden layer on features of norm 1, not two blocks of gated ones",
      "the router is made anew when a task ends, and fitted by SGD; the released code has Adam under one cycle",
    ),
    arguments={"capacity": 12, "passes": 3},
    first_task_plain=False,
  ),
  "desire": Record(
    spec="replay_architecture_metrics B3",
    compared=(
      "test_desire_s_step_by_hand",
      "test_shares_by_hand",
      "test_moments_are_of_what_was_merged",
      "test_draws_have_the_moments_of_their_classes",
    ),
    invariants=(
      "test_the_first_task_is_merged_as_it_is",
      "test_the_classifier_is_refitted_on_draws_alone",
      "test_the_base_stands_and_there_are_two_sets",
      "test_a_request_leaves_no_row_and_no_moments_of_a_class",
      "test_what_desire_refuses",
      "test_convolutions_are_merged_too",
    ),
    claim=("desire",),
    deviations=(
      "read in abstracts alone: that features are matched, the start of the shares and all numbers are chosen here",
      "a reservoir of training rows, whose labels nothing reads, stands for unlabelled rows of the test stream",
      "what was merged is a whole matrix, for merging pairs gives a larger rank",
    ),
    arguments={"rank": 2, "capacity": 20, "steps": 3, "samples": 10},
    first_task_plain=False,
  ),
}
