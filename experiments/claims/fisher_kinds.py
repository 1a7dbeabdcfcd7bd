"""How the Fisher information is computed: what it does to EWC's best strength, and to its sensitivity."""

import jax.numpy as jnp
import numpy as np

from cljax import estimators, regularizers
from cljax.core.method import Method
from cljax.core.types import Access
from cljax.methods.penalties.pulls import consolidated
from experiments.claims import Claim, Measured
from experiments.claims._paired import grid
from experiments.claims._runs import digits, mlp

STRENGTHS = tuple(10.0**k for k in range(-1, 6))
FEW = 20  # rows for the Fisher information, of 1437
CLAIM = Claim(
  methods=("ewc", "fisher_diagonal"),
  paper="van de Ven 2025",
  sentence="The squared gradient of a batch needs a strength orders of magnitude larger; the exact Fisher information "
  "is least sensitive to the strength and to the number of samples.",
  protocol="Permuted digits, 3 tasks (task-incremental digits, as in the paper, are at 98% under every strength), MLP "
  "64-50-10, Adam 0.001, batch 32, 5 epochs; EWC with strengths 0.1, 1, ..., 10^5, Fisher information exact, empirical "
  "or of batches of 32, of all rows or of 20. For each seed: decades between the middles of the strengths within 2 "
  "points of the best, batched minus exact, beyond 1; number of such strengths, exact minus the most of the others; "
  "accuracy at the best strength that 20 rows lose against all rows, the least of the others minus exact, in points.",
)


def ewc_of(kind):
  """EWC whose Fisher information is of that kind, on the first ``rows`` rows of a task."""

  def factory(model, spec, *, strength, rows):
    del spec

    def end_task(key, learner, task):
      del key
      few = task.rows._replace(count=jnp.minimum(task.rows.count, rows.astype(jnp.int32)))
      importance = estimators.fisher_diagonal(model, learner.params, learner.model_state, few, kind=kind, batch_size=32)
      return consolidated(learner, "ewc", importance)

    access = Access(task_boundaries=True, boundary_data=True)
    return Method(penalty=regularizers.ewc(strength), end_task=end_task, access=access)

  return factory


def measure(seeds):
  stream = digits("permuted", 3)
  model = mlp(stream, (50,))
  values = [{"strength": s, "rows": n} for n in (10_000.0, float(FEW)) for s in STRENGTHS]
  middle, width, lost, figures = {}, {}, {}, {}
  for kind in ("exact", "empirical", "batched"):
    found, _ = grid(stream, ewc_of(kind), seeds, values, epochs=5, optimizer="adam", learning_rate=0.001, model=model)
    whole, few = np.nan_to_num(found).reshape(2, len(STRENGTHS), seeds)  # a diverged run counts as 0
    near = whole >= whole.max(0) - 2.0
    middle[kind] = (near * np.log10(STRENGTHS)[:, None]).sum(0) / near.sum(0)
    width[kind] = near.sum(0)
    lost[kind] = whole.max(0) - few.max(0)
    figures[f"{kind}: best accuracy"] = whole.max(0)
    figures[f"{kind}: log10 of the best strengths"] = middle[kind]
    figures[f"{kind}: strengths near the best"] = width[kind]
    figures[f"{kind}: points lost with {FEW} rows"] = lost[kind]
    figures[f"{kind}: accuracy by strength"] = whole.mean(1)
  return Measured(
    {
      "decades, batched - exact, beyond 1": middle["batched"] - middle["exact"] - 1.0,
      "strengths near the best, exact - others": width["exact"] - np.maximum(width["empirical"], width["batched"]),
      "points lost with few rows, others - exact": np.minimum(lost["empirical"], lost["batched"]) - lost["exact"],
    },
    figures,
  )
