"""Records of further classic methods: sigmoids held to the last network's, two views that agree, replay by feedback."""

from records.form import Record

KIND = "method"
RECORDS: dict[str, Record] = {
  "lwf_mc": Record(
    spec="classic_methods B6",
    compared=(
      "test_lwf_mc_s_loss_has_the_teacher_s_sigmoids_at_old_classes",
      "test_the_first_task_of_lwf_mc_is_of_labels_and_its_own_outputs",
      "test_sigmoids_are_held_row_by_row",
    ),
    invariants=(
      "test_at_its_own_teacher_lwf_mc_pulls_no_old_output",
      "test_lwf_mc_s_teacher_is_of_the_boundary_and_follows_edits",
      "test_where_no_class_is_old_lwf_mc_learns_labels",
    ),
    claim=("lwf_mc",),
    first_task_plain=False,
  ),
  "dvc": Record(
    spec="its released code; classic_methods has no entry",
    compared=(
      "test_dvc_replays_the_rows_whose_gradients_grow_most",
      "test_dvc_s_gradient_by_differences",
      "test_where_tasks_have_softmaxes_of_their_own_views_agree_within_them",
      "test_without_views_dvc_is_retrieval_for_replay",
      "test_a_row_s_size_is_the_norm_of_its_gradient",
    ),
    invariants=(
      "test_rows_are_offered_once_and_absent_ones_never[dvc]",
      "test_one_view_that_says_all_classes_alike_is_the_least",
      "test_the_virtual_step_leaves_running_statistics",
      "test_colours_keep_what_they_should",
      "test_dvc_forgets_rows",
      "test_dvc_refuses_what_it_cannot_do",
    ),
    claim=("dvc",),
    deviations=(
      "written from the released code; the paper's own symbols could not be verified",
      "the second view of the virtual step is another than the step's; the released code makes one for both",
      "candidates are scored in eval mode, so that a row's score does not depend on the others",
      "logarithms have no eps",
      "values of second views are not cut to [0, 1]; their hue is turned in YIQ, not HSV; colours in one order",
      "each row is offered to the memory once in a run; insert='every_pass' is the released code's",
    ),
    arguments={"capacity": 20, "replay_batch": 4, "candidates": 8},
    neutral={"views": False, "beta": 0.0},
    first_task_plain=False,
  ),
  "bir": Record(
    spec="classic_methods A18",
    compared=(
      "test_bir_learns_half_of_new_rows_and_half_of_made_up_ones",
      "test_each_part_of_bir_can_be_left_out[prior]",
      "test_each_part_of_bir_can_be_left_out[targets]",
      "test_each_part_of_bir_can_be_left_out[gates]",
      "test_each_part_of_bir_can_be_left_out[likelihood]",
      "test_each_part_of_bir_can_be_left_out[off]",
      "test_where_tasks_have_softmaxes_of_their_own_one_says_each_row",
      "test_a_code_s_divergence_is_that_from_a_mixture",
    ),
    invariants=(
      "test_the_first_task_of_bir_has_no_replay",
      "test_classes_are_made_up_alike_with_a_task_that_has_them",
      "test_gates_are_a_share_drawn_once_for_each_class",
      "test_what_is_said_is_padded_with_probability_0",
      "test_internal_replay_is_of_what_a_layer_is_given",
      "test_made_up_rows_of_bir_are_not_counted_by_batch_norm",
      "test_a_request_throws_the_connections_away",
      "test_bir_refuses_what_it_cannot_make",
    ),
    claim=("bir",),
    deviations=(
      "where tasks have softmaxes of their own one earlier task, drawn with its class, says a row; the code takes each",
      "the code's log-variance has a bias, and the density of the prior's mixture is not cut at 1e-40",
      "made-up rows are of the pictures as the step shows them, augmented or not",
      "what lies below a layer stands as it began; the paper's was pre-trained",
    ),
    arguments={"latent": 4, "width": 8, "likelihood": "gaussian"},
    first_task_plain=False,
  ),
}
