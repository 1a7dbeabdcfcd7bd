"""Records of cljax.data."""

from records.form import Record

KIND = "data"
HELPERS = {
  "Dataset": "a type",
  "Split": "a type",
  "options": "looks up the options of a loader",
}
RECORDS: dict[str, Record] = {
  "from_arrays": Record(
    compared=(
      "test_given_parts_are_kept_as_they_are",
      "test_a_part_is_held_out_of_each_class_by_draws_of_its_seed",
      "test_uneven_rows_are_padded_once[lists]",
    ),
    invariants=(
      "test_classes_and_numbers_at_their_bounds",
      "test_plain_lists_are_arrays",
      "test_what_is_no_mapping_is_refused",
      "test_so_many_groups_are_refused",
      "test_one_row_a_class_cannot_be_split",
      "test_real_targets_have_no_classes",
    ),
  ),
  "load": Record(
    compared=(
      "test_a_name_means_a_file_an_archive_or_a_folder",
      "test_npz",
      "test_embeddings",
      "test_contents_are_sklearns",
      "test_mnist[-.]",
      "test_cifar10[tar]",
      "test_cifar100_has_superclasses_as_groups",
      "test_tiny_imagenet",
      "test_folder_with_given_splits",
    ),
    invariants=("test_unknown_names", "test_archive_names_fall_back_to_tfds", "test_shapes_and_split"),
  ),
}
