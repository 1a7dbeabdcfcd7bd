"""Records of the methods of forgetting, unlearning_descent, unlearning_edits, unlearning_structures."""

from records.form import Record

KIND = "method"
UNFILLED = True  # some records here name no comparison yet
RECORDS: dict[str, Record] = {
  "retrain": Record(spec="unlearning A1"),
  "ssd": Record(spec="unlearning B1", claim=("ssd",), neutral={"alpha": 1e30}),
  "graddiff": Record(
    spec="unlearning A5", claim=("geometric_disentanglement", "ssd"), arguments={"steps": 3}, neutral={"steps": 0}
  ),
  "geometric_disentanglement": Record(
    spec="unlearning B15", claim=("geometric_disentanglement",), arguments={"steps": 3}, neutral={"steps": 0}
  ),
  "adaptive_orthogonality": Record(
    spec="unlearning B16", claim=("adaptive_orthogonality",), arguments={"steps": 3}, neutral={"steps": 0}
  ),
  "finetune_retain": Record(spec="unlearning A2", claim=("ssd",), arguments={"steps": 3}, neutral={"steps": 0}),
  "gradient_ascent": Record(spec="unlearning A3", arguments={"steps": 3}, neutral={"steps": 0}),
  "random_labels": Record(
    spec="unlearning A6",
    claim=("erase_at_the_core", "one_point_contraction"),
    arguments={"steps": 3},
    neutral={"steps": 0},
  ),
  "bad_teacher": Record(spec="unlearning A7", arguments={"steps": 3}, neutral={"steps": 0}),
  "stochastic_teacher": Record(
    spec="unlearning A8", arguments={"steps": 2, "erase_steps": 1}, neutral={"steps": 0, "erase_steps": 0}
  ),
  "scrub": Record(spec="unlearning A9", arguments={"steps": 3}, neutral={"steps": 0}),
  "unsir": Record(spec="unlearning A12", arguments={"steps": 3, "noise_steps": 3}, neutral={"steps": 0}),
  "famr": Record(spec="unlearning B8", arguments={"steps": 3}, neutral={"steps": 0}),
  "one_point_contraction": Record(
    spec="unlearning B5", claim=("one_point_contraction",), arguments={"steps": 3}, neutral={"steps": 0}
  ),
  "erase_at_the_core": Record(
    spec="unlearning B4", claim=("erase_at_the_core",), arguments={"steps": 3}, neutral={"steps": 0}
  ),
  "gs_lora": Record(spec="unlearning B6", arguments={"steps": 3}, neutral={"steps": 0}),
  "iau": Record(spec="unlearning B2", neutral={"learning_rate": 0.0}),
  "slug": Record(spec="unlearning B3", arguments={"rows": 32}, neutral={"first_step": 0.0}),
  "fisher_forgetting": Record(spec="unlearning A10", neutral={"alpha": 0.0}),
  "ntk": Record(spec="unlearning A10", arguments={"rows": 8}, neutral={"scale": 0.0}),
  "fast_ntk": Record(spec="unlearning B12", arguments={"rows": 8}, neutral={"scale": 0.0}),
  "modhifi_u": Record(spec="unlearning D4", arguments={"share": 0.3}, neutral={"share": 0.0}),
  "oracle_matching": Record(
    spec="unlearning B9", arguments={"oracles": 2, "oracle_steps": 2, "steps": 3}, neutral={"steps": 0}
  ),
  "datamodel_matching": Record(
    spec="unlearning B9", arguments={"oracles": 3, "oracle_steps": 2, "steps": 3}, neutral={"steps": 0}
  ),
  "streaming": Record(spec="unlearning B7", arguments={"steps": 3}),
  "group_reweight": Record(spec="unlearning B13", arguments={"steps": 3}, neutral={"steps": 0}),
  "miu": Record(spec="unlearning B13", arguments={"hidden": 8, "critic_warmup": 2, "steps": 3}, neutral={"steps": 0}),
  "upcore": Record(spec="unlearning B14", arguments={"steps": 3}, neutral={"steps": 0}),
  "sisa": Record(arguments={"shards": 2}),
  "clpu_derpp": Record(
    spec="unlearning B10", arguments={"temporary": (1,), "capacity": 20, "replay_batch": 8}, first_task_plain=False
  ),
}
