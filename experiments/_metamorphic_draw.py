"""Random combinations of runs for :mod:`experiments.metamorphic`: what they are, how they are drawn and built."""

from __future__ import annotations

import functools
import hashlib
from typing import Any, NamedTuple

import numpy as np

import cljax
from cljax import data, engine, methods, models, streams
from cljax.data import types as datasets
from cljax.streams.build import with_forget
from cljax.streams.rows import balanced
from experiments import _metamorphic_streams as told
from experiments._proof_records import records

BATCH = 8
FORGETS = [n for n, e in methods.METHODS.items() if e.access.forgets]
LEARNS = [n for n in methods.METHODS if n not in FORGETS]
REVEALING = (  # answer requests by a replay alone
  "ogd", "pca_ogd", "gpm", "cuber", "sgp", "adam_nscl", "trgp", "tag", "owm", "kfac_ewc", "ncl",
)  # fmt: skip
# Sizes at which a run takes a second, where the contract suite's own (Entry.test) say nothing.
SMALL = {"capacity": 20, "samples": 8, "steps": 3, "batch": 8, "rows": 8, "oracle_steps": 2, "early_steps": 2}


class Part(NamedTuple):
  """A method of the registry with the options it is given."""

  name: str
  options: dict[str, Any]

  @property
  def entry(self) -> methods.Entry:
    return methods.lookup(self.name)


class Combination(NamedTuple):
  """One run, but for the law that is tried on it. ``requests``: ``(after that many events, Forget)``."""

  parts: tuple[Part, ...]
  forget: Part | None
  kind: str  # of streams.KINDS, or 'custom': overlapping rows and events of one's own
  stream: dict[str, Any]
  classes: int
  rows: int
  data_seed: int
  requests: tuple
  seeds: tuple[int, ...]
  optimizer: str
  learning_rate: float
  recipe: cljax.Recipe
  options: cljax.Options
  activation: str
  dtype: str = "float32"  # of the parameters

  @property
  def all_parts(self) -> tuple[Part, ...]:
    return self.parts + ((self.forget,) if self.forget else ())

  def __str__(self) -> str:
    named = [f"{p.name}({', '.join(f'{k}={v}' for k, v in p.options.items())})" for p in self.all_parts]
    stream = ", ".join(f"{k}={v}" for k, v in self.stream.items())
    asked = "".join(f"; after {after} {_asked(r)}" for after, r in self.requests)
    more = f"{self.classes} classes, {self.rows} rows, data seed {self.data_seed}, seeds {list(self.seeds)}"
    chunks = f"chunks of {self.options.chunk_steps}"
    chunks += f", {self.dtype}" if self.dtype != "float32" else ""
    training = f"{self.optimizer} {self.learning_rate}, {self.recipe.epochs} epochs, {self.activation}, {chunks}"
    return f"{' + '.join(named)} on {self.kind}({stream}{asked}); {more}; {training}"


def _asked(request) -> str:
  return ", ".join(f"{k}={v}" for k, v in request._asdict().items() if v and k not in ("holds", "match"))


@functools.lru_cache(maxsize=32)
def dataset(classes: int, rows: int, seed: int) -> datasets.Dataset:
  """``rows`` training and 8 test rows a class of ``classes`` digits, drawn by ``seed``, in three groups."""
  whole = data.load("digits")

  def part(split, count, salt):
    mine = np.flatnonzero(split.y < classes)
    mine = mine[balanced(split.y[mine], count, seed + salt)]
    rng = np.random.default_rng([seed, salt])
    return datasets.split(split.x[mine], split.y[mine], rng.permutation(np.arange(len(mine)) % 3))

  train, test = part(whole.train, rows, 1), part(whole.test, 8 * classes, 2)
  names = whole.class_names[:classes]
  return datasets.dataset("few digits", train, test, names, group_names=("a", "b", "c"), scale=whole.scale)


def pick(rng, names, weights=None) -> str:
  """One of the names, by ``weights``; another name in the list leaves all draws alone that do not pick it."""
  salt = int(rng.integers(2**32))
  shares = dict.fromkeys(names, 1.0) if weights is None else dict(zip(names, weights, strict=True))
  drawn = lambda n: int.from_bytes(hashlib.blake2b(f"{salt}/{n}".encode(), digest_size=6).digest(), "big")
  waits = {n: -np.log((drawn(n) + 0.5) / 2**48) / w for n, w in shares.items()}
  return min(waits, key=waits.__getitem__)


def options_of(rng, name: str) -> dict[str, Any]:
  """The contract suite's options, small sizes, and now and then another value of one or two options."""
  entry, rng = methods.lookup(name), np.random.default_rng(rng.integers(2**32))
  out: dict[str, Any] = {k: v for k, v in SMALL.items() if k in entry.options}
  out.update(records.arguments(name))
  for key, option in entry.options.items():
    if rng.random() > 0.25 or key in ("oracles", "population", "max_bytes"):
      continue
    if option.choices:
      out[key] = str(rng.choice(option.choices))
    elif isinstance(option.default, bool):
      out[key] = not option.default
    elif isinstance(option.default, float):
      value = float(out.get(key, option.default)) * float(rng.choice([0.5, 2.0]))
      low, high = -np.inf if option.low is None else option.low, np.inf if option.high is None else option.high
      high = np.nextafter(high, low) if option.below else high
      out[key] = float(np.clip(value, low, high))
  return out


def _learn_events(rng, tasks: int) -> tuple[int, ...]:
  """Each task once, and with luck some again."""
  order = list(range(tasks))
  for _ in range(int(rng.integers(1, 3)) if rng.random() < 0.4 else 0):
    at = int(rng.integers(1, len(order) + 1))
    order.insert(at, int(rng.choice(order[:at])))
  return tuple(order)


def draw_stream(rng, kind: str) -> tuple[dict[str, Any], int]:
  """Arguments of :func:`stream_of` for a kind, and how many classes the dataset has."""
  tasks = int(rng.choice([2, 3]))
  classes = int(rng.choice([4, 6])) if tasks == 2 else 6
  out: dict[str, Any] = {"tasks": tasks, "seed": int(rng.integers(3))}
  out["validation"] = float(rng.choice([0.0, 0.2]))
  order = _learn_events(rng, tasks)
  if len(order) > tasks and kind != "scole":
    out["order"] = order
  if rng.random() < 0.5:
    out["active"] = str(rng.choice(["all", "seen", "task"]))
  if rng.random() < 0.2 and kind != "custom":
    out[str(rng.choice(["label_noise", "input_noise"]))] = 0.2
  if rng.random() < 0.2 and kind not in ("scole", "custom"):
    out["task_fractions"] = tuple(float(f) for f in rng.choice([0.5, 1.0], tasks))
  if rng.random() < 0.3 and kind in ("class", "task", "domain"):
    out["class_order"] = int(rng.integers(5))
  return out, classes


def stream_of(kind: str, dataset, arguments: dict[str, Any]) -> streams.Stream:
  """``streams.build``; of kind 'custom', ``streams.from_tasks`` with rows that tasks may share."""
  if kind != "custom":
    return streams.build(dataset, kind, **arguments)
  tasks, rng = arguments["tasks"], np.random.default_rng([arguments["seed"], 5])
  mine = lambda n, least: np.sort(rng.permutation(n)[: int(rng.integers(least, max(least + 1, n // 2)))])
  train = [mine(len(dataset.train.y), 20) for _ in range(tasks)]
  test = [mine(len(dataset.test.y), 12) for _ in range(tasks)]
  events = [cljax.Learn(t) for t in arguments.get("order", range(tasks))]
  active = arguments.get("active", "all")
  return streams.from_tasks(dataset, train, test, events=events, active=active, num_classes=dataset.num_classes)


def request_of(rng, stream, learned: list[int]) -> cljax.Forget:
  """A request for something of a task that was learned."""
  task = int(rng.choice(learned))
  rows, split = stream.train[task], stream.dataset.train
  how = str(rng.choice(["class", "ids", "task", "group"]))
  if how == "task":
    return cljax.Forget(tasks=(task,))
  if how == "class":
    return cljax.Forget(classes=(int(rng.choice(split.y[rows])),))
  if how == "group":
    return cljax.Forget(groups=(int(rng.choice(split.group[rows])),))
  return cljax.Forget(ids=tuple(int(i) for i in rng.permutation(split.id[rows])[: int(rng.integers(1, 7))]))


def draw(rng, kind: str = "", forgets: bool | None = None, learns=LEARNS, edits=FORGETS, most: int = 2) -> Combination:
  """A combination; ``kind``, whether it forgets, and the methods it may hold can be given."""
  given, kind = kind, kind or pick(rng, [*streams.KINDS, "custom"])
  forgets = rng.random() < 0.35 if forgets is None else forgets
  names = [pick(rng, learns)]
  if most > 1 and rng.random() < 0.35:
    names.append(pick(rng, learns))
  forget = pick(rng, edits) if forgets else ""
  if "clpu_derpp" in (forget, *names):  # a whole method, of task-incremental streams alone
    names, forget, kind, forgets = [], "clpu_derpp", "task", True
  elif forget and (methods.lookup(forget).access.task_boundaries or rng.random() < 0.2):
    names = []  # it trains as finetune does, or learns itself
  elif forget and not methods.lookup(forget).access.prefix:
    names = [n for n in names if n not in REVEALING]
  if not given and any(methods.lookup(n).access.task_id_at_test for n in names):
    kind = "task"
  parts = tuple(Part(n, options_of(rng, n)) for n in names)
  stream, classes = draw_stream(rng, kind)
  out = Combination(
    parts,
    Part(forget, options_of(rng, forget)) if forget else None,
    kind,
    stream,
    classes,
    rows=int(rng.choice([60, 84])),
    data_seed=int(rng.integers(4)),
    requests=(),
    seeds=tuple(int(s) for s in rng.permutation(5)[: 1 + (rng.random() < 0.3)]),
    optimizer=str(rng.choice(["sgd", "sgd", "momentum", "adam"])),
    learning_rate=0.05,
    recipe=cljax.Recipe(batch_size=BATCH, epochs=int(rng.choice([1, 1, 2])), reset_per_task=bool(rng.random() < 0.2)),
    options=cljax.Options(
      chunk_steps=int(rng.integers(3, 9)),
      checkpoint_every=int(rng.choice([0, 3])),
      checkpoint_purge_before_deletion=bool(forgets and rng.random() < 0.3),
    ),
    activation=str(rng.choice(["relu", "tanh"])),
  )
  out = out if out.optimizer != "adam" else out._replace(learning_rate=0.01)
  return with_requests(rng, out) if forgets else out


def named_rows(stream, request) -> np.ndarray:
  """[N] bool: the training rows that a request names; of a task, those that no other task holds too."""
  split = stream.dataset.train
  mask = np.isin(split.y, request.classes) | np.isin(split.id, request.ids) | np.isin(split.group, request.groups)
  held = np.zeros((stream.num_tasks, len(mask)), bool)
  for t, rows in enumerate(stream.train):
    held[t, rows] = True
  for t in request.tasks:
    mask |= held[t] & (held.sum(0) == 1)
  return mask


def with_requests(rng, combination: Combination) -> Combination:
  """One request or two, at random places; a stream that can not be built keeps none (building it says why)."""
  try:
    stream = stream_of(combination.kind, dataset_of(combination), combination.stream)
  except cljax.UsageError:
    return combination
  order = [e.task for e in stream.events]
  after = sorted(int(a) for a in rng.permutation(np.arange(1, len(order) + 1))[: 1 + (rng.random() < 0.3)])
  requests, gone = [], np.zeros(len(stream.dataset.train.y), bool)
  for a in after:
    request = request_of(rng, stream, order[:a])
    named = named_rows(stream, request)
    learned = np.concatenate([stream.train[t] for t in order[:a]])
    if (named & ~gone)[learned].any():  # else there is nothing left to forget
      requests.append((a, request))
    gone |= named
  forget = combination.forget
  if forget and forget.name == "clpu_derpp":  # only what was learned to be forgotten can be
    after = after[-1:]
    task = int(rng.choice(order[: after[0]]))
    requests = [(after[0], cljax.Forget(tasks=(task,)))]
    forget = forget._replace(options={**forget.options, "temporary": (task,)})
  return combination._replace(requests=tuple(requests), forget=forget)


def dataset_of(combination: Combination) -> datasets.Dataset:
  return dataset(combination.classes, combination.rows, combination.data_seed)


def built_stream(combination: Combination) -> streams.Stream:
  stream = stream_of(combination.kind, dataset_of(combination), combination.stream)
  return with_forget(stream, combination.requests) if combination.requests else stream


def model_of(combination: Combination, stream) -> cljax.Model:
  shape = stream.dataset.train.x.shape[1:]
  model = models.mlp(shape, stream.num_classes, hidden=(8,), activation=combination.activation)
  return model if combination.dtype == "float32" else told.narrowed(model, combination.dtype)


def composed(parts: dict[str, Part]):
  """``(factory, hyper)`` of the parts under these names; options are prefixed by the part's name."""

  def compound(model, spec, **hyper):
    makers = {}
    for label, part in parts.items():
      own = {k.split(".", 1)[1]: v for k, v in hyper.items() if k.startswith(label + ".")}
      makers[label] = lambda model, part=part, own=own: methods.make(part.name, model, spec, **own)
    return cljax.compose(**methods.of_one_model(makers, model))

  return compound, {f"{label}.{k}": v for label, part in parts.items() for k, v in part.options.items()}


def labelled(combination: Combination) -> dict[str, Part]:
  """The parts under names of their own: a, b, and forget."""
  out = dict(zip("ab", combination.parts, strict=False))
  return {**out, "forget": combination.forget} if combination.forget else out


def prepared(combination: Combination, stream, model=None, parts: dict[str, Part] | None = None, factory=None, **more):
  """``engine.prepare`` of a combination; one method goes by its name, several are composed.

  ``parts``: composed even where there is one. ``factory``: ``(factory, hyper)`` in their stead.
  """
  given: dict[str, Any] = {
    "training": combination.recipe,
    "options": combination.options,
    "seeds": combination.seeds,
    "optimizer": combination.optimizer,
    "optimizer_options": {"learning_rate": combination.learning_rate},
    **more,
  }
  model = model or model_of(combination, stream)
  if factory is None and parts is None and len(combination.parts) < 2:
    one = (combination.parts or (combination.forget,))[0]
    assert one is not None
    if combination.forget and combination.parts:
      given |= {"forget": combination.forget.name, "forget_hyper": combination.forget.options}
    return engine.prepare(stream, model, one.name, one.options, **given)
  make, hyper = factory or composed(parts or labelled(combination))
  return engine.prepare(stream, model, make, hyper, **given)
