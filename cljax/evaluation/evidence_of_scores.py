"""What was forgotten under any objective: by row losses and the objective's main score, beside retrained models.

The counterpart of :mod:`cljax.evaluation.evidence`, whose metrics are of classes. No number here proves privacy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.extras import needed
from cljax.core.types import Batch
from cljax.engine.setup import CompiledRun
from cljax.evaluation import scores as naming
from cljax.evaluation.evidence import FEW, SIDES, Sides, _paired
from cljax.metrics import unlearning as metrics
from cljax.metrics.unlearning.klom import klom_chance
from cljax.objectives import objective

SHOWN = 256  # rows of a side whose predictions and features are kept
BLOCK = 256  # rows of one forward pass


def headings(main: str) -> dict[str, str]:
  """``{metric: heading}`` of a table about a learner whose main score is ``main``."""
  name = naming.label(main)
  return {
    "forget_score": f"forget {name}", "retain_score": f"retain {name}", "test_score": f"test {name}",
    "average_gap": "avg gap", "loss_attack": "MIA loss", "prediction_distance": "prediction distance",
    "cka": "CKA to original", "relearn_time": "relearn epochs", "klom_forget": "KLoM forget",
    "klom_retain": "KLoM retain", "u_lira": "U-LiRA AUC", "u_lira_accuracy": "U-LiRA accuracy",
  }  # fmt: skip


# Beside these where fewer than FEW rows are to be forgotten, as ``evidence.ROW_METRICS``.
ROW_METRICS = {"forget_loss": "loss on them"}


class Answers(NamedTuple):
  """What a population says: a mapping by side each, but for the parameters."""

  losses: dict[str, np.ndarray]  # [S, N] of each row: the mean over its parts
  scores: dict[str, np.ndarray]  # [S]: the main score
  predictions: dict[str, np.ndarray]  # [S, n, ...] of the first SHOWN rows; none where a row gives not one
  features: dict[str, np.ndarray]  # [S, n, D] of the same rows
  params: Any
  model_state: Any


def answers(built: CompiledRun, learner, rows: Sides, model=None) -> Answers:
  """Losses, main score, predictions and features of each member of ``learner`` (leading axis S) on each side."""
  del model
  program, own = _program(built), built.parts.objective
  out: dict[str, dict] = {"losses": {}, "scores": {}, "predictions": {}, "features": {}}
  for side in rows.x:
    found = [jax.tree.map(np.asarray, program(learner, part)) for part in _blocks(rows, side)]
    count = len(rows.task[side])
    out["losses"][side] = np.concatenate([f["loss"] for f in found], 1)[:, :count]
    sums = np.asarray([f["sums"] for f in found], np.float64).sum(0)  # [S, 2]
    finish = np.vectorize(lambda ratio: float(own.scores[own.main].finish(ratio)))
    out["scores"][side] = finish(sums[:, 0] / sums[:, 1])
    for name in ("predictions", "features"):
      if name in found[0]:
        out[name][side] = np.concatenate([f[name] for f in found], 1)[:, : min(count, SHOWN)]
  return Answers(**out, params=learner.params, model_state=learner.model_state)


def _blocks(rows: Sides, side: str):
  """Batches of BLOCK rows, the last one filled up with rows of weight 0."""
  count = len(rows.task[side])
  for start in range(0, count, BLOCK):
    at = np.minimum(np.arange(start, start + BLOCK), count - 1)
    there = jnp.asarray(np.arange(start, start + BLOCK) < count, jnp.float32)
    take = lambda tree, at=at: jax.tree.map(lambda a: jnp.asarray(a)[at], tree)
    ids = jnp.where(there > 0, take(rows.id[side]).astype(jnp.int32), -1)
    yield Batch(take(rows.x[side]), take(rows.y[side]), there, ids, take(rows.task[side]).astype(jnp.int32))


def _program(built: CompiledRun):
  """``(learner [S], batch) -> {"loss" [S, B], "sums" [S, 2], ...}``, jitted."""
  own, method = built.parts.objective, built.parts.method
  model = method.model or built.model

  def one(learner, batch):
    learner = built.parts.evaluated(learner)

    def apply(key, params, batch):
      given = {"train": False, "key": key, "task": model.task_for(batch.task), "mask": batch.weight}
      return model.apply(params, learner.model_state, batch.x, **given)

    each, inside, outputs, _ = own.loss(jax.random.key(0), apply, learner.params, batch)
    predict = lambda batch: built.parts.predict(learner, batch.x, batch.task[0])
    found = {
      "loss": objective.of_rows(each, inside),
      "sums": objective.sums(own.scores[own.main], jax.random.key(0), predict, batch),
    }
    size = batch.weight.shape[0]
    for name, value in (("predictions", outputs.logits), ("features", outputs.features)):
      if hasattr(value, "shape") and value.shape[:1] == (size,):
        found[name] = value
    return found

  return jax.jit(lambda learner, batch: jax.lax.map(lambda l: one(l, batch), learner))


def first(given: Answers, count: int, start: int = 0) -> Answers:
  """Members ``start .. start + count`` of a population."""
  return jax.tree.map(lambda a: a[start : start + count], given)


def measure(
  ours: Answers, reference: Answers, original: Answers, rows: Sides, built: CompiledRun, *,
  relearning_rate: float = 0.05,
  relearning_epochs: int = 30,
) -> dict[str, np.ndarray]:  # fmt: skip
  """``{name: [S]}``, member i compared with reference member i.

  ``forget_score``, ``retain_score``, ``test_score``: the main score of each side. ``average_gap``: the mean over the
  sides of its distance to the mean reference. ``loss_attack``: accuracy of a logistic regression on row losses, forget
  against test rows. ``prediction_distance``: the mean over forget rows of the root mean square difference to what the
  reference predicts. ``cka``: of the features of forget rows, to the original. ``relearn_time``: epochs of SGD on
  forget rows until the original's mean loss. A metric is left out where the objective or the model lacks what it needs.
  Of fewer than four rows to forget the loss attack is NaN, and ``forget_loss``, their mean loss, is there too, beside
  that of models that learned them (row original) and of those that never did (row retrained).
  """
  count = len(ours.losses["forget"])
  curves = np.asarray(_relearner(built, relearning_rate, relearning_epochs)(
    (ours.params, ours.model_state), _whole(rows, "forget")
  ))  # fmt: skip
  first_loss = original.losses["forget"].mean()
  mean = {s: reference.scores[s].mean() for s in SIDES}
  names = [*headings(""), *(ROW_METRICS if len(rows.task["forget"]) < FEW else ())]
  out: dict[str, list] = {name: [] for name in names if not name.startswith(("klom", "u_lira"))}
  for i in range(count):
    for side in SIDES:
      out[f"{side}_score"].append(ours.scores[side][i])
    out["average_gap"].append(np.mean([abs(ours.scores[s][i] - mean[s]) for s in SIDES]))
    out["loss_attack"].append(_loss_attack(ours.losses["forget"][i], ours.losses["test"][i]))
    if "forget" in ours.predictions:
      a, b = (np.asarray(p.predictions["forget"][i], np.float64) for p in (ours, reference))
      out["prediction_distance"].append(np.sqrt(np.square(a - b).reshape(len(a), -1).mean(1)).mean())
    if "forget" in ours.features:
      flat = lambda p, i=i: p.features["forget"][i].reshape(len(p.features["forget"][i]), -1)
      out["cka"].append(metrics.feature_cka(flat(ours), flat(original)))
    out["relearn_time"].append(float(metrics.relearn_time(curves[i], first_loss)))
    if "forget_loss" in out:
      out["forget_loss"].append(ours.losses["forget"][i].mean())
  return {name: np.asarray(v, float) for name, v in out.items() if v}


def _loss_attack(forget, test, seed: int = 0) -> float:
  """As ``metrics.loss_attack``, of losses; rows of both sides are one kind."""
  with needed("a membership attack"):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

  n = min(len(forget), len(test))
  if n < FEW:
    return float("nan")
  drawn = np.random.default_rng(seed)
  pick = lambda losses: np.clip(losses[drawn.permutation(len(losses))[:n]], -100, 100)
  feature = np.concatenate([pick(forget), pick(test)])[:, None]
  splits = StratifiedShuffleSplit(5, test_size=max(2, n // 5), random_state=seed)
  member = np.concatenate([np.ones(n), np.zeros(n)])
  return float(cross_val_score(LogisticRegression(), feature, member, cv=splits, scoring="accuracy").mean())


def _whole(rows: Sides, side: str) -> Batch:
  parts = list(_blocks(rows, side))
  joined = jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
  return jax.tree.map(lambda a: a[: len(rows.task[side])], joined)


def _relearner(built: CompiledRun, rate: float, epochs: int):
  model, own = built.parts.method.model or built.model, built.parts.objective

  def one(params, state, batch):
    def loss(params, batch):
      given = {"train": False, "mask": batch.weight, "task": model.task_for(batch.task)}
      apply = lambda key, params, b: model.apply(params, state, b.x, key=key, **given)
      return objective.mean_loss(own, jax.random.key(0), apply, params, batch)

    return metrics.relearn(
      loss, params, batch, jax.random.key(0), learning_rate=rate, epochs=epochs, samples=100
    ).losses

  return jax.jit(lambda members, batch: jax.lax.map(lambda m: one(m[0], m[1], batch), members))


def population(ours: Answers, oracles: Answers, rows: Sides) -> dict[str, float]:
  """KLoM of M unlearned models against as many oracles, of minus the row losses."""
  del rows
  return {name: of(metrics.klom).mean for name, of in _paired(lambda a, s: -a.losses[s], ours, oracles)}


def chances(ours: Answers, oracles: Answers, rows: Sides) -> dict[str, float]:
  """As ``evidence.chances``, of minus the row losses."""
  del rows
  return {name: of(klom_chance) for name, of in _paired(lambda a, s: -a.losses[s], ours, oracles)}


def margins(given: Answers, rows: Sides) -> np.ndarray:
  """``[S, N]`` of the rows to forget: what U-LiRA looks at."""
  del rows
  return -given.losses["forget"]


def sound(given: Answers) -> np.ndarray:
  """``[S] bool``: members all of whose losses are finite."""
  return np.all([np.isfinite(v).all(1) for v in given.losses.values()], 0)


def over_forgets(after: Answers, oracles: Answers, rows: Sides, better: str) -> bool:
  """Whether the rows to forget score worse, in the mean over members, than with every oracle: a leak too."""
  del rows
  sign = naming.sign(better)
  return bool(metrics.over_forgetting(sign * after.scores["forget"].mean(), sign * oracles.scores["forget"]))
