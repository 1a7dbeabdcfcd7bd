"""Records of methods that find classes in rows without labels."""

from records.form import Record

KIND = "method"
RECORDS: dict[str, Record] = {
  "happy": Record(
    spec="replay_architecture_metrics B25",
    compared=(
      "test_rows_with_labels_are_taught_and_clustered_by_hand",
      "test_rows_without_labels_are_clustered_by_hand",
      "test_prototypes_are_means_of_norm_one[True]",
      "test_prototypes_are_means_of_norm_one[False]",
      "test_the_radius_is_of_the_first_task",
      "test_new_directions_are_the_centres_that_old_classes_claim_least",
      "test_hard_prototypes_are_drawn_more_often",
    ),
    invariants=(
      "test_even_answers_cost_nothing_and_all_others_something",
      "test_a_group_without_classes_is_not_evened",
      "test_a_task_that_comes_back_is_not_old",
      "test_prototypes_have_the_noise_of_the_radius",
      "test_happy::test_the_teacher_follows_an_edit",
      "test_a_first_task_without_labels_begins_as_it_is",
      "test_supervision_is_of_rows_with_labels_alone",
      "test_a_task_without_labels_begins_with_centres_of_its_rows",
      "test_a_task_with_labels_begins_as_it_is",
      "test_the_teacher_is_the_model_that_ended_the_task",
      "test_absent_rows_are_clustered_with_none",
      "test_only_begun_classes_answer",
      "test_a_class_that_goes_leaves_no_prototype",
      "test_happy_needs_pictures_and_features",
    ),
    claim=("happy",),
    deviations=(
      "a task's last parameters stay, where the released code keeps those that tested best",
      "the network of the contrast has one hidden layer of ReLU, where the released one has two of GELU",
      "k-means starts once, from rows, where scikit-learn's starts from spread rows",
      "the first task is taught as in the released code; the spec does not say how",
      "the temperature of the sharp answers does not begin higher",
      "the first view is the row as the run shows it, augmented where the run augments",
    ),
    arguments={"width": 8, "least_area": 0.9, "jitter": 0.1, "flip": False},
    first_task_plain=False,
  ),
}
