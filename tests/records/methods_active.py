"""Records of methods for labels that the learner asks for."""

from records.form import Record

KIND = "method"
RECORDS: dict[str, Record] = {
  "cal": Record(
    spec="replay_architecture_metrics A17",
    compared=(
      "test_scaled_distillation_weighs_new_rows_by_their_share",
      "test_der_adds_both_terms_of_one_draw",
      "test_er_is_the_mean_over_new_and_old_rows",
      "test_mir_replays_the_highest_rises_of_all_candidates",
      "test_sds2_replays_rows_that_cover_the_candidates[0.0]",
      "test_sds2_replays_rows_that_cover_the_candidates[3.0]",
      "test_covering_is_greedy_over_rows_that_are_there",
      "test_likeness_and_doubt_are_over_the_classes_of_the_mask",
    ),
    invariants=(
      "test_with_all_new_and_all_old_rows_it_is_training_on_everything[er]",
      "test_with_all_new_and_all_old_rows_it_is_training_on_everything[mir]",
      "test_with_all_new_and_all_old_rows_it_is_training_on_everything[sd]",
      "test_with_all_new_and_all_old_rows_it_is_training_on_everything[sds2]",
      "test_steps_of_a_round_follow_its_new_rows",
      "test_rows_of_the_round_itself_are_not_replayed",
      "test_cal_forgets_rows_and_its_share_follows",
      "test_cal_draws_no_more_than_it_looks_at",
      "test_a_memory_smaller_than_the_batch_is_drawn_whole[cal-3]",
      "test_replay_is_neutral_to_tolerance",
    ),
    claim=("cal",),
    deviations=(
      "the divergence is of distributions and a mean over rows; the released code gives it probabilities in the place "
      "of log-probabilities, and divides by the number of classes as well",
      "'mir' takes the highest rises, by a plain step of SGD; the released code draws by their softmax",
      "the share of new rows is of their number; the released code rounds it up to whole batches",
      "rows are judged in eval mode and without augmentation",
      "the rate of later rounds is the run's; the released code raises it by the replayed rows",
    ),
    arguments={"capacity": 20},
    neutral={"variant": "der", "alpha": 0.0, "beta": 0.0},
  ),
}
