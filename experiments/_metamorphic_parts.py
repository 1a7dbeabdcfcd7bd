"""Laws of parts: what a neutral part adds, what a second replay changes, what a deletion leaves."""

from __future__ import annotations

import jax
import numpy as np

import cljax
from cljax import methods
from cljax.core.types import Forget
from experiments import _metamorphic_draw as draws
from experiments import _metamorphic_streams as told
from experiments._metamorphic_laws import NO_FORGET, law
from experiments._metamorphic_trial import Trial, apart
from experiments._proof_records import records

# Neutral by their entry, of floats alone, and owners of nothing that a partner may own too.
PULLS = ("ewc", "online_ewc", "si", "mas", "l2_previous", "hierarchical", "l2", "l2_init", "spectral", "wasserstein")
NEUTRAL = (*PULLS, "lwf", "unified", "derpp", "center_loss", "classp", "lines", "heterogeneous_averaging")
SPECIAL = {"joint", "cumulative"}


def neutral_part(name: str) -> draws.Part:
  entry = methods.lookup(name)
  options = {k: v for k, v in draws.SMALL.items() if k in entry.options}
  record = records.method(name)
  return draws.Part(name, {**options, **record.arguments, **(record.neutral or {})})


def _composed(rng, combination):
  del rng
  return combination, {"composed": True}


def _add(trial: Trial, part: draws.Part, first: bool) -> str | None:
  parts = draws.labelled(trial.combination)
  both = {"more": part, **parts} if first else {**parts, "more": part}
  with trial.refusable():
    result = trial.variant(parts=both)
  return trial.close(result)


@law("neutral part", "a part of strength 0 beside others adds nothing", weight=3, prepare=_composed)
def neutral(trial: Trial, rng) -> str | None:
  part = neutral_part(draws.pick(rng, NEUTRAL))
  found = _add(trial, part, first=rng.random() < 0.3)
  return f"with {part.name} at {dict(records.method(part.name).neutral or {})}: {found}" if found else None


@law(
  "penalty twice",
  "a part's state is its own: the same penalty again at strength 0 changes nothing",
  weight=2,
  draw=NO_FORGET | {"learns": (*PULLS, "lwf", "center_loss"), "most": 1},
  prepare=_composed,
)
def twice(trial: Trial, rng) -> str | None:
  part = trial.combination.parts[0]
  found = _add(trial, neutral_part(part.name), first=rng.random() < 0.5)
  return f"a second {part.name}: {found}" if found else None


@law(
  "two penalties in turn",
  "a sum of two pulls has no order",
  draw=NO_FORGET | {"learns": (*PULLS, "lwf")},
  # A path integral is of the gradient that reaches it, so behind another penalty it is another one (their docstrings).
  applies=lambda c: len({p.name for p in c.parts}) == 2 and not {"si", "hierarchical"} & {p.name for p in c.parts},
  prepare=_composed,
)
def in_turn(trial: Trial, rng) -> str | None:
  del rng
  a, b = (trial.combination.parts + trial.combination.parts)[:2]
  return trial.close(trial.variant(parts={"b": b, "a": a}))


REPLAYS = ("er", "derpp", "unified", "reptile", "ema", "er_agem", "er_gem", "agem", "gem")


def _still(rng, combination):
  alpha = float(rng.choice([0.5, 2.0]))
  more = draws.Part("derpp", {"alpha": alpha, "beta": 0.0, "capacity": 20})
  kept = combination.recipe._replace(reset_per_task=False)
  still = combination._replace(learning_rate=0.0, recipe=kept, options=combination.options._replace(chunk_steps=1))
  parts = {"more": more, **draws.labelled(still)} if rng.random() < 0.3 else {**draws.labelled(still), "more": more}
  return still, {"factory": draws.composed(parts)}


@law(
  "logits at rate 0",
  "where nothing moves, stored logits are the current ones: derpp's alpha weighs zeros, beside any replay",
  weight=2,
  draw=NO_FORGET | {"learns": REPLAYS},
  prepare=_still,
)
def still_logits(trial: Trial, rng) -> str | None:
  del rng
  make, hyper = trial.how["factory"]
  heard: list[dict] = []
  other = trial.prepare(factory=(make, {**hyper, "more.alpha": 7.0}))
  trial.run(other, report=heard.append)
  loss = lambda messages: np.asarray([m["loss"] for m in messages if m["kind"] == "chunk"])
  far = np.abs(loss(heard) - loss(trial.messages)).max()
  return None if far <= 1e-4 * (1 + np.abs(loss(trial.messages)).max()) else f"losses move by {far:.2g} with alpha"


# Deletion.


def _at_the_end(rng, combination):
  """The request after the last task, so that no later event has another number."""
  try:
    stream = draws.built_stream(combination._replace(requests=()))
  except cljax.UsageError:
    return combination, {}
  order = [e.task for e in stream.events]
  return combination._replace(requests=((len(order), draws.request_of(rng, stream, order)),)), {}


EDITS = [n for n in draws.FORGETS if records.method(n).neutral is not None]


def _neutral_edit(rng, combination):
  combination, _ = _at_the_end(rng, combination)
  assert combination.forget is not None
  return combination._replace(forget=neutral_part(combination.forget.name)), {}


@law(
  "neutral request",
  "an edit of no strength leaves the parameters of the run that was asked nothing",
  draw={"forgets": True, "edits": EDITS},
  prepare=_neutral_edit,
)
def neutral_request(trial: Trial, rng) -> str | None:
  del rng
  asked = [i for i, e in enumerate(trial.stream.events) if isinstance(e, Forget)]
  other = trial.variant(trial.stream._replace(events=trial.stream.events[: asked[0]]))
  return None if other.params_sha256 == trial.base.params_sha256 else "parameters differ"


EXACT = [n for n in draws.FORGETS if methods.lookup(n).access.prefix]


@law(
  "deleted contents",
  "exact deletion: what the deleted rows held can not be told from the learner, nor from what it is judged by",
  weight=2,
  draw={"forgets": True, "edits": EXACT},
  prepare=_at_the_end,
  applies=lambda c: c.forget is not None and c.forget.name in EXACT,
)
def deleted_contents(trial: Trial, rng) -> str | None:
  stream = trial.stream
  asked = [e for e in stream.events if isinstance(e, Forget)]
  gone = draws.named_rows(stream, asked[-1]) & ~told.holds(len(stream.dataset.train.y), stream.validation)
  other = trial.variant(told.contents_changed(stream, rng, gone))
  state = lambda result: jax.tree.map(np.asarray, result.learner._replace(key=()))
  far = apart(state(other), state(trial.base))
  if far:
    return f"learners {far:.2g} apart"
  return None if np.array_equal(other.accuracy[:, -1], trial.base.accuracy[:, -1]) else "accuracies differ"


@law(
  "deleted in two",
  "exact deletion of rows one after another is their deletion at once",
  draw={"forgets": True, "edits": ["retrain"]},
  prepare=_at_the_end,
  applies=lambda c: c.forget is not None and c.forget.name == "retrain",
)
def deleted_in_two(trial: Trial, rng) -> str | None:
  stream = trial.stream
  learned = [e for e in stream.events if not isinstance(e, Forget)]
  rows = rng.permutation(np.concatenate([stream.train[e.task] for e in learned]))[:6]
  ids = tuple(int(i) for i in dict.fromkeys(stream.dataset.train.id[rows].tolist()))
  once = trial.variant(stream._replace(events=(*learned, cljax.Forget(ids=ids))))
  split = (cljax.Forget(ids=ids[:3]), cljax.Forget(ids=ids[3:]))
  two = trial.variant(stream._replace(events=(*learned, *(s for s in split if s.ids))))
  return None if two.params_sha256 == once.params_sha256 else "parameters differ"
