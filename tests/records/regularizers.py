"""Records of cljax.regularizers."""

from records.form import Record

KIND = "regularizer"
UNFILLED = True  # some records here name no comparison yet
HELPERS = {
  "EwcState": "a state type",
  "HierarchicalState": "a state type",
  "L2InitState": "a state type",
  "L2PreviousState": "a state type",
  "MasState": "a state type",
  "OnlineEwcState": "a state type",
  "SiState": "a state type",
  "SpectralState": "a state type",
  "WassersteinState": "a state type",
  "find": "looks up states",
}
RECORDS: dict[str, Record] = {
  "attach": Record(),
  "bregman_penalty": Record(),
  "consolidate": Record(),
  "ewc": Record(
    spec="regularizers_projectors 1.1",
    compared=("test_ewc_equals_the_explicit_sum_over_tasks",),
    invariants=("test_one_task_of_online_ewc_with_decay_one_is_ewc", "test_ewc_sum_does_not_cancel_at_low_precision"),
  ),
  "ewc_penalty": Record(),
  "export_state": Record(),
  "fisher_potential": Record(),
  "follow_edit": Record(),
  "gaussian_log_partition": Record(),
  "hierarchical": Record(spec="regularizers_projectors 7.9"),
  "hierarchical_penalty": Record(spec="regularizers_projectors 7.9"),
  "import_state": Record(),
  "importance_penalty": Record(),
  "l2": Record(spec="regularizers_projectors 1.5"),
  "l2_init": Record(spec="regularizers_projectors 1.5"),
  "l2_penalty": Record(),
  "l2_previous": Record(spec="regularizers_projectors 1.5"),
  "layer_weights": Record(),
  "mas": Record(spec="regularizers_projectors 1.4"),
  "online_ewc": Record(spec="regularizers_projectors 1.2"),
  "si": Record(spec="regularizers_projectors 1.3"),
  "spectral": Record(spec="regularizers_projectors 2.1"),
  "spectral_penalty": Record(spec="regularizers_projectors 2.1"),
  "state_bytes": Record(),
  "wasserstein": Record(spec="regularizers_projectors 2.2"),
  "wasserstein_penalty": Record(spec="regularizers_projectors 2.2"),
}
