"""Records of methods made for pre-trained networks."""

from records.form import Record

KIND = "method"
GAUSSIANS = (
  "test_gaussians_are_means_and_covariances_of_rows_that_are_there",
  "test_a_root_is_one_and_the_same_whatever_the_rounding",
  "test_a_class_of_one_row_has_the_ridge_alone",
  "test_draws_have_the_mean_and_the_covariance",
  "test_alignment_is_sgd_on_drawn_features",
  "test_without_passes_or_classes_the_classifier_stands",
  "test_cleared_classes_are_as_if_never_met",
)
RECORDS: dict[str, Record] = {
  "slca": Record(
    spec="classic_methods F3",
    compared=(
      "test_slca_s_step_by_hand",
      "test_slca_measures_and_aligns_when_a_task_ends",
      "test_levelled_logits_have_a_mean_norm_of_tasks_that_are_there",
      "test_slca_answers_by_labels_that_rows_had",
    ),
    invariants=(
      "test_a_rate_for_each_group_whatever_the_optimizer",
      "test_the_first_end_leaves_the_classifier",
      "test_means_are_shrunk_by_the_place_of_their_task",
      "test_uneven_tasks_have_their_own_places",
      "test_a_task_that_comes_back_is_measured_as_the_newest",
      *GAUSSIANS,
    ),
    claim=("slca",),
    deviations=(
      "a class's task is the one that it was met in; the released code divides its number by the size of the task at "
      "hand",
      "a classifier that begins at 0 stands in place of the model's own",
      "covariances are drawn from by their symmetric roots, so that rounding makes none of them negative",
    ),
    arguments={"slow": 0.5, "passes": 2, "samples": 16},
    first_task_plain=False,
  ),
  "acl": Record(
    spec="replay_architecture_metrics B6",
    compared=(
      "test_acl_moves_the_network_as_by_hand",
      "test_a_pass_takes_each_row_once_in_batches",
      "test_acl_over_other_closed_forms",
    ),
    invariants=(
      "test_without_passes_acl_is_its_base",
      "test_a_task_that_comes_back_moves_nothing_under_acl",
      "test_steps_move_nothing_under_acl",
      "test_statistics_of_batches_move_while_acl_adapts",
      "test_what_acl_refuses",
    ),
    claim=("acl",),
    deviations=(
      "prototypes of rows as they are, where the released code's are of augmented ones",
      "over closed forms alone, whose features are those of the network that moves",
    ),
    arguments={"learning_rate": 0.05, "batch_size": 8},
    first_task_plain=False,
  ),
  "continual_clip": Record(
    spec="replay_architecture_metrics B27",
    compared=(
      "test_continual_clip_answers_by_labels_that_rows_had",
      "test_clip_goes_through_a_stream",
    ),
    invariants=(
      "test_nothing_moves_under_continual_clip",
      "test_a_class_that_goes_whole_has_no_prompt",
    ),
    claim=("continual_clip",),
    deviations=("a class is open from its first row on, where the authors' opens with its task",),
    first_task_plain=False,
  ),
  "zscl": Record(
    spec="replay_architecture_metrics B22",
    compared=(
      "test_zscl_s_step_by_hand",
      "test_zscl_is_of_rows_that_are_there",
      "test_zscl_ends_as_the_mean_of_the_last_network_and_snapshots",
      "test_zscl_s_reference_is_a_file_of_rows",
    ),
    invariants=(
      "test_at_the_first_network_distillation_has_no_slope",
      "test_without_snapshots_a_task_ends_where_it_came_to",
      "test_units_of_nothing_have_no_slope",
    ),
    claim=("zscl",),
    deviations=(
      "reference texts are the prompts of the classes, where the paper's are captions",
      "a model without texts compares its features with the first network's of the same rows",
      "KL stands in the place of the cross-entropy, whose slope is the same",
      "within a task the network itself answers, where the authors' evaluate the mean",
    ),
    arguments={"every": 2, "scale": 4.0},
    neutral={"images": 0.0, "texts": 0.0, "consolidation": 0.0, "every": 0},
    first_task_plain=False,
  ),
  "ease": Record(
    spec="classic_methods F4",
    compared=(
      "test_ease_s_step_by_hand",
      "test_prototypes_of_all_classes_in_all_spaces",
      "test_ease_answers_by_cosines_in_all_spaces",
      "test_with_one_task_it_is_the_cosine_to_means_of_tuned_features",
      "test_shares_of_new_classes_sum_to_one_and_are_nearly_equal",
    ),
    invariants=(
      "test_sizes_of_tasks_are_known_and_not_counted",
      "test_before_the_first_end_the_classifier_answers",
      "test_the_network_and_old_parts_stand_to_the_bit",
      "test_the_classifier_begins_anew_with_each_task",
      "test_a_class_that_a_later_task_has_again_is_that_task_s",
      "test_classes_that_go_whole_have_no_prototype",
    ),
    claim=("ease",),
    deviations=(
      "adapters stand beside layers, where the paper has one beside each block's perceptron",
      "which classes are a task's is known; the released code takes all tasks but the first to be of one size",
      "measuring all later spaces anew, and the frozen network's own space, are left out",
    ),
    first_task_plain=False,
  ),
  "lae": Record(
    spec="classic_methods F7",
    compared=(
      "test_lae_s_step_by_hand",
      "test_the_mean_is_the_parts_through_the_first_task_and_then_lags",
      "test_lae_answers_by_the_larger_of_both",
      "test_the_larger_is_taken_class_by_class",
    ),
    invariants=(
      "test_without_decay_both_answers_are_one",
      "test_the_classifier_learns_alone_at_first",
      "test_a_share_of_steps_is_a_number_of_steps",
      "test_the_network_under_lae_stands_to_the_bit",
      "test_after_a_request_the_parts_take_the_mean_s_place",
      "test_lae_s_parts_are_of_any_kind",
    ),
    claim=("lae",),
    deviations=(
      "parts stand beside all layers that method.layers finds, where the paper's are in the first five blocks",
      "prefixes are no kind of parts here",
      "the mean begins with the second task, as in the authors' code; a known port's begins with the network",
    ),
    arguments={"decay": 0.9, "frozen": 0.25},
    first_task_plain=False,
  ),
  "mos": Record(
    spec="replay_architecture_metrics B5",
    compared=(
      "test_mos_s_step_by_hand",
      "test_the_term_is_of_rows_and_means_that_are_there",
      "test_merging_draws_to_the_mean_of_old_parts",
      "test_mos_measures_and_aligns_when_a_task_ends",
      "test_mos_answers_where_a_row_stays",
    ),
    invariants=(
      "test_parts_are_merged_once_a_step",
      "test_to_answer_changes_nothing",
      "test_five_batches_of_each_class_by_default",
      "test_a_row_is_looked_for_four_times",
      "test_before_the_first_end_mos_s_classifier_answers",
      "test_the_network_and_mos_s_old_parts_stand_to_the_bit",
      "test_classes_that_go_whole_leave_mos",
      *GAUSSIANS,
    ),
    claim=("mos",),
    deviations=(
      "parts stand beside all layers that method.layers finds, where the paper's are beside each block's perceptron",
      "merging is done once a step and never to answer; the released code merges in every block of a forward pass",
      "parts of a new task begin anew",
    ),
    arguments={"passes": 5, "samples": 16},
    first_task_plain=False,
  ),
  "hide_prompt": Record(
    compared=(
      "test_hide_prompt_s_step_by_hand",
      "test_a_blend_is_of_all_old_prefixes",
      "test_hide_prompt_measures_and_aligns_when_a_task_ends",
      "test_hide_prompt_answers_by_the_prefixes_that_a_row_finds",
    ),
    invariants=(
      "test_prefixes_begin_as_the_last_task_s",
      "test_before_the_first_end_the_task_s_own_prefixes_answer",
      "test_old_prefixes_and_the_network_stand_to_the_bit",
      "test_classes_that_go_whole_leave_hide_prompt",
      "test_blocks_and_samples_of_hide_prompt",
      "test_the_term_is_of_rows_and_means_that_are_there",
      *GAUSSIANS,
    ),
    claim=("hide_prompt",),
    deviations=(
      "Gaussians of classes; the released default keeps ten centroids of each",
      "the classifier that finds prefixes learns on draws alone; the released code first trains it on rows",
      "a pass takes the draws of all classes; the released code leaves out as many as the new ones have",
      "keys, values and rows have names; the released code reshapes across them",
    ),
    arguments={"length": 2, "blocks": 1, "passes": 5, "samples": 16},
    first_task_plain=False,
  ),
}
