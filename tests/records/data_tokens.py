"""Records of the text side of cljax.data."""

from records.form import Record

KIND = "data"
HELPERS = {"Tokenizer": "a type"}
RECORDS: dict[str, Record] = {
  "tokenizer": Record(
    spec="language_substrate F3",
    compared=(
      "test_a_text_becomes_all_of_its_tokens_and_nothing_else",
      "test_a_template_writes_its_own_beginning_once",
    ),
    invariants=("test_folders_without_a_tokenizer_are_refused",),
    deviations=("no special token is added, and nothing cut or padded, whatever the file asks for",),
  ),
  "answered": Record(spec="language_substrate F7", compared=("test_an_answer_is_made_tokens_with_its_prompt",)),
  "byte_tokenizer": Record(spec="language_substrate F3", compared=("test_bytes_are_tokens",)),
  "train_tokenizer": Record(spec="language_substrate F3", compared=("test_a_stream_of_groups_with_its_own_tokens",)),
  "conversation": Record(
    spec="language_substrate F7", compared=("test_the_assistant_s_turns_are_learned_with_their_ends",)
  ),
}
