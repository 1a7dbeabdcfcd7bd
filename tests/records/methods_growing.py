"""Records of methods whose network grows with the tasks, and of losses that weigh what is forgotten."""

from records.form import Record

KIND = "method"
UNION = "exemplars come beside a task's rows with their share of the union, not shuffled in"
RECORDS: dict[str, Record] = {
  "der_expand": Record(
    spec="classic_methods D6",
    compared=(
      "test_der_expand_s_step_moves_the_new_extractor_and_the_classifiers",
      "test_der_expand_s_classifier_is_fitted_anew_on_exemplars",
    ),
    invariants=(
      "test_the_first_task_of_der_expand_is_that_of_a_plain_network",
      "test_an_extractor_begins_as_the_last_and_old_features_stand",
      "test_batch_norms_of_extractors_that_stand_are_in_eval_mode",
      "test_a_network_grows_by_one_extractor_a_task",
      "test_der_expand_s_classifier_may_be_aligned_or_left",
      "test_der_expand_is_not_der_and_needs_features",
    ),
    claim=("der_expand",),
    deviations=(
      "the rate of the classifier's fit is constant, without weight decay",
      "the channel masks of the pruned variant, which no released code has, are left out",
      UNION,
    ),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
}
