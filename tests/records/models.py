"""Records of cljax.models."""

from records.form import Record

KIND = "model"
UNFILLED = True  # some records here name no comparison yet
HELPERS = {
  "Unit": "a type",
  "build": "looks up a zoo model by name",
  "options": "looks up the options of a zoo model",
}
RECORDS: dict[str, Record] = {
  "cnn": Record(),
  "conv": Record(),
  "flat_init": Record(spec="unlearning C1"),
  "from_apply": Record(),
  "from_linen": Record(),
  "from_nnx": Record(),
  "masked": Record(),
  "mixture_apply": Record(),
  "mlp": Record(),
  "reparameterise": Record(),
  "resnet18": Record(),
  "top_mask": Record(),
  "vit": Record(),
}
