"""What a report is made of: the runs of one or several sweeps, read, checked, joined over seeds and put into blocks.

A run that cannot be read is left out with one line that says why; the rest goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from cljax import CljaxError, UsageError, metrics
from cljax.cli import _config
from cljax.cli.reporting import _row_log
from cljax.evaluation import evaluations, scores
from cljax.evaluation.matrices import OVER_ROWS, are_even
from cljax.evaluation.results import title
from cljax.io import files, formats
from cljax.io.files import dumps


class Curves(NamedTuple):
  """Evaluations inside the events: ``event [N]``, optimizer steps ``total [N]``, ``accuracy [S, N, T]`` (or main
  score)."""

  event: np.ndarray
  total: np.ndarray
  accuracy: np.ndarray


class Run(NamedTuple):
  """One configuration with its seeds. Arrays over seeds come first; ``None`` is what no file told.

  ``values``, ``matrix``, ``validation`` and ``curves`` are of the main ``score``; ``values`` has ``NAME.METRIC`` of the
  ``others``, which ``better`` knows too.
  """

  title: str
  label: str
  block: str
  stream: str
  scenario: str
  config: Mapping[str, Any]
  seeds: tuple[int, ...]
  alive: tuple[bool, ...]
  digests: tuple[str, ...]
  values: Mapping[str, np.ndarray]
  state_bytes: float
  seconds: float  # of one seed: training and evaluation
  compile_seconds: float  # of the program, shared by all that it ran
  events: Sequence[Mapping[str, Any]] = ()
  matrix: np.ndarray | None = None
  task_matrix: np.ndarray | None = None
  validation: np.ndarray | None = None
  curves: Curves | None = None
  forgets: bool = False
  score: str = scores.ACCURACY
  better: Mapping[str, str] = {scores.ACCURACY: "higher"}
  others: Mapping[str, np.ndarray] = {}  # matrices of the other scores
  evaluated: Mapping[str, str] = {}  # of evaluators: {NAME/METRIC: which way is better, or ''}; ``values`` has them
  evaluations: Mapping[str, np.ndarray] = {}  # and their matrices
  texts: Mapping[str, list] = {}  # and what they show beside numbers: {NAME/WHAT: [S][E+1][T] lists of {name: text}}
  tasks: tuple[str, ...] = ()  # their names, where they have some
  own_streams: bool = False  # whether each seed has a stream of its own
  test_rows: Mapping[str, Any] | None = None  # what its raw log says (_row_log.numbers)

  @property
  def sign(self) -> int:
    """What makes higher better, for the main score."""
    return scores.sign(self.better[self.score])


IGNORED = ("eval", "evaluators", "checkpoint")  # sections that change nothing that is learned
IGNORED_FIELDS = (("train", "on_divergence"),)


def from_result(result: Mapping[str, Any]) -> Run:
  """A run from the content of its ``result.json``; raises LookupError, TypeError or ValueError for anything else."""
  seeds = tuple(int(s) for s in result["seeds"])
  count, events = len(seeds), result["events"]
  array = lambda key: _fitting(result, key, (count, len(events) + 1, None))
  main = scores.main(result)
  held = scores.matrices(result)
  named = "accuracy_matrix" if "scores" not in result else f"the matrix of {main}"
  matrix = _shaped(held.pop(main), (count, len(events) + 1, None), named)
  better = {n: scores.better(result, n) for n in (main, *held)}
  values = {k: m["values"] for k, m in result["metrics"].items() if k not in OVER_ROWS or not are_even(result)}
  values.update({f"task_{k}": m["values"] for k, m in result.get("task_metrics", {}).items() if k == "acc"})
  if "validation_metrics" in result:
    values["validation_acc"] = result["validation_metrics"]["acc"]["values"]
  for name in held:
    values.update({f"{name}.{k}": m["values"] for k, m in result["score_metrics"][name].items()})
  values.update({key: s["values"] for key, s in evaluations.finals(result).items()})
  for record in result["forgotten"]:
    values.update({f"{k} {record['event']}": record[k] for k in ("forget", "retain")})
  curves = None
  evaluated = [c.get("accuracy") for c in result["curves"]]
  if evaluated and (inside := _fitting({"curves": evaluated}, "curves", (None, count, matrix.shape[2]))) is not None:
    at = [np.asarray([c[k] for c in result["curves"]]) for k in ("event", "total")]
    curves = Curves(at[0], at[1], inside.swapaxes(0, 1))
    values.update(_stability(curves, events, scores.sign(better[main])))
  spent, population = result["seconds"], int(result["population"])
  return _run(
    result,
    seeds,
    values,
    result["alive"],
    result["params_sha256"],
    scenario=result["scenario"],
    forgets=bool(result["forgotten"]),
    seconds=(float(spent["train"]) + float(spent["eval"])) / population,
    compile_seconds=float(spent["compile"]),
    events=tuple(events),
    matrix=matrix,
    task_matrix=array("task_accuracy_matrix"),
    validation=array("validation_matrix"),
    curves=curves,
    score=main,
    better=better,
    others={n: _shaped(m, matrix.shape, f"the matrix of {n}") for n, m in held.items()},
    evaluated=evaluations.better(result),
    evaluations={n: _shaped(m, matrix.shape, f"the matrix of {n}") for n, m in evaluations.matrices(result).items()},
    texts=evaluations.texts(result),
    tasks=tuple(map(str, result.get("task_names", ()))),
  )


def _stability(curves: Curves, events, sign: int) -> dict[str, Any]:
  """min-ACC and WC-ACC of each seed, where every task is learned once, in order, and looked at inside the events."""
  order = [e["task"] if e["kind"] == "learn" else -1 for e in events]
  if order != list(range(curves.accuracy.shape[2])) or len(order) < 2 or len(curves.event) <= len(order):
    return {}
  named = {"min_acc": metrics.minimum_accuracy, "wc_acc": metrics.worst_case_accuracy}
  sound = lambda a: np.isfinite(a).all()  # an error of what diverged is no number
  return {
    k: [sign * metric(sign * a, curves.event) if sound(a) else np.nan for a in curves.accuracy]
    for k, metric in named.items()
  }


METRICS = ("acc", "task_acc", "average_incremental_accuracy", "bwt", "fwt", "forgetting", *OVER_ROWS,
           "never_learned", "acc_after_last_event", "validation_acc")  # fmt: skip


def from_rows(rows: Sequence[Mapping[str, Any]]) -> Run:
  """A run from its rows, where its ``result.json`` cannot be read: numbers for the tables, no curves, no split cost."""
  values = {k: [r.get(k) for r in rows] for k in METRICS if any(k in r for r in rows)}
  said = [k for k in rows[0] if "/" in k]
  values.update({k: [r.get(k) for r in rows] for k in rows[0] if "." in k or "/" in k})
  score = str(rows[0].get("score", scores.ACCURACY))
  for record in rows[0].get("forgotten", ()):
    at = record["event"]
    for k in ("forget", "retain"):
      values[f"{k} {at}"] = [next(f[k] for f in r["forgotten"] if f["event"] == at) for r in rows]
  return _run(
    rows[0],
    tuple(int(r["seed"]) for r in rows),
    values,
    [r["alive"] for r in rows],
    [r["params_sha256"] for r in rows],
    scenario="",
    forgets=bool(rows[0].get("forgotten")),
    seconds=float("nan"),
    compile_seconds=float("nan"),
    score=score,
    better={score: scores.better(rows[0], score) if score == scores.ACCURACY else str(rows[0]["better"])},
    evaluated=dict.fromkeys(said, ""),
  )


def _run(source: Mapping[str, Any], seeds, values, alive, digests, **more) -> Run:
  config = source["config"]
  if not isinstance(config, Mapping):
    raise TypeError("config is not a mapping")
  if not seeds or len(set(seeds)) < len(seeds):
    raise ValueError("seeds are missing or stand twice")
  if "acc" not in values:  # every table ranks by it
    raise LookupError("metrics have no acc")
  for key in ("method", "stream", "dataset_digest"):
    if not isinstance(source[key], str):
      raise TypeError(f"{key} is no text")
  name = title({**source, "config": config})
  stream = _config.essence(config).get("stream", {})
  judged = [more["score"]] if more["score"] != scores.ACCURACY else []  # what is scored otherwise is not compared
  older = formats.of(source) != formats.FORMAT  # its numbers follow other rules: they are compared among themselves
  ways = [*more["better"].values(), *filter(None, more["evaluated"].values())]
  if any(way not in scores.BETTER for way in ways):
    raise ValueError("better is neither higher nor lower")
  return Run(
    title=name,
    label=name,
    block=dumps([source["stream"], source["dataset_digest"], stream, *judged, *(["format"] * older)], sort_keys=True),
    stream=str(source["stream"]) + (f" ({formats.writer(source)})" if older else ""),
    config=config,
    seeds=seeds,
    alive=tuple(bool(a) for a in alive),
    digests=tuple(str(d) for d in digests),
    values={k: _shaped(v, (len(seeds),), k) for k, v in values.items()},
    own_streams=bool(stream.get("per_seed", False)),
    state_bytes=float(source["state_bytes"]),
    **more,
  )


def _shaped(values, shape: tuple, name: str) -> np.ndarray:
  out = np.asarray(values, np.float64)
  differs = lambda: any(w is not None and have != w for have, w in zip(out.shape, shape, strict=True))
  if out.ndim != len(shape) or differs():
    raise ValueError(f"{name} has shape {out.shape}")
  return out


def _fitting(source: Mapping[str, Any], key: str, shape: tuple) -> np.ndarray | None:
  """An array that a report can do without: None where it is missing or does not fit the seeds."""
  try:
    return _shaped(source[key], shape, key) if key in source else None
  except (TypeError, ValueError):
    return None


def read(folder: epath.Path) -> tuple[list[Run], list[str]]:
  """The runs of one sweep (or of one launch.train workdir), and one line for each thing that could not be read.

  Raises UsageError where there is nothing.
  """
  if not folder.is_dir():
    raise UsageError(f"DIR: no folder {folder}; expected the workdir of launch.sweep or launch.train")
  notes: list[str] = []
  rows = _rows(folder / "rows.jsonl", notes)
  inner = folder / "runs"
  names = sorted(p.name for p in inner.iterdir() if p.is_dir()) if inner.is_dir() else []
  places = [(n, inner / n / "result.json") for n in names]
  if not places and (folder / "result.json").exists():
    places = [(".", folder / "result.json")]
  known = {n for n, _ in places}
  places += [(n, inner / n / "result.json") for n in dict.fromkeys(rows) if n not in known]
  runs = []
  for name, path in places:
    run, problem = _one(path)
    if run is None and name in rows:
      try:
        run = from_rows(rows[name])
        problem += "; its numbers are taken from rows.jsonl, without curves"
      except (LookupError, TypeError, ValueError, StopIteration, AttributeError) as error:
        problem += f"; its rows neither ({_text(error)})"
    if problem:
      notes.append(f"{path}: {problem}" + ("" if run else "; left out"))
    if run is not None:
      runs.append(run._replace(test_rows=_row_log.of_seeds(path.parent, run.seeds, notes)))
  if not runs:
    held = "; ".join(notes)
    raise UsageError(
      f"DIR: {folder} holds no finished run{f' ({held})' if held else ''}; expected runs/*/result.json of launch.sweep"
    )
  return runs, notes


def _one(path: epath.Path) -> tuple[Run | None, str]:
  """A run, or None and why."""
  try:
    if not path.exists():
      return None, "not there, the run has not finished"
    result = formats.read("it", files.loads(path.read_text()))
    run = from_result(result)
    have = {"task_accuracy_matrix": run.task_matrix, "validation_matrix": run.validation, "curves": run.curves}
    unfit = [k for k, v in have.items() if result.get(k) and v is None]
    return run, f"{', '.join(unfit)}: not used, of another shape than the accuracy matrix" if unfit else ""
  except UnicodeDecodeError:
    return None, "not text"
  except json.JSONDecodeError as error:
    return None, f"not JSON, line {error.lineno}"
  except CljaxError as error:
    return None, str(error)
  except OSError as error:
    return None, f"cannot be read: {error.strerror or error}"
  except (LookupError, TypeError, ValueError, AttributeError) as error:
    return None, f"not a result: {_text(error)}"


def _text(error: BaseException) -> str:
  return f"no {error.args[0]!r}" if isinstance(error, KeyError) and error.args else " ".join(str(error).split())


def _rows(path: epath.Path, notes: list[str]) -> dict[str, list[dict[str, Any]]]:
  """Rows by run; unreadable lines become notes. Of a seed that stands twice, the later row counts."""
  out: dict[str, dict[int, dict[str, Any]]] = {}
  if not path.exists():
    return {}
  for number, line in enumerate(path.read_bytes().splitlines(), 1):
    if not line.strip():
      continue
    try:
      row = formats.read(path, files.loads(line.decode()))
      out.setdefault(str(row["run"]), {})[int(row["seed"])] = row
    except (UnicodeDecodeError, json.JSONDecodeError):
      notes.append(f"{path}: line {number} is not JSON; skipped")
    except (LookupError, TypeError, ValueError) as error:
      notes.append(f"{path}: line {number} is not a row ({_text(error)}); skipped")
  return {run: list(by_seed.values()) for run, by_seed in out.items()}


def identity(run: Run) -> str:
  """What makes two results the same configuration: all that shapes what is learned, without keys at their default."""
  kept = {
    section: {k: v for k, v in fields.items() if (section, k) not in IGNORED_FIELDS}
    for section, fields in _config.essence(run.config).items()
    if section not in IGNORED and isinstance(fields, Mapping)
  }
  return dumps([run.block, run.title, kept], sort_keys=True)


def merge(runs: Iterable[Run], notes: list[str]) -> list[Run]:
  """Joins results of the same configuration over their seeds; of a seed that stands twice, the first counts."""
  out: dict[str, Run] = {}
  for run in runs:
    key = identity(run)
    out[key] = _join(out[key], run, notes) if key in out else run
  return _labelled(list(out.values()))


def _join(a: Run, b: Run, notes: list[str]) -> Run:
  other = [s for s in b.seeds if s in a.seeds and a.digests[a.seeds.index(s)] != b.digests[b.seeds.index(s)]]
  if other:
    given = ", ".join(map(str, other))
    notes.append(f"{b.title}: seed {given} stands in two sweeps with other results; the first is taken")
  new = [i for i, s in enumerate(b.seeds) if s not in a.seeds]
  if not new:
    return b if a.matrix is None and set(b.seeds) == set(a.seeds) else a
  stack = lambda x, y: (
    np.concatenate([x, y[new]]) if x is not None and y is not None and x.shape[1:] == y.shape[1:] else None
  )
  pick = lambda values: tuple(values[i] for i in new)
  weigh = lambda x, y: float((x * len(a.seeds) + y * len(new)) / (len(a.seeds) + len(new)))
  curves = None
  if a.curves is not None and b.curves is not None and np.array_equal(a.curves.total, b.curves.total):
    curves = a.curves._replace(accuracy=np.concatenate([a.curves.accuracy, b.curves.accuracy[new]]))
  return a._replace(
    seeds=a.seeds + pick(b.seeds),
    alive=a.alive + pick(b.alive),
    digests=a.digests + pick(b.digests),
    values={k: np.concatenate([a.values[k], b.values[k][new]]) for k in a.values if k in b.values},
    seconds=weigh(a.seconds, b.seconds),
    compile_seconds=a.compile_seconds + b.compile_seconds,
    matrix=stack(a.matrix, b.matrix),
    task_matrix=stack(a.task_matrix, b.task_matrix),
    validation=stack(a.validation, b.validation),
    curves=curves,
    others=_both(a.others, b.others, stack),
    evaluated={k: way for k, way in a.evaluated.items() if k in b.evaluated},
    evaluations=_both(a.evaluations, b.evaluations, stack),
    texts={k: [*v, *pick(b.texts[k])] for k, v in a.texts.items() if k in b.texts},
    test_rows=_row_log.joined(a.test_rows, b.test_rows, new),
  )


def _both(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], stack) -> dict[str, np.ndarray]:
  """The matrices that both have, over the seeds of both."""
  return {n: m for n in a if n in b and (m := stack(a[n], b[n])) is not None}


def _labelled(runs: list[Run]) -> list[Run]:
  """Names each configuration by what sets it apart from the others of its method on its stream."""
  out = []
  for run in runs:
    peers = [_flat(_config.essence(r.config)) for r in runs if (r.block, r.title) == (run.block, run.title)]
    own = _flat(run.config)
    keys = [k for k in sorted({k for p in peers for k in p}) if len({dumps(p.get(k)) for p in peers}) > 1]
    fields = [k.partition(".")[2] for k in keys]
    short = [k if fields.count(f) > 1 else f for k, f in zip(keys, fields, strict=True)]
    parts = [f"{name}={_short(own[k])}" for k, name in zip(keys, short, strict=True) if k in own]
    out.append(run._replace(label=" ".join([run.title, *parts])))
  return out


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
  return {
    f"{section}.{k}": v
    for section, fields in config.items()
    if section not in (*IGNORED, "stream", "data") and isinstance(fields, Mapping)
    for k, v in fields.items()
    if (section, k) not in IGNORED_FIELDS
  }


def _short(value) -> str:
  return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")


def blocks(runs: Sequence[Run]) -> dict[str, list[Run]]:
  """Runs by stream, the name of each made unlike the others' by the stream options that differ."""
  found: dict[str, list[Run]] = {}
  for run in runs:
    found.setdefault(run.block, []).append(run)
  out: dict[str, list[Run]] = {}
  for key, group in found.items():
    twins = [json.loads(k) for k in found if json.loads(k)[0] == group[0].stream]
    _, digest, fields, *judged = json.loads(key)
    differ = sorted({k for t in twins for k in t[2] if len({dumps(u[2].get(k)) for u in twins}) > 1})
    parts = [f"{k}={_short(fields.get(k))}" for k in differ]
    if len({dumps(t[1]) for t in twins}) > 1:
      parts.append(f"data={str(digest)[:8]}")
    if len({dumps(t[3:]) for t in twins}) > 1:
      parts.append(f"score={(judged or [scores.ACCURACY])[0]}")
    out[" ".join([group[0].stream, *parts])] = group
  return out
