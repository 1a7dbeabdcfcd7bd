"""Records of classic methods: consolidated classifiers, stable training, generative replay, lines of low loss."""

from records.form import Record

KIND = "method"
RECORDS: dict[str, Record] = {
  "cwr_star": Record(
    spec="classic_methods D9",
    compared=(
      "test_cwr_star_consolidates_by_the_numbers_of_rows",
      "test_the_spec_s_example_of_a_merge",
      "test_free_biases_are_neither_set_back_nor_consolidated",
      "test_ar1_pulls_the_network_by_its_path_and_never_the_classifier",
    ),
    invariants=(
      "test_weights_of_absent_classes_are_restored_to_the_bit",
      "test_a_frozen_network_stands_still_under_momentum_and_decay",
      "test_the_hybrid_with_si_is_ar1_but_for_the_classifier_s_pull",
      "test_a_class_that_is_forgotten_whole_begins_at_0_again",
      "test_a_classifier_without_an_axis_of_classes_is_refused",
    ),
    claim=("cwr_star",),
    deviations=(
      "biases are 0, as the published classifier has none; biases='free' is the third-party code's",
      "rows are counted once for each time that a step shows them, so that no pass over the task's rows is needed",
      "under a frozen extractor steps still normalise by their own rows, where the code has it in eval mode",
      "AR1 is without batch renormalisation and replay of activations",
    ),
    first_task_plain=False,
  ),
  "stable_sgd": Record(
    spec="classic_methods E5",
    compared=(
      "test_the_rate_falls_from_task_to_task",
      "test_the_rate_falls_no_lower_than_the_floor",
      "test_no_decay_and_no_floor_are_plain_sgd",
    ),
    invariants=("test_stable_sgd_needs_to_know_the_rate", "test_neutral_strength_is_the_base_run"),
    claim=("stable_sgd",),
    deviations=(
      "the optimizer keeps its state over epochs, where the code makes it anew at each; reset_per_task does at tasks",
      "dropout, batch size and momentum of the paper's regime are the run's own",
    ),
    neutral={"decay": 1.0, "floor": 0.0},
    first_task_plain=False,
  ),
  "dgr": Record(
    spec="classic_methods A18",
    compared=(
      "test_the_solver_learns_half_of_new_rows_and_half_of_made_up_ones",
      "test_the_generator_learns_the_same_rows_by_the_same_shares[gaussian]",
      "test_the_generator_learns_the_same_rows_by_the_same_shares[bernoulli]",
      "test_where_tasks_have_softmaxes_of_their_own_one_labels_each_row",
    ),
    invariants=(
      "test_the_first_task_has_no_replay",
      "test_generator_and_solver_of_before_stand_still_within_a_task",
      "test_generators_of_members_begin_apart_and_are_counted",
      "test_made_up_rows_are_not_counted_by_batch_norm",
      "test_made_up_rows_in_places_of_absent_ones_have_no_part",
      "test_a_request_throws_the_generator_away",
      "test_dgr_refuses_inputs_that_no_generator_makes",
    ),
    claim=("dgr",),
    deviations=(
      "where tasks have softmaxes of their own one earlier task, drawn for each row, labels it; the code takes each",
      "the generator has an Adam of its own, so that the solver's optimizer is the run's",
      "made-up rows are of the pictures as the step shows them, augmented or not",
    ),
    arguments={"latent": 4, "width": 8, "likelihood": "gaussian"},
  ),
  "mc_sgd": Record(
    spec="classic_methods E5",
    compared=(
      "test_mc_sgd_searches_both_lines",
      "test_stored_rows_of_all_earlier_tasks_have_a_part",
      "test_the_chain_factor_is_in_the_slope_of_a_line",
    ),
    invariants=(
      "test_the_search_begins_between_both_ends",
      "test_without_stored_rows_training_is_plain",
      "test_scrub_erases_every_stored_row",
    ),
    claim=("mc_sgd",),
    deviations=(
      "the search makes many steps, where third-party code makes one, and its gradients have the chain rule's factor",
      "rows are drawn when a task ends, balanced by class",
    ),
    arguments={"capacity": 20, "steps": 4, "points": 3},
  ),
}
