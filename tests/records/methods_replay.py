"""Records of the methods of replay, replay_projection, prototypes, gradient_estimators, references."""

from records.form import Record

KIND = "method"
UNFILLED = True  # some records here name no comparison yet
RECORDS: dict[str, Record] = {
  "er": Record(spec="replay_architecture_metrics A1", arguments={"capacity": 20}, first_task_plain=False),
  "derpp": Record(
    spec="replay_architecture_metrics A2",
    claim=("refresh_derpp",),
    arguments={"capacity": 20},
    neutral={"alpha": 0.0, "beta": 0.0},
    first_task_plain=False,
  ),
  "zeroth_order": Record(
    spec="regularizers_projectors 5.4",
    claim=("zeroth_order",),
    arguments={"epsilon": 0.05, "queries": 20},
    neutral={"switch_step": 1000000},
    first_task_plain=False,
  ),
  "evolution_strategy": Record(
    spec="regularizers_projectors 5.5", claim=("evolution_strategy",), arguments={"sigma": 0.05}, first_task_plain=False
  ),
  "ncm": Record(spec="classic_methods A17"),
  "finetune": Record(spec="unlearning A2", neutral={}),
  "joint": Record(),
  "cumulative": Record(),
  "er_agem": Record(
    spec="regularizers_projectors 4.8", claim=("er_projection", "er_projection_elsewhere"), arguments={"capacity": 20}
  ),
  "er_gem": Record(spec="regularizers_projectors 4.8", claim=("er_projection",), arguments={"capacity": 20}),
}
