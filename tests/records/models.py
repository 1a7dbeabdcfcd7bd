"""Records of cljax.models."""

from records.form import Record

KIND = "model"
HELPERS = {
  "Unit": "a type",
  "build": "looks up a zoo model by name",
  "options": "looks up the options of a zoo model",
  "register": "adds a model to those that configurations know",
  "Places": "a type",
  "Prompts": "a type",
}
RECORDS: dict[str, Record] = {
  "by_row": Record(
    compared=(
      "test_by_row_hands_batch_norm_the_rows_of_each_task",
      "test_a_replayed_row_s_loss_goes_into_its_own_task[one]",
      "test_a_reference_s_rows_go_through_their_own_task[agem-one]",
    ),
    invariants=("test_what_cannot_be_told_is_refused",),
  ),
  "cnn": Record(
    compared=(
      "test_cnn_is_its_formula",
      "test_cnn_drops_features_while_it_trains",
      "test_sizes_are_those_of_the_literature",
    ),
    invariants=("test_units_name_what_writes_and_reads_each_hidden_activation",),
  ),
  "conv": Record(
    compared=(
      "test_convolution_by_loops[kernel0-strides0-SAME]",
      "test_convolution_by_loops[kernel1-strides1-SAME]",
      "test_convolution_by_loops[kernel2-strides2-VALID]",
      "test_convolution_by_loops[kernel3-strides3-padding3]",
    ),
    invariants=("test_all_forms_of_the_convolution_are_equal",),
  ),
  "flat_init": Record(
    compared=(
      "test_flat_initialisation_has_the_documented_scales_and_is_deterministic",
      "test_zoo_networks_start_as_he_and_lecun_say",
    ),
    deviations=("one draw for all leaves: the distributions are Flax's, the numbers are others",),
  ),
  "from_apply": Record(
    compared=("test_a_plain_function_is_called_with_what_it_names", "test_an_equinox_tree_is_a_model"),
    invariants=(
      "test_stateful_functions_get_what_they_name",
      "test_rows_of_several_tasks_that_are_trained_at_once",
    ),
  ),
  "from_linen": Record(
    compared=(
      "test_modules_get_the_task_of_each_row[linen]",
      "test_a_linen_module_is_called_with_what_it_names",
      "test_foreign_modules_keep_every_law_of_a_model[linen]",
      "test_resnet18_is_its_formula[True]",
    ),
    invariants=("test_masked_rows_touch_neither_batch_statistics_nor_other_rows",),
    deviations=("rows of weight 0 touch no statistics of BatchNorm",),
  ),
  "from_nnx": Record(
    compared=(
      "test_modules_get_the_task_of_each_row[nnx]",
      "test_an_nnx_module_is_its_formula",
      "test_rows_that_are_absent_leave_no_trace[BatchNorm]",
    ),
    invariants=(
      "test_foreign_modules_keep_every_law_of_a_model[nnx]",
      "test_nnx_functions_draw_new_weights_and_instances_are_copied",
    ),
    deviations=("rows of weight 0 touch no statistics of BatchNorm",),
  ),
  "masked": Record(
    spec="replay_architecture_metrics B8",
    compared=("test_supermasks_over_frozen_weights",),
    invariants=("test_masked_models_train_one_task_and_hold_the_rest",),
    deviations=("sparsity is the share of zeros; in the released code the share that is kept",),
  ),
  "matrix_factorisation": Record(
    spec="generative_memory 0.2",
    compared=("test_a_matrix_factorisation_is_its_formula",),
    invariants=("test_a_run_ranks_known_factors", "test_rows_that_do_not_fit::test_refused_in_one_line[users]"),
  ),
  "mixture_apply": Record(
    spec="replay_architecture_metrics B8",
    compared=("test_supermasks_over_frozen_weights",),
    invariants=("test_masked_models_train_one_task_and_hold_the_rest",),
  ),
  "mlp": Record(
    compared=("test_mlp_is_its_formula", "test_sizes_are_those_of_the_literature"),
    invariants=(
      "test_units_name_what_writes_and_reads_each_hidden_activation",
      "test_dropout_follows_the_key_and_only_trains",
      "test_zoo_networks_start_as_he_and_lecun_say",
    ),
  ),
  "reparameterise": Record(
    compared=("test_an_adapter_of_low_rank",), invariants=("test_reparameterised_models_train_the_adapter_alone",)
  ),
  "resnet18": Record(
    compared=(
      "test_resnet18_is_its_formula[False]",
      "test_resnet18_is_its_formula[True]",
      "test_sizes_are_those_of_the_literature",
    ),
    invariants=("test_masked_rows_touch_neither_batch_statistics_nor_other_rows",),
    deviations=("the mean over positions, so that images of any size pass; the original pools 4 x 4",),
  ),
  "top_mask": Record(
    spec="replay_architecture_metrics B8",
    compared=("test_top_mask_zeroes_exactly_the_smallest", "test_supermasks_over_frozen_weights"),
    deviations=("the gradient goes to |scores|; scores tied with the smallest kept are kept",),
  ),
  "vae": Record(
    spec="generative_memory 0.2",
    compared=("test_a_vae_is_its_formula",),
    invariants=("test_a_run_of_a_vae_learns_to_reconstruct",),
    deviations=("no class is given to it; the spec's is conditional",),
  ),
  "vit": Record(
    compared=(
      "test_vit_is_its_formula",
      "test_prompts_in_front_of_tokens_and_of_keys",
    ),
    invariants=(
      "test_prompts_of_length_0_are_none",
      "test_a_prefix_is_a_token_that_asks_nothing",
      "test_outputs_have_the_promised_shapes",
      "test_zoo_networks_start_as_he_and_lecun_say",
    ),
  ),
  "pretrained": Record(
    spec="language_substrate F2",
    compared=(
      "test_logits_are_those_of_transformers",
      "test_a_network_without_a_head_gives_the_features_of_transformers",
      "test_a_published_network_in_numpy",
      "test_of_timm_the_same_network_under_its_names",
      "test_a_published_residual_network_in_numpy",
      "test_the_same_network_under_torchvision_s_names_and_as_arrays",
    ),
    invariants=(
      "test_a_new_head_is_drawn_and_all_else_is_the_folder_s",
      "test_rows_are_normalised_and_grey_ones_repeated",
      "test_images_of_another_size",
      "test_between_positions_on_a_plane_are_points_of_the_plane",
      "test_weights_of_half_precision_and_of_several_files_are_read",
      "test_queries_without_biases_begin_with_none",
      "test_broken_folders_are_refused",
      "test_capture_reads_the_layers_of_prepared_rows",
    ),
    deviations=(
      "positions are interpolated by Keys' cubic (a = -0.5), transformers' by torch's (a = -0.75)",
      "queries, keys and values without biases get biases that begin at 0 and are trained",
    ),
  ),
  "clip_classifier": Record(
    spec="replay_architecture_metrics B27",
    compared=(
      "test_clip_in_numpy",
      "test_names_and_a_template_make_prompts",
      "test_old_configurations_end_texts_by_the_largest_token",
    ),
    invariants=(
      "test_clip_begins_as_its_folder_and_what_stands_is_no_parameter",
      "test_a_text_is_read_at_its_first_end",
      "test_what_a_configuration_leaves_out_is_the_published_network_s",
      "test_clip_takes_images_of_another_size",
      "test_a_folder_that_is_no_clip_is_refused",
      "test_what_a_user_gives_clip_is_checked",
      "test_position_ids_are_no_weights",
      "test_capture_reads_clip_s_layers",
    ),
    deviations=(
      "texts are padded to the longest of them, and not to all places: what follows a text's end does not reach it",
      "a prompt of more tokens than the network has places is refused; the published tokenizer cuts it",
    ),
  ),
  "denoiser": Record(
    spec="generative_memory 0.2",
    compared=("test_a_denoiser_is_its_formula",),
    invariants=(
      "test_sizes_are_told_before_a_model_is_made[denoiser-shape5-options5]",
      "test_rows_that_do_not_fit::test_refused_in_one_line[a condition]",
    ),
    deviations=("a multilayer perceptron, where the literature has a U-Net",),
  ),
  "transformer": Record(
    spec="language_substrate F6",
    compared=(
      "test_a_transformer_is_its_formula",
      "test_rows_of_a_dict_have_importances_of_their_own",
    ),
    invariants=(
      "test_sizes_are_told_before_a_model_is_made[transformer-shape3-options3]",
      "test_rows_that_do_not_fit::test_refused_in_one_line[a vocabulary too small]",
    ),
    deviations=("learned positions and GELU, where the spec's test-bed has RoPE and a gated layer",),
  ),
  "elephant": Record(
    spec="regularizers_projectors 8.3", compared=("test_elephant[0.2-1.0-4.0]", "test_elephant[0.08-2.0-8.0]")
  ),
  "ElephantUnits": Record(
    spec="regularizers_projectors 8.3",
    compared=("test_elephant_units_learn_their_width_and_height",),
    deviations=("a unit of a convolution is a channel, where the released code has a shape for each place too",),
  ),
  "elephant_shape_penalty": Record(
    spec="regularizers_projectors 8.3", compared=("test_elephant_units_learn_their_width_and_height",)
  ),
}
