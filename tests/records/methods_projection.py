"""Records of the methods of projection, subspaces."""

from records.form import Record

KIND = "method"
UNFILLED = True  # some records here name no comparison yet
RECORDS: dict[str, Record] = {
  "agem": Record(spec="regularizers_projectors 4.2", claim=("agem",), arguments={"capacity": 20}),
  "gem": Record(spec="regularizers_projectors 4.1", claim=("gem",), arguments={"capacity": 20}),
  "gpm": Record(spec="regularizers_projectors 4.5", claim=("gpm",), arguments={"samples": 16}),
  "ogd": Record(spec="regularizers_projectors 4.3", claim=("ogd",), arguments={"samples": 4}),
  "pca_ogd": Record(spec="regularizers_projectors 4.4", claim=("pca_ogd",), arguments={"directions": 3, "samples": 12}),
  "cuber": Record(spec="regularizers_projectors 4.6", claim=("cuber",), arguments={"samples": 16}),
  "coso": Record(
    spec="regularizers_projectors 4.7",
    claim=("coso",),
    arguments={"rank": 3, "sketch_rank": 4, "scale": 0.1},
    first_task_plain=False,
  ),
}
