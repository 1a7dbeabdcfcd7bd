"""Records of methods for streams that are seen once: contrast with proxies, strong and relational replay."""

from records.form import Record

KIND = "method"
ONCE = "each row is offered to the memory once in a run; insert='every_pass' is the released code's"
VIEWS = "values of second views are not cut to [0, 1]; their hue is turned in YIQ, not HSV; colours in one order"
OWN_PASS = "the second views go through the network in a pass of their own"
RECORDS: dict[str, Record] = {
  "pcr": Record(
    spec="replay_architecture_metrics A5",
    compared=(
      "test_pcr_s_loss_is_the_contrast_with_proxies_of_the_batch",
      "test_pcr_s_gradient_by_differences",
      "test_proxy_contrast_is_cross_entropy_with_the_batch_s_prior",
    ),
    invariants=(
      "test_proxies_of_absent_classes_stand_still",
      "test_only_directions_of_features_and_proxies_count",
      "test_answers_are_of_labels_that_were_seen",
      "test_without_views_pcr_takes_rows_of_any_form",
      "test_second_views_of_pcr_are_as_its_options_say",
      "test_second_views_are_not_counted_by_batch_norm",
      "test_a_small_memory_is_drawn_whole_by_proxies[pcr]",
    ),
    claim=("pcr",),
    deviations=(
      "while nothing is stored the step's rows are learned alone; the released code learns nothing of them",
      "rows of a last batch that is not full are learned too",
      VIEWS,
      OWN_PASS,
      ONCE,
    ),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
  "hpcr": Record(
    spec="replay_architecture_metrics A6",
    compared=(
      "test_hpcr_s_loss_is_a_wave_of_pcr_s_and_what_is_held",
      "test_hpcr_s_gradient_by_differences",
      "test_the_wave_is_least_at_first_and_most_half_a_period_on",
      "test_structure_is_a_cross_entropy_of_likenesses",
    ),
    invariants=(
      "test_stored_outputs_stand_beside_their_own_rows",
      "test_steps_are_counted_within_a_task",
      "test_without_strengths_hpcr_is_pcr",
      "test_a_small_memory_is_drawn_whole_by_proxies[hpcr]",
    ),
    claim=("hpcr",),
    deviations=(
      "replayed rows are held in the view that was stored; the released code holds their second views to it too",
      "the count of steps goes on over the epochs of a task",
      "while nothing is stored the step's rows are learned alone; the released code learns nothing of them",
      VIEWS,
      OWN_PASS,
    ),
    arguments={"capacity": 20, "period": 20},
    first_task_plain=False,
  ),
  "ser": Record(
    spec="replay_architecture_metrics A3",
    compared=("test_ser_s_loss_is_of_labels_and_of_both_old_answers",),
    invariants=(
      "test_the_first_task_of_ser_reads_no_stored_row",
      "test_behind_a_boundary_new_rows_are_not_pulled",
      "test_one_draw_serves_both_terms_of_ser",
      "test_ser_forgets_rows_and_its_teacher_follows_edits",
      "test_first_task_equals_the_base_learner",
    ),
    claim=("ser",),
    deviations=("rows are stored as they were read where tasks share classes too, and augmented anew",),
    arguments={"capacity": 20},
  ),
  "rer": Record(
    spec="replay_architecture_metrics A4",
    compared=(
      "test_the_net_s_slope_goes_through_a_weighted_step",
      "test_rer_s_step_has_the_weights_of_the_net_behind_its_own",
      "test_weights_are_of_losses_and_norms_of_pairs",
    ),
    invariants=(
      "test_an_undecided_net_weighs_as_before",
      "test_the_first_task_and_the_warm_passes_have_no_weights",
      "test_without_a_virtual_step_the_net_learns_nothing",
      "test_the_net_s_step_leaves_batch_norm_alone",
      "test_rer_forgets_rows_and_its_net_s_moments",
    ),
    claim=("rer",),
    deviations=(
      "weights are 2 sigma, so that losses keep their size where weights begin to count; span=1 is the released code's",
      "rows in the network's step are without the run's augmentation",
      "new and stored rows go through the model together, where the released code makes two passes",
      "a stored row that is not there leaves the new one its weight 1; the released code takes fewer new rows",
      "the form with stored logits (RDER) is left out",
      ONCE,
    ),
    arguments={"capacity": 20, "warm_passes": 0},
    first_task_plain=False,
  ),
  "uer": Record(
    spec="replay_architecture_metrics A7",
    compared=("test_uer_s_loss_is_of_angles_and_of_whole_logits", "test_uer_s_gradient_by_differences"),
    invariants=(
      "test_new_rows_move_no_lengths_and_stored_ones_do",
      "test_uer_answers_by_products_and_forgets_rows",
      "test_uer_s_new_rows_keep_their_mask_and_absent_ones_have_no_part",
    ),
    claim=("uer",),
    deviations=(
      "written from the paper's abstract, as its code is not public: the temperature is PCR's",
      "that answers are the products, not the cosines, is a reading",
      ONCE,
    ),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
}
