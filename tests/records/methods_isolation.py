"""Records of methods that give each task weights, units or a network of its own."""

from records.form import Record

KIND = "method"
TASKS = (
  "test_the_task_is_told_or_inferred_by_entropy",
  "test_entropy_is_not_how_small_the_least_probable_is",
  "test_inference_serves_a_run_without_told_tasks",
)
RECORDS: dict[str, Record] = {
  "packnet": Record(
    spec="classic_methods D1",
    compared=("test_packnet_s_steps_by_hand", "test_owned_counts_are_those_by_hand"),
    invariants=(
      "test_old_answers_of_packnet_stay_to_the_bit[sgd-True]",
      "test_old_answers_of_packnet_stay_to_the_bit[adamw-False]",
      "test_a_task_that_comes_back_trains_its_classifier_alone",
      "test_what_earlier_tasks_own_has_no_gradient",
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
      "test_old_answers_of_hat_stay_to_the_bit[sgd-True]",
      "test_old_answers_of_hat_stay_to_the_bit[adamw-False]",
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
      "test_old_answers_of_wsn_stay_to_the_bit[sgd-True]",
      "test_old_answers_of_wsn_stay_to_the_bit[adamw-False]",
      "test_what_is_in_old_masks_has_no_gradient",
      "test_weights_outside_the_mask_of_a_step_keep_their_value",
      "test_a_classifier_of_any_name_is_of_each_task_and_has_no_mask",
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
  "pnn": Record(
    spec="classic_methods D4",
    compared=("test_columns_read_earlier_ones", "test_pnn_s_step_by_hand"),
    invariants=(
      "test_old_answers_of_pnn_stay_to_the_bit[sgd]",
      "test_old_answers_of_pnn_stay_to_the_bit[adamw]",
      "test_columns_of_scale_0_are_independent",
      "test_what_networks_pnn_takes",
    ),
    claim=("pnn",),
    deviations=(
      "the sum over earlier columns is inside of the adapter's relu, as in the paper and in Avalanche",
      "the output layer reads earlier columns too, as in the paper; in Avalanche it does not",
      "networks of dense layers alone, without dropout",
    ),
    arguments={},
    first_task_plain=False,
  ),
  "hypernetwork": Record(
    spec="von Oswald et al. 2020",
    compared=(
      "test_hypernetwork_s_steps_by_hand[0.0]",
      "test_hypernetwork_s_steps_by_hand[0.2]",
    ),
    invariants=(
      "test_a_hypernetwork_begins_near_the_network",
      "test_each_leaf_of_a_hypernetwork_is_its_own_beyond_ten_in_a_list",
      "test_strength_holds_old_weights_and_embeddings_stand",
      "test_each_task_of_a_hypernetwork_has_batch_statistics",
      "test_what_weights_are_averaged_with_follows[hypernetwork]",
    ),
    claim=("hypernetwork",),
    deviations=(
      "all weights are made at once; the chunked form is left out",
      "what is made is added to the model's initial weights",
      "the step ahead is one of plain SGD",
    ),
    arguments={},
    first_task_plain=False,
  ),
  "exssnet": Record(
    spec="replay_architecture_metrics B9",
    compared=("test_exssnet_s_steps_by_hand", "test_neighbours_vote_by_majority"),
    invariants=(
      "test_a_task_begins_with_the_scores_of_the_best_earlier_one",
      "test_as_many_rows_and_neighbours_are_asked_as_options_say",
      "test_old_answers_of_exssnet_stay_to_the_bit[sgd-True]",
      "test_old_answers_of_exssnet_stay_to_the_bit[adamw-False]",
    ),
    claim=("exssnet",),
    deviations=(
      "transfer asks 10 neighbours among 120 rows; in the code 200 among a fifth of the batches",
      "weights that a mask has alone learn from the model's own initial values",
      "a task that comes back trains its classifier alone",
    ),
    arguments={"share": 0.5},
    first_task_plain=False,
  ),
  "relevance_mapping": Record(
    spec="replay_architecture_metrics B10",
    compared=(
      "test_relevance_mapping_s_steps_by_hand[True]",
      "test_relevance_mapping_s_steps_by_hand[False]",
      "test_almost_rounding",
    ),
    invariants=(
      "test_old_answers_of_relevance_mapping_stay_to_the_bit[sgd-True]",
      "test_old_answers_of_relevance_mapping_stay_to_the_bit[adamw-False]",
      "test_half_is_rounded_down_in_what_answers_and_in_what_stands",
    ),
    claim=("relevance_mapping",),
    deviations=(
      "the training loop and the strength are UNVERIFIED",
      "the task is told, or inferred by entropy, not by likelihood",
    ),
    arguments={},
    first_task_plain=False,
  ),
  "incremental_rank": Record(
    spec="replay_architecture_metrics B11",
    compared=("test_incremental_rank_s_steps_by_hand", "test_columns_and_what_each_task_adds"),
    invariants=(
      "test_old_answers_of_incremental_rank_stay_to_the_bit[sgd-True]",
      "test_old_answers_of_incremental_rank_stay_to_the_bit[adamw-False]",
    ),
    claim=("incremental_rank",),
    deviations=(
      "the objective's loss, not the mean square of the softmax",
      "the classifier is not factorised",
    ),
    arguments={},
    first_task_plain=False,
  ),
}
