"""Records of cljax.estimators."""

from records.form import Record

KIND = "estimator"
UNFILLED = True  # some records here name no comparison yet
RECORDS: dict[str, Record] = {
  "class_means": Record(),
  "fisher_diagonal": Record(claim=("fisher_kinds",)),
  "layer_inputs": Record(),
  "mas_importance": Record(),
}
