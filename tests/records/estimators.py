"""Records of cljax.estimators."""

from records.form import Record

KIND = "estimator"
HELPERS = {
  "Factors": "a type",
  "Moments": "a type",
  "Statistics": "a type",
  "default_kind": "looks up the kind of Fisher that an objective has something for",
}
RECORDS: dict[str, Record] = {
  "class_means": Record(
    compared=("test_class_means_in_batches_with_empty_rows", "test_class_means"),
    spec="classic_methods A1",
    deviations=("plain means of features; iCaRL normalises features and means",),
  ),
  "class_moments": Record(
    spec="classic_methods C1",
    compared=("test_moments_of_rows_in_any_batches_and_order_are_those_of_all_at_once",),
    invariants=(
      "test_rows_that_are_taken_out_leave_the_moments_of_the_others",
      "test_moments_in_float32_do_not_cancel",
      "test_cleared_classes_leave_what_is_kept_by_class",
      "test_labels_outside_the_classes_are_as_if_absent",
      "test_an_unknown_scatter_is_refused",
    ),
  ),
  "second_moment": Record(spec="classic_methods F2", compared=("test_the_second_moment_is_the_sum_of_outer_products",)),
  "fisher_diagonal": Record(
    spec="regularizers_projectors 1.1",
    compared=(
      "test_estimates_and_edits_over_rows_of_several_tasks[heads]",
      "test_fisher_is_a_mean_of_squared_scores[exact-True]",
      "test_fisher_is_a_mean_of_squared_scores[empirical-True]",
      "test_fisher_is_a_mean_of_squared_scores[batched-True]",
      "test_sampled_fisher_draws_labels_by_their_probabilities",
      "test_exact_kind_of_a_softmax_linear_model_is_its_closed_form",
      "test_public_functions_equal_plain_per_sample_gradients[cnn]",
      "test_fisher_of_an_objective_by_hand[regression]",
      "test_fisher_of_an_objective_by_hand[sequence]",
      "test_exact_fisher_of_regression_is_the_second_moment_of_inputs_over_the_noise",
      "test_sampled_fisher_of_text_is_unbiased_and_draws_by_place",
      "test_reversed_importance_squares_the_loss_of_reversed_logits[reversed-True]",
      "test_reversed_importance_squares_the_loss_of_reversed_logits[reversed_batched-True]",
    ),
    invariants=(
      "test_reversed_importance_stays_where_rows_are_fitted",
      "test_reversed_importance_is_of_classes_alone",
      "test_no_rows_give_zeros",
      "test_what_an_objective_lacks_is_refused",
      "test_rows_of_weight_zero_are_as_if_absent_even_when_they_hold_nonsense",
      "test_order_of_rows_and_scale_of_weights_do_not_matter",
      "test_samples_are_drawn_without_replacement",
      "test_traced_count_under_vmap_reads_so_many_rows",
      "test_importance_of_narrow_parameters_is_made_in_float32[bfloat16-exact]",
      "test_importance_of_narrow_parameters_is_made_in_float32[float16-batched]",
      "test_small_squares_are_not_lost_in_float16",
      "test_estimators_rows::test_wrong_arguments_are_named[arguments1-key]",
    ),
    claim=("fisher_kinds",),
    deviations=("the mean is over n rows, where GMvandeVen's code divides by n - 1",),
  ),
  "kronecker_factors": Record(
    spec="additions S11.1",
    compared=(
      "test_factors_are_correlations_of_inputs_and_of_output_gradients",
      "test_a_convolution_sums_its_inputs_over_places_and_averages_its_gradients",
      "test_of_one_row_the_factors_are_the_fisher_and_have_its_diagonal",
      "test_factors_of_regression_are_those_of_its_noise",
    ),
    invariants=("test_sampled_labels_have_the_exact_ones_mean", "test_what_has_no_factors_is_refused"),
  ),
  "layer_inputs": Record(
    spec="regularizers_projectors 4.5",
    compared=(
      "test_layer_inputs_of_dense_layers_and_of_convolutions",
      "test_layer_inputs_times_kernels_are_the_layers_outputs[cnn]",
    ),
    invariants=("test_layer_inputs_times_kernels_are_the_layers_outputs[vit]", "test_layer_inputs_need_capture"),
    deviations=("rows are inputs: the transpose of GPM's R_l",),
  ),
  "mas_importance": Record(
    spec="regularizers_projectors 1.4",
    compared=(
      "test_mas_is_a_mean_of_absolute_slopes_of_the_squared_output[False-True]",
      "test_mas_is_a_mean_of_absolute_slopes_of_the_squared_output[True-True]",
      "test_mas_of_samples_is_that_of_some_of_the_rows",
      "test_mas_sums_over_all_outputs[regression]",
      "test_mas_sums_over_all_outputs[sequence]",
      "test_public_functions_equal_plain_per_sample_gradients[cnn]",
      "test_the_importance_of_a_prediction_of_several_arrays",
    ),
    invariants=(
      "test_no_rows_give_zeros",
      "test_mas_scales_with_the_square_of_the_outputs",
      "test_labels_matter_to_the_empirical_kind_only",
      "test_importance_of_narrow_parameters_is_made_in_float32[bfloat16-mas]",
      "test_importance_of_narrow_parameters_is_made_in_float32[float16-mas_batched]",
    ),
    deviations=("absolute values are taken row by row, as the paper says; its followers' codes take a batch's",),
  ),
}
