"""Records of the fictitious authors of cljax.data."""

from records.form import Record

KIND = "data"
HELPERS = {"Answered": "a type", "Authors": "a type", "Fact": "a type"}
RECORDS: dict[str, Record] = {
  "answered_rows": Record(
    spec="language_unlearning Y3",
    compared=("test_rows_are_the_sentences",),
    invariants=("test_wrong_slots_are_one_line",),
  ),
  "fictitious_authors": Record(
    spec="language_unlearning Y3",
    compared=("test_questions_do_not_tell_and_wrong_answers_are_wrong",),
    invariants=(
      "test_no_word_is_of_two_lists_and_no_name_of_two_groups",
      "test_every_paraphrase_s_wording_is_trained_of_another_fact",
      "test_all_follows_from_the_seed",
    ),
    deviations=("no word is of two lists, which the prototype checked within a list alone",),
  ),
}
