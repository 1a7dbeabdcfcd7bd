"""Records of the methods of replay, replay_projection, prototypes, gradient_estimators, references."""

from records.form import Record

KIND = "method"
REPLAY = (
  "test_a_mean_behind_what_was_added_is_the_mean_of_all_averaged_rows",
  "test_parts_that_replay_add_up_in_any_order",
  "test_a_request_erases_stored_and_pending_rows",
  "test_as_many_rows_are_drawn_as_the_batch_has",
)
EPISODES = (
  "test_as_many_rows_are_drawn_as_the_batch_has",
  "test_on_the_update_no_step_raises_the_stored_loss",
  "test_first_task_equals_the_base_learner",
)
MIXED = (
  "test_a_step_against_references",
  "test_the_mixture_s_scales",
  "test_an_episodic_memory_holds_a_share_of_each_task",
  "test_a_task_has_the_slot_in_which_it_was_met",
  "test_the_pieces_of_replay",
)
NORMS = ("test_batch_norm_stays_out_of_the_projection",)
RECORDS: dict[str, Record] = {
  "er": Record(
    spec="replay_architecture_metrics A1",
    compared=(
      "test_a_replayed_row_s_loss_goes_into_its_own_task[heads]",
      "test_a_replayed_row_s_loss_goes_into_its_own_task[prompt]",
      "test_replay_of_an_earlier_task",
      "test_the_pieces_of_replay",
      "test_er_trains_on_the_current_and_the_stored_rows",
      "test_what_a_policy_keeps[ring]",
      "test_what_a_policy_keeps[class_balanced]",
    ),
    invariants=(*REPLAY, "test_er_memories_hold_rows_that_were_seen"),
    no_claim="the base of other methods' claims (er_projection, refresh_derpp), where it is measured",
    deviations=("each row is offered to the memory once in a run; insert='every_pass' is the released code's",),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
  "er_ace": Record(
    spec="classic_methods A2",
    compared=("test_er_ace_adds_two_means_under_two_masks",),
    invariants=(
      "test_incoming_rows_do_not_move_logits_that_are_masked",
      "test_with_all_classes_present_er_ace_is_er_with_added_means",
      "test_er_ace_forgets_rows_and_classes",
      "test_er_ace_beside_er",
      "test_absent_rows_have_no_label",
      "test_replay_is_neutral_to_tolerance",
    ),
    claim=("er_ace",),
    deviations=(
      "unseen classes are those of no trained row; the released code takes all numbers from the largest seen on",
      "a cosine head, which the released run has, is the model's to have",
      "each row is offered to the memory once in a run; insert='every_pass' is the released code's",
    ),
    arguments={"capacity": 20},
    neutral={"beta": 0.0, "mask": "none"},
    first_task_plain=False,
  ),
  "icarl": Record(
    spec="classic_methods A1",
    compared=(
      "test_icarl_s_lists_are_herded_and_cut",
      "test_icarl_s_loss_is_that_of_sigmoids_with_the_teacher_s_at_old_classes",
      "test_icarl_answers_by_the_nearest_mean_of_exemplars",
      "test_released_means_are_of_pictures_and_mirrored_ones",
      "test_unseen_outputs_take_part_in_the_released_form_alone",
    ),
    invariants=(
      "test_at_its_own_teacher_the_distillation_has_no_gradient",
      "test_tasks_that_share_classes_have_lists_of_their_own",
      "test_exemplars_that_cannot_be_are_refused",
    ),
    claim=("icarl",),
    deviations=(
      "steps pass over the task's rows; exemplars come beside them with their share of the union, not shuffled in",
      "the mean over outputs, as in the released code, where the paper prints the sum",
      "floor(M / K) rows, none picked twice, no mirrored pictures, seen outputs alone; form='released': as the code",
      "a class that several tasks share has a list for each of them, and is never distilled in one that has it",
    ),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
  "wa": Record(
    spec="classic_methods B3",
    compared=(
      "test_wa_s_loss_is_the_union_s_cross_entropy_and_distillation",
      "test_wa_scales_new_weights_to_the_norm_of_old_ones_once",
    ),
    invariants=("test_wa_needs_one_classifier", "test_first_task_equals_the_base_learner"),
    claim=("wa",),
    deviations=(
      "the clipping of weights at 0, which the paper is said to have, is left out (UNVERIFIED)",
      "the distillation has the factor T^2, which PyCIL's lacks",
      "exemplars come beside a task's rows with their share of the union, not shuffled in",
    ),
    arguments={"capacity": 20},
  ),
  "bic": Record(
    spec="classic_methods B1",
    compared=(
      "test_bic_s_loss_weighs_distillation_by_the_share_of_old_classes",
      "test_bic_corrects_the_newest_classes_alone",
    ),
    invariants=(
      "test_bic_holds_out_as_many_rows_of_each_class_and_trains_on_none",
      "test_bic_s_first_task_is_not_corrected",
      "test_bic_forgets_rows_of_both_memories",
      "test_bic_needs_two_exemplars_for_each_class",
    ),
    claim=("bic",),
    deviations=(
      "beta and gamma are fitted by descent on all held-out rows at once, of the logits (PyCIL's are softmaxed twice)",
      "the held-out rows of a task are drawn when it begins, at most a fifth of a class's",
      "exemplars come beside a task's rows with their share of the union, not shuffled in",
    ),
    arguments={"capacity": 40},
    first_task_plain=False,
  ),
  "gdumb": Record(
    spec="classic_methods A3",
    compared=(
      "test_gdumb_is_sgd_on_the_memory_alone",
      "test_restarted_rates_are_cosines",
      "test_boxes_are_mixed_by_their_area",
    ),
    invariants=(
      "test_steps_of_gdumb_train_nothing",
      "test_gdumb_is_a_function_of_the_stored_set_and_the_seed",
      "test_half_of_the_batches_are_mixed",
      "test_gdumb_forgets_rows_at_once_and_their_trace_with_the_next_training",
      "test_gdumb_mixes_pictures_alone",
    ),
    claim=("gdumb",),
    deviations=(
      "trained when a task ends, not whenever a prediction is asked",
      "no augmentation beside the mixing of boxes, and no warm-up pass, which the released code has",
    ),
    arguments={"capacity": 20, "passes": 31, "batch_size": 8},
    first_task_plain=False,
  ),
  "derpp": Record(
    spec="replay_architecture_metrics A2",
    compared=(
      "test_stored_predictions_of_any_form[derpp-regression]",
      "test_stored_predictions_of_any_form[derpp-sequence]",
      "test_a_row_s_own_mean_of_text_counts_the_same_tokens",
      "test_replay_of_an_earlier_task",
      "test_the_pieces_of_replay",
      "test_derpp_adds_both_draws",
    ),
    invariants=(
      *REPLAY,
      "test_stored_logits_are_compared_with_those_of_their_own_rows",
      "test_replay_is_neutral_to_tolerance",
    ),
    claim=("refresh_derpp",),
    arguments={"capacity": 20},
    neutral={"alpha": 0.0, "beta": 0.0},
    first_task_plain=False,
  ),
  "zeroth_order": Record(
    spec="regularizers_projectors 5.4",
    compared=(
      "test_zeroth_order_is_the_mean_quotient_along_its_directions[two_point-False]",
      "test_zeroth_order_is_the_mean_quotient_along_its_directions[one_sided-True]",
      "test_zeroth_order_takes_as_many_looks_as_it_says",
      "test_zeroth_order_s_other_updates[0-sign]",
      "test_zeroth_order_s_other_updates[0-scalar_sign]",
      "test_zeroth_order_s_other_updates[0-conserve]",
      "test_zeroth_order_s_other_updates[1-conserve]",
      "test_a_forward_gradient_is_a_projection_on_one_direction",
      "test_a_hybrid_is_first_order_up_to_its_switch",
    ),
    invariants=(
      "test_sparse_directions_keep_their_mask",
      "test_shrunk_estimates_are_as_safe_as_the_gradient",
      "test_combinations_that_mean_nothing_are_refused",
      "test_neutral_strength_is_the_base_run",
    ),
    claim=("zeroth_order",),
    deviations=(
      "z, where the paper prints its inverse: as in the released code",
      "20 queries and estimates shrunk by their dimension by default; the paper has one query, not shrunk",
      "the whole gradient is smoothed; the paper smooths the old tasks' part of it",
      "regularizers and references are first-order still",
    ),
    arguments={"epsilon": 0.05, "queries": 20, "shrink": False},
    neutral={"switch_step": 1000000},
    first_task_plain=False,
  ),
  "evolution_strategy": Record(
    spec="regularizers_projectors 5.5",
    compared=(
      "test_an_evolution_strategy_is_the_standardised_sum[False]",
      "test_an_evolution_strategy_is_the_standardised_sum[True]",
      "test_an_evolution_strategy_is_rewarded_for_right_answers",
    ),
    invariants=("test_antithetic_evolution_follows_the_gradient",),
    claim=("evolution_strategy",),
    deviations=("the reward is minus the loss of the batch, or right classes; the paper scores decoded answers",),
    arguments={"sigma": 0.05},
    first_task_plain=False,
  ),
  "ncm": Record(
    spec="classic_methods A17",
    compared=(
      "test_ncm_takes_the_nearest_mean_of_all_rows",
      "test_ncm_counts_a_returning_task_s_rows_once",
      "test_ncm_begins_with_the_logits_and_forgets_a_class",
    ),
    invariants=("test_first_task_equals_the_base_learner",),
    no_claim="a rule of prediction beside plain training; iCaRL's claim would need its exemplars",
    deviations=("means are of all rows of a task, not of stored exemplars, and features are not normalised",),
  ),
  "finetune": Record(
    spec="replay_architecture_metrics C4",
    compared=("test_what_a_reference_trains_on",),
    no_claim="the floor of every claim",
    neutral={},
  ),
  "joint": Record(
    spec="replay_architecture_metrics C4",
    compared=("test_what_a_reference_trains_on",),
    invariants=("test_joint_costs_what_the_others_cost_and_cumulative_does_not",),
    no_claim="the ceiling of every claim",
  ),
  "cumulative": Record(
    spec="replay_architecture_metrics C4",
    compared=("test_what_a_reference_trains_on",),
    invariants=("test_joint_costs_what_the_others_cost_and_cumulative_does_not",),
    no_claim="a reference with all rows so far",
  ),
  "er_agem": Record(
    spec="regularizers_projectors 4.8",
    compared=(
      *MIXED,
      *NORMS,
      "test_a_class_balanced_memory_is_of_the_largest_keys[domain]",
      "test_a_class_balanced_memory_is_of_the_largest_keys[task]",
    ),
    invariants=(*EPISODES, "test_unmet_classes_stay_under_references"),
    claim=("er_projection", "er_projection_elsewhere"),
    deviations=("quotas are of the classes met so far; the released code keeps a fixed share for every class",),
    arguments={"capacity": 20},
  ),
  "er_gem": Record(
    spec="regularizers_projectors 4.8",
    compared=(*MIXED, *NORMS),
    invariants=(*EPISODES, "test_er_gem_draws_each_task_s_own_rows", "test_a_margin_has_no_place_behind_the_optimizer"),
    claim=("er_projection",),
    deviations=("BatchNorm parameters follow their own gradient; the released code gives them none after a task",),
    arguments={"capacity": 20},
  ),
}
