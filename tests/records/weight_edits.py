"""Records of cljax.edits."""

from records.form import Record

KIND = "weight edit"
HELPERS = {
  "LifecycleState": "a state type",
  "ClnpState": "a state type",
  "ClnpUnits": "a state type",
  "clnp_state": "looks up a state",
  "Fact": "rows of a fact",
  "ValueSearch": "numbers of a search",
}
CLNP = Record(
  spec="regularizers_projectors 8.9",
  compared=("test_clnp_over_two_tasks",),
  invariants=("test_finished_tasks_are_kept_to_the_bit",),
)
LIFECYCLE = Record(
  spec="regularizers_projectors 8.1",
  compared=("test_lifecycle_over_six_epochs",),
  invariants=("test_lifecycle_sleeps_and_wakes_with_what_was_stored", "test_lifecycle_overlapping_spells_store_once"),
  deviations=("the rule is a reconstruction: no code found",),
)
FACTS = "language_systems L8"
WHOLE = ("test_an_edit_is_its_formula",)
SEVERAL = ("test_an_edit_of_several_facts_over_two_layers_is_its_formula",)
REFUSED = "test_what_is_no_edit_is_refused"
RECORDS: dict[str, Record] = {
  "ema": Record(
    spec="regularizers_projectors 6.1", compared=("test_averages_leaf_by_leaf", "test_schedules_averaging::test_ema")
  ),
  "ema_decay": Record(spec="regularizers_projectors 6.1", compared=("test_schedules_averaging::test_ema",)),
  "lcia": Record(
    spec="regularizers_projectors 6.2",
    compared=(
      "test_lcia[False]",
      "test_lcia[True]",
      "test_lcia_falls_back_where_its_weight_leaves_the_open_interval",
    ),
    deviations=("the paper's formula; the released code weighs the other side, with a factor 2 (released=True)",),
  ),
  "reptile": Record(
    spec="regularizers_projectors 6.3",
    compared=("test_averages_leaf_by_leaf", "test_reptile_aligns_gradients"),
    invariants=("test_schedules_averaging::test_reptile",),
  ),
  "reptile_every": Record(
    spec="regularizers_projectors 6.3",
    compared=("test_averages_leaf_by_leaf", "test_schedules_averaging::test_reptile"),
    deviations=("no interpolation at step 0, where the released code makes one",),
  ),
  "fomo_forget": Record(
    spec="regularizers_projectors 8.2",
    compared=("test_forgotten_weights_are_drawn_evenly", "test_fomo_replaces_exactly_a_share"),
    deviations=("no code found: the share and the schedule are the user's",),
  ),
  "freeze": Record(
    spec="regularizers_projectors 8.4",
    compared=("test_freeze_zeroes_what_matches",),
    invariants=(
      "test_freeze_keeps_tensors_to_the_bit[adamw]",
      "test_freeze_may_begin_later_and_names_what_is_missing",
    ),
    deviations=("updates are held at zero; the released code sets the learning rate of the group to 0",),
  ),
  "heterogeneous_averaging": Record(
    spec="regularizers_projectors 8.6",
    compared=("test_heterogeneous_averaging_and_its_constraint",),
    deviations=("ratios weigh the tuned model, as in the paper; the released README weighs the base",),
  ),
  "lines": Record(spec="regularizers_projectors 8.5", compared=("test_lines_scales_depth_linearly",)),
  "path_mask": Record(
    spec="regularizers_projectors 8.4", compared=("test_freeze_may_begin_later_and_names_what_is_missing",)
  ),
  "project_ratios": Record(
    spec="regularizers_projectors 8.6",
    compared=("test_ratios_are_shifted_and_cut_until_the_mean_is_right",),
    invariants=("test_heterogeneous_averaging_and_its_constraint",),
  ),
  "lifecycle_epoch": LIFECYCLE,
  "lifecycle_init": LIFECYCLE,
  "lifecycle_mask": LIFECYCLE,
  "clnp": CLNP._replace(invariants=()),
  "clnp_consolidate": CLNP._replace(invariants=()),
  "clnp_end_task": CLNP,
  "clnp_init": CLNP._replace(invariants=("test_nothing_is_frozen_before_the_first_boundary",)),
  "clnp_threshold": Record(
    spec="regularizers_projectors 8.9", compared=("test_threshold_is_the_largest_within_the_margin",)
  ),
  "clnp_trainable": CLNP._replace(
    invariants=("test_finished_tasks_are_kept_to_the_bit", "test_nothing_is_frozen_before_the_first_boundary")
  ),
  "clnp_units": CLNP._replace(invariants=()),
  "soup": Record(compared=("test_a_soup_is_the_weighted_mean",)),
  "task_vectors": Record(compared=("test_task_arithmetic_adds_and_takes_away",)),
  "task_arithmetic": Record(compared=("test_task_arithmetic_adds_and_takes_away",)),
  "ties": Record(
    compared=(
      "test_ties_trims_elects_and_averages[0.2]",
      "test_ties_trims_elects_and_averages[0.5]",
      "test_ties_trims_elects_and_averages[1.0]",
    ),
    deviations=("numbers as large as the least that stays all stay",),
  ),
  "dare": Record(compared=("test_dare_drops_a_share_and_is_task_arithmetic_in_the_mean",)),
  "lines_of_several": Record(spec="regularizers_projectors 6.4", compared=("test_lines_of_several_scales_by_depth",)),
  "interpolate": Record(spec="additions S9", compared=("test_a_path_has_its_ends_to_the_bit",)),
  "match_units": Record(
    spec="additions S9",
    compared=(
      "test_units_in_another_order_are_the_same_function_and_found_again[mlp]",
      "test_units_in_another_order_are_the_same_function_and_found_again[cnn]",
    ),
    invariants=(
      "test_alignment_takes_the_barrier_away",
      "test_each_of_a_unit_s_weights_can_tell_which_it_is[in_kernel]",
      "test_each_of_a_unit_s_weights_can_tell_which_it_is[in_bias]",
      "test_each_of_a_unit_s_weights_can_tell_which_it_is[out_kernel]",
    ),
  ),
  "permute_units": Record(
    spec="additions S9",
    compared=(
      "test_units_in_another_order_are_the_same_function_and_found_again[mlp]",
      "test_units_in_another_order_are_the_same_function_and_found_again[cnn]",
    ),
  ),
  "fact": Record(spec=FACTS, compared=("test_a_fact_of_text_has_its_places",)),
  "key_moments": Record(
    spec=FACTS,
    compared=("test_moments_are_those_of_the_tokens_that_are_there",),
    invariants=(REFUSED,),
    deviations=("a ridge of 1e-4 of the mean diagonal by default; the released code has none",),
  ),
  "rank_one_update": Record(
    spec=FACTS,
    compared=("test_another_key_along_holds_at_the_key_and_may_grow_without_bound",),
    invariants=(
      "test_of_one_key_memit_is_a_share_of_rome_and_its_limit",
      "test_updates_refuse_what_has_no_solution",
    ),
  ),
  "least_squares_update": Record(
    spec=FACTS,
    compared=(
      "test_an_equality_is_the_constrained_least_squares",
      "test_a_strength_is_memit_s_form_and_its_minimum",
      "test_of_one_key_memit_is_a_share_of_rome_and_its_limit",
    ),
    invariants=("test_updates_refuse_what_has_no_solution",),
  ),
  "rome": Record(
    spec=FACTS,
    compared=(*WHOLE, "test_a_value_stays_within_its_radius_and_ends_when_it_is_enough"),
    invariants=("test_without_contexts_rome_is_r_rome", REFUSED),
    deviations=("contexts are the user's texts; the released code samples prefixes from the model",),
  ),
  "r_rome": Record(
    spec=FACTS,
    compared=WHOLE,
    invariants=("test_without_contexts_rome_is_r_rome", "test_an_edit_makes_the_answer_likely", REFUSED),
  ),
  "memit": Record(
    spec=FACTS,
    compared=(*SEVERAL, "test_memit_of_one_fact_is_a_share_of_emmet"),
    invariants=(REFUSED,),
    deviations=("the prompt's key weighs half and each context alike; the released code groups prefixes by kind",),
  ),
  "emmet": Record(
    spec=FACTS,
    compared=SEVERAL,
    invariants=("test_memit_of_one_fact_is_a_share_of_emmet", REFUSED),
    deviations=("gamma is 0 by default, as the paper has it; the released code's numbers make it MEMIT",),
  ),
}
