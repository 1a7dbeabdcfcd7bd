"""Records of the methods of plasticity, lifecycle, pruning, averaging, schedules, edits, masks and more."""

from records.form import Record

KIND = "method"
NEUTRAL = "test_neutral_strength_is_the_base_run"
FIRST = "test_first_task_equals_the_base_learner"
RECORDS: dict[str, Record] = {
  "ema": Record(
    spec="regularizers_projectors 6.1",
    compared=(
      "test_ema_trains_as_er_and_predicts_with_the_average",
      "test_one_pass_is_the_default_length_of_a_period",
    ),
    invariants=("test_scrub_erases_every_stored_row",),
    claim=("ema",),
    deviations=(
      "the paper's other averages (running means of other weights, self-feeding) are left out",
      "a deletion request puts the edited parameters in the average's place",
    ),
    arguments={"capacity": 20, "decay": 0.8, "early_decay": 0.7},
    first_task_plain=False,
  ),
  "lcia": Record(
    spec="regularizers_projectors 6.2",
    compared=("test_lcia_ends_a_task_at_its_average",),
    invariants=(FIRST,),
    claim=("lcia",),
    deviations=(
      "all parameters are averaged, where the paper has LoRA's; its routing by instruction is left out",
      "the weight is that of the old parameters, as in the paper; the code's is of the new, doubled ('released')",
      "the end of the first task sets the average; the released code chooses by a flag a task",
    ),
  ),
  "reptile": Record(
    spec="regularizers_projectors 6.3",
    compared=("test_reptile_goes_back_every_few_steps",),
    invariants=("test_scrub_erases_every_stored_row",),
    claim=("reptile",),
    deviations=(
      "each batch is doubled by replayed rows, where the paper replays at a share of the batch",
      "the memory is a reservoir; the released buffer overwrites a random place for every batch",
      "no step back at step 0, where the released code has one",
    ),
    arguments={"capacity": 20, "epsilon": 0.5, "every": 2},
    first_task_plain=False,
  ),
  "freeze": Record(
    spec="regularizers_projectors 8.4",
    compared=("test_freeze_is_descent_on_the_rest",),
    invariants=(
      "test_freeze_holds_layers_from_the_second_task_on",
      "test_what_begins_after_a_task_does_not_end_when_it_comes_back",
      NEUTRAL,
    ),
    claim=("freeze",),
    deviations=("frozen by a zero update, where the code has a learning rate of 0",),
    neutral={"begin_task": 99},
  ),
  "lines": Record(
    spec="regularizers_projectors 8.5",
    compared=("test_lines_scales_the_change_by_depth", "test_lines_takes_the_blocks_that_it_is_given"),
    invariants=("test_what_begins_after_a_task_does_not_end_when_it_comes_back", NEUTRAL),
    claim=("lines",),
    deviations=(
      "the head is the last block and learns with the task, where the paper's is frozen",
      "alpha is given, where the paper selects it on held-out data",
    ),
    neutral={"alpha": 1.0},
  ),
  "heterogeneous_averaging": Record(
    spec="regularizers_projectors 8.6",
    compared=("test_heterogeneous_averaging_climbs_the_likelihood",),
    invariants=("test_heterogeneous_averaging_keeps_the_mean_ratio_and_beats_equal_ones", NEUTRAL),
    claim=("heterogeneous_averaging",),
    deviations=(
      "the likelihood of labelled rows, where the paper's reward is that of what the tuned model generates",
      "projected gradient steps on the ratios, where the code has normalised sigmoids",
      "ratios weigh the tuned weights, as in the paper's equation; the code's README weighs the old ones",
    ),
    arguments={"samples": 16},
    neutral={"ratio": 1.0},
  ),
  "lifecycle": Record(
    spec="regularizers_projectors 8.1",
    compared=("test_lifecycle_wakes_units_as_they_fell_asleep",),
    invariants=("test_one_pass_is_the_default_length_of_a_period", NEUTRAL),
    claim=("lifecycle",),
    deviations=("a reconstruction: only the idea of the paper was read",),
    arguments={"probability": 0.1, "duration": 2, "period": 4},
    neutral={"probability": 0.0},
    first_task_plain=False,
  ),
  "fomo": Record(
    spec="regularizers_projectors 8.2",
    compared=(
      "test_fomo_pulls_to_the_stable_model",
      "test_fomo_forgets_a_share_and_predicts_with_the_stable_model",
    ),
    invariants=("test_one_pass_is_the_default_length_of_a_period", NEUTRAL),
    claim=("fomo",),
    deviations=(
      "a reconstruction: only the idea of the paper was read",
      "no adversarial examples: compose with what makes them",
    ),
    arguments={"decay": 0.1, "strength": 0.5, "period": 4},
    neutral={"fraction": 0.0, "strength": 0.0},
    first_task_plain=False,
  ),
  "supsup": Record(
    spec="replay_architecture_metrics B8",
    compared=(
      "test_supsup_trains_the_scores_of_its_task_alone",
      "test_supsup_infers_the_task_of_the_steepest_entropy",
    ),
    invariants=("test_supsup_holds_finished_masks_under_momentum", "test_supsup_infers_permuted_tasks"),
    no_claim="its tasks are told apart by their inputs, which the claims' streams do not have; a test shows it instead",
    deviations=(
      "one-shot inference by the entropy of the full softmax: no binary search, superfluous neurons or Hopfield net",
      "'sparsity' is the share of zeros, where the released code calls the share that is kept so",
    ),
    first_task_plain=False,
  ),
  "classp": Record(
    spec="regularizers_projectors 5.1",
    compared=("test_classp_gates_accumulates_and_divides", "test_under_sgd_the_step_is_the_transform_s_own[classp]"),
    invariants=("test_what_begins_after_a_task_does_not_end_when_it_comes_back[classp]", NEUTRAL),
    claim=("classp",),
    deviations=(
      "the gate is per weight and s grows by |g|^p; the published code gates by tensor and adds |g| ('released')",
      "the default threshold is 0, where the script has 0.5, which belongs to its other gate",
    ),
    neutral={"scaling": "never"},
  ),
  "tag": Record(
    spec="regularizers_projectors 5.2",
    compared=("test_tag_mixes_second_moments_by_direction", "test_under_sgd_the_step_is_the_transform_s_own[tag]"),
    invariants=("test_cuber_and_tag_write_a_returning_task_where_it_was",),
    claim=("tag",),
    deviations=(
      "the count of Adam's bias correction restarts with each task, where the published code restarts it every epoch",
      "a tensor without direction has cosine 0, where the published code gives NaN",
    ),
    arguments={"scale": 0.03},
    first_task_plain=False,
  ),
  "continual_backprop": Record(
    spec="regularizers_projectors 5.3",
    compared=("test_continual_backprop_renews_the_least_useful_units",),
    invariants=("test_reset_units_start_anew_and_the_rest_is_as_trained", NEUTRAL),
    claim=("continual_backprop",),
    deviations=(
      "the next bias takes over a unit's mean contribution, as intended; in the published code that is always 0",
      "per-weight step counts are not reset: optax counts steps once",
    ),
    arguments={"rate": 0.05, "maturity": 2},
    neutral={"rate": 0.0},
    first_task_plain=False,
  ),
  "elephant": Record(
    spec="regularizers_projectors 8.3",
    compared=("test_elephant_rebuilds_the_model",),
    invariants=("test_models_that_cannot_serve_are_refused",),
    claim=("elephant",),
    deviations=("width and height are fixed, where the released code learns both for each unit",),
    first_task_plain=False,
  ),
  "clnp": Record(
    spec="regularizers_projectors 8.9",
    compared=("test_clnp_prunes_to_the_margin_and_trains_what_is_free",),
    invariants=(
      "test_clnp_keeps_what_a_task_answers_to_the_bit",
      "test_averaging_edits::test_wrong_arguments",
      "test_absent_rows_activate_nothing",
    ),
    claim=("clnp",),
    deviations=(
      "the margin is of accuracy on training rows, where the paper takes held-out rows",
      "free neurons keep their weights for the next task",
      "classes are told apart by their outputs: one head, no task id at test",
    ),
    arguments={"samples": 32, "thresholds": 20},
    first_task_plain=False,
  ),
  "rewarm_redecay": Record(
    spec="regularizers_projectors 6.4",
    compared=("test_schedules_scale_the_update",),
    invariants=(NEUTRAL,),
    claim=("rewarm_redecay",),
    deviations=("no replay of its own: compose with er",),
    neutral={"floor": 1.0, "warmup": 0.0},
    first_task_plain=False,
  ),
  "infinite": Record(
    spec="regularizers_projectors 6.4",
    compared=("test_schedules_scale_the_update",),
    invariants=(NEUTRAL,),
    claim=("infinite",),
    deviations=("the cosine cool-down alone; the inverse square root is left out",),
    arguments={"warmup_steps": 2, "cooldown_steps": 4},
    neutral={"constant": 1.0, "warmup_steps": 0},
    first_task_plain=False,
  ),
  "vcl": Record(
    spec="regularizers_projectors 3.1",
    compared=(
      "test_the_loss_is_the_bound",
      "test_the_posterior_predicts_by_its_means_or_by_samples",
      "test_natural_vcl_has_the_rows_of_a_task_as_scale",
    ),
    invariants=("test_priors_follow_an_edit[vcl]",),
    claim=("natural_gradient_vcl", "vcl"),
    deviations=(
      "without coresets",
      "one draw of the weights a batch, and by default the means predict",
    ),
    arguments={"strength": 0.1},
    first_task_plain=False,
  ),
  "claw": Record(
    spec="regularizers_projectors 8.8",
    compared=("test_claw_s_loss_is_the_bound", "test_claw_folds_its_adaptation_into_the_prior", "test_bernoulli_kl"),
    invariants=("test_claw_without_room_to_adapt_is_vcl", "test_priors_follow_an_edit[claw]"),
    claim=("claw",),
    deviations=(
      "one fixed limit of adaptation, where the paper learns it",
      "no outer loop: adaptation is learned along; at a boundary its expectation goes into the means",
    ),
    arguments={"strength": 0.1},
    first_task_plain=False,
  ),
  "refresh": Record(
    spec="regularizers_projectors 3.2",
    compared=(
      "test_it_climbs_the_whole_loss_by_the_inverse_fisher_and_then_descends",
      "test_the_released_form_climbs_the_current_rows_alone",
      "test_refresh_climbs_twice_under_an_accumulating_fisher",
      "test_refresh_s_noise_is_as_large_as_its_step_says",
    ),
    invariants=(
      "test_without_ascent_it_is_the_base_method_to_the_bit",
      "test_scrub_erases_every_stored_row",
      "test_replay_is_neutral_to_tolerance",
    ),
    claim=("refresh_derpp", "refresh_ewc"),
    deviations=(
      "the penalty's part of the relearning gradient is taken before the ascent",
      "Fisher rows are not weighed by p(y|x), as the released code does",
      "the noise of the registered method is 0.01 of the theory's, which no network survives",
    ),
    neutral={"base": "finetune", "step_size": 0.0},
    first_task_plain=False,
  ),
}
