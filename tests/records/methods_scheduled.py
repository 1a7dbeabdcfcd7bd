"""Records of methods that choose what is replayed, when, and in which form."""

from records.form import Record

KIND = "method"
RECORDS: dict[str, Record] = {
  "mix_cd": Record(
    spec="replay_architecture_metrics A11",
    compared=(
      "test_mix_cd_s_step_is_of_new_rows_and_of_those_that_were_right",
      "test_where_a_task_begins_stored_rows_are_judged",
      "test_rates_follow_the_damage_that_the_step_s_pass_sees",
      "test_bins_are_drawn_by_their_damage",
      "test_rows_are_drawn_by_weight_without_replacement",
    ),
    invariants=(
      "test_no_pass_beyond_the_training_s_own",
      "test_a_rate_is_an_unbiased_one_where_the_network_stands_still",
      "test_one_bin_is_uniform_replay_of_rows_that_were_right",
      "test_rows_are_right_among_the_classes_that_take_part",
      "test_mix_cd_forgets_rows_and_draws_what_is_left",
      "test_mix_cd_refuses_what_it_does_not_read",
    ),
    claim=("mix_cd",),
    deviations=(
      "written from the paper's abstract: the forms of rate, chance and weight are readings",
      "the prior data is a memory of bounded size, judged anew where a task begins",
      "rows are drawn without replacement within a step; a rate counts as at least 0.001 in a draw",
    ),
    arguments={"capacity": 20, "bins": 3},
    neutral={"beta": 0.0},
  ),
}
