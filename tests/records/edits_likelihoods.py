"""Records of cljax.unlearning, likelihoods and misdirection."""

from records.edits import BATCHES, LAWS
from records.form import Record

KIND = "edit"
RETAINED = "the loss of rows to keep is a mean over rows, each of its own tokens; the release has one over all tokens"
RECORDS: dict[str, Record] = {
  "npo": Record(
    spec="unlearning A11",
    compared=("test_steps_on_a_decoder_by_hand[npo]", "test_steps_on_a_decoder_by_hand[npo-kl]"),
    invariants=(
      *LAWS,
      "test_a_first_step_of_npo_is_ascent_whatever_beta",
      "test_without_a_forget_weight_the_retain_loss_is_alone[npo]",
      "test_a_row_without_labels_is_none[npo]",
    ),
    deviations=(BATCHES, "Adam at 1e-3, where the release has AdamW at 1e-5", RETAINED),
  ),
  "simnpo": Record(
    spec="language_unlearning W6",
    compared=("test_steps_on_a_decoder_by_hand[simnpo]",),
    invariants=(
      *LAWS,
      "test_without_a_forget_weight_the_retain_loss_is_alone[simnpo]",
      "test_a_row_without_labels_is_none[simnpo]",
    ),
    deviations=(BATCHES, "Adam at 1e-3, where the release has AdamW at 1e-5", RETAINED),
  ),
  "rmu": Record(
    spec="language_unlearning W7",
    compared=("test_rmu_steers_one_layer_by_hand[uniform]", "test_rmu_steers_one_layer_by_hand[normal]"),
    invariants=(*LAWS, "test_rmu_holds_what_it_does_not_steer"),
    deviations=(BATCHES, "all parameters take part, where the release trains three kernels"),
  ),
  "wga": Record(
    spec="language_unlearning W10",
    compared=("test_steps_on_a_decoder_by_hand[wga]",),
    invariants=(*LAWS, "test_without_a_forget_weight_the_retain_loss_is_alone[wga]"),
    deviations=(BATCHES, "Adam at 1e-3, where the release has AdamW", RETAINED),
  ),
  "satimp": Record(
    spec="language_unlearning W10",
    compared=("test_steps_on_a_decoder_by_hand[satimp]",),
    invariants=(*LAWS, "test_without_a_forget_weight_the_retain_loss_is_alone[satimp]"),
    deviations=(BATCHES, "Adam at 1e-3, where the release has AdamW", RETAINED),
  ),
  "undial": Record(
    spec="language_unlearning W8",
    compared=("test_steps_on_a_decoder_by_hand[undial]",),
    invariants=(*LAWS, "test_without_a_forget_weight_the_retain_loss_is_alone[undial]"),
    deviations=(BATCHES, "Adam at 1e-3, where the release has AdamW", RETAINED),
  ),
}
