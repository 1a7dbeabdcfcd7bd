"""Records of further methods for streams that are seen once: what is drawn to what, what is worth a place."""

from records.form import Record

KIND = "method"
ONCE = "each row is offered to the memory once in a run; insert='every_pass' is the released code's"
RECORDS: dict[str, Record] = {
  "cope": Record(
    spec="classic_methods A8",
    compared=(
      "test_cope_s_loss_draws_to_prototypes_and_rows_and_away_from_others",
      "test_cope_s_gradient_is_that_of_rows_alone",
      "test_prototypes_are_running_means_on_the_sphere",
      "test_a_row_is_not_its_own_pseudo_prototype",
    ),
    invariants=(
      "test_cope_s_loss_knows_no_names_of_classes",
      "test_one_class_in_the_batch_is_drawn_and_nothing_pushed",
      "test_only_classes_that_are_there_for_a_row_take_part",
      "test_the_repellor_is_finite_where_a_row_lies_on_another_class",
      "test_cope_answers_by_the_nearest_prototype",
      "test_cope_s_memory_is_balanced_and_drawn_whole_where_small",
    ),
    claim=("cope",),
    deviations=(
      "pseudo-prototypes get no gradient from the repellor; the released code lets it through",
      "prototypes begin as unit(U(-1, 1)); the released code's have no negative entries",
      "the memory is used in full by the classes there are; the released code has a fixed part for each",
      ONCE,
    ),
    arguments={"capacity": 20, "momentum": 0.5},
    first_task_plain=False,
  ),
}
