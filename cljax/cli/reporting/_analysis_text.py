"""An analysis in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cljax.cli.reporting import _row_log
from cljax.cli.reporting._analysis_numbers import WHAT
from cljax.evaluation import scores

NAMED = 3  # so many of a kind are named


class Words(NamedTuple):
  """How an analysis writes its score: accuracy in percent and points, others in their own unit."""

  name: str
  value: Callable[[float], str]
  change: Callable[[float], str]  # with its sign and unit
  amount: Callable[[float], str]  # without
  loss: Callable[[Any, Any], Any]  # (then, now) -> by how much it got worse
  small: float  # a difference that is none


def words(a: Mapping[str, Any]) -> Words:
  name, sign = a["score"]["name"], scores.sign(a["score"]["better"])
  loss = lambda then, now: sign * (then - now)
  if name == scores.ACCURACY:
    return Words("accuracy", percent, lambda d: f"{points(d)} points", lambda d: f"{100 * d:.1f} points", loss, 0.02)
  value = lambda v: "-" if v is None or np.isnan(v) else f"{v:.4g}"
  scale = float(np.mean(np.abs([t["then"] for t in a["tasks"]] or [1.0])))
  return Words(scores.label(name), value, lambda d: f"{d:+.4g}", lambda d: f"{d:.4g}", loss, 0.02 * scale)


def percent(value: float) -> str:
  return "-" if value is None or np.isnan(value) else f"{100 * value:.1f} %"


def points(value: float) -> str:
  """A difference of two percentages."""
  return f"{100 * value:+.1f}"


def describe(a: Mapping[str, Any], title: str) -> str:
  """The whole text."""
  done, total = len(a["events"]), a["of_events"]
  seeds = "seed " + ", ".join(map(str, a["seeds"])) if len(a["seeds"]) == 1 else f"mean over {len(a['seeds'])} seeds"
  state = "finished" if done == total else f"interrupted: {done} of {total} events are done"
  parts = [f"{title} on {a['stream']}, {seeds}; {state}"]
  parts += [f"note: {n}" for n in a["notes"]]
  if len(a["moments"]) < done:
    what = "Classes, layers" if words(a).name == "accuracy" else "Layers"
    parts.append(f"{what} and representation are looked at after {len(a['moments'])} of the {done} events.")
  if not a["tasks"]:
    return "\n".join([*parts, "No task has been learned yet, so there is nothing to say.", ""])
  sections = {
    words(a).name.capitalize(): _accuracy(a),
    "Asked to forget": _forgotten(a),
    "Inside the tasks": _gaps(a),
    "Classes and rows": _classes(a),
    "Training presentations": _presentations(a),
    _row_log.HEADING: _row_log.lines(a.get("test_rows"), a.get("no_test_rows", "")),
    "Layers": _layers(a),
    "Representation": _drift(a),
    "Numbers by their names in cljax.metrics": _numbers(a),
  }
  for heading, lines in sections.items():
    parts += ["", heading, *(f"  {line}" for line in lines)] if lines else []
  return "\n".join([*parts, ""])


def _accuracy(a) -> list[str]:
  tasks, w = a["tasks"], words(a)
  final = np.asarray([t["now"] for t in tasks])
  lines = [f"Over the {_count(len(tasks), 'task')} learned, the {w.name} is now {w.value(final.mean())}."]
  if a["never"]:
    rest = np.mean([a["accuracy"][-1][t] for t in a["never"]])
    lines.append(
      f"On the test rows of task {', '.join(map(str, a['never']))}, never learned as such, it is {w.value(rest)}."
    )
  last = a["events"][-1]
  old = [t for t in tasks if not (last["kind"] == "learn" and t["task"] == last["task"])]
  if old:
    then, now = (np.mean([t[k] for t in old]) for k in ("then", "now"))
    lines.append(
      f"Tasks before the last stood at {w.value(then)} when they were last learned and stand at {w.value(now)} now: "
      f"{w.change(now - then)}."
    )
    lost = sorted(old, key=lambda t: -w.loss(t["then"], t["now"]))
    told = lambda t: f"task {t['task']} ({w.value(t['then'])} -> {w.value(t['now'])})"
    named = [told(t) for t in lost if w.loss(t["then"], t["now"]) > 0]
    if named:
      lines.append(f"Lost most: {', '.join(named[:NAMED])}.")
    gained = [told(t) for t in lost[::-1] if w.loss(t["then"], t["now"]) < -w.small / 4]
    if gained:
      lines.append(f"Better now than when learned: {', '.join(gained[:NAMED])}.")
  again = _relearned(a)
  if again:
    lines += again
  if not a["task_id_given"]:
    hidden = np.mean([a["task_accuracy"][-1][t["task"]] for t in tasks])
    if hidden > final.mean() + 0.02:
      lines.append(
        f"With the choice narrowed to each task's own classes it is {percent(hidden)}: "
        f"{100 * (hidden - final.mean()):.1f} points are lost between tasks, not within them."
      )
  events = [(i, e["task"]) for i, e in enumerate(a["events"]) if e["kind"] == "learn"]
  if len(events) >= 10:
    fresh = np.asarray([a["accuracy"][i + 1][t] for i, t in events])
    few = max(1, len(fresh) // 10)
    early, late = fresh[:few].mean(), fresh[-few:].mean()
    lines.append(
      f"Right after it is learned, a task stands at {w.value(early)} over the first {_count(few, 'event')} and at "
      f"{w.value(late)} over the last {few}: the network learns "
      + ("as well as at first." if abs(late - early) <= w.small else "worse than at first." if w.loss(early, late) > 0
         else "better than at first.")
    )  # fmt: skip
  return lines


def _relearned(a) -> list[str]:
  """Tasks that came back: what was left of them, and where learning them again took them."""
  left, after, seen = [], [], set()
  for i, e in enumerate(a["events"]):
    if e["kind"] == "learn":
      if e["task"] in seen:
        left.append(a["accuracy"][i][e["task"]])
        after.append(a["accuracy"][i + 1][e["task"]])
      seen.add(e["task"])
  if not left:
    return []
  w = words(a)
  was = f"{w.value(np.mean(left))} was left of it" if w.name == "accuracy" else f"it stood at {w.value(np.mean(left))}"
  return [
    f"{_count(len(left), 'event')} came back to a task: {was}, and learning it again took it to "
    f"{w.value(np.mean(after))}."
  ]


def _forgotten(a) -> list[str]:
  w = words(a)
  if w.name != "accuracy":
    return [
      f"Event {f['event']}, {_count(f['rows'], 'row')}: right after it their {w.name} was {w.value(f['forget'])}, and "
      f"{w.value(f['retain'])} on the rows that were kept."
      for f in a["forgotten"]
    ]
  return [
    f"Event {f['event']}, {_count(f['rows'], 'row')}: right after it {percent(f['forget'])} of them were still "
    f"classified right, and {percent(f['retain'])} of the rows that were kept."
    for f in a["forgotten"]
  ]


def _gaps(a) -> list[str]:
  if not a["curves"]:
    return ["Not evaluated inside tasks; run with --config.eval.every=1 to see how old tasks fall and come back."]
  if not a["gaps"]:
    return []
  w = words(a)
  fall = "fall by" if w.name == "accuracy" else "get worse by"
  depth, back = (np.mean([g[k] for g in a["gaps"]]) for k in ("depth", "recovered"))
  deep = max(a["gaps"], key=lambda g: g["worst_depth"])
  lines = [
    f"While a new task is learned, old tasks {fall} {w.amount(depth)} {'below' if fall == 'fall by' else 'from'} where "
    f"they stood and regain {w.amount(back).removesuffix(' points')} of {'them' if fall == 'fall by' else 'it'} by its "
    "end."
  ]
  if deep["worst_depth"] > 0:
    lines.append(
      f"Deepest: task {deep['worst']} {'fell' if fall == 'fall by' else 'got worse'} by "
      f"{w.amount(deep['worst_depth'])} while task {deep['task']} was learned (event {deep['event']}) and regained "
      f"{w.amount(deep['worst_recovered']).removesuffix(' points')}."
    )
  if not np.isnan(a.get("minimum", np.nan)):
    least, worst = (" (min-ACC)", " (WC-ACC)") if w.name == "accuracy" else ("", "")
    lines.append(
      f"At their worst since they were learned, old tasks stood at {w.value(a['minimum'])}{least}; with the current "
      f"task as it is now, {w.value(a['worst_case'])}{worst}."
    )
  if back > 0.5 * depth > w.small / 2:
    lines.append("Most of that fall is a stability gap: it is made up for before the task ends.")
  elif depth > w.small:
    lines.append("Most of that fall stays: it is forgetting, not a stability gap.")
  return lines


def _classes(a) -> list[str]:
  if "classes" not in a:
    return []
  names, lines = [f"class {n}" if n.isdigit() else n for n in a["class_names"]], []
  forgotten, accuracy = np.asarray(a["classes"]["forgetting"]), np.asarray(a["classes"]["accuracy"])
  known = [c for c in np.argsort(-np.nan_to_num(forgotten, nan=-np.inf)) if not np.isnan(forgotten[c])]
  over = ", over the rows of all tasks met" if a["shared_classes"] else ""
  most = [c for c in known if forgotten[c] > 0.005][:NAMED]
  if most:
    asked = lambda c: ", as asked" if c in a["asked"] else ""
    named = [
      f"{names[c]} ({percent(accuracy[-1][c] + forgotten[c])} -> {percent(accuracy[-1][c])}{asked(c)})" for c in most
    ]
    lines.append(f"Most forgotten, from their best to now{over}: {', '.join(named)}.")
  elif known:
    lines.append("No class is known worse now than before.")
  if len(a["moments"]) > 1:
    kept, lost = a["rows_kept"][0], a["rows_lost"][0]
    lines.append(
      f"Of the test rows looked at, {percent(kept)} were learned and never lost from one moment to the next, "
      f"{percent(lost)} were lost at least once and {percent(1 - kept - lost)} were never right: transitions of test "
      "rows, which are no forgetting events of training."
    )
  share = a["classes"]["recency"][-1]
  if not np.isnan(share):
    lines.append(f"Of the errors on earlier classes, {percent(share)} name a class of the task learned last.")
  counts = np.asarray(a["confusion"])[-1] * (1 - np.eye(len(names)))
  if counts.sum():
    mixed = np.argsort(-counts, axis=None)[:NAMED]
    pairs = [(i // len(names), i % len(names)) for i in mixed if counts.flat[i] > 0]
    lines.append("Taken for another most often: " + ", ".join(f"{names[x]} for {names[y]}" for x, y in pairs) + ".")
  return lines


def _presentations(a) -> list[str]:
  if "presentations" not in a:
    return []
  p = a["presentations"]
  lines = [
    f"Each training row that was presented came {p['presentations']:.4g} times. Judged in its batch before the update, "
    f"{percent(p['unforgettable'])} were learned and never forgotten, {percent(p['forgotten'])} were forgotten at "
    f"least once and {percent(p['never_right'])} were never right; {p['forgetting_events']:.4g} forgetting events each."
  ]
  if p["hardest"]:
    named = ", ".join(f"id {h['id']} in task {h['task']} ({h['score']})" for h in p["hardest"])
    lines.append(f"Forgotten most, or shown most without ever being right: {named}.")
  return lines


def _layers(a) -> list[str]:
  if "modules" not in a:
    return []
  names, moved, lines, w = a["modules"], np.asarray(a["moved"]), [], words(a)
  if len(moved):
    mean = moved.mean(0)
    order = np.argsort(-mean)
    lines.append(
      f"Between the events looked at, weights moved most in {names[order[0]]} ({mean[order[0]]:.2g} each) and least in "
      f"{names[order[-1]]} ({mean[order[-1]]:.2g})."
    )
  r = a["resets"]
  if not r["tasks"]:
    return lines
  keys = ("then", "now", "together", "restored", "damaged")
  then, now, together, restored, damaged = (np.asarray(r[k]).mean(0) for k in keys)
  best, worst = int(np.argmin(w.loss(then, restored))), int(np.argmax(w.loss(then, damaged)))
  best_word = "most" if a["score"]["better"] == "higher" else "least"
  of = f"task{'s' * (len(r['tasks']) > 1)} {', '.join(map(str, r['tasks']))}"
  lines.append(
    f"{w.name.capitalize()} on {of} was {w.value(then)} and is {w.value(now)}. With all modules put back into the last "
    f"network it is {w.value(together)}, with one alone at {best_word} {w.value(restored[best])} "
    f"({r['modules'][best]})."
  )
  lines.append(
    f"The other way round, one module of the last network takes the networks of then from {w.value(then)} to as "
    f"{'little' if best_word == 'most' else 'much'} as {w.value(damaged[worst])} ({r['modules'][worst]})."
  )
  fallen, back = w.loss(then, now), lambda value: w.loss(value, now)
  if fallen <= w.small:
    return lines
  if back(together) < 0.1 * fallen:
    lines.append("So what was lost is not in the weights but in what the method keeps beside them.")
  elif back(restored[best]) > 0.5 * fallen:
    lines.append(f"So {r['modules'][best]} is where most of it was forgotten.")
  elif back(restored[best]) < 0.1 * fallen:
    lines.append("So no single module holds what was forgotten: it went with several of them together.")
  return lines


def _drift(a) -> list[str]:
  if "drift" not in a or len(a["drift"]) < 2:
    return []
  last = np.asarray(a["drift"])[-1]
  if np.isnan(last).all():
    return []
  top, low = int(np.nanargmax(last)), int(np.nanargmin(last))
  if last[top] < 0.005:
    return [f"No layer drifted since event {a['moments'][0]} (1 - CKA on {a['probe']} test rows)."]
  return [
    f"Since event {a['moments'][0]}, {a['layers'][top]} drifted most ({last[top]:.2f}) and {a['layers'][low]} least "
    f"({last[low]:.2f}): 1 - CKA on {a['probe']} test rows, 0 for the same up to rotation and scale, 1 for unrelated."
  ]


def _numbers(a) -> list[str]:
  found = {n: v for n, v in a["numbers"].items() if np.isfinite(v)}
  width = max(map(len, found), default=0)
  return [f"{name:{width}}  {value:9.4g}  {WHAT[name]}" for name, value in found.items()]


def _count(n: int, noun: str) -> str:
  return f"{n} {noun}" + "s" * (n != 1)
