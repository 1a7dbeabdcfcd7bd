"""When a past task is replayed matters: a schedule that was searched for is better than equal shares."""

import numpy as np

import cljax
from cljax import data, streams
from cljax.methods.replay import replay_schedules as schedules
from experiments.claims import Claim, Measured
from experiments.claims._runs import forgetting, mlp, percent

ITERATIONS, TOGETHER = 60, 10

CLAIM = Claim(
  methods=("replay_scheduling",),
  paper="Klasson et al. 2023",
  sentence="With a tiny memory that is filled anew for each task, a schedule found by tree search on validation rows "
  "ends at a better accuracy on test rows than equal shares of all past tasks.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, 15 % held out for validation, MLP 64-100-100-10, Adam "
  "0.001, 10 epochs in batches of 32, a memory of 10 rows, all of it replayed in each step, 50 rows a task kept; 60 "
  "iterations in rounds of 10, each schedule scored by the mean of three seeds that are not reported. Final average "
  "accuracy on test rows minus that of equal shares, in points.",
  seeds=5,
)


def run(stream, members, **hyper):
  return cljax.run(
    stream, mlp(stream), "replay_scheduling", {"schedule": "numbered", **hyper}, optimizer="adam",
    optimizer_options={"learning_rate": 0.001}, training=cljax.Recipe(batch_size=32, epochs=10),
    options=cljax.Options(on_divergence="freeze"), population=members,
  )  # fmt: skip


def members_of(numbers, seeds):
  return [cljax.Member(s, {"method.number": float(n)}) for n in numbers for s in seeds]


def searched(stream, seeds, tasks: int):
  """``(number, score, path)`` by validation rows; each round is one population of one program."""

  def reward(numbers):
    padded = [*numbers, *[numbers[-1]] * (TOGETHER - len(numbers))]  # of one size
    held = np.asarray(run(stream, members_of(padded, seeds)).validation)[:, -1].mean(-1)
    return held.reshape(len(padded), len(seeds)).mean(1)[: len(numbers)]

  return schedules.tree_search(reward, tasks, ITERATIONS, together=TOGETHER)


def measure(seeds):
  tasks, own = 5, list(range(seeds))
  stream = streams.build(data.load("digits"), "task", tasks=tasks, validation=0.15)
  number, score, path = searched(stream, [seeds, seeds + 1, seeds + 2], tasks)
  equal = schedules.number_of([(1,) * t for t in range(1, tasks)])
  found, ets = run(stream, members_of([number], own)), run(stream, members_of([equal], own))
  text = "/".join("-".join(map(str, s)) for s in schedules.schedule_of(number, tasks))
  figures = {
    f"found ({text}): accuracy": percent(found),
    "equal: accuracy": percent(ets),
    "found: forgetting": forgetting(found),
    "equal: forgetting": forgetting(ets),
    "best validation score of the search, first": 100 * np.asarray([path[0]]),
    "best validation score of the search, last": 100 * np.asarray([score]),
  }
  return Measured({"accuracy of found - equal": percent(found) - percent(ets)}, figures)
