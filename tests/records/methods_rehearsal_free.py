"""Records of methods that keep no rows as they were read: recalled outputs, coding vectors, sparse parts, experts."""

from records.form import Record

KIND = "method"
RECORDS: dict[str, Record] = {
  "recall_logits": Record(
    spec="regularizers_projectors 7.5",
    compared=(
      "test_recall_s_loss_and_step_are_by_hand[plain]",
      "test_recall_s_loss_and_step_are_by_hand[deviation]",
      "test_recall_s_loss_and_step_are_by_hand[variance]",
      "test_recall_s_loss_and_step_are_by_hand[combined]",
      "test_recall_s_loss_and_step_are_by_hand[regression]",
      "test_recall_s_loss_and_step_are_by_hand[both]",
      "test_released_variance_is_squared_once_more",
      "test_variances_are_of_rows_that_are_there",
    ),
    invariants=(
      "test_the_first_step_of_a_task_recalls_nothing_yet",
      "test_labels_of_new_classes_leave_old_outputs_alone",
      "test_the_first_task_has_nothing_to_recall",
      "test_plain_training_is_another_thing_in_the_first_task",
      "test_a_task_that_comes_back_recalls_the_others",
      "test_where_tasks_have_outputs_of_their_own_no_strength_is_plain_training",
      "test_between_tasks_nothing_of_rows_is_kept",
      "test_recall_logits::test_the_teacher_follows_an_edit",
    ),
    claim=("recall_logits",),
    deviations=(
      "any network, where the paper has a frozen ResNet-50 and a head with a sine for each task",
      "the old network is asked in each step; the numbers are the recorded ones but for augmented rows",
      "a class whose recorded outputs do not vary is divided by 1",
      "answers of the regression form are not clipped",
      "divide='deviation' is the distance that the paper names; the released code divides by the variance",
    ),
    first_task_plain=False,
  ),
  "napa_vq": Record(
    spec="replay_architecture_metrics B23",
    compared=(
      "test_the_graph_of_a_batch_is_that_of_its_rows",
      "test_a_row_is_pushed_from_neighbours_by_their_shares",
      "test_the_first_task_learns_vectors_of_turned_classes",
      "test_napa_vq_s_loss_is_by_hand[paper]",
      "test_napa_vq_s_loss_is_by_hand[released]",
      "test_vectors_learn_by_plain_descent_and_old_ones_stand",
    ),
    invariants=(
      "test_an_edge_lives_ten_decays",
      "test_more_neighbours_than_vectors_are_all_that_are_known",
      "test_a_distance_of_zero_has_no_slope",
      "test_mixed_means_lie_nearer_to_their_own",
      "test_at_its_own_teacher_the_distance_of_features_has_no_gradient",
      "test_means_are_of_all_turned_rows_when_a_task_begins_and_ends",
      "test_answers_are_the_nearest_vectors_of_unturned_classes",
      "test_napa_vq_s_teacher_follows_an_edit",
      "test_napa_vq_turns_square_pictures_alone",
    ),
    claim=("napa_vq",),
    deviations=(
      "vectors learn by plain descent at a rate that does not fall within a task",
      "the released code adds NA of the mixed means too, which move its graph",
      "the distance to the old network is a mean over rows; form='released': the norm of a batch",
      "means are of all rows of a task; the released loop drops the last short batch",
    ),
    arguments={"temperature": 0.5, "neighbours": 3, "vector_rate": 0.5},
    first_task_plain=False,
  ),
  "sharp": Record(
    spec="replay_architecture_metrics A9",
    compared=(
      "test_the_fewest_units_that_hold_a_share",
      "test_mature_units_are_those_of_each_class_of_the_task",
      "test_sharp_s_loss_is_of_the_step_s_rows_and_stored_values",
      "test_stored_are_hidden_values_of_the_last_task_alone",
    ),
    invariants=(
      "test_one_unit_that_holds_the_share_exactly_is_enough",
      "test_mature_units_read_no_young_ones",
      "test_what_is_mature_stands_and_answers_as_it_did",
      "test_lower_layers_train_in_the_first_task_or_never",
      "test_outputs_of_a_task_that_comes_back_learn_again",
      "test_stored_values_of_deleted_rows_go",
      "test_of_a_network_cut_at_its_outputs_these_alone_stand",
      "test_what_sharp_refuses",
    ),
    claim=("sharp",),
    deviations=(
      "dense, where the released network is sparse from the start and grows connections to young units",
      "cross-entropy of one classifier, where it has a contrastive loss and answers by nearest neighbours",
      "stored values are not cut to 8 bits; units mature when a task ends, all at once",
    ),
    arguments={"capacity": 8, "share": 0.6},
    first_task_plain=False,
  ),
}
