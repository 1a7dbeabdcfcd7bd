"""What papers on unlearning print beside the evidence: other forms of the same attacks and accuracies.

They stand in a table of their own, without marks: they repeat what :mod:`cljax.evaluation.evidence` says in other
units, and a table in which one thing is marked twice would say more than it knows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cljax.evaluation.evidence import KLOM, SIDES, Answers, Sides, _paired, attack_curves
from cljax.metrics import unlearning as metrics

HEADINGS = {
  "unlearning_accuracy": "UA %",
  "h_mean": "H-mean %",
  "zrf": "ZRF",
  "jaccard": "Jaccard",
  "svc_correctness": "SVC correctness",
  "svc_entropy": "SVC entropy",
  "svc_modified_entropy": "SVC m-entropy",
  "recovery_gap": "recovery gap %",
  "klom_forget_p95": "KLoM forget p95",
  "klom_retain_p95": "KLoM retain p95",
  "klom_forget_floor": "floor forget",
  "klom_retain_floor": "floor retain",
  "u_lira_tpr": "U-LiRA TPR %",
}
NOTE = (
  "Other forms of the same evidence, without marks; the target is the row retrained. UA: 1 - FA. H-mean: of the fall "
  "of FA since the original model and RA. ZRF: 1 less the divergence from an untrained model on the rows to forget. "
  "Jaccard: overlap with the retrained model of the rows called each class. SVC: shares of the rows to forget called "
  "non-members. Recovery gap: accuracy after the relearning attack, less the retrained model's."
)
_OF_COLUMNS = {  # told where there is such a column
  "KLoM": "KLoM p95: 95th percentile over rows; floor: even oracles against odd ones.",
  "U-LiRA": "U-LiRA TPR: at 1 % false positives.",
}


def note(headings: Sequence[str]) -> str:
  """What the columns of a table with these headings are."""
  told = [text for start, text in _OF_COLUMNS.items() if any(h.startswith(start) for h in headings)]
  return " ".join([NOTE, *told])


def measure(
  ours: Answers, reference: Answers, original: Answers, untrained: Answers, rows: Sides, model, plain=None
) -> dict:
  """Those of :data:`HEADINGS` that are of single members: ``{name: [S]}``, member i beside member i of the others.
  ``plain``: the reference's model, where it is another."""
  y = rows.y
  out: dict[str, list[float]] = {}
  curves, against = attack_curves(ours, rows, model), attack_curves(reference, rows, plain or model)
  for i in range(len(ours.logits["forget"])):
    z, r, before = ({s: a.logits[s][i] for s in y} for a in (ours, reference, original))
    found = metrics.accuracies(*((z[s], y[s]) for s in SIDES))
    svc = metrics.svc_attacks(z["retain"], y["retain"], z["test"], y["test"], z["forget"], y["forget"], most=300)
    jaccard = metrics.completeness(z["forget"], r["forget"]).jaccard
    values = {
      "unlearning_accuracy": metrics.unlearning_accuracy(found.forget),
      "h_mean": metrics.h_mean(metrics.accuracy(before["forget"], y["forget"]), found.forget, found.retain),
      "zrf": metrics.zrf(z["forget"], untrained.logits["forget"][i]),
      "jaccard": np.nanmean(jaccard) if np.isfinite(jaccard).any() else np.nan,
      "svc_correctness": svc.correctness, "svc_entropy": svc.entropy, "svc_modified_entropy": svc.modified_entropy,
      "recovery_gap": metrics.recovery_gap(curves[i], against[i])[-1],
    }  # fmt: skip
    for name, value in values.items():
      out.setdefault(name, []).append(float(value))
  return {name: np.asarray(v) for name, v in out.items()}


def population(ours: Answers, oracles: Answers, rows: Sides) -> dict[str, float]:
  """The 95th percentile of KLoM, of as many members of either side."""
  margin = lambda a, s: metrics.logit_margin(a.logits[s], rows.y[s])
  return {f"{name}_p95": of(metrics.klom).percentile for name, of in _paired(margin, ours, oracles)}


def floors(oracles: Answers, rows: Sides) -> dict[str, float]:
  """KLoM of the even oracles against the odd ones, in 8 bins where a half has fewer than 50, else 20."""
  count = len(oracles.logits["forget"]) // 2
  margin = lambda s: metrics.logit_margin(oracles.logits[s], rows.y[s])[: 2 * count]
  floor = lambda s: metrics.klom_floor(margin(s), bins=20 if count >= 50 else 8).mean
  return {f"{name}_floor": floor(side) for name, side in KLOM.items()}
