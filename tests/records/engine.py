"""Records of cljax."""

from records.form import Record

KIND = "engine"
HELPERS = {
  "Access": "a type",
  "AccessError": "an error",
  "Batch": "a type",
  "CljaxError": "an error",
  "DivergedError": "an error",
  "__version__": "a name",
  "use_cores": "sets a flag of JAX; tests/engine/test_cores.py",
  "Evaluator": "a type, of cljax.evaluators",
  "Forget": "a type",
  "Learn": "a type",
  "Learner": "a type",
  "Member": "a type",
  "Memory": "a type",
  "Method": "a type",
  "Model": "a type",
  "Options": "a type",
  "Outputs": "a type",
  "Recipe": "a type",
  "Reference": "a type",
  "RunResult": "a type",
  "Stopped": "an error",
  "UsageError": "an error",
  "attach": "of cljax.regularizers",
  "consolidate": "of cljax.regularizers",
}
RECORDS: dict[str, Record] = {
  "compose": Record(
    compared=("test_parts_of_a_hybrid_add_up",),
    invariants=(
      "test_a_part_keeps_its_state_and_randomness",
      "test_a_penalty_of_no_strength_is_not_there",
      "test_parts_that_replay_add_up_in_any_order",
      "test_the_least_access_that_is_enough_for_all",
      "test_what_one_part_wants_after_a_request_is_done",
      "test_parts_that_do_not_go_together_are_refused[names0-ncm and supsup both define predict]",
    ),
  ),
  "load": Record(
    compared=("test_a_run_read_back_is_what_was_trained",), invariants=("test_a_run_of_the_library_comes_back",)
  ),
  "run": Record(
    compared=("test_a_run_is_momentum_sgd_on_each_task_in_turn", "test_accuracy_is_counted_right"),
    invariants=(
      "test_finetune_is_a_hand_written_loop",
      "test_chunks_of_any_size_give_the_same_bits",
      "test_what_is_reported_is_what_is_predicted",
      "test_without_a_task_the_classes_met_compete",
      "test_no_validation_rows_at_all_are_no_warning",
      "test_answers_by_event",
      "test_a_member_is_the_run_of_its_seed_alone",
      "test_a_member_stops_where_its_own_scores_say",
    ),
  ),
}
