"""Records of cljax.evaluators."""

from records.form import Record

KIND = "evaluator"
HELPERS = {
  "EVALUATORS": "the table of names",
  "Evaluator": "the form of an evaluator",
  "Predict": "what an evaluator asks of a learner",
  "Texts": "what an evaluator shows beside numbers",
  "checked": "refuses what an evaluator may not return",
  "given": "looks up what a user gives",
  "lookup": "looks a name up",
  "names": "the names there are",
  "parted": "texts and numbers that an evaluator returned, each by themselves",
  "register": "adds a name",
}
RECORDS: dict[str, Record] = {
  "bits_per_byte": Record(
    spec="language_substrate F1",
    compared=("test_bits_a_byte_are_the_mean_surprise_of_plain_letters",),
    invariants=("test_what_a_request_names_is_shown_no_more", "test_what_they_need_is_said_in_one_line"),
  ),
  "clnp_units": Record(
    spec="regularizers_projectors 8.9",
    compared=("test_clnp_says_how_many_units_are_left",),
  ),
  "clusters": Record(
    compared=("test_clusters_of_a_run_are_matched_over_all_rows",),
    invariants=("test_clusters_leave_out_deleted_rows", "test_clusters_say_what_they_need"),
    deviations=("on test rows, as the continual form has it; Vaze et al. 2022 group the unlabelled training rows",),
  ),
  "linear_probe": Record(
    compared=(
      "test_a_probe_is_ridge_regression_of_one_hot_labels[class-0.001-256]",
      "test_a_probe_is_ridge_regression_of_one_hot_labels[task-2.0-5]",
      "test_a_probe_is_ridge_regression_of_one_hot_labels[domain-0.1-7]",
      "test_a_probe_of_a_run_is_of_its_features",
    ),
    invariants=("test_a_probe_has_no_deleted_rows", "test_a_probe_says_what_it_needs"),
    deviations=("ridge regression of one-hot labels, where Chen et al. 2020 fit a logistic one by SGD",),
  ),
  "plasticity": Record(
    spec="additions S8",
    compared=("test_plasticity_is_of_the_next_task_s_inputs",),
    invariants=("test_plasticity_says_what_it_needs",),
  ),
  "recall": Record(
    compared=(
      "test_rows_are_continued_as_by_hand[recall-4-0.5-2]",
      "test_rows_are_continued_as_by_hand[other-3-0.3-1]",
    ),
    invariants=("test_rows_not_learned_yet_have_none", "test_rows_learned_by_heart"),
    deviations=("from memory of the paper; greedy, and of half of a row, where it samples models of its own sizes",),
  ),
  "samples": Record(
    spec="language_systems L12 (repetition, language identification)",
    compared=(
      "test_what_is_said_is_as_by_hand[samples-3-options0]",
      "test_what_is_said_is_as_by_hand[drawn-2-options1]",
    ),
    invariants=(
      "test_what_a_request_names_is_shown_no_more",
      "test_draws_are_others_than_the_likeliest_and_the_same_after_each_event",
      "test_what_they_need_is_said_in_one_line",
    ),
    deviations=("languages are told apart by trigrams of the tasks' own test rows, where papers take a trained tool",),
  ),
}
