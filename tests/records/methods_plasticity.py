"""Records of the methods of plasticity, lifecycle, pruning, averaging, schedules, edits, masks and more."""

from records.form import Record

KIND = "method"
UNFILLED = True  # some records here name no comparison yet
RECORDS: dict[str, Record] = {
  "ema": Record(
    spec="regularizers_projectors 6.1",
    claim=("ema",),
    arguments={"capacity": 20, "decay": 0.8, "early_decay": 0.7},
    first_task_plain=False,
  ),
  "lcia": Record(spec="regularizers_projectors 6.2", claim=("lcia",)),
  "reptile": Record(
    spec="regularizers_projectors 6.3",
    claim=("reptile",),
    arguments={"capacity": 20, "epsilon": 0.5, "every": 2},
    first_task_plain=False,
  ),
  "freeze": Record(spec="regularizers_projectors 8.4", claim=("freeze",), neutral={"begin_task": 99}),
  "lines": Record(spec="regularizers_projectors 8.5", claim=("lines",), neutral={"alpha": 1.0}),
  "heterogeneous_averaging": Record(
    spec="regularizers_projectors 8.6",
    claim=("heterogeneous_averaging",),
    arguments={"samples": 16},
    neutral={"ratio": 1.0},
  ),
  "lifecycle": Record(
    spec="regularizers_projectors 8.1",
    claim=("lifecycle",),
    arguments={"probability": 0.1, "duration": 2, "period": 4},
    neutral={"probability": 0.0},
    first_task_plain=False,
  ),
  "fomo": Record(
    spec="regularizers_projectors 8.2",
    claim=("fomo",),
    arguments={"decay": 0.1, "strength": 0.5, "period": 4},
    neutral={"fraction": 0.0, "strength": 0.0},
    first_task_plain=False,
  ),
  "supsup": Record(spec="replay_architecture_metrics B8", first_task_plain=False),
  "classp": Record(spec="regularizers_projectors 5.1", claim=("classp",), neutral={"scaling": "never"}),
  "tag": Record(spec="regularizers_projectors 5.2", claim=("tag",), arguments={"scale": 0.03}, first_task_plain=False),
  "continual_backprop": Record(
    spec="regularizers_projectors 5.3",
    claim=("continual_backprop",),
    arguments={"rate": 0.05, "maturity": 2},
    neutral={"rate": 0.0},
    first_task_plain=False,
  ),
  "elephant": Record(spec="regularizers_projectors 8.3", claim=("elephant",), first_task_plain=False),
  "clnp": Record(
    spec="regularizers_projectors 8.9",
    claim=("clnp",),
    arguments={"samples": 32, "thresholds": 20},
    first_task_plain=False,
  ),
  "rewarm_redecay": Record(
    spec="regularizers_projectors 6.4",
    claim=("rewarm_redecay",),
    neutral={"floor": 1.0, "warmup": 0.0},
    first_task_plain=False,
  ),
  "infinite": Record(
    spec="regularizers_projectors 6.4",
    claim=("infinite",),
    arguments={"warmup_steps": 2, "cooldown_steps": 4},
    neutral={"constant": 1.0, "warmup_steps": 0},
    first_task_plain=False,
  ),
  "vcl": Record(
    spec="regularizers_projectors 3.1",
    claim=("natural_gradient_vcl", "vcl"),
    arguments={"strength": 0.1},
    first_task_plain=False,
  ),
  "claw": Record(
    spec="regularizers_projectors 8.8", claim=("claw",), arguments={"strength": 0.1}, first_task_plain=False
  ),
  "refresh": Record(
    spec="regularizers_projectors 3.2",
    claim=("refresh_derpp", "refresh_ewc"),
    neutral={"base": "finetune", "step_size": 0.0},
    first_task_plain=False,
  ),
}
