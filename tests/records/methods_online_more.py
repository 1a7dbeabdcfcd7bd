"""Records of further methods for streams that are seen once: what is drawn to what, what is worth a place."""

from records.form import Record

KIND = "method"
VIEWS = "values of second views are not cut to [0, 1]; their hue is turned in YIQ, not HSV; colours in one order"
UNION = "exemplars come beside a task's rows with their share of the union, not shuffled in"
ONCE = "each row is offered to the memory once in a run; insert='every_pass' is the released code's"
RECORDS: dict[str, Record] = {
  "cope": Record(
    spec="classic_methods A8",
    compared=(
      "test_cope_s_loss_draws_to_prototypes_and_rows_and_away_from_others",
      "test_cope_s_gradient_is_that_of_rows_alone",
      "test_prototypes_are_running_means_on_the_sphere",
      "test_a_row_is_not_its_own_pseudo_prototype",
    ),
    invariants=(
      "test_rows_are_offered_once_and_absent_ones_never[cope]",
      "test_cope_s_loss_knows_no_names_of_classes",
      "test_one_class_in_the_batch_is_drawn_and_nothing_pushed",
      "test_only_classes_that_are_there_for_a_row_take_part",
      "test_the_repellor_is_finite_where_a_row_lies_on_another_class",
      "test_cope_answers_by_the_nearest_prototype",
      "test_cope_s_memory_is_balanced_and_drawn_whole_where_small",
    ),
    claim=("cope",),
    deviations=(
      "pseudo-prototypes get no gradient from the repellor; the released code lets it through",
      "prototypes begin as unit(U(-1, 1)); the released code's have no negative entries",
      "the memory is used in full by the classes there are; the released code has a fixed part for each",
      ONCE,
    ),
    arguments={"capacity": 20, "momentum": 0.5},
    first_task_plain=False,
  ),
  "aser": Record(
    spec="classic_methods A7",
    compared=(
      "test_aser_replays_rows_of_the_largest_adversarial_value",
      "test_what_a_full_memory_keeps_follows_from_summed_values[1-False]",
      "test_what_a_full_memory_keeps_follows_from_summed_values[2-True]",
      "test_what_a_full_memory_keeps_follows_from_summed_values[4-False]",
      "test_values_are_shapley_s_of_the_neighbours_game[3]",
      "test_new_rows_take_the_places_of_candidates_that_are_worth_less",
      "test_scores_set_stored_points_against_new_ones",
    ),
    invariants=(
      "test_rows_are_offered_once_and_absent_ones_never[aser]",
      "test_values_are_shapley_s_of_the_neighbours_game[8]",
      "test_candidates_that_are_not_there_change_nothing",
      "test_a_class_is_rare_below_a_share_of_all_slots",
      "test_of_equally_far_candidates_the_earlier_is_nearer",
      "test_some_rows_of_each_class_are_drawn_alike",
      "test_nothing_is_replayed_while_nothing_is_stored",
      "test_rows_enter_as_they_come_until_the_memory_is_full",
      "test_aser_forgets_rows_and_fills_up_again",
      "test_aser_draws_no_more_than_it_looks_at",
      "test_replay_is_neutral_to_tolerance",
    ),
    claim=("aser",),
    deviations=(
      "both losses make one step; the released code adds up two backward passes, which is the same but for BatchNorm",
      "of fewer candidates than neighbours the last has 1 / K, as the Shapley value has; the released code has 1 / N",
      "what is judged are rows without the run's augmentation",
      ONCE,
    ),
    arguments={"capacity": 20},
    neutral={"beta": 0.0},
    first_task_plain=False,
  ),
  "ocm": Record(
    spec="classic_methods A16",
    compared=(
      "test_ocm_s_loss_is_of_new_rows_stored_rows_and_the_last_network",
      "test_ocm_s_first_task_contrasts_and_learns_new_rows",
      "test_ocm_s_gradient_by_differences",
      "test_likeness_adds_a_slice_of_the_features_at_any_place",
    ),
    invariants=(
      "test_rows_are_offered_once_and_absent_ones_never[ocm]",
      "test_pictures_are_turned_as_often_as_classes_are_told_apart[16]",
      "test_pictures_are_turned_as_often_as_classes_are_told_apart[4]",
      "test_ocm_s_contrast_of_projections_is_supcon",
      "test_second_views_of_ocm_are_as_its_options_say",
      "test_ocm_forgets_rows_and_its_last_network_follows_edits",
      "test_ocm_needs_square_pictures_and_features",
    ),
    claim=("ocm",),
    deviations=(
      "one form of the contrast; some terms of the released code count views as their own mates, or rows twice",
      "no eps in logarithms, and no rule of 7 stored rows a class",
      "answers are the network's, whose BatchNorm counts rows as the run shows them, in a pass of their own",
      "z has no more numbers than the features",
      VIEWS,
      ONCE,
    ),
    arguments={
      "capacity": 16,
      "policy": "class_balanced",
      "replay_batch": 16,
      "rotations": 4,
      "temperature": 3.0,
      "least_area": 1.0,
      "flip": False,
      "grey": 0.0,
    },
    first_task_plain=False,
  ),
  "il2m": Record(
    spec="classic_methods B5",
    compared=(
      "test_il2m_s_answers_are_rectified_where_a_new_class_is_largest",
      "test_il2m_keeps_what_classes_scored_when_they_were_learned",
      "test_il2m_trains_on_the_union_without_distillation",
    ),
    invariants=(
      "test_a_factor_above_one_raises_an_old_class",
      "test_a_class_of_which_nothing_is_known_keeps_its_score[first]",
      "test_a_class_of_which_nothing_is_known_keeps_its_score[now]",
      "test_a_class_of_which_nothing_is_known_keeps_its_score[confidence]",
      "test_il2m_s_end_of_a_task_moves_no_weight",
      "test_il2m_forgets_exemplars_and_what_is_known_of_whole_classes",
      "test_il2m_needs_an_exemplar_for_each_class",
      "test_first_task_equals_the_base_learner",
    ),
    claim=("il2m",),
    deviations=(
      "scores are probabilities over the classes met so far; re-implementations rectify logits or their logarithms",
      "exemplars are herded",
      UNION,
    ),
    arguments={"capacity": 20},
  ),
  "ssil": Record(
    spec="classic_methods A17",
    compared=(
      "test_ssil_s_loss_has_a_softmax_for_each_side[own]",
      "test_ssil_s_loss_has_a_softmax_for_each_side[joint]",
      "test_ssil_s_loss_has_a_softmax_for_each_side[together]",
      "test_the_first_task_of_ssil_is_cross_entropy_over_its_classes",
    ),
    invariants=(
      "test_new_rows_push_no_old_output_down",
      "test_ssil_s_lists_are_drawn_and_cut_alike",
      "test_a_row_s_side_is_that_of_its_label",
      "test_where_classes_are_everybody_s_ssil_is_replay",
      "test_ssil_s_teacher_follows_edits",
      "test_ssil_needs_an_exemplar_for_each_class",
    ),
    claim=("ssil",),
    deviations=(
      "lists are drawn uniformly; the released code takes the first rows of a class, and may keep one more of some",
      "written from the released code; the paper's own weight of the distillation could not be verified",
    ),
    arguments={"capacity": 20},
    first_task_plain=False,
  ),
}
