"""Laws that every run keeps: :mod:`experiments.metamorphic` draws a law, then a combination to which it applies.

A law is ``check(trial, rng) -> None or what is wrong``; ``why`` says in one line why it must hold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import cljax
from cljax import engine
from cljax.engine import Member
from experiments import _metamorphic_draw as draws
from experiments import _metamorphic_streams as told
from experiments._metamorphic_trial import Trial, same, workdir


class Law(NamedTuple):
  """``draw``: arguments of :func:`draws.draw`; ``prepare(rng, combination)`` gives the combination and the arguments
  of :class:`Trial`; ``applies(combination)``; ``weight``: how often it is drawn; ``always``: after every base run."""

  check: Callable[[Trial, Any], str | None]
  why: str
  applies: Callable[[draws.Combination], bool] = lambda combination: True
  draw: dict[str, Any] = {}
  prepare: Callable = lambda rng, combination: (combination, {})
  weight: float = 1.0
  always: bool = False


LAWS: dict[str, Law] = {}


def law(name: str, why: str, **fields):
  """Adds the decorated check to the table."""

  def add(check):
    LAWS[name] = Law(check, why, **fields)
    return check

  return add


NO_FORGET = {"forgets": False}
# Every run.


@law("finite", "small rates and strengths: no loss, parameter or accuracy may leave its range", always=True)
def finite(trial: Trial, rng) -> str | None:
  del rng
  bad = [m["loss"] for m in trial.messages if m["kind"] == "chunk" and not np.isfinite(m["loss"])]
  if bad or not trial.base.alive.all():
    return f"a loss of {bad[:1]} and no DivergedError"
  if not all(np.isfinite(np.asarray(a)).all() for a in jax.tree.leaves(trial.base.learner.params)):
    return "parameters are not finite"
  shares = [trial.base.accuracy, trial.base.task_accuracy]
  return None if all(((a >= 0) & (a <= 1)).all() for a in shares) else "an accuracy outside 0..1"


@law("predict", "what a run reports is what its predict function gives on the same raw rows", always=True)
def predict(trial: Trial, rng) -> str | None:
  stream, test = trial.stream, trial.stream.dataset.test
  member = int(rng.integers(len(trial.base.accuracy)))
  for t, rows in enumerate(stream.test):
    logits = np.asarray(trial.base.predict(test.x[rows], member=member, task=t))
    share = float(np.mean(logits.argmax(-1) == stream.labels[t, test.y[rows]]))
    reported = float(trial.base.accuracy[member, -1, t])
    if abs(share - reported) > 1e-6:
      return f"task {t}: predict is right on {share:.3f} of the rows, reported {reported:.3f}"
  return None


# The engine.


@law("repeated", "a run has no memory of the run before: the same programs on the same arguments", weight=0.5)
def repeated(trial: Trial, rng) -> str | None:
  del rng
  return trial.same(trial.run(trial.made))


@law("resumed", "a checkpoint holds all that a run carries, at any chunk", weight=2)
def resumed(trial: Trial, rng) -> str | None:
  steps = [m["total"] for m in trial.messages if m["kind"] == "chunk"]
  with workdir() as where:
    for at in np.sort(rng.choice(steps, 2)):
      heard: list[dict] = []
      stop = lambda at=at, heard=heard: any(m.get("total", 0) >= at for m in heard)
      with contextlib.suppress(cljax.Stopped):
        trial.run(trial.made, where, report=heard.append, stop=stop)
    return trial.same(trial.run(trial.made, where))


@law("chunks", "a scan cut elsewhere does the same steps")
def chunks(trial: Trial, rng) -> str | None:
  size = trial.combination.options.chunk_steps
  other = int(rng.choice([c for c in range(1, 12) if c != size]))
  return trial.same(trial.variant(options=trial.combination.options._replace(chunk_steps=other)))


@law("evaluations", "looking at a run does not change it")
def evaluations(trial: Trial, rng) -> str | None:
  looked: dict[str, Any] = {"eval_every": int(rng.integers(1, 5)), "eval_limit": int(rng.choice([0, 3]))}
  found = trial.same(trial.variant(options=trial.combination.options._replace(**looked)))
  if found:
    return f"{looked}: {found}"
  blocks = int(rng.choice([3, 16, 64]))
  other = trial.variant(options=trial.combination.options._replace(eval_block=blocks))
  if other.params_sha256 != trial.base.params_sha256:
    return f"eval_block={blocks}: parameters differ"
  cells = np.abs(other.accuracy - trial.base.accuracy).max() * min(map(len, trial.stream.test))
  return f"eval_block={blocks}: accuracies differ by {cells:.1f} rows" if cells > 1.01 else None


@law("population", "members know nothing of one another: seeds together, in any order, are seeds alone")
def population(trial: Trial, rng) -> str | None:
  seeds = list(trial.combination.seeds)
  if len(seeds) > 1:
    chosen = int(rng.integers(len(seeds)))
    return trial.same(trial.variant(seeds=seeds[chosen : chosen + 1]), members=[chosen])
  both = trial.variant(seeds=[7, *seeds])
  return same(trial.base, both, members=[1])


@law("members", "a member with its own hyper-parameters is the run that was given them", draw={"most": 2})
def members(trial: Trial, rng) -> str | None:
  seed = trial.combination.seeds[0]
  swept = {"optimizer.learning_rate": float(np.float32(rng.choice([0.02, 0.03])))}
  two = trial.variant(population=[Member(seed), Member(seed, swept)])
  rate = {"learning_rate": swept["optimizer.learning_rate"]}
  alone = trial.variant(seeds=[seed], optimizer_options=rate)
  return same(alone, two, members=[1])


@law("grain", "the feed says how rows arrive, not which", draw=NO_FORGET)
def grain(trial: Trial, rng) -> str | None:
  del rng
  return trial.same(trial.variant(options=trial.combination.options._replace(feed="grain")))


@law("not jitted", "a compiled prediction is the prediction", weight=0.3)
def not_jitted(trial: Trial, rng) -> str | None:
  del rng
  t = len(trial.stream.test) - 1
  x = trial.stream.dataset.test.x[trial.stream.test[t][:5]]
  jitted = np.asarray(trial.base.predict(x, task=t))
  with jax.disable_jit():
    plain = np.asarray(trial.base.predict(x, task=t))
  finite = np.isfinite(jitted)
  far = np.abs(np.where(finite, jitted - plain, 0)).max() / (1 + np.abs(jitted[finite]).max(initial=0))
  return None if far <= 1e-4 and (finite == np.isfinite(plain)).all() else f"logits {far:.2g} apart"


@law(
  "goes on",
  "the first events of a stream are a run of their own, and going on from its result is the whole run",
  draw=NO_FORGET,
  applies=lambda c: all(p.entry.access.trains_on != "all" for p in c.all_parts),
)
def goes_on(trial: Trial, rng) -> str | None:
  events = trial.stream.events
  upto = int(rng.integers(1, max(2, len(events))))
  first = trial.variant(trial.stream._replace(events=events[:upto]))
  found = same(first, trial.base, rows=upto + 1, params=False)
  if found:
    return f"the first {upto} events alone: {found}"
  return trial.same(trial.run(trial.made, start=engine.continued(trial.made, first)))


# Which rows are trained.


def counting(parts: dict[str, draws.Part]):
  """The parts and one more that counts how often each row of each task is trained."""
  make, hyper = draws.composed(parts)

  def with_count(model, spec, **given):
    size = spec.batch_size

    def count(key, learner, info):
      del key
      rows = info.batch.task[:size], info.batch.id[:size]
      return learner._replace(method_state=learner.method_state.at[rows].add(info.batch.weight[:size]))

    spy = cljax.Method(
      init=lambda key, learner: jnp.zeros((spec.num_tasks, spec.num_rows)),
      after_step=count,
      scrub=lambda learner, request: learner,
      access=cljax.Access(stores_data=True),
    )
    return cljax.compose(counted=make(model, spec, **given), count=spy)

  return with_count, hyper


@law(
  "rows seen",
  "an epoch is each row once: of the task; of all tasks seen so far (cumulative); of the whole stream (joint)",
  draw=NO_FORGET | {"learns": ["finetune", "er", "cumulative", "joint"]},
  prepare=lambda rng, c: (c, {"factory": counting(draws.labelled(c))}),
)
def rows_seen(trial: Trial, rng) -> str | None:
  del rng
  counts = np.asarray(trial.base.learner.method_state["count"])[0]
  learned = [e["task"] for e in trial.base.events]
  epochs, on = trial.combination.recipe.epochs, [p.entry.access.trains_on for p in trial.combination.parts]
  for t, rows in enumerate(trial.stream.train):
    mine, rest = counts[t, rows], np.delete(counts[t], rows)
    if rest.any():
      return f"task {t}: rows that are not its own were trained"
    visits = learned.count(t) if "seen" not in on else len(learned) - (learned.index(t) if t in learned else 10**9)
    if "all" not in on and set(mine.tolist()) - {float(epochs * max(0, visits))}:
      return f"task {t}: rows trained {sorted(set(mine.tolist()))} times, not {epochs * max(0, visits)}"
  trained = np.concatenate([counts[t, rows] for t, rows in enumerate(trial.stream.train) if t in learned])
  if "all" in on and (trained.max() - trained.min() > 1 or trained.min() < epochs):
    return f"rows trained {trained.min():.0f} to {trained.max():.0f} times in {epochs} epochs"
  return None


@law("unused rows", "test rows, validation rows and rows of no task train nothing", weight=0.7)
def unused_rows(trial: Trial, rng) -> str | None:
  stream = trial.stream
  used = told.holds(len(stream.dataset.train.y), stream.train)
  free = np.ones(len(stream.dataset.test.y), bool)
  other = trial.variant(told.contents_changed(stream, rng, ~used, free))
  return None if other.params_sha256 == trial.base.params_sha256 else "parameters differ"


@law(
  "future",
  "what a learner does not know yet can not move it: the contents of tasks to come",
  draw=NO_FORGET,
  applies=lambda c: all(p.entry.access.trains_on != "all" for p in c.all_parts),
)
def future(trial: Trial, rng) -> str | None:
  stream = trial.stream
  learned = [e.task for e in stream.events]
  upto = int(rng.integers(1, max(2, len(learned))))
  past = told.holds(len(stream.dataset.train.y), [stream.train[t] for t in learned[:upto]])
  held = told.holds(len(past), stream.validation)
  other = trial.variant(told.contents_changed(stream, rng, ~past & ~held))
  return trial.same(other, rows=upto + 1, params=False)
