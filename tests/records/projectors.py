"""Records of cljax.projectors."""

from records.form import Record

KIND = "projector"
UNFILLED = True  # some records here name no comparison yet
HELPERS = {
  "AGEMState": "a state type",
  "CUBERBlocked": "a type",
  "CUBERKernel": "a type",
  "CUBERState": "a state type",
  "CoSOHistory": "a type",
  "CoSOKernel": "a type",
  "CoSOState": "a state type",
  "GEMState": "a state type",
  "GPMState": "a state type",
  "GeometricState": "a state type",
  "IdealState": "a state type",
  "OGDState": "a state type",
}
RECORDS: dict[str, Record] = {
  "adaptive_orthogonality": Record(spec="unlearning B16"),
  "adaptive_orthogonality_grad": Record(spec="unlearning B16"),
  "agem": Record(
    spec="regularizers_projectors 4.2",
    compared=("test_matches_the_formula_when_it_fires", "test_reads_its_own_reference"),
    invariants=("test_agem_meets_its_constraint_and_does_not_grow", "test_untouched_to_the_bit_when_aligned_or_empty"),
  ),
  "basis_bytes": Record(),
  "coso": Record(spec="regularizers_projectors 4.7"),
  "coso_end_task": Record(spec="regularizers_projectors 4.7"),
  "coso_projection": Record(spec="regularizers_projectors 4.7"),
  "cuber": Record(spec="regularizers_projectors 4.6"),
  "cuber_end_task": Record(spec="regularizers_projectors 4.6"),
  "cuber_projection": Record(spec="regularizers_projectors 4.6"),
  "cuber_pull": Record(spec="regularizers_projectors 4.6"),
  "cuber_start_task": Record(spec="regularizers_projectors 4.6"),
  "current_weight": Record(),
  "er_agem": Record(spec="regularizers_projectors 4.8"),
  "er_gem": Record(spec="regularizers_projectors 4.8"),
  "gem": Record(spec="regularizers_projectors 4.1"),
  "geometric_disentanglement": Record(spec="unlearning B15"),
  "gpm": Record(spec="regularizers_projectors 4.5"),
  "gpm_bytes": Record(),
  "gpm_extend": Record(),
  "ideal_init": Record(spec="replay_architecture_metrics C17"),
  "ideal_learn": Record(spec="replay_architecture_metrics C17", claim=("ideal",)),
  "ideal_member": Record(spec="replay_architecture_metrics C17"),
  "ntk_forgetting": Record(claim=("ntk_overlap",)),
  "ntk_overlap": Record(spec="replay_architecture_metrics C16"),
  "ogd": Record(spec="regularizers_projectors 4.3"),
  "ogd_extend": Record(claim=("ideal", "ogd")),
  "on_update": Record(),
  "pca_ogd": Record(spec="regularizers_projectors 4.4"),
  "pca_ogd_extend": Record(spec="regularizers_projectors 4.4", claim=("ntk_overlap",)),
  "principal_directions": Record(),
  "scaled_projection": Record(),
}
