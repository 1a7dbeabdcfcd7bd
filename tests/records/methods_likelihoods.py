"""Records of the methods of forgetting, unlearning/likelihoods."""

from records.form import Record

KIND = "method"
STRENGTH = "test_an_edit_of_no_strength_is_the_identity"
HAND = "test_registered_descents_by_hand"
EMPTY = lambda name: f"test_a_request_without_rows_changes_nothing[{name}]"
RETAINED = "the loss of rows to keep is a mean over rows, each of its own tokens; the release has one over all tokens"
RATE = "Adam at 1e-3 for 50 random batches, where the release has AdamW at 1e-5 over 10 epochs"
RECORDS: dict[str, Record] = {
  "npo": Record(
    spec="unlearning A11",
    compared=(f"{HAND}[npo]", f"{HAND}[npo-kl]"),
    invariants=(
      STRENGTH,
      EMPTY("npo"),
      "test_a_first_step_of_npo_is_ascent_whatever_beta",
      "test_a_registered_edit_forgets_tokens[npo]",
    ),
    claim=("npo",),
    deviations=(RETAINED, RATE),
    arguments={"steps": 3},
    neutral={"steps": 0},
  ),
  "simnpo": Record(
    spec="language_unlearning W6",
    compared=(f"{HAND}[simnpo]",),
    invariants=(STRENGTH, EMPTY("simnpo"), "test_a_registered_edit_forgets_tokens[simnpo]"),
    no_claim="no sentence of its paper is tried",
    deviations=(RETAINED, RATE, "the margin stands inside beta, as in the released code"),
    arguments={"steps": 3},
    neutral={"steps": 0},
  ),
  "rmu": Record(
    spec="language_unlearning W7",
    compared=("test_rmu_by_hand",),
    invariants=(STRENGTH, EMPTY("rmu"), "test_rmu_holds_what_it_does_not_steer"),
    no_claim="that its features come back by relearning needs the bank of retrained decoders",
    deviations=(
      RATE,
      "all parameters take part, where the release trains three kernels of three layers",
      "places whose next token is learned, where the release has those of the learned tokens, one further",
    ),
    arguments={"steps": 3},
    neutral={"steps": 0},
  ),
  "wga": Record(
    spec="language_unlearning W10",
    compared=(f"{HAND}[wga]", "test_steps_on_a_decoder_by_hand[wga]"),
    invariants=(STRENGTH, EMPTY("wga"), "test_without_a_forget_weight_the_retain_loss_is_alone[wga]"),
    no_claim="no sentence of its paper is tried",
    deviations=(RETAINED, RATE),
    arguments={"steps": 3},
    neutral={"steps": 0},
  ),
  "satimp": Record(
    spec="language_unlearning W10",
    compared=(f"{HAND}[satimp]", "test_steps_on_a_decoder_by_hand[satimp]"),
    invariants=(STRENGTH, EMPTY("satimp"), "test_without_a_forget_weight_the_retain_loss_is_alone[satimp]"),
    no_claim="no sentence of its paper is tried",
    deviations=(RETAINED, RATE),
    arguments={"steps": 3},
    neutral={"steps": 0},
  ),
  "undial": Record(
    spec="language_unlearning W8",
    compared=(f"{HAND}[undial]", "test_steps_on_a_decoder_by_hand[undial]"),
    invariants=(STRENGTH, EMPTY("undial"), "test_without_a_forget_weight_the_retain_loss_is_alone[undial]"),
    no_claim="no sentence of its paper is tried",
    deviations=(RETAINED, RATE),
    arguments={"steps": 3},
    neutral={"steps": 0},
  ),
}
