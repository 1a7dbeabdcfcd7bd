"""Records of methods that score what a path gave, renew dormant units, or learn how to learn."""

from records.form import Record

KIND = "method"
NEUTRAL = "test_neutral_strength_is_the_base_run"
FIRST = "test_first_task_equals_the_base_learner"
RECORDS: dict[str, Record] = {
  "rwalk": Record(
    spec="classic_methods E1",
    compared=(
      "test_rwalk_pulls_by_fisher_and_path[True]",
      "test_rwalk_pulls_by_fisher_and_path[False]",
      "test_only_what_lowered_the_loss_scores",
    ),
    invariants=(
      NEUTRAL,
      FIRST,
      "test_both_parts_of_rwalk_lie_in_the_unit_interval",
      "test_rwalk_averages_the_scores_of_tasks",
      "test_rwalk_is_still_at_its_anchor",
      "test_ewc_plus_plus_keeps_no_path",
    ),
    claim=("rwalk",),
    deviations=(
      "scores of tasks are averaged, as the paper says; the released code adds the average to what there was",
      "the running Fisher is of the batch's mean gradient, at each step, and begins at 0",
      "steps after the last whole block count at the boundary as a block of their own",
    ),
    arguments={"strength": 0.5},
    neutral={"strength": 0.0},
  ),
  "redo": Record(
    spec="classic_methods G1",
    compared=(
      "test_redo_recycles_what_is_hardly_active",
      "test_a_flattened_convolution_is_read_place_by_place",
    ),
    invariants=(
      NEUTRAL,
      "test_silent_units_go_and_no_output_changes",
      "test_a_weight_between_two_recycled_units_goes_out_of_one",
      "test_scores_average_to_one_over_rows_and_places",
      "test_redo_refuses_models_whose_units_it_can_not_tell",
      "test_redo_says_where_it_never_acts",
    ),
    claim=("redo",),
    deviations=(
      "activations are those of the step's own batch, before its update; the paper's are of another batch",
      "behind a flattened convolution outgoing weights are found by tiling; the released code repeats",
      "optax counts steps once: the count in Adam's correction goes on",
    ),
    arguments={"tau": 0.3, "every": 2},
    neutral={"every": 1000},
    first_task_plain=False,
  ),
  "mer": Record(
    spec="classic_methods A9",
    compared=("test_mer_walks_row_by_row_and_steps_back_twice", "test_a_worked_walk_of_one_number"),
    invariants=(
      "test_a_row_of_mer_is_stored_behind_its_own_steps",
      "test_without_stepping_back_mer_is_sgd_of_single_rows",
      "test_mer_never_trains_on_statistics_of_one_row",
      "test_penalties_act_beside_the_walk_of_mer",
      "test_mer_needs_an_optimizer_of_known_rate",
      "test_mer_draws_no_more_than_it_stores",
      "test_scrub_erases_every_stored_row",
    ),
    claim=("mer",),
    deviations=(
      "algorithm 1, a row at a time; algorithm 6, one batch of stored and new rows for each inner step, is left out",
      "gradients of single rows are in eval mode; BatchNorm's statistics move by one pass over all rows of the step",
      "each row is offered to the memory once in a run; insert='every_pass' offers it in each epoch",
      "the rate is the run's, schedule included; in a hybrid terms of other parts are not seen by the walk",
    ),
    arguments={"capacity": 20, "replay_batch": 2, "beta": 0.5},
    first_task_plain=False,
  ),
  "la_maml": Record(
    spec="classic_methods A10",
    compared=(
      "test_la_maml_learns_rates_first_and_moves_by_them[la_maml]",
      "test_la_maml_learns_rates_first_and_moves_by_them[sync]",
      "test_la_maml_learns_rates_first_and_moves_by_them[c_maml]",
      "test_the_second_order_by_differences",
      "test_blocks_of_rows_and_rows_that_are_absent",
    ),
    invariants=(
      "test_a_rate_of_zero_or_below_holds_its_weight",
      "test_one_row_is_one_step_at_the_point_it_leads_to",
      "test_without_inner_steps_it_is_er",
      "test_the_meta_gradients_are_clipped_and_the_inner_ones_are_not",
      "test_la_maml_refuses_what_it_can_not_follow",
      "test_scrub_erases_every_stored_row",
    ),
    claim=("la_maml",),
    deviations=(
      "no inner gradient is clipped; the released code clips and drops the result",
      "inner steps are of rows in eval mode, the meta loss in train mode; BatchNorm's statistics move once a step",
      "the slopes of weights and of rates are cut to the same norm, each by itself",
      "the second order is the default, as algorithm 1 differentiates; that the paper's runs used it is UNVERIFIED",
      "each row is offered to the memory once in a run; insert='every_pass' offers it in each epoch",
    ),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
  "shrink_perturb": Record(
    spec="classic_methods G2",
    compared=(
      "test_weights_are_shrunk_and_noise_added_where_a_task_begins",
      "test_behind_each_step_it_is_decay_and_noise",
    ),
    invariants=(
      NEUTRAL,
      FIRST,
      "test_norms_and_their_statistics_are_left_alone",
      "test_layers_of_one_shape_draw_noise_of_their_own",
      "test_shrink_perturb_refuses_what_it_can_not_shrink",
    ),
    claim=("shrink_perturb",),
    deviations=(
      "kernels and their biases alone are shrunk and perturbed; scales and biases of norms are left as they are",
      "noise is normal, of one deviation for all layers, as printed; later code adds freshly drawn weights instead",
    ),
    arguments={"shrink": 0.9, "noise": 0.01},
    neutral={"shrink": 1.0, "noise": 0.0},
  ),
  "upgd": Record(
    spec="classic_methods G3",
    compared=(
      "test_upgd_holds_what_the_loss_would_miss",
      "test_noise_moves_most_what_is_used_least[True]",
      "test_noise_moves_most_what_is_used_least[False]",
      "test_the_gate_of_one_weight_and_of_harm",
    ),
    invariants=(
      NEUTRAL,
      "test_without_gate_noise_and_decay_upgd_is_the_plain_step",
      "test_upgd_corrects_its_first_utilities",
      "test_layers_of_one_shape_are_perturbed_apart",
    ),
    claim=("upgd",),
    deviations=(
      "where no utility is above 0 it is taken over the largest absolute one; the released code divides by the maximum",
      "the first-order utility alone; the second-order one of the paper is left out",
    ),
    arguments={"decay": 0.9, "noise": 0.001},
    neutral={"protect": False, "noise": 0.0},
    first_task_plain=False,
  ),
}
