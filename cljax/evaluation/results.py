"""The result of a run as one JSON-ready dict, as rows, and as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from cljax import metrics
from cljax.engine import presentations
from cljax.evaluation import evaluations, scores, selection
from cljax.evaluation.matrices import METRICS, OVER_ROWS, are_even, matrix_metrics
from cljax.io import checkpoint, formats, sealing, tables
from cljax.io.files import dumps, loads, write_text

SCENARIOS = {
  "class": "class-incremental",
  "task": "task-incremental",
  "domain": "domain-incremental",
  "si_blurry": "class-incremental (Si-Blurry)",
  "i_blurry": "class-incremental (i-Blurry)",
  "scole": "class-incremental (SCoLe)",
  "instance": "instance-incremental",
}


def describe(
  result,
  *,
  config: Mapping[str, Any],
  method: str,
  stream: str,
  kind: str,
  seeds: Sequence[int],
  members: Sequence[int] | None = None,
  environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
  """The content of ``result.json`` for the given ``members`` of a :class:`cljax.RunResult` (default: all).

  Accuracies are fractions; ``accuracy_matrix [S][E][T]`` has one row before the first event; where there are other
  scores, ``scores`` holds them all (:mod:`cljax.evaluation.scores`); ``evaluated_rows`` of the same shape are the test
  rows that each entry of the main score is a mean over, where it is a mean over rows; for evaluators see
  :mod:`cljax.evaluation.evaluations`, for ``presentations`` :func:`cljax.engine.presentations.summary`. ``kind`` is the
  stream's: for ``'class'`` the matrix over each task's own classes comes beside it, and ``validation_matrix`` where
  the stream holds rows out.
  ``seconds`` are those of the whole population, of ``population`` members.
  """
  main, *others = result.scores
  who = list(range(len(result.alive))) if members is None else list(members)
  held = result.scores[main][who]
  measured = lambda matrix, name: matrix_metrics(matrix[who], result.events, result.better[name], beside=held)
  plain = [main, *others] == [scores.ACCURACY]
  out: dict[str, Any] = {
    **formats.noted(),
    "config": config,
    "method": method,
    "stream": stream,
    "scenario": SCENARIOS.get(kind, f"domain-incremental ({kind})"),
    "seeds": list(seeds),
  }
  if plain:
    out["accuracy_matrix"] = result.accuracy[who]
  else:
    out.update(scores={n: v[who] for n, v in result.scores.items()}, better=result.better, main=main)
  counts = getattr(result, "evaluated_rows", None)
  if counts is not None:
    out["evaluated_rows"] = counts = counts[who]
  if getattr(result, "task_steps", None) is not None:
    out["task_steps"] = result.task_steps[who]
  if getattr(result, "task_names", ()):
    out["task_names"] = list(result.task_names)
  drawn = getattr(result, "drawn", ())
  if drawn:
    out["drawn"] = [drawn[i] for i in who]
  out["metrics"] = matrix_metrics(held, result.events, result.better[main], held, counts)
  if others:
    out["score_metrics"] = {n: measured(result.scores[n], n) for n in others}
  if kind == "class" and plain:
    out["task_accuracy_matrix"] = result.task_accuracy[who]
    out["task_metrics"] = measured(result.task_accuracy, main)
  if result.validation is not None:
    out["validation_matrix"] = result.validation[who]
    out["validation_metrics"] = measured(result.validation, main)
  out.update(evaluations.described(result, who))
  out.update({"fisher": dict(result.fisher)} if result.fisher else {})
  counted = getattr(result, "presentations", None)
  if counted is not None:
    out["presentations"] = {k: [v[i] for i in who] for k, v in presentations.summary(counted).items()}
  out.update(
    events=[{"kind": e["kind"]} if e["kind"] != "learn" and sealing.is_sealed(config) else e for e in result.events],
    forgotten=[{**r, **{k: [r[k][i] for i in who] for k in ("forget", "retain")}} for r in result.forgotten],
    curves=[{**c, "accuracy": [c["accuracy"][i] for i in who]} for c in result.curves],
    alive=result.alive[who],
    state_bytes=result.state_bytes,
    steps=result.steps,
    population=len(result.alive),
    seconds=result.seconds,
    compilations=result.compilations,
    params_sha256=[result.params_sha256[i] for i in who],
    dataset_digest=config.get("data", {}).get("digest", ""),
    versions=checkpoint.versions(),
    environment=dict(environment or {}),
  )
  return json.loads(dumps(out))


def write(path, result: Mapping[str, Any]) -> None:
  """Writes ``result.json`` whole or not at all."""
  write_text(path, dumps(result, indent=1) + "\n")


def read(path) -> dict[str, Any] | None:
  """A ``result.json``, or None where there is none that can be read. CljaxError where its format is a newer one."""
  path = epath.Path(path)
  if not path.exists():
    return None
  try:
    found = loads(path.read_bytes())
  except ValueError:
    return None
  if isinstance(found, dict):
    found = formats.read(path, found)
  return found if is_whole(found) else None


def is_whole(found) -> bool:
  """Whether something that was read is a result: all that tables, rows and merging take from one is there."""
  try:
    seeds = found["seeds"]
    number = lambda v: v is None or (isinstance(v, int | float) and not isinstance(v, bool))
    each = lambda values: isinstance(values, list) and len(values) == len(seeds) and all(map(number, values))
    whole = seeds and all(isinstance(s, int) for s in seeds) and len(set(seeds)) == len(seeds)
    shape = (len(seeds), len(found["events"]) + 1)
    named = [k for k in ("task_accuracy_matrix", "validation_matrix", "evaluated_rows") if k in found]
    judged = scores.matrices(found)
    matrices = [np.asarray(m, np.float64) for m in (*judged.values(), *(found[k] for k in named))]
    whole &= all(scores.better(found, n) in scores.BETTER for n in judged)
    whole &= set(found.get("score_metrics", {})) == set(judged) - {scores.main(found)}
    whole &= bool(matrices) and all(m.ndim == 3 and m.shape[:2] == shape for m in matrices)
    groups = [found["metrics"], *(found[k] for k in ("task_metrics", "validation_metrics") if k in found)]
    for group in [*groups, *found.get("score_metrics", {}).values()]:
      whole &= all(each(m["values"]) and number(m["mean"]) and number(m["stderr"]) for m in group.values())
      whole &= "acc" in group
    whole &= evaluations.is_whole(found, shape) and len(found.get("drawn", seeds)) == len(seeds)
    whole &= all(each(r[k]) for r in found["forgotten"] for k in ("forget", "retain"))
    whole &= all(len(c["accuracy"]) == len(seeds) for c in found["curves"])
    whole &= all(isinstance(found[k], str) for k in ("method", "stream", "scenario", "dataset_digest"))
    whole &= all(len(found[k]) == len(seeds) for k in ("alive", "params_sha256")) and found["population"] > 0
    whole &= all(number(v) and v is not None for v in found["seconds"].values()) and isinstance(found["config"], dict)
    summary(found)
    rows(found)
    table([found], [title(found)])
  except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
    return False
  return bool(whole)


def share_of_seconds(result: Mapping[str, Any]) -> float:
  """Seconds of a run; of a population, this configuration's share."""
  return sum(result["seconds"].values()) * len(result["seeds"]) / result["population"]


def title(result: Mapping[str, Any]) -> str:
  """``er``, or ``er + retrain`` where another method answers the Forget events."""
  forget = result["config"].get("forget", {}).get("name", "")
  return f"{result['method']} + {forget}" if forget else result["method"]


def diverged(result: Mapping[str, Any]) -> int:
  return sum(not alive for alive in result["alive"])


def _all_metrics(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  out = dict(result["metrics"])
  if "task_metrics" in result:
    out["task_acc"] = result["task_metrics"]["acc"]
  return {k: out[k] for k in METRICS if k in out}


def _told(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """The metrics that tables have: of tasks of one size a mean over rows says nothing more."""
  return {k: m for k, m in _all_metrics(result).items() if k not in OVER_ROWS or not are_even(result)}


def rows(result: Mapping[str, Any], **more) -> list[dict[str, Any]]:
  """One flat row for each seed: identity, metrics of the main score (``validation_acc`` is the one to select by) and,
  as ``NAME.METRIC``, of the others, final values of evaluators as ``NAME/METRIC``, costs, digest."""
  out = []
  forget = result["config"].get("forget", {}).get("name", "")
  for i, seed in enumerate(result["seeds"]):
    row = {"format": formats.of(result), "cljax": formats.writer(result).removeprefix("cljax ")}
    row |= {"method": result["method"], "forget": forget, "stream": result["stream"], "seed": seed, **more}
    if "main" in result:
      row.update(score=scores.main(result), better=scores.better(result))
    row.update({k: m["values"][i] for k, m in _all_metrics(result).items()})
    for name, group in result.get("score_metrics", {}).items():
      row.update({f"{name}.{k}": m["values"][i] for k, m in group.items()})
    row.update({key: s["values"][i] for key, s in evaluations.finals(result).items()})
    if "validation_metrics" in result:
      row["validation_acc"] = result["validation_metrics"]["acc"]["values"][i]
    if result["forgotten"]:
      row["forgotten"] = [{**r, "forget": r["forget"][i], "retain": r["retain"][i]} for r in result["forgotten"]]
    row.update(
      alive=result["alive"][i],
      state_bytes=result["state_bytes"],
      steps=result["steps"],
      seconds=share_of_seconds(result) / len(result["seeds"]),
      params_sha256=result["params_sha256"][i],
      dataset_digest=result["dataset_digest"],
      config=result["config"],
    )
    out.append(row)
  return out


def shown(summary: Mapping[str, Any], name: str = scores.ACCURACY) -> str:
  """``81.2 ± 1.0``, accuracy in percent; a dash where it is not defined (one task), no error for one seed."""
  return scores.with_error(name, summary["mean"], summary["stderr"])


def _mean(values: Sequence[float | None], name: str) -> str:
  """As :func:`shown`, of values; None, the score on no rows, is a dash."""
  return shown(metrics.summarize(values), name)


def human_bytes(count: int) -> str:
  size = float(count)
  for unit in ("B", "KiB", "MiB"):
    if size < 1024:
      return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
    size /= 1024
  return f"{size:.1f} GiB"


def summary(result: Mapping[str, Any]) -> str:
  """The table of one run: mean and standard error over seeds, accuracy in percent."""
  scenario, count, main = result["scenario"], len(result["seeds"]), scores.main(result)
  name = scores.label(main)
  names = {
    "acc": f"final {name}, {scenario}",
    "task_acc": f"final {name}, task-masked",
    "average_incremental_accuracy": f"average incremental {name}",
    "bwt": "backward transfer",
    "fwt": "forward transfer",
    "forgetting": "forgetting",
    "acc_over_rows": f"final {name} over test rows",
    "average_incremental_accuracy_over_rows": f"average incremental {name} over test rows",
    "never_learned": f"final {name}, tasks never learned",
    "acc_after_last_event": f"{name} after the last event",
  }
  lines = [(names[k], shown(m, main)) for k, m in _told(result).items()]
  if "validation_metrics" in result:
    lines.append((f"final {name}, validation rows", shown(result["validation_metrics"]["acc"], main)))
  for other, group in result.get("score_metrics", {}).items():
    said, unit = scores.label(other), scores.unit(other)
    lines.append((f"final {said}{unit}", shown(group["acc"], other)))
    lines.append((f"forgetting of {said}{unit}", shown(group["forgetting"], other)))
  for key, final in evaluations.finals(result).items():
    unit = scores.unit(evaluations.metric(key))
    lines.append((f"final {evaluations.label(key)}{unit}", shown(final, evaluations.metric(key))))
  for r in result["forgotten"]:
    at = f"request after {_learned_before(result['events'], r['event'])} tasks (event {r['event']}): {r['rows']} rows"
    others = [f"{n} {fate}" for fate, n in r.get("fates", {}).items() if fate != "forgotten"]
    at += f" to forget{''.join(', ' + o for o in others)}"
    lines += [(f"{at}, {name} on them", _mean(r["forget"], main)), (f"{at}, on those kept", _mean(r["retain"], main))]
  width = max(len(name) for name, _ in lines)
  seeds = over_seeds([result])
  told = in_which(result)
  head = f"{title(result)} on {result['stream']}, {seeds}, {told}"
  spent = result["seconds"]
  tail = (
    f"{result['steps']} steps, {share_of_seconds(result):.1f} s (compile {spent['compile']:.1f}, train "
    f"{spent['train']:.1f}, eval {spent['eval']:.1f}), {human_bytes(result['state_bytes'])} kept between tasks"
  )
  body = [f"  {name:<{width}}  {value}" for name, value in lines]
  if diverged(result):
    body.append(f"  {diverged(result)} of {count} seeds diverged (loss NaN or infinite) and were frozen there")
  return "\n".join([head, *body, tail])


def in_which(*results: Mapping[str, Any]) -> str:
  """What the numbers of results of one main score are in: accuracy is in percent, whatever stands beside it is not."""
  main = scores.main(results[0])
  if main != scores.ACCURACY:
    return f"{scores.label(main)}: {scores.better(results[0])} is better"
  said = {evaluations.metric(key) for r in results for key in evaluations.finals(r)}
  others = said.union(*(r.get("score_metrics", {}) for r in results)) - {scores.ACCURACY}
  return "accuracy in %, other scores as they are" if others else "in %"


def _learned_before(events: Sequence[Mapping[str, Any]], at: int) -> int:
  """Tasks learned before event ``at``: what requests count by."""
  return sum(event["kind"] == "learn" for event in events[:at])


def over_seeds(results: Sequence[Mapping[str, Any]]) -> str:
  """What a mean stands over: ``mean ± standard error over 3 seeds``, or over 1 to 3 where results differ; and whether
  each seed has a stream of its own (``stream.per_seed``), whose spread is over orders too."""
  counts = sorted({len(r["seeds"]) for r in results})
  own = ["drawn" in r for r in results]
  more = "" if not any(own) else ", each on a stream of its own" if all(own) else ", some on streams of their own"
  if counts == [1]:
    return "1 seed" + more.replace("each on a", "on a")
  return f"mean ± standard error over {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds{more}"


def _stream(result: Mapping[str, Any]) -> str:
  """The stream with all its options, and its data: what accuracies must share to be compared."""
  config = result["config"]
  return dumps([result.get("stream"), config.get("data"), config.get("stream")], sort_keys=True)


def rivals(result: Mapping[str, Any]) -> tuple[str, str, str]:
  """What results must have in common for one to be the best of them: the method, the stream and the score."""
  return title(result), _stream(result), scores.main(result)


def best_by_validation(results: Sequence[Mapping[str, Any]]) -> set[int]:
  """For each method on each stream, the index of the result with the best validation score (the main one).

  None without validation rows, and none where there are Forget events: the score prefers what did not forget. Runs in
  which a seed diverged are passed over.
  """
  passed = lambda r: "validation_metrics" not in r or bool(r["forgotten"]) or bool(diverged(r))
  found = [None if passed(r) else r["validation_metrics"]["acc"]["mean"] for r in results]
  return selection.best([rivals(r) for r in results], found, [scores.better(r) for r in results])


def table(results: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
  """One line for each configuration of a sweep; ``*`` marks the best of each method on its stream by the validation
  rows' score. Results of several main scores make a table for each."""
  mains = dict.fromkeys(map(scores.main, results))
  if len(mains) > 1:
    pick = lambda things, m: [t for t, r in zip(things, results, strict=True) if scores.main(r) == m]
    return "\n\n".join(table(pick(results, m), pick(labels, m)) for m in mains)
  (main,) = mains
  plain = main == scores.ACCURACY
  name = "ACC" if plain else scores.label(main)
  names = [rivals(r) for r in results]
  marked = {i for i in best_by_validation(results) if names.count(names[i]) > 1}
  used = [k for k in METRICS if any(k in _told(r) for r in results)]
  scenarios = {r["scenario"] for r in results}
  acc = f"{name} {scenarios.pop()}" if len(scenarios) == 1 else name
  others = list(dict.fromkeys(n for r in results for n in r.get("score_metrics", {})))
  said = list(dict.fromkeys(key for r in results for key in evaluations.finals(r)))
  events = sorted({f["event"] for r in results for f in r["forgotten"]})
  forget = [f"{what}, event {e}" for e in events for what in ("forget", "retain")]
  heading = lambda k: METRICS[k] if plain else METRICS[k].replace("AIA", f"{name} over events").replace("ACC", name)
  named = [acc if k == "acc" else heading(k) for k in used]
  named += [f"{scores.label(n)}{what}{scores.unit(n)}" for n in others for what in ("", " forgetting")]
  named += [f"{evaluations.label(key)}{scores.unit(evaluations.metric(key))}" for key in said]
  uneven = len({len(r["seeds"]) for r in results}) > 1
  head = ["", "run", *["seeds"] * uneven, f"{name} validation", *named, *forget, "state", "seconds"]
  body = []
  for i, (result, label) in enumerate(zip(results, labels, strict=True)):
    have = _all_metrics(result)
    note = f" ({diverged(result)} of {len(result['seeds'])} diverged)" if diverged(result) else ""
    validation = shown(result["validation_metrics"]["acc"], main) if "validation_metrics" in result else "-"
    cells = [shown(have[k], main) if k in have else "-" for k in used]
    more = result.get("score_metrics", {})
    cells += [shown(more[n][k], n) if n in more else "-" for n in others for k in ("acc", "forgetting")]
    finals = evaluations.finals(result)
    cells += [shown(finals[k], evaluations.metric(k)) if k in finals else "-" for k in said]
    by_event = {r["event"]: r for r in result["forgotten"]}
    cells += [_mean(by_event[e][k], main) if e in by_event else "-" for e in events for k in ("forget", "retain")]
    costs = [human_bytes(result["state_bytes"]), f"{share_of_seconds(result):.1f}"]
    count = [str(len(result["seeds"]))] * uneven
    body.append(["*" if i in marked else "", label + note, *count, validation, *cells, *costs])
  streams = "" if len({_stream(r) for r in results}) == 1 else " on its stream"
  told = in_which(*results)
  foot = f"{over_seeds(results)}, {told}"
  foot += f"; * best of its method{streams} by validation {scores.label(main)}" if marked else ""
  return "\n".join([*tables.aligned([head, *body], 2, ruled=True), foot])
