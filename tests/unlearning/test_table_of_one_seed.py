"""One seed has no standard error: nothing is marked as told from retraining."""

import numpy as np

from cljax.cli.unlearning import _job, _table
from cljax.evaluation import evidence


def table(*seeds):
  """A method twice as far off as the retrained models of as many seeds."""
  about = {"exactness": "approximate", "needs": "", "epochs": 1.0, "alive": len(seeds)}
  off = lambda value: {"average_gap": np.full(len(seeds), value) + 0.01 * np.arange(len(seeds))}
  context = {"seeds": list(seeds), "rows_to_forget": 1, "population": 2, "oracles": 2, "epoch_seconds": 1.0}
  rows = {"retrained": off(0.1), "ssd": off(0.2)}
  compared = _job.Compared(rows, dict.fromkeys(rows, about), context, {"average_gap": "avg gap"}, "")
  return _table.render(compared, "ids=0", stream=False)


def test_one_seed_is_said_to_tell_nothing():
  one, two = table(0), table(0, 1)
  assert "*" not in one
  assert "One seed, so no standard errors: nothing can be told from retraining (--seeds=2 or more)." in one
  assert "0.20 ± 0.00 *" in two or "0.21 ± 0.01 *" in two
  assert "1 of 1" in two
  assert "1 of 1" not in one


def test_outside_needs_a_spread_of_both():
  two, far = np.array([0.1, 0.11]), np.array([0.5, 0.51])
  assert evidence.outside_noise_floor({"gap": far}, {"gap": two}) == ["gap"]
  assert evidence.outside_noise_floor({"gap": far[:1]}, {"gap": two}) == []
  assert evidence.outside_noise_floor({"gap": far}, {"gap": two[:1]}) == []
  assert evidence.outside_noise_floor({"gap": np.array([np.nan])}, {"gap": two}) == ["gap"]
