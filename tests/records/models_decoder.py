"""Records of the decoders of cljax.models."""

from records.form import Record

KIND = "model"
RECORDS: dict[str, Record] = {
  "decoder": Record(
    spec="language_substrate F4, F6",
    compared=(
      "test_a_decoder_is_its_formula[llama]",
      "test_a_decoder_is_its_formula[gpt2]",
      "test_a_rotation_is_by_halves_and_by_places",
      "test_a_narrow_norm_squares_in_float32_and_scales_last",
      "test_a_fisher_of_a_tied_embedding_has_both_parts",
    ),
    invariants=(
      "test_padding_on_either_side_changes_nothing[llama]",
      "test_padding_on_either_side_changes_nothing[gpt2]",
      "test_texts_packed_in_a_row_are_as_by_themselves[llama]",
      "test_narrow_weights_have_wide_logits[llama]",
      "test_blocks_that_are_computed_again_are_the_same[llama]",
      "test_a_decoder_learns_sequences_through_the_engine[llama-er-hyper3]",
      "test_a_decoder_starts_as_it_says",
    ),
    deviations=(
      "a list of layers, no scan over stacked weights: a leaf for each layer, faster steps, slower compilation",
      "pairs are turned in float32 also in bfloat16, where transformers rounds sines and cosines first",
      "no dropout, which GPT-2 was trained with",
    ),
  ),
  "pretrained_decoder": Record(
    spec="language_substrate F1, F7",
    compared=(
      "test_a_folder_is_its_formula[llama]",
      "test_a_folder_is_its_formula[qwen2]",
      "test_a_folder_is_its_formula[qwen3]",
      "test_a_folder_is_its_formula[gpt2]",
      "test_bfloat16_is_read_and_kept",
    ),
    invariants=(
      "test_the_base_is_read_under_the_old_key_and_the_new",
      "test_neighbouring_pairs_are_another_model",
      "test_a_tied_head_is_one_leaf",
      "test_tensors_that_do_not_fit_are_named",
      "test_a_configuration_names_a_folder",
    ),
    deviations=("a rotation other than the plain one, sliding windows and mixtures of experts are refused",),
  ),
  "generate": Record(
    spec="language_substrate F4",
    compared=(
      "test_what_is_said_is_the_argmax_step_by_step[llama]",
      "test_what_is_said_is_the_argmax_step_by_step[gpt2]",
      "test_draws_have_their_distribution",
    ),
    invariants=(
      "test_behind_the_stop_token_a_row_says_no_more",
      "test_sampling_follows_the_key_and_a_row_s_draws_are_its_own",
      "test_models_that_keep_nothing_say_it_too",
    ),
  ),
}
