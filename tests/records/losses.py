"""Records of cljax.losses."""

from records.form import Record

KIND = "loss"
UNFILLED = True  # some records here name no comparison yet
RECORDS: dict[str, Record] = {
  "binary_cross_entropy": Record(),
  "bregman": Record(),
  "center_loss": Record(spec="regularizers_projectors 7.1"),
  "contrast": Record(),
  "contrast_within": Record(spec="replay_architecture_metrics B4"),
  "cross_entropy": Record(),
  "distillation": Record(),
  "group_lasso": Record(),
  "kl_divergence": Record(),
  "logit_mse": Record(),
  "masked_log_softmax": Record(),
  "negative_entropy": Record(),
  "reduce": Record(),
  "safe_norm": Record(),
  "squared_norm": Record(),
  "uniform_cross_entropy": Record(spec="replay_architecture_metrics B8"),
  "update_centers": Record(),
}
