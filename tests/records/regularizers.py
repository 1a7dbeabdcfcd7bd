"""Records of cljax.regularizers."""

from records.form import Record

KIND = "regularizer"
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
  "ewc": Record(spec="regularizers_projectors 1.1"),
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
