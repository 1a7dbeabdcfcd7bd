"""Records of further methods of replay and distillation: what is retrieved, what is kept, what is held."""

from records.form import Record

KIND = "method"
ONCE = "each row is offered to the memory once in a run; insert='every_pass' is the released code's"
UNION = "exemplars come beside a task's rows with their share of the union, not shuffled in"
RECORDS: dict[str, Record] = {
  "mir": Record(
    spec="classic_methods A4",
    compared=(
      "test_mir_replays_the_rows_that_the_coming_step_would_hurt",
      "test_against_the_best_loss_that_a_row_had",
    ),
    invariants=(
      "test_rises_are_measured_and_the_learner_stays",
      "test_mir_draws_candidates_of_earlier_tasks_or_of_all",
      "test_candidates_are_drawn_alike_among_those_allowed",
      "test_mir_draws_no_more_than_it_looks_at",
      "test_a_memory_smaller_than_the_batch_is_drawn_whole[mir-3]",
      "test_replay_is_neutral_to_tolerance",
    ),
    claim=("mir",),
    deviations=(
      "scores are of the network in eval mode and of rows without the run's augmentation",
      "the virtual step is one of plain SGD at virtual_rate, whatever the run's optimizer",
      ONCE,
    ),
    arguments={"capacity": 20, "candidates": 16},
    neutral={"beta": 0.0},
  ),
  "gss": Record(
    spec="classic_methods A6",
    compared=("test_gss_scores_rows_by_their_largest_cosine", "test_a_batch_s_own_cosine_is_the_gate"),
    invariants=(
      "test_a_full_memory_opens_to_batches_below_the_threshold",
      "test_gss_forgets_rows_and_their_scores",
      "test_a_memory_smaller_than_the_batch_is_drawn_whole[gss-3]",
      "test_replay_is_neutral_to_tolerance",
    ),
    claim=("gss",),
    deviations=(
      "current and replayed rows make one step, where the released code makes two of plain SGD, several times a batch",
      "replayed rows are drawn uniformly, not in the order of one shuffle",
      "gradients are of the network in eval mode, at the parameters behind the row's step",
      ONCE,
    ),
    arguments={"capacity": 20, "memory_strength": 2},
    neutral={"beta": 0.0},
    first_task_plain=False,
  ),
  "lucir": Record(
    spec="classic_methods B2",
    compared=(
      "test_lucir_s_loss_has_the_weight_of_the_task_that_is_learned",
      "test_lucir_s_gradient_by_differences",
      "test_new_directions_begin_at_the_means_of_their_features",
      "test_the_margin_is_of_old_rows_and_the_hardest_new_classes",
    ),
    invariants=(
      "test_at_its_own_teacher_features_are_not_pulled",
      "test_the_scale_of_features_counts_nowhere",
      "test_a_memory_smaller_than_the_batch_is_drawn_whole[lucir-4]",
    ),
    claim=("lucir",),
    deviations=(
      "the sum over rivals, as printed; the released code takes their mean (rank=1/rivals)",
      "a last layer without ReLU, which the released network has, is the model's to have",
      UNION,
    ),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
  "scr": Record(
    spec="classic_methods A5",
    compared=(
      "test_scr_s_loss_is_the_contrast_of_two_views",
      "test_scr_answers_by_the_nearest_mean_of_stored_rows",
      "test_cuts_are_parts_of_the_picture",
      "test_colours_keep_what_they_should",
    ),
    invariants=(
      "test_nothing_is_learned_while_nothing_is_stored",
      "test_views_are_mirrored_and_grey_as_often_as_said",
      "test_scr_needs_pictures",
      "test_a_memory_smaller_than_the_batch_is_drawn_whole[scr-3]",
    ),
    claim=("scr",),
    deviations=(
      "no review pass behind a task",
      "values of second views are not cut to [0, 1]; their hue is turned in YIQ, not HSV; colours in one order",
      "the second views go through the network in a pass of their own",
      ONCE,
    ),
    arguments={"capacity": 20, "replay_batch": 16, "width": 16, "least_area": 0.9, "jitter": 0.1, "flip": False},
    first_task_plain=False,
  ),
  "xder": Record(
    spec="classic_methods A14",
    compared=(
      "test_xder_s_loss_is_of_heads",
      "test_xder_s_gradient_by_differences",
      "test_stored_logits_learn_of_current_and_later_heads",
      "test_xder_stores_logits_when_a_task_ends",
      "test_xder_s_later_heads_are_contrasted",
    ),
    invariants=(
      "test_transplanted_logits_do_not_pass_their_label_s",
      "test_the_last_task_has_no_later_heads_and_the_first_no_old_ones",
      "test_xder_needs_pictures_for_its_views",
      "test_a_memory_smaller_than_the_batch_is_drawn_whole[xder-4]",
    ),
    claim=("xder",),
    deviations=(
      "where a label's logit is not positive later logits are moved down, not given a negative factor; form='released'",
      "the contrast is of the rows of the step, not of a third draw",
      "M // K rows of each class; the released code deals out what is left as well",
      "logits stored at a task's end are of rows without augmentation, in eval mode",
      "the similarity distillation of later code is left out",
    ),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
  "podnet": Record(
    spec="classic_methods B4",
    compared=(
      "test_podnet_s_loss_by_hand",
      "test_directions_are_trained_on_exemplars_when_a_task_ends",
      "test_new_directions_begin_at_centres_of_their_rows",
    ),
    invariants=(
      "test_the_margin_is_the_label_s_alone",
      "test_a_memory_smaller_than_the_batch_is_drawn_whole[podnet-4]",
      "test_layers_of_other_forms_are_maps_too",
      "test_the_first_step_behind_a_boundary_is_not_held",
    ),
    claim=("podnet",),
    deviations=(
      "the margin is the label's alone, as printed, where the released code takes it from all; form='released'",
      "the rate of the balanced training is constant, its batches as large as a step's",
      UNION,
    ),
    arguments={"capacity": 20, "directions": 2, "passes": 2},
    first_task_plain=False,
  ),
  "eeil": Record(
    spec="classic_methods B6",
    compared=(
      "test_eeil_distils_each_old_task_s_outputs_by_themselves",
      "test_eeil_is_trained_on_balanced_exemplars_when_a_task_ends",
    ),
    invariants=(
      "test_the_first_task_has_no_balanced_training_and_the_first_step_no_pull",
      "test_a_memory_smaller_than_the_batch_is_drawn_whole[eeil-4]",
      "test_first_task_equals_the_base_learner",
    ),
    claim=("eeil",),
    deviations=(
      "no gradient noise and no augmentation but the run's",
      "the rate of the balanced training is constant, its batches as large as a step's",
      UNION,
    ),
    arguments={"capacity": 20, "passes": 2},
  ),
  "cls_er": Record(
    spec="classic_methods A13",
    compared=("test_cls_er_holds_each_row_to_the_better_average", "test_averages_begin_with_a_half"),
    invariants=(
      "test_averages_are_renewed_as_often_as_said",
      "test_without_strength_cls_er_trains_as_er",
      "test_after_a_request_the_averages_are_the_parameters",
      "test_a_memory_smaller_than_the_batch_is_drawn_whole[cls_er-3]",
    ),
    claim=("cls_er",),
    deviations=(
      "BatchNorm's statistics are averaged with the weights; the released copies keep running ones of their own",
      "one decay for both averages, as in all published settings",
      ONCE,
    ),
    arguments={"capacity": 20, "decay": 0.5, "stable_rate": 0.9, "plastic_rate": 1.0},
    first_task_plain=False,
  ),
  "hal": Record(
    spec="classic_methods A11",
    compared=("test_hal_s_step_may_not_change_anchors", "test_anchors_are_rows_that_the_memory_unlearns"),
    invariants=(
      "test_hal_without_strength_is_er_with_a_ring",
      "test_later_tasks_leave_anchors_and_a_request_erases_a_class_s",
      "test_hal_s_mean_is_over_the_anchors_that_are_there_and_all_outputs",
      "test_hal_needs_numbers",
      "test_a_memory_smaller_than_the_batch_is_drawn_whole[hal-3]",
    ),
    claim=("hal",),
    deviations=("the sum over anchors and outputs of squares, as printed; Mammoth's mean is reduction='mean'", ONCE),
    arguments={"capacity": 20, "anchor_steps": 3},
    first_task_plain=False,
  ),
  "fdr": Record(
    spec="classic_methods A12",
    compared=(
      "test_fdr_holds_probabilities_by_their_distance",
      "test_fdr_stores_what_a_task_s_own_network_said",
    ),
    invariants=(
      "test_behind_a_boundary_the_distance_is_0_and_so_is_its_slope",
      "test_fdr_needs_a_row_for_each_task",
      "test_a_memory_smaller_than_the_batch_is_drawn_whole[fdr-3]",
      "test_first_task_equals_the_base_learner",
      "test_replay_is_neutral_to_tolerance",
    ),
    claim=("fdr",),
    deviations=("both terms make one step, as in the paper's objective; Mammoth takes a second one of plain SGD",),
    arguments={"capacity": 20},
    neutral={"alpha": 0.0},
  ),
  "lwm": Record(
    spec="classic_methods B6",
    compared=("test_lwm_holds_where_the_teacher_looked", "test_attention_is_grad_cam_of_the_last_maps"),
    invariants=(
      "test_at_its_own_teacher_lwm_pulls_nowhere",
      "test_lwm_needs_captured_layers",
      "test_first_task_equals_the_base_learner",
      "test_neutral_strength_is_the_base_run",
    ),
    claim=("lwm",),
    deviations=("maps are taken before the activation of the last layer that has places, in eval mode",),
    neutral={"strength": 0.0, "attention_strength": 0.0},
  ),
}
