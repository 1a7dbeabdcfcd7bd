"""Records of the methods of projection, subspaces."""

from records.form import Record

KIND = "method"
PLAIN = ("test_first_task_equals_the_base_learner",)
EPISODES = (
  "test_a_step_against_references",
  "test_an_episodic_memory_holds_a_share_of_each_task",
  "test_a_task_has_the_slot_in_which_it_was_met",
)
HEADS = "test_which_leaves_are_the_classifier_and_when_they_are_held"
RECORDS: dict[str, Record] = {
  "agem": Record(
    spec="regularizers_projectors 4.2",
    compared=(
      "test_agem_projects_on_the_gradient_of_rows_under_their_own_task",
      *EPISODES,
    ),
    invariants=(
      "test_as_many_rows_are_drawn_as_the_batch_has",
      "test_the_loss_of_stored_rows_does_not_rise",
      "test_on_the_update_no_step_raises_the_stored_loss[agem-momentum]",
      "test_an_episode_of_a_returning_task_replaces_its_own",
      *PLAIN,
    ),
    claim=("agem",),
    deviations=("the memory holds an even share of each finished task, drawn when it ends and balanced by class",),
    arguments={"capacity": 20},
  ),
  "gem": Record(
    spec="regularizers_projectors 4.1",
    compared=(
      "test_a_reference_s_rows_go_through_their_own_task[gem-heads]",
      *EPISODES,
      "test_the_loss_of_stored_rows_does_not_rise",
      "test_s_gem_draws_the_constraint_of_one_finished_task",
    ),
    invariants=(
      "test_as_many_rows_are_drawn_as_the_batch_has",
      "test_a_margin_has_no_place_behind_the_optimizer",
      "test_on_the_update_no_step_raises_the_stored_loss",
      *PLAIN,
    ),
    claim=("gem",),
    deviations=(
      "rows are drawn when a task ends, balanced by class; the released code keeps the last ones",
      "tasks to come have no multiplier",
    ),
    arguments={"capacity": 20},
  ),
  "gpm": Record(
    spec="regularizers_projectors 4.5",
    compared=(
      "test_old_text_keeps_its_predictions[gpm-update]",
      "test_old_text_keeps_its_predictions[gpm-gradient]",
      "test_what_skip_names_stays_free",
      "test_gpm_keeps_off_old_inputs[update]",
      "test_gpm_keeps_off_old_inputs[gradient]",
      "test_gpm_keeps_off_old_inputs[few]",
      "test_gpm_s_threshold_goes_on_from_the_tasks_met",
      HEADS,
    ),
    invariants=(
      "test_no_more_than_samples_rows_are_looked_at",
      "test_old_outputs_stay_under_any_optimizer[gpm-momentum]",
      "test_stored_inputs_keep_their_pre_activations",
      "test_where_tasks_have_outputs_of_their_own_those_of_others_stand_still",
      *PLAIN,
    ),
    claim=("gpm",),
    deviations=(
      "stands behind the optimizer; on='gradient' is the published order",
      "the first task reaches the threshold too, where the released code stays one direction below it",
      "biases and norm parameters are held after the first task, as in the released code",
    ),
    arguments={"samples": 16},
  ),
  "ogd": Record(
    spec="regularizers_projectors 4.3",
    compared=("test_ogd_keeps_off_old_output_gradients",),
    invariants=(
      "test_old_true_logits_stay_to_first_order_under_any_optimizer[ogd-adam]",
      "test_stored_true_logits_stay",
      "test_the_basis_is_of_the_sampled_rows_alone",
      "test_an_orthogonal_basis_has_room_for_each_task_once",
      "test_what_cannot_work_is_refused",
      *PLAIN,
    ),
    claim=("ogd",),
    deviations=(
      "stands behind the optimizer; on='gradient' is the published order",
      "all parameters are projected, the head too",
      "a task that comes back adds nothing",
    ),
    arguments={"samples": 4},
  ),
  "pca_ogd": Record(
    spec="regularizers_projectors 4.4",
    compared=("test_ogd_keeps_off_old_output_gradients",),
    invariants=(
      "test_old_true_logits_stay_to_first_order_under_any_optimizer[pca_ogd-adam]",
      "test_stored_true_logits_stay",
      "test_the_basis_is_of_the_sampled_rows_alone",
      "test_what_cannot_work_is_refused",
      *PLAIN,
    ),
    claim=("pca_ogd",),
    deviations=(
      "gradients are not centred unless 'center' says so, as in the theory; the released code centres them",
      "stands behind the optimizer; on='gradient' is the published order",
    ),
    arguments={"directions": 3, "samples": 12},
  ),
  "cuber": Record(
    spec="regularizers_projectors 4.6",
    compared=(
      "test_old_text_keeps_its_predictions[cuber-update]",
      "test_cuber_opens_the_spans_on_which_tasks_agree[update]",
      "test_cuber_opens_the_spans_on_which_tasks_agree[gradient]",
      "test_cuber_opens_the_spans_on_which_tasks_agree[open]",
      "test_cuber_scales_the_spans_on_which_tasks_disagree",
      HEADS,
      "test_a_task_has_the_slot_in_which_it_was_met",
    ),
    invariants=(
      "test_cuber_needs_a_kernel",
      "test_no_more_than_samples_rows_are_looked_at",
      "test_old_outputs_stay_under_any_optimizer[cuber-momentum]",
      "test_stored_inputs_keep_their_pre_activations",
      "test_cuber_and_tag_write_a_returning_task_where_it_was",
      *PLAIN,
    ),
    claim=("cuber", "cuber_scaled"),
    deviations=(
      "no code was found; written from memory of the paper",
      "regime 2's scaled weight projection is by request, with one matrix over the union of its spans",
      "stands behind the optimizer; on='gradient' is the published order",
    ),
    arguments={"samples": 16},
  ),
  "owm": Record(
    spec="additions S11.3",
    compared=(
      "test_owm_steps_through_the_inverse_of_all_batches_so_far[update-0.1]",
      "test_owm_steps_through_the_inverse_of_all_batches_so_far[gradient-1.0]",
      "test_owm_takes_the_mean_patch_of_every_place",
    ),
    invariants=(
      "test_owm_holds_what_the_first_task_saw_under_any_optimizer",
      "test_which_leaves_are_the_classifier_and_when_they_are_held",
      "test_neutral_strength_is_the_base_run",
    ),
    claim=("owm",),
    deviations=(
      "stands behind the optimizer; on='gradient' is the published order, whose clipping to 10 is the recipe's",
      "a bias goes with its kernel; the released networks have none",
      "a convolution takes every place; the released code every second one",
      "one alpha and one decay for all layers; the released code has one for each",
      "norm parameters, and what multiplies no captured input, are held after the first task",
    ),
    neutral={"alpha": 1e38},
    first_task_plain=False,
  ),
  "ncl": Record(
    spec="additions S11.2",
    compared=("test_ncl_steps_in_the_metric_of_the_tasks_so_far",),
    invariants=(
      "test_ncl_at_no_strength_learns_its_first_task_as_plain_descent",
      "test_requests_to_what_keeps_correlations_of_inputs_are_refused",
    ),
    claim=("ncl",),
    deviations=(
      "of feed-forward networks; the released code is of recurrent ones, whose factors it scales by their length",
      "one damping, in the metric alone; the released code also damps the factors before they are merged",
      "norm parameters, and what has no factors, are held after the first task",
    ),
    first_task_plain=False,
  ),
  "coso": Record(
    spec="regularizers_projectors 4.7",
    compared=(
      "test_coso_is_adam_off_the_old_output_directions[update]",
      "test_coso_is_adam_off_the_old_output_directions[gradient]",
      "test_coso_is_adam_off_the_old_output_directions[small]",
      HEADS,
    ),
    invariants=(
      "test_coso_holds_every_bias_once_one_kernel_has_a_direction[gradient]",
      "test_coso_holds_every_bias_once_one_kernel_has_a_direction[update]",
      "test_coso_takes_kernels_both_of_whose_sides_are_large_enough",
      "test_coso_keeps_off_stored_directions_under_any_optimizer[adamw]",
      "test_coso_s_biases_go_with_their_kernels",
      "test_coso_moves_off_the_stored_output_directions",
      "test_what_cannot_work_is_refused",
    ),
    claim=("coso",),
    deviations=(
      "every kernel that is large enough is adapted; the paper adapts attention output projections alone",
      "the threshold is reached, where the released code stays one direction below it",
      "the projection stands behind the optimizer; on='gradient' is the published order",
      "no temperature; the softmax is the stream's",
    ),
    arguments={"rank": 3, "sketch_rank": 4, "scale": 0.1},
    first_task_plain=False,
  ),
}
