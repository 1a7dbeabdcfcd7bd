"""Records of methods of frozen lower layers and stored codes, of intervals, and of prototypes that are moved."""

from records.form import Record

KIND = "method"
RECORDS: dict[str, Record] = {
  "remind": Record(
    spec="replay_architecture_metrics A8",
    compared=(
      "test_remind_s_step_is_of_reconstructions_of_new_and_stored_rows",
      "test_pairs_are_mixed_with_one_share",
    ),
    invariants=(
      "test_remind_stores_codes_and_forgets_rows",
      "test_remind_answers_by_what_codes_give_back",
      "test_a_full_memory_takes_from_the_largest_class",
      "test_pairs_are_of_distinct_rows",
      "test_maps_are_coded_place_by_place_and_cut",
      "test_remind_on_lower_layers_that_never_moved",
      "test_what_remind_refuses",
    ),
    claim=("remind",),
    deviations=(
      "the run's learning rate and steps of several rows, where a class's rate is halved every 100 of its rows",
      "codes are of rows as the step saw them, augmented or not",
      "centres by Lloyd's algorithm from rows drawn at random; replayed rows pass the upper layers by themselves",
      "a request's rows leave the memory; centres, means of many rows, stay until retraining",
    ),
    # Eight features of two classes: what the first task makes of them hardly tells the others apart.
    arguments={"replay_batch": 1, "mixup": False, "centroids": 64, "first_task": "frozen"},
    first_task_plain=False,
  ),
  "hyperinterval": Record(
    spec="regularizers_projectors 7.8",
    compared=(
      "test_hyperinterval_s_loss_is_of_the_worst_network_too",
      "test_hyperinterval_s_gradient_by_differences",
      "test_the_released_form_divides_by_the_tasks_twice",
    ),
    invariants=(
      "test_one_network_answers_out_of_what_all_intervals_share",
      "test_intervals_meet_and_hold_every_point",
      "test_boxes_of_layers_whose_weights_are_boxes[False]",
      "test_boxes_of_layers_whose_weights_are_boxes[True]",
      "test_a_new_task_begins_with_the_last_embedding",
      "test_later_tasks_begin_with_the_last_and_one_that_comes_back_with_its_own",
      "test_the_generator_begins_with_the_network_s_weights",
      "test_schedules_end_where_their_options_say",
      "test_short_tasks_are_remarked",
      "test_after_an_edit_what_is_held_to_follows",
      "test_hyperinterval_needs_an_mlp_of_relu",
    ),
    claim=("hyperinterval",),
    deviations=(
      "the middle of an interval of weights is the answer to the middle of the embedding's",
      "inputs may be negative; the released code refuses them",
      "the tasks' sum is divided by their number once; form='released' does it twice",
      "the generator's last layer begins with the model's own weights as its bias",
      "intervals that need not meet, and answers by the embedding of a told task, are left out",
    ),
    arguments={"gamma": 1.0, "width": 16, "embedding": 6, "ramp": 4, "decay": 0.05},
    first_task_plain=False,
  ),
}
