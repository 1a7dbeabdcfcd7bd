"""Records of the metrics of forgotten text."""

from records.form import Record

KIND = "unlearning metric"
HELPERS = {
  "ForgetQuality": "a type",
  "RougeL": "a type",
  "RowMean": "a type",
  "TokenScores": "a type",
}
X = "language_unlearning X"
BAD = "test_answers::test_wrong_arguments_are_one_line"
PROBABILITIES = ("test_probabilities_by_loops",)
VALUES = ("test_values_by_loops",)
FLOOR = "test_samples_that_do_not_overlap_share_one_p"
SCORES = ("test_text_membership::test_scores_by_loops",)
EDGES = "test_extraction::test_at_the_edges"
LEAK = ("test_privacy_leakage_by_hand",)
RECORDS: dict[str, Record] = {
  "answer_probability": Record(
    spec=f"{X}1",
    compared=PROBABILITIES,
    deviations=("a row without an answer is left out and counted, where the release's NaN spoils the mean",),
  ),
  "choice_probability": Record(
    spec=f"{X}1",
    compared=("test_choices_by_loops_and_by_chance",),
    deviations=("in logs, without the release's 1e-10, by which unlikely answers all have 0",),
  ),
  "exact_memorisation": Record(
    spec=f"{X}6",
    compared=("test_extraction::test_by_definition", EDGES),
    deviations=("the last token counts, which the release drops",),
  ),
  "extraction_strength": Record(
    spec=f"{X}6",
    compared=("test_extraction::test_by_definition", EDGES),
    invariants=("test_shapes_that_do_not_fit_are_one_line",),
    deviations=("0 where the last token is wrong, where the release has 1/n",),
  ),
  "forget_quality": Record(
    spec=f"{X}3",
    compared=("test_forget_quality_by_all_regroupings", FLOOR),
    invariants=("test_forget_quality_at_its_edges",),
    deviations=("rows that are NaN are dropped and counted",),
  ),
  "loss_scores": Record(spec=f"{X}7", compared=SCORES),
  "mean_log_probability": Record(spec=f"{X}1", compared=PROBABILITIES),
  "membership_auc": Record(spec=f"{X}7", compared=("test_auc_by_pairs",)),
  "min_k_plus_scores": Record(spec=f"{X}7", compared=SCORES),
  "min_k_scores": Record(
    spec=f"{X}7",
    compared=SCORES,
    invariants=("test_the_least_share_is_a_whole_number_of_tokens",),
    deviations=("a row without tokens is left out, where the release calls it the surest member",),
  ),
  "model_utility": Record(spec=f"{X}4", compared=("test_model_utility_by_hand",)),
  "priv_leak": Record(
    spec=f"{X}8",
    compared=LEAK,
    deviations=("NaN where the retrained model's AUC is 1, where the release has up to 1e12",),
  ),
  "relative_difference": Record(spec=f"{X}8", compared=LEAK),
  "rouge_l": Record(
    spec=f"{X}5",
    compared=("test_rouge_by_recursion",),
    invariants=("test_rouge_at_its_edges",),
    deviations=("of any tokens; no stemmer",),
  ),
  "rouge_words": Record(spec=f"{X}5", compared=("test_words_are_of_the_latin_alphabet_alone",)),
  "row_mean": Record(spec=f"{X}, rule", compared=PROBABILITIES),
  "token_scores": Record(
    spec=f"{X}6 and {X}7",
    compared=("test_token_scores_by_loops",),
    invariants=("test_ignored_tokens_index_nothing_and_shifts_change_nothing",),
  ),
  "truth_ratio": Record(
    spec=f"{X}2",
    compared=("test_truth_ratios_by_loops",),
    invariants=("test_a_collapsed_model_has_a_ratio_of_one",),
    deviations=("without the release's 1e-10 in the denominator",),
  ),
  "truth_ratio_score": Record(spec=f"{X}2", compared=("test_scores_of_truth_ratios",)),
  "value_accuracy": Record(spec=f"{X}1", compared=VALUES),
  "value_probability": Record(spec=f"{X}1", compared=VALUES),
  "zlib_scores": Record(spec=f"{X}7", compared=SCORES),
}
