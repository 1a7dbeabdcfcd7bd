"""Laws of names: a run does not depend on what tasks, classes, outputs, rows, ids and requests are called."""

from __future__ import annotations

from typing import Any

import numpy as np

import cljax
from cljax import methods, streams
from cljax.streams.build import with_forget
from experiments import _metamorphic_draw as draws
from experiments import _metamorphic_streams as told
from experiments._metamorphic_laws import NO_FORGET, law
from experiments._metamorphic_trial import Trial

# Their noise has the shape of the parameters or of the outputs, so other names for outputs are other noise.
DRAWS_FOR_OUTPUTS = {
  "zeroth_order", "evolution_strategy", "lifecycle", "fomo", "vcl", "claw", "supsup", "refresh", "unified",
  "continual_backprop", "random_labels", "unsir", "bad_teacher", "stochastic_teacher", "oracle_matching",
  "datamodel_matching", "miu", "gs_lora", "slug", "fisher_forgetting",
}  # fmt: skip
DRAWS_FOR_TASKS = {"supsup"}  # the mask of each task number has first scores of its own
# A shard, a wrong label and a part of a subset are drawn for each place, so that they stay when other rows go.
DRAWS_FOR_PLACES = {"sisa", "random_labels", "datamodel_matching"}


def shuffled(rng, count: int) -> np.ndarray:
  """A permutation that moves something."""
  while True:
    out = rng.permutation(count)
    if count < 2 or (out != np.arange(count)).any():
      return out


def by_output(combination) -> bool:
  """Whether it draws labels from the model, or rows class by class: noise that belongs to an output's number."""
  return any({"sampled", "class_balanced"} & set(map(str, p.options.values())) for p in combination.all_parts)


def named(combination, names) -> bool:
  return any(p.name in names for p in combination.all_parts)


@law(
  "tasks renamed",
  "a task's number is a name: the same tasks in the same order under other numbers learn the same, columns renamed",
  weight=3,
  applies=lambda c: not named(c, {"clpu_derpp", *DRAWS_FOR_TASKS}),  # clpu_derpp's option names tasks
)
def tasks_renamed(trial: Trial, rng) -> str | None:
  new = shuffled(rng, trial.stream.num_tasks)
  return trial.same(trial.variant(told.tasks_renamed(trial.stream, new)), tasks=new)


@law("classes renamed", "a dataset's class number is a name: tasks give their labels to the same rows", weight=1.5)
def classes_renamed(trial: Trial, rng) -> str | None:
  if trial.stream.labels.shape[1] != trial.stream.dataset.num_classes:
    return None
  new = shuffled(rng, trial.stream.dataset.num_classes)
  return trial.same(trial.variant(told.classes_renamed(trial.stream, new)))


@law(
  "outputs renamed",
  "which output stands for a label is a name: outputs permuted at the beginning stay permuted",
  weight=2,
  applies=lambda c: not named(c, DRAWS_FOR_OUTPUTS) and not by_output(c),
)
def outputs_renamed(trial: Trial, rng) -> str | None:
  new = shuffled(rng, trial.stream.num_classes)
  other = trial.variant(told.outputs_renamed(trial.stream, new), told.outputs_permuted(trial.model, new))
  return trial.close(other, told.permuted_head(other.learner.params, new))


@law(
  "rows stored elsewhere",
  "where a row is stored is no property of it: tasks list the same rows in the same sequence",
  applies=lambda c: not named(c, DRAWS_FOR_PLACES),
)
def rows_moved(trial: Trial, rng) -> str | None:
  order = shuffled(rng, len(trial.stream.dataset.train.y))
  return trial.same(trial.variant(told.rows_moved(trial.stream, order)))


@law("ids renumbered", "a row's id is a name", draw={"forgets": True})
def ids_renumbered(trial: Trial, rng) -> str | None:
  count = len(trial.stream.dataset.train.y)
  new = 5000 + rng.permutation(3 * count)[:count]
  return trial.same(trial.variant(told.ids_renumbered(trial.stream, new)))


def _plain_split(rng, combination):
  kind = str(rng.choice(["class", "task", "permuted", "rotated", "group", "domain"]))
  drop = ("label_noise", "input_noise", "task_fractions")
  stream = {k: v for k, v in combination.stream.items() if k not in drop}
  return combination._replace(kind=kind, stream=stream), {}


@law(
  "rows of one's own",
  "from_tasks on a built stream's rows is that stream, labels read from the rows",
  draw=NO_FORGET | {"kind": "class"},
  prepare=_plain_split,
  applies=lambda c: not named(c, {"clpu_derpp"}),
)
def own_rows(trial: Trial, rng) -> str | None:
  del rng
  built, c = trial.stream, trial.combination
  given: dict[str, Any] = {
    "validation": built.validation,
    "events": built.events,
    "active": c.stream.get("active") or built.active,
  }
  if c.kind == "domain":  # only there labels are not the dataset's classes
    given["labels"] = built.labels
  fields: dict[str, Any] = {"view": built.view, "num_classes": built.num_classes, "task_id_given": built.task_id_given}
  return trial.same(trial.variant(streams.from_tasks(built.dataset, built.train, built.test, **given, **fields)))


def _one_task(rng, combination):
  """A request for all that one task holds, where tasks share no class."""
  try:
    stream = draws.built_stream(combination._replace(requests=()))
  except cljax.UsageError:
    return combination, {}
  order = [e.task for e in stream.events]
  after = int(rng.integers(1, len(order) + 1))
  request = cljax.Forget(tasks=(int(rng.choice(order[:after])),))
  return combination._replace(requests=((after, request),)), {}


@law(
  "request spelled",
  "a request is its rows: by class, by task, by ids in any order or as text, it is the same request",
  weight=3,
  draw={"forgets": True, "kind": "class"},
  prepare=_one_task,
  applies=lambda c: not named(c, {"clpu_derpp"}),
)
def request_spelled(trial: Trial, rng) -> str | None:
  stream, split = trial.stream, trial.stream.dataset.train
  (after, request) = trial.combination.requests[0]
  rows = stream.train[request.tasks[0]]
  ids, classes = split.id[rows], np.unique(split.y[rows])
  spellings: dict[str, str | cljax.Forget] = {
    "ids": cljax.Forget(ids=tuple(int(i) for i in rng.permutation(ids))),
    "class": cljax.Forget(classes=tuple(int(c) for c in rng.permutation(classes))),
    "all three": cljax.Forget(tasks=request.tasks, classes=(int(classes[0]),), ids=(int(ids[0]),)),
    "text": f"{after}:ids={','.join(map(str, ids))}+task={request.tasks[0]}",
  }
  plain = stream._replace(events=tuple(e for e in stream.events if isinstance(e, cljax.Learn)))
  for name in rng.permutation(list(spellings))[:2]:
    spelled = spellings[str(name)]
    again = with_forget(plain, spelled if isinstance(spelled, str) else [(after, spelled)])
    result = trial.variant(again)
    found = trial.same(result)
    if found:
      return f"by {name} in the stead of task: {found}"
  return None


@law(
  "the same masks",
  "where every task has every class, all, seen and task are one mask",
  draw={"kind": "permuted"},
  prepare=lambda rng, c: (c._replace(kind=str(rng.choice(["permuted", "rotated", "group", "label_permuted"]))), {}),
  weight=0.7,
  applies=lambda c: not named(c, {"clpu_derpp"}),
)
def same_masks(trial: Trial, rng) -> str | None:
  other = str(rng.choice([a for a in ("all", "seen", "task") if a != trial.stream.active]))
  return trial.close(trial.variant(trial.stream._replace(active=other)))


@law("by name", "a method by its name is what its factory makes", weight=0.5, draw={"most": 1},
     applies=lambda c: len(c.all_parts) == 1)  # fmt: skip
def by_name(trial: Trial, rng) -> str | None:
  del rng
  (part,) = trial.combination.all_parts
  make = lambda model, spec, **options: methods.make(part.name, model, spec, **options)
  return trial.same(trial.variant(factory=(make, part.options)))
