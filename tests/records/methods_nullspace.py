"""Records of methods that keep off, or scale steps along, the spaces of old inputs, and of what they lead to."""

from records.form import Record

KIND = "method"
PLAIN = ("test_first_task_equals_the_base_learner",)
RECORDS: dict[str, Record] = {
  "sgp": Record(
    spec="classic_methods E3",
    compared=(
      "test_sgp_scales_steps_along_old_inputs[update]",
      "test_sgp_scales_steps_along_old_inputs[gradient]",
      "test_sgp_scales_steps_along_old_inputs[few]",
    ),
    invariants=(
      "test_under_any_optimizer_sgp_moves_old_inputs_by_what_is_left",
      "test_absent_rows_count_for_nothing_in_sgp",
      "test_sgp_refuses_a_model_without_layer_inputs",
      "test_requests_to_what_keeps_spaces_of_old_inputs_are_refused",
      *PLAIN,
    ),
    claim=("sgp",),
    deviations=(
      "stands behind the optimizer; on='gradient' is the published order, in front of plain SGD",
      "the first task reaches the threshold too, where the released code stays one direction below it",
      "biases and norm parameters are held after the first task, as in the released code",
    ),
    arguments={"samples": 16},
  ),
  "adam_nscl": Record(
    spec="classic_methods E2",
    compared=(
      "test_adam_nscl_steps_in_the_null_space_of_all_old_inputs",
      "test_adam_nscl_looks_at_all_rows_and_at_absent_ones_not",
      "test_where_adam_nscl_draws_the_line",
    ),
    invariants=(
      "test_old_inputs_in_adam_nscl_keep_what_layers_made_of_them",
      "test_adam_nscl_refuses_what_it_cannot_do",
      "test_requests_to_what_keeps_spaces_of_old_inputs_are_refused",
      *PLAIN,
    ),
    claim=("adam_nscl",),
    deviations=(
      "no division by the Frobenius norm of the projection unless norm='frobenius', the released code's",
      "inputs enter row by row; the released code takes the mean over each batch first",
      "least eigenvalues at rounding level, or below 'floor', count as that: else one direction would be left",
      "biases and norm parameters are held after the first task; the paper has EWC on those of BatchNorm",
      "one learning rate; the released code has one each for the first task, later ones, heads and norms",
    ),
  ),
  "trgp": Record(
    spec="classic_methods E4",
    compared=(
      "test_trgp_learns_inside_old_spans_what_it_may_not_change[update-a region]",
      "test_trgp_learns_inside_old_spans_what_it_may_not_change[gradient-a region]",
      "test_trgp_learns_inside_old_spans_what_it_may_not_change[update-none]",
      "test_where_trgp_draws_the_line_of_trust",
    ),
    invariants=(
      "test_what_a_task_trusts_and_its_scales_stay_its_own",
      "test_trgp_s_thresholds_grow_and_its_columns_are_few",
      "test_trgp_refuses_what_it_cannot_do",
      "test_requests_to_what_keeps_spaces_of_old_inputs_are_refused",
    ),
    claim=("trgp",),
    deviations=(
      "stands behind the optimizer; on='gradient' is the published order",
      "the first new direction of a task joins the memory; the released code drops it",
      "Q is stored as R = Q - I, so that weight decay pulls to the identity",
      "the first task reaches the threshold too; biases and norm parameters are held after it",
    ),
    arguments={"samples": 16},
    first_task_plain=False,
  ),
  "bfp": Record(
    spec="regularizers_projectors 7.2",
    compared=("test_bfp_s_loss_and_step", "test_the_map_takes_sgd_steps_of_its_own_with_momentum"),
    invariants=(
      "test_a_linear_change_of_features_costs_nothing",
      "test_without_a_map_it_is_0_where_features_are_as_they_were",
      "test_in_the_first_task_bfp_is_its_base",
      "test_a_task_begins_with_a_map_of_its_own",
      "test_after_an_edit_bfp_s_old_network_follows_as_lwf_s_does",
      "test_bfp_refuses_what_it_does_not_read",
      "test_replay_is_neutral_to_tolerance",
      "test_scrub_erases_every_stored_row",
    ),
    claim=("bfp",),
    deviations=(
      "logits are held to those stored with the rows; the released code's default holds them to the old network's",
      "the map's slope is taken on rows before augmentation",
      "one layer, the features, and a linear map; the map of two layers (BFP-2) is left out",
    ),
    arguments={"capacity": 20},
    neutral={"strength": 0.0, "alpha": 0.0, "beta": 0.0},
    first_task_plain=False,
  ),
}
