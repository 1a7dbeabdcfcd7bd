"""Records of methods that look for flat minima."""

from records.form import Record

KIND = "method"
RECORDS: dict[str, Record] = {
  "c_flat": Record(
    spec="classic_methods E6",
    compared=(
      "test_c_flat_s_step_by_the_plain_method_s_gradients[c_flat]",
      "test_c_flat_s_step_by_the_plain_method_s_gradients[sam]",
    ),
    invariants=("test_statistics_of_batch_norm_are_the_first_pass_s",),
    claim=("c_flat",),
    deviations=("gradients of penalties that are transforms are taken at the parameters alone",),
    neutral={"radius": 0.0},
    first_task_plain=False,
  ),
}
