"""Records of the scenarios that cljax.streams.build knows by name; ``OBJECTS`` holds what makes each of them."""

from cljax.streams import blurry_rows, drawn_subsets, instance_rows, permuted, rotated
from cljax.streams.build import _groups, _shared, _split
from cljax.streams.relabel import permuted_labels, random_labels
from records.form import Record

KIND = "scenario"
OBJECTS = {
  "class": _split,
  "task": _split,
  "domain": _split,
  "group": _groups,
  "instance": instance_rows,
  "permuted": (_shared, permuted),
  "rotated": (_shared, rotated),
  "label_permuted": (_shared, permuted_labels),
  "label_random": (_shared, random_labels),
  "si_blurry": blurry_rows,
  "i_blurry": blurry_rows,
  "scole": (_split, drawn_subsets),
}
SPLITS = Record(
  spec="replay_architecture_metrics C4",
  compared=("test_the_three_splits_by_class", "test_what_takes_part_in_the_softmax_and_what_is_known_at_test"),
  invariants=("test_class_split_is_a_partition", "test_the_three_splits_by_class[domain]"),
)
BLURRY = (
  "the rows given to the pool are a random choice, not the first in stored order",
  "a draw that leaves a task without a row is made again",
)
RECORDS: dict[str, Record] = {
  "class": SPLITS,
  "task": SPLITS,
  "domain": SPLITS._replace(invariants=("test_domain_labels_are_positions",)),
  "group": Record(
    compared=("test_groups_by_hand",),
    invariants=("test_groups_are_domains", "test_a_task_is_a_group_and_holds_out_its_share"),
  ),
  "instance": Record(
    spec="additions S11",
    compared=("test_instance_rows_are_each_class_dealt_in_turn",),
    invariants=("test_an_instance_stream_is_a_partition_with_every_class_in_every_task",),
    deviations=("classes are dealt evenly; parts drawn without regard to class would differ by chance",),
  ),
  "permuted": Record(
    spec="replay_architecture_metrics C4",
    compared=("test_pixels_are_permuted_by_each_tasks_own_permutation",),
    invariants=(
      "test_permuted_view_is_a_permutation_and_the_first_task_is_permuted_too",
      "test_images_are_turned_about_their_centre",
      "test_tables_that_do_not_fit_into_memory_are_refused",
    ),
    deviations=("images are not padded first",),
  ),
  "rotated": Record(
    compared=("test_images_are_turned_about_their_centre",),
    invariants=("test_tables_that_do_not_fit_into_memory_are_refused",),
  ),
  "label_permuted": Record(
    compared=("test_renamed_classes_keep_their_rows",),
    invariants=(
      "test_hundreds_of_renamed_tasks_are_a_table_of_labels",
      "test_images_are_turned_about_their_centre",
      "test_tables_that_do_not_fit_into_memory_are_refused",
      "test_tasks_keep_their_labels_when_more_are_asked_for",
    ),
  ),
  "label_random": Record(
    compared=("test_random_labels_row_by_row", "test_random_labels_are_drawn_for_each_row_and_task[10]"),
    invariants=(
      "test_tables_that_do_not_fit_into_memory_are_refused",
      "test_tasks_keep_their_labels_when_more_are_asked_for",
      "test_a_random_label_cannot_be_forgotten_by_class",
    ),
  ),
  "si_blurry": Record(
    spec="replay_architecture_metrics C6",
    compared=("test_si_blurry_row_by_row[0]", "test_si_blurry_row_by_row[1]"),
    invariants=(
      "test_blurry_streams_keep_what_the_generator_promises",
      "test_si_blurry_varies_and_its_draws_follow_the_seed",
      "test_blurry_label_noise_stays_inside_the_task",
      "test_as_many_tasks_as_rows_are_possible_and_more_are_not",
    ),
    deviations=BLURRY,
  ),
  "i_blurry": Record(
    spec="replay_architecture_metrics C6",
    compared=("test_i_blurry_row_by_row", "test_i_blurry_moves_its_share_and_deals_it_evenly"),
    invariants=(
      "test_blurry_streams_keep_what_the_generator_promises",
      "test_as_many_tasks_as_rows_are_possible_and_more_are_not",
    ),
    deviations=BLURRY,
  ),
  "scole": Record(
    spec="replay_architecture_metrics C5",
    compared=(
      "test_drawn_subsets_one_by_one",
      "test_scole_learns_drawn_subsets_and_comes_back",
      "test_scole_draws_each_class_as_often_as_it_weighs",
    ),
    claim=("scole",),
    deviations=("classes are skewed by weights that are given; the paper's parameter is another",),
  ),
}
