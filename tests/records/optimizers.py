"""Records of cljax.optimizers."""

from records.form import Record

KIND = "optimizer"
HELPERS = {
  "CbpState": "a state type",
  "ClasspState": "a state type",
  "HistoryState": "a state type",
  "MeanField": "a type",
  "TagState": "a state type",
}
CLASSP = Record(
  spec="regularizers_projectors 5.1",
  compared=(
    "test_classp[False-2.0]",
    "test_classp[False-3.0]",
    "test_classp[True-2.0]",
    "test_the_gate_of_classp_is_strict",
  ),
  invariants=("test_classp_invariants",),
  deviations=(
    "the gate is by weight and the power counts; the released code gates whole tensors and adds |g| (released=True)",
  ),
)
TAG = Record(
  spec="regularizers_projectors 5.2",
  compared=(
    "test_tag_over_three_tasks[rmsprop]",
    "test_tag_over_three_tasks[adagrad]",
    "test_tag_over_three_tasks[adam]",
  ),
  deviations=(
    "the count of Adam's correction starts anew with a task, not with an epoch; a tensor without direction has "
    "cosine 0, not NaN",
  ),
)
CBP = (
  "the next bias takes over the mean that goes (the paper's intent); in the released code it is always 0",
  "moments of reset weights are 0; their step counts stay, as optax counts once",
)
RECORDS: dict[str, Record] = {
  "c_flat": Record(
    spec="classic_methods E6",
    compared=(
      "test_both_are_the_gradients_at_the_points_they_climb_to[0.2-0.2]",
      "test_both_are_the_gradients_at_the_points_they_climb_to[0.05-1.5]",
    ),
    invariants=(
      "test_without_strength_it_is_sam_and_without_radius_the_gradient",
      "test_where_the_gradient_is_zero_it_stays_finite",
      "test_negative_numbers_are_refused",
    ),
  ),
  "sam": Record(
    spec="classic_methods E6",
    compared=(
      "test_both_are_the_gradients_at_the_points_they_climb_to[0.2-0.2]",
      "test_both_are_the_gradients_at_the_points_they_climb_to[0.05-1.5]",
    ),
    invariants=(
      "test_without_strength_it_is_sam_and_without_radius_the_gradient",
      "test_where_the_gradient_is_zero_it_stays_finite",
    ),
  ),
  "classp": CLASSP,
  "claw_adapt": Record(
    spec="regularizers_projectors 8.8",
    compared=("test_claw_adapts_each_neuron_by_its_relaxed_choice",),
    invariants=("test_claw_is_bounded_and_neutral",),
    deviations=("a reconstruction: the paper's own text was not available; the choice is a binary concrete variable",),
  ),
  "continual_backprop_init": Record(
    spec="regularizers_projectors 5.3",
    compared=("test_states_start_at_zero",),
    invariants=("test_rate_zero_changes_no_bit_and_immature_units_are_safe",),
  ),
  "continual_backprop_step": Record(
    spec="regularizers_projectors 5.3",
    compared=(
      "test_continual_backprop_step_with_a_convolution[contribution]",
      "test_continual_backprop_step_with_a_convolution[adaptable]",
      "test_utilities_ages_and_choice_match_numpy",
      "test_reset_removes_exactly_the_contribution_and_the_bias_takes_over_its_mean",
      "test_young_units_are_ranked_by_their_corrected_utility",
    ),
    invariants=(
      "test_rate_zero_changes_no_bit_and_immature_units_are_safe",
      "test_the_number_replaced_is_the_rate_times_the_eligible",
      "test_moments_of_reset_units_are_emptied_and_nothing_else",
    ),
    deviations=CBP,
  ),
  "evolution_strategy": Record(
    spec="regularizers_projectors 5.5",
    compared=("test_evolution_strategy_is_the_scored_sum[False]", "test_evolution_strategy_is_the_scored_sum[True]"),
    invariants=("test_evolution_strategy_invariants",),
    deviations=("antithetic pairs are an option; equal rewards give no update",),
  ),
  "forward_gradient": Record(
    spec="regularizers_projectors 5.4",
    compared=("test_forward_gradient_is_the_slope_along_its_direction",),
    invariants=("test_estimates_are_unbiased[forward]",),
  ),
  "history": Record(
    spec="regularizers_projectors 5.4",
    compared=("test_zeroth::test_history",),
    deviations=("smooths the whole gradient: the paper the old tasks' part, the released code the direction z",),
  ),
  "hybrid": Record(
    spec="regularizers_projectors 5.4",
    compared=("test_hybrid_is_exact_before_the_switch",),
    invariants=("test_hybrid_switches",),
  ),
  "infinite": Record(
    spec="regularizers_projectors 6.4",
    compared=("test_infinite[cosine]", "test_infinite[inverse_sqrt]", "test_schedules_without_warmup_or_cooldown"),
    deviations=("the bend of 'inverse_sqrt' is from memory",),
  ),
  "mean_field": Record(
    spec="regularizers_projectors 8.8",
    compared=("test_mean_field_by_hand", "test_pruning_variational::test_mean_field"),
  ),
  "mean_field_kl": Record(spec="regularizers_projectors 8.8", compared=("test_pruning_variational::test_mean_field",)),
  "mean_field_sample": Record(
    spec="regularizers_projectors 8.8",
    compared=("test_mean_field_by_hand", "test_pruning_variational::test_mean_field"),
  ),
  "natural_gradient": Record(
    spec="regularizers_projectors 8.8",
    compared=("test_mean_field_by_hand", "test_natural_gradient_is_the_inverse_fisher"),
    invariants=("test_a_natural_step_mixes_natural_parameters",),
  ),
  "natural_parameters": Record(
    spec="regularizers_projectors 8.8",
    compared=("test_mean_field_by_hand", "test_a_natural_step_mixes_natural_parameters"),
  ),
  "refresh": Record(
    spec="regularizers_projectors 3.2",
    compared=(
      "test_refresh_over_two_steps",
      "test_refresh_is_preconditioned_ascent",
      "test_refresh_as_released",
    ),
    deviations=("the noise's covariance is unverified; the released step, of another size, is released=True",),
  ),
  "rewarm_redecay": Record(
    spec="regularizers_projectors 6.4", compared=("test_rewarm_redecay", "test_schedules_without_warmup_or_cooldown")
  ),
  "scale_by_classp": CLASSP,
  "scale_by_tag": TAG._replace(
    compared=(*TAG.compared, "test_scale_by_tag_stores_directions_and_second_moments[rmsprop]"),
    invariants=(
      "test_tag_with_one_task_is_its_base_optimizer",
      "test_tag_steps_grow_with_every_cosine_and_dead_tensors_stay_finite",
    ),
  ),
  "tag": TAG._replace(invariants=("test_tag_with_one_task_is_its_base_optimizer",)),
  "tag_next_task": TAG._replace(
    compared=("test_scale_by_tag_stores_directions_and_second_moments[rmsprop]", *TAG.compared),
    invariants=("test_tag_steps_grow_with_every_cosine_and_dead_tensors_stay_finite",),
  ),
  "zo_conserve": Record(
    spec="regularizers_projectors 5.4",
    compared=("test_zo_conserve_takes_the_best_of_three",),
    invariants=("test_conserve_never_raises_the_loss_and_takes_the_best",),
    deviations=("behind Adam or momentum the loss may rise, as the paper's too",),
  ),
  "zo_sgd": Record(
    spec="regularizers_projectors 5.4",
    compared=(
      "test_zo_sgd_on_a_quadratic[False]",
      "test_zo_sgd_on_a_quadratic[True]",
      "test_the_two_sided_quotient_is_exact_on_a_quadratic",
    ),
    invariants=("test_queries_average_and_seeds_decide", "test_sparsity_keeps_its_mask_over_steps"),
    deviations=("times z, as the released code; the paper prints 1 / z",),
  ),
  "zo_sign": Record(
    spec="regularizers_projectors 5.4",
    compared=("test_zo_sign_and_the_released_sign", "test_signs"),
    deviations=("elementwise, as the paper prints; the released sign of the quotient alone is scalar_sign=True",),
  ),
}
