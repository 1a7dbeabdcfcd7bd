"""Records of the losses that flatten an answer, or prefer another."""

from records.form import Record
from records.losses import narrow

KIND = "loss"
RECORDS: dict[str, Record] = {
  "dual_step": Record(spec="language_unlearning W11", compared=("test_the_multiplier_by_hand",)),
  "flat": Record(
    spec="unlearning C1 and language_unlearning W12",
    compared=("test_preference_by_numpy_and_its_slopes",),
    invariants=narrow("flat"),
    deviations=("probabilities are means over the answer, where the released code counts ignored places as 0",),
  ),
  "mean_probability": Record(
    spec="language_unlearning W12",
    compared=("test_mean_probabilities_by_loops",),
    deviations=("the geometric mean is an option of the house",),
  ),
  "pdu": Record(
    spec="language_unlearning W11",
    compared=("test_flatness_by_numpy_and_its_slope",),
    invariants=("test_flatness_among_the_classes_of_a_mask", *narrow("pdu")),
    deviations=("of the predictions of the answer's tokens, where the release's mask is not shifted",),
  ),
}
