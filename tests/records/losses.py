"""Records of cljax.losses."""

from records.form import Record

KIND = "loss"


def narrow(name: str) -> tuple[str, ...]:
  """Narrow logits give float32 losses and slopes of their own dtype, under careful settings."""
  return tuple(f"test_losses_are_float32_under_careful_settings[{k}-{name}]" for k in ("bfloat16", "float16"))


LAWS = ("test_traced_scalars_of_another_dtype_fit", "test_no_derivative_goes_to_the_teacher")  # of a teacher's
ABSENT, NONE, SHAPES = (
  "test_absent_views_change_no_bit_and_get_no_slope",
  "test_no_rows_are_no_loss",
  "test_pairs_of_wrong_shapes_are_named",
)
SETS = lambda name: (
  f"test_absent_rows_and_the_order_of_rows_change_nothing[{name}]",
  f"test_one_set_and_no_rows_are_finite[{name}]",
  f"test_rows_of_wrong_shapes_are_named[{name}]",
  "test_sets_without_likeness_share_nothing",
)
RECORDS: dict[str, Record] = {
  "barlow_twins": Record(
    spec="generative_memory 0.6",
    compared=("test_barlow_twins_by_numpy",),
    invariants=(ABSENT, NONE, SHAPES, *narrow("barlow")),
    deviations=("one number for a batch, not one for each row",),
  ),
  "bpr": Record(spec="generative_memory 0.6", compared=("test_bpr_by_numpy",), invariants=(SHAPES, *narrow("bpr"))),
  "facility_location": Record(
    spec="additions S4",
    compared=("test_facility_location_is_a_smooth_maximum_over_other_sets",),
    invariants=(*SETS("facility_location"), "test_a_set_whose_rows_are_absent_is_no_other_set"),
    deviations=("times T, so that it is a maximum as T goes to 0; the released code leaves the factor out",),
  ),
  "graph_cut": Record(
    spec="additions S4",
    compared=("test_graph_cut_is_the_cut_less_what_lies_within",),
    invariants=SETS("graph_cut"),
    deviations=("its mutual form is the cut; the released code has its negative",),
  ),
  "log_determinant": Record(
    spec="additions S4",
    compared=("test_log_determinant_is_the_total_correlation_of_the_sets",),
    invariants=SETS("log_determinant"),
  ),
  "fgsm": Record(
    spec="regularizers_projectors 8.2",
    compared=("test_fgsm_is_one_step_of_the_sign", "test_on_a_linear_model_the_attack_is_the_dual_norm"),
    invariants=("test_wrong_inputs_are_one_line",),
  ),
  "gaussian_kl": Record(
    spec="generative_memory 0.6", compared=("test_gaussian_kl_by_quadrature",), invariants=(SHAPES, *narrow("gaussian"))
  ),
  "policy_gradient": Record(
    spec="regularizers_projectors 5.5",
    compared=("test_policy_gradient_by_numpy[False]", "test_policy_gradient_by_numpy[True]"),
    invariants=("test_a_policy_gradient_climbs_the_reward",),
    deviations=("answers are classes, where the paper decodes text; no clipping and no pull to a reference",),
  ),
  "npo": Record(
    spec="unlearning A11",
    compared=(
      "test_npo_by_numpy_and_its_slope[0.1]",
      "test_npo_by_numpy_and_its_slope[1.0]",
      "test_npo_by_numpy_and_its_slope[4.5]",
    ),
    invariants=(
      "test_npo_tends_to_ascent_and_comes_to_rest",
      "test_likelihoods_of_wrong_shapes_are_named[npo]",
      *narrow("npo"),
    ),
    deviations=("a row's NLL is the sum over its tokens; MUSE's code has raw logits there, two others a batch's mean",),
  ),
  "sequence_nll": Record(
    spec="language_unlearning 0",
    compared=("test_the_likelihood_of_a_sequence_by_loops",),
    invariants=("test_padding_and_ignored_tokens_change_no_likelihood", *narrow("sequence_nll")),
  ),
  "simnpo": Record(
    spec="language_unlearning W6",
    compared=("test_simnpo_by_numpy_and_its_slope[4.5-0.0]", "test_simnpo_by_numpy_and_its_slope[1.0-0.7]"),
    invariants=(
      "test_simnpo_rests_where_a_token_is_unlikely",
      "test_likelihoods_of_wrong_shapes_are_named[simnpo]",
      *narrow("simnpo"),
    ),
    deviations=("the margin stands inside beta, as in the released code; the paper's is beta times it",),
  ),
  "wga": Record(
    spec="language_unlearning W10",
    compared=("test_losses_of_tokens_by_numpy_and_their_slopes[wga]",),
    invariants=(
      "test_losses_of_tokens_are_finite_at_the_ends[wga]",
      "test_losses_of_tokens_at_their_limits",
      *narrow("wga"),
    ),
  ),
  "satimp": Record(
    spec="language_unlearning W10",
    compared=("test_losses_of_tokens_by_numpy_and_their_slopes[satimp]",),
    invariants=(
      "test_losses_of_tokens_are_finite_at_the_ends[satimp]",
      "test_losses_of_tokens_at_their_limits",
      *narrow("satimp"),
    ),
  ),
  "undial": Record(
    spec="language_unlearning W8",
    compared=("test_losses_of_tokens_by_numpy_and_their_slopes[undial]",),
    invariants=(
      "test_losses_of_tokens_are_finite_at_the_ends[undial]",
      "test_losses_of_tokens_at_their_limits",
      *narrow("undial"),
    ),
    deviations=(
      "less than the cross entropy by the entropy of q",
      "nothing is demoted at ignored positions, where the released code demotes token V - 100",
    ),
  ),
  "ceu": Record(
    spec="language_unlearning W9",
    compared=("test_losses_of_tokens_by_numpy_and_their_slopes[ceu]",),
    invariants=(
      "test_losses_of_tokens_are_finite_at_the_ends[ceu]",
      "test_losses_of_tokens_at_their_limits",
      *narrow("ceu"),
    ),
    deviations=("no first token is left out, as the released code does",),
  ),
  "dpo": Record(
    spec="language_unlearning W5",
    compared=("test_dpo_by_numpy_and_its_slopes",),
    invariants=("test_likelihoods_of_wrong_shapes_are_named[dpo]",),
    deviations=("with the factor 2 of the unlearning code",),
  ),
  "nt_xent": Record(
    spec="generative_memory 0.6",
    compared=("test_views_by_loops", "test_identical_views_of_orthogonal_rows"),
    invariants=(ABSENT, NONE, SHAPES, *narrow("nt_xent")),
  ),
  "supcon": Record(
    spec="generative_memory 0.6",
    compared=("test_views_by_loops",),
    invariants=(ABSENT, NONE, SHAPES, *narrow("supcon")),
    deviations=("a row of a class below 0 has its own other view as its only positive",),
  ),
  "binary_cross_entropy": Record(
    spec="classic_methods A1",
    compared=("test_binary_cross_entropy", "test_binary_cross_entropy_and_its_slope"),
    invariants=narrow("binary"),
    deviations=("the sum over classes, where iCaRL's code takes their mean: its rate is in units of that",),
  ),
  "bregman": Record(
    spec="regularizers_projectors 3.1",
    compared=("test_bregman_is_its_definition_row_by_row",),
    invariants=("test_bregman_divergences",),
  ),
  "center_loss": Record(
    spec="regularizers_projectors 7.1",
    compared=("test_center_loss_and_centers", "test_center_loss_in_bfloat16_is_summed_wide"),
    invariants=narrow("center_loss"),
  ),
  "contrast": Record(
    spec="unlearning B4",
    compared=("test_contrast_and_its_slope_by_differences", "test_contrast_against_numpy"),
    invariants=narrow("contrast"),
    deviations=(
      "anchors of one class push each other: once a whole class is forgotten, no row that is kept shares it",
      "the exact form of contrastive unlearning (arXiv 2401.10458) is unverified",
    ),
  ),
  "contrast_within": Record(
    spec="unlearning B4",
    compared=("test_contrast_and_its_slope_by_differences", "test_contrast_against_numpy"),
    invariants=narrow("within"),
  ),
  "cross_entropy": Record(
    compared=("test_cross_entropy_is_numpys", "test_bfloat16_logits_are_computed_wide"),
    invariants=(
      "test_cross_entropy_mask_of_classes_and_sequences",
      "test_label_outside_its_mask_is_inf_without_gradient_and_weight_zero_hides_it",
      *narrow("cross_entropy"),
    ),
  ),
  "distillation": Record(
    spec="regularizers_projectors 3.1",
    compared=("test_distillation_is_scaled_kl",),
    invariants=(*LAWS, *narrow("distillation"), "test_wrong_shapes_are_named[<lambda>-teacher_logits:]"),
    deviations=("the teacher's entropy is subtracted, so that equal logits give 0; the gradient is LwF's",),
  ),
  "group_lasso": Record(spec="unlearning B6", compared=("test_group_lasso_and_its_slope",), invariants=narrow("lasso")),
  "kl_divergence": Record(
    spec="unlearning A5",
    compared=("test_kl_divergence_and_its_gradient[True]", "test_kl_divergence_and_its_gradient[False]"),
    invariants=(*LAWS, *narrow("kl"), "test_kl_to_the_model_as_it_was_is_stationary_at_the_start"),
  ),
  "logit_mse": Record(
    spec="replay_architecture_metrics A2",
    compared=("test_logit_mse_is_the_mean_over_logits",),
    invariants=(*narrow("logit_mse"), "test_wrong_shapes_are_named[<lambda>-target:]"),
  ),
  "masked_log_softmax": Record(
    compared=("test_masked_log_softmax_and_its_slope", "test_cross_entropy_is_numpys"),
    invariants=("test_wrong_shapes_are_named[<lambda>-class_mask:]", "test_bfloat16_logits_are_computed_wide"),
  ),
  "negative_entropy": Record(
    spec="regularizers_projectors 3.1",
    compared=("test_potentials", "test_bregman_divergences"),
  ),
  "pgd": Record(
    spec="regularizers_projectors 8.2",
    compared=(
      "test_pgd_is_steps_of_the_sign_into_the_ball",
      "test_on_a_linear_model_the_attack_is_the_dual_norm",
      "test_a_random_start_is_uniform_in_the_ball_and_the_range",
    ),
    invariants=(
      "test_rows_outside_the_range_stay_and_integers_become_floats",
      "test_no_radius_or_no_steps_is_the_row_and_no_gradient_passes",
      "test_wrong_inputs_are_one_line",
    ),
  ),
  "reduce": Record(
    compared=("test_reduce_row_law", "test_reduce_of_narrow_losses_is_summed_wide"),
    invariants=(
      "test_label_outside_its_mask_is_inf_without_gradient_and_weight_zero_hides_it",
      "test_wrong_shapes_are_named[<lambda>-weight:]",
    ),
  ),
  "safe_norm": Record(
    spec="unlearning B5",
    compared=("test_safe_norm_and_its_slope", "test_one_point_contraction_pulls_at_constant_strength"),
    deviations=("the gradient at 0 is exactly 0, without the epsilon that the spec asks for",),
  ),
  "squared_norm": Record(
    spec="regularizers_projectors 3.1",
    compared=("test_potentials", "test_bregman_divergences"),
  ),
  "uniform_cross_entropy": Record(
    spec="unlearning B8",
    compared=("test_uniform_cross_entropy_and_its_slope", "test_famr_ends_where_the_anchor_balances_the_pull"),
    invariants=narrow("uniform"),
  ),
  "update_centers": Record(
    spec="regularizers_projectors 7.1",
    compared=("test_update_centers_weighs_rows_and_keeps_absent_classes", "test_center_loss_and_centers"),
    invariants=("test_traced_scalars_of_another_dtype_fit", *narrow("centers")),
  ),
}
