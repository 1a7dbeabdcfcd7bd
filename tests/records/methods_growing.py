"""Records of methods whose network grows with the tasks, and of losses that weigh what is forgotten."""

from records.form import Record

KIND = "method"
UNION = "exemplars come beside a task's rows with their share of the union, not shuffled in"
RECORDS: dict[str, Record] = {
  "der_expand": Record(
    spec="classic_methods D6",
    compared=(
      "test_der_expand_s_step_moves_the_new_extractor_and_the_classifiers",
      "test_der_expand_s_classifier_is_fitted_anew_on_exemplars",
    ),
    invariants=(
      "test_the_first_task_of_der_expand_is_that_of_a_plain_network",
      "test_an_extractor_begins_as_the_last_and_old_features_stand",
      "test_der_expand_s_classifier_may_be_aligned_or_left",
      "test_der_expand_is_not_der_and_needs_features",
      "test_growing_methods_draw_as_many_exemplars_as_asked[der_expand]",
    ),
    claim=("der_expand",),
    deviations=(
      "the rate of the classifier's fit is constant, without weight decay",
      "the channel masks of the pruned variant, which no released code has, are left out",
      UNION,
    ),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
  "memo": Record(
    spec="classic_methods D8",
    compared=("test_memo_s_step_moves_the_task_s_last_block",),
    invariants=(
      "test_memo_aligns_new_weights_and_grows_by_the_last_block",
      "test_shared_blocks_learn_in_the_first_task_and_with_always_old_features_drift",
      "test_what_the_last_block_of_memo_can_be",
      "test_growing_methods_draw_as_many_exemplars_as_asked[memo]",
    ),
    claim=("memo",),
    deviations=(
      "shared blocks stand after the first task, as PILOT has it; shared='always' is the released train_base",
      "shared BatchNorms are refused where shared blocks stand",
      UNION,
    ),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
  "foster": Record(
    spec="classic_methods D7",
    compared=(
      "test_foster_s_step_is_boosting_under_adjusted_logits",
      "test_foster_is_compressed_into_one_network",
      "test_class_weights_are_of_counts_and_of_mean_one",
    ),
    invariants=(
      "test_foster_s_first_task_is_one_network_and_its_answers_are_plain",
      "test_foster_counts_the_rows_of_each_class",
      "test_balanced_distillation_of_equal_classes_is_plain",
      "test_foster_begins_each_network_without_moments_and_has_one_between_tasks",
      "test_growing_methods_draw_as_many_exemplars_as_asked[foster]",
    ),
    claim=("foster",),
    deviations=(
      "no factor T^2 in the distillation, as in the released code",
      "weight decay, augmentation in the compression and aligning of the released code are left out",
      UNION,
    ),
    arguments={"capacity": 20, "passes": 4},
    first_task_plain=False,
  ),
  "hfc": Record(
    spec="regularizers_projectors 7.6",
    compared=("test_hfc_s_step_by_hand",),
    invariants=(
      "test_weights_of_equal_rows_are_those_of_z_alone",
      "test_weights_are_bounded_and_detached_and_of_rows_that_are_there",
      "test_the_first_task_of_hfc_is_plain_binary_cross_entropy",
      "test_means_of_classes_are_over_rows_that_are_there",
      "test_growing_methods_draw_as_many_exemplars_as_asked[hfc]",
      "test_hfc_with_aggregation_is_hfc_of_that_model",
    ),
    claim=("hfc",),
    deviations=(
      "any model in the place of the transformer with adapters; task-semantic aggregation is off by default",
      "aggregation without dropped paths, and at the rate of the rest; the released code has 5 times it",
      "outputs are those of classes met so far, among those that compete",
      UNION,
    ),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
}
