"""Records of methods that give each task weights, units or a network of its own."""

from records.form import Record

KIND = "method"
TASKS = (
  "test_the_task_is_told_or_inferred_by_entropy",
  "test_inference_serves_a_run_without_told_tasks",
)
RECORDS: dict[str, Record] = {
  "packnet": Record(
    spec="classic_methods D1",
    compared=("test_packnet_s_steps_by_hand", "test_the_smallest_of_a_set", "test_owned_counts_are_those_by_hand"),
    invariants=(
      "test_old_answers_of_packnet_stay_to_the_bit",
      "test_a_task_that_comes_back_trains_its_classifier_alone",
      *TASKS,
    ),
    claim=("packnet",),
    deviations=(
      "each task has BatchNorm statistics and a classifier of its own",
      "a task that comes back trains its classifier alone, for later tasks use what it owns",
      "all weights tied at the cut are pruned, as in the released code",
    ),
    arguments={},
    first_task_plain=False,
  ),
  "hat": Record(
    spec="classic_methods D2",
    compared=("test_hat_s_steps_by_hand", "test_the_compensated_slope_is_that_of_every_scale"),
    invariants=(
      "test_the_scale_goes_from_its_inverse_to_the_steepest",
      "test_old_answers_of_hat_stay_to_the_bit",
      "test_hat_has_no_division_by_no_free_unit_and_needs_units",
    ),
    claim=("hat",),
    deviations=(
      "gates are 0 or 1 at test and in finished tasks, unless binary=False",
      "the update is scaled, not the gradient: the same for SGD, and right for Adam",
      "the slope of a gate is compensated up to |s e| = 50 also where float32 rounds 1 - a to 0",
      "gradients are not clipped at 10000; that is the optimizer's to do",
    ),
    arguments={"steepest": 1.0, "binary": False},  # else s depends on how many batches an epoch has
    first_task_plain=False,
  ),
  "wsn": Record(
    spec="classic_methods D3",
    compared=("test_wsn_s_steps_by_hand",),
    invariants=(
      "test_old_answers_of_wsn_stay_to_the_bit",
      "test_weights_outside_the_mask_of_a_step_keep_their_value",
    ),
    claim=("wsn",),
    deviations=(
      "masks are kept as bytes, uncoded",
      "biases and BatchNorm's scales learn in the first task; the paper's layers have none",
      "a task that comes back trains its classifier alone",
    ),
    arguments={},
    first_task_plain=False,
  ),
  "xdg": Record(
    spec="classic_methods D5",
    compared=("test_xdg_s_steps_by_hand", "test_the_units_that_are_silent"),
    invariants=(
      "test_no_silent_unit_is_plain_training_and_a_penalty_may_stand_beside",
      "test_convolutions_are_not_gated",
    ),
    claim=("xdg",),
    deviations=("BatchNorm has statistics of each task",),
    arguments={"share": 0.25},
    first_task_plain=False,
  ),
}
