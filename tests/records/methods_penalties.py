"""Records of the methods of penalties, decay, anchors, distillation, unified."""

from records.form import Record

KIND = "method"
UNFILLED = True  # some records here name no comparison yet
RECORDS: dict[str, Record] = {
  "ewc": Record(
    spec="regularizers_projectors 1.1",
    compared=("test_ewc_pulls_to_the_anchor_by_the_fisher",),
    invariants=("test_neutral_strength_is_the_base_run", "test_first_task_equals_the_base_learner"),
    claim=("ewc", "fisher_kinds"),
    arguments={"strength": 10.0},
    neutral={"strength": 0.0},
  ),
  "online_ewc": Record(
    spec="regularizers_projectors 1.2",
    claim=("online_ewc",),
    arguments={"strength": 10.0, "decay": 0.9},
    neutral={"strength": 0.0},
  ),
  "si": Record(
    spec="regularizers_projectors 1.3", claim=("si",), arguments={"strength": 1.0}, neutral={"strength": 0.0}
  ),
  "mas": Record(spec="regularizers_projectors 1.4", claim=("mas",), neutral={"strength": 0.0}),
  "l2_previous": Record(spec="regularizers_projectors 1.5", claim=("l2_previous",), neutral={"strength": 0.0}),
  "hierarchical": Record(
    spec="regularizers_projectors 7.9", claim=("hierarchical",), arguments={"strength": 1.0}, neutral={"strength": 0.0}
  ),
  "center_loss": Record(
    spec="regularizers_projectors 7.1",
    claim=("center_loss",),
    neutral={"strength": 0.0, "head": ""},
    first_task_plain=False,
  ),
  "l2": Record(
    spec="regularizers_projectors 1.5",
    claim=("l2",),
    arguments={"strength": 0.01},
    neutral={"strength": 0.0},
    first_task_plain=False,
  ),
  "l2_init": Record(
    spec="regularizers_projectors 1.5",
    claim=("l2_init",),
    arguments={"strength": 0.01},
    neutral={"strength": 0.0},
    first_task_plain=False,
  ),
  "spectral": Record(
    spec="regularizers_projectors 2.1",
    claim=("spectral",),
    arguments={"strength": 0.01},
    neutral={"strength": 0.0},
    first_task_plain=False,
  ),
  "wasserstein": Record(
    spec="regularizers_projectors 2.2",
    claim=("wasserstein",),
    arguments={"strength": 0.01},
    neutral={"strength": 0.0},
    first_task_plain=False,
  ),
  "lwf": Record(neutral={"strength": 0.0}),
  "unified": Record(
    spec="regularizers_projectors 3.1",
    claim=("cpr",),
    arguments={"capacity": 20},
    neutral={"alpha": 0.0, "beta": 0.0},
    first_task_plain=False,
  ),
}
