"""Records of methods that learn prompts of a frozen network."""

from records.form import Record

KIND = "method"
GOES_ON = "gradients are not clipped and the optimizer goes on from task to task: both are the recipe's"
RECORDS: dict[str, Record] = {
  "l2p": Record(
    spec="replay_architecture_metrics B1",
    compared=(
      "test_l2p_s_loss_is_of_the_nearest_prompts_and_of_their_keys",
      "test_l2p_s_gradient_by_differences",
      "test_by_batch_most_rows_decide",
      "test_with_all_of_the_pool_the_choice_is_the_same_for_all",
    ),
    invariants=(
      "test_keys_that_no_row_takes_get_no_gradient",
      "test_answers_are_of_each_row_s_own_prompts",
      "test_with_others_open_all_classes_compete",
      "test_labels_of_absent_rows_are_not_seen",
      "test_a_stream_s_own_mask_holds_too",
      "test_the_network_and_old_outputs_stand_still[l2p]",
      "test_prompt_methods_ask_for_a_model_that_takes_them[l2p]",
      "test_what_a_model_says_of_its_rows_is_kept[l2p]",
      "test_prompts_begin_uniform_and_sizes_are_checked",
    ),
    claim=("l2p",),
    deviations=("each row chooses its own prompts; selection='batch' is the released code's vote", GOES_ON),
    arguments={"pool": 4, "length": 2, "chosen_prompts": 2},
    first_task_plain=False,
  ),
  "dualprompt": Record(
    spec="classic_methods F5",
    compared=(
      "test_dualprompt_s_loss_is_of_its_task_s_prefixes_and_key",
      "test_dualprompt_s_gradient_by_differences",
      "test_at_test_a_row_s_task_is_that_of_the_nearest_key",
      "test_by_batch_most_rows_name_the_task",
      "test_with_one_task_it_is_prefix_tuning",
    ),
    invariants=(
      "test_keys_of_tasks_not_begun_find_nothing",
      "test_old_prefixes_and_keys_stay_to_the_bit",
      "test_blocks_of_dualprompt",
      "test_the_network_and_old_outputs_stand_still[dualprompt]",
      "test_prompt_methods_ask_for_a_model_that_takes_them[dualprompt]",
      "test_what_a_model_says_of_its_rows_is_kept[dualprompt]",
    ),
    claim=("dualprompt",),
    deviations=("each row finds its own task; selection='batch' is the released code's vote", GOES_ON),
    arguments={"length": 2, "general_length": 2, "general_blocks": 1, "expert_blocks": 1},
    first_task_plain=False,
  ),
  "mvp": Record(
    spec="replay_architecture_metrics B2",
    compared=(
      "test_mvp_s_loss_by_hand",
      "test_mvp_s_gradient_by_differences",
      "test_answers_of_mvp_are_masked_row_by_row",
      "test_without_its_parts_mvp_s_loss_is_the_network_s",
      "test_gaps_of_gradients",
    ),
    invariants=(
      "test_prompts_and_masks_that_no_row_takes_stand",
      "test_rows_that_are_there_are_counted",
      "test_a_place_that_was_taken_often_is_further_away",
      "test_masks_begin_at_one_number",
      "test_labels_of_absent_rows_are_not_seen_by_mvp",
      "test_a_stream_s_own_mask_holds_for_mvp",
      "test_the_network_stands_under_mvp",
      "test_blocks_of_mvp",
    ),
    claim=("mvp",),
    deviations=(
      "each row is weighed by its own gradient's angle; the released code reduces the losses before it weighs them",
      "a row's distances are divided by its own count; the released code divides each by every row's",
      "prefixes of projected keys and values, where the released prompts are tokens or go through its projections",
      "no rows are stored, which is an option of the released code",
    ),
    arguments={"pool": 3, "length": 2, "general_length": 2, "general_blocks": 1, "expert_blocks": 1},
    first_task_plain=False,
  ),
  "coda_prompt": Record(
    spec="classic_methods F6",
    compared=(
      "test_coda_s_loss_is_of_weighed_components",
      "test_coda_s_gradient_by_differences",
      "test_answers_of_coda_are_of_all_components_begun",
      "test_vectors_away_from_others",
    ),
    invariants=(
      "test_components_of_later_tasks_have_no_part",
      "test_a_task_s_components_begin_at_right_angles_to_all_before",
      "test_old_components_stay_to_the_bit",
      "test_uniform_components_and_sizes_of_coda",
      "test_the_network_and_old_outputs_stand_still[coda_prompt]",
      "test_prompt_methods_ask_for_a_model_that_takes_them[coda_prompt]",
      "test_what_a_model_says_of_its_rows_is_kept[coda_prompt]",
    ),
    claim=("coda_prompt",),
    deviations=(
      "earlier components are held by the update, and not hidden from the gradient",
      "20 components for small networks, the paper's 100",
      GOES_ON,
    ),
    arguments={"components": 4, "length": 4, "blocks": 1, "orthogonality": 0.1},
    first_task_plain=False,
  ),
}
