"""Merges trained networks, and looks at the path between the first two.

``python -m launch.merge runs/er@1 runs/er@2 runs/other --rule=average --out=merged``, each the workdir of launch.train,
``DIR@E`` its state after event E (without: the newest). All are evaluated on the stream of the first.
``--rule``: average, or from ``--base=DIR@E`` task_arithmetic, ties, dare, lines. Prints the main score of each network,
of the merge, and along the straight path from the first to the second: the barrier on each task, and the point that is
best in the mean (chosen on what it is shown on: an upper line). ``--align`` first brings the hidden units of the others
into the order of the first's, for runs of other seeds. Writes ``merge.json`` and the parameters (``params.npz``) into
``--out``; nothing is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags as absl_flags
from etils import epath

from cljax import UsageError, edits, metrics
from cljax.cli import _registered, _shared
from cljax.cli.report import split
from cljax.cli.reporting import looking
from cljax.core import tree
from cljax.engine import restore
from cljax.evaluation import scores
from cljax.io import checkpoint, files, formats, tables

RULES = ("average", "task_arithmetic", "ties", "dare", "lines")
READ = {"base": RULES[1:], "scale": RULES[:4], "keep": ("ties",), "drop": ("dare",), "draw": ("dare",),
        "blocks": ("lines",), "alpha": ("lines",), "beta": ("lines",)}  # fmt: skip


class Network(NamedTuple):
  """One of those that are merged: what it was called, its run, and its learner ``[S]`` after an event."""

  name: str
  history: restore.History
  learner: Any
  event: int


def _flags() -> absl_flags.FlagValues:
  flags = absl_flags.FlagValues()
  absl_flags.DEFINE_enum("rule", "average", RULES, "How they are merged.", flag_values=flags)
  absl_flags.DEFINE_string("base", "", "DIR@E that all were tuned from; DIR@0 is the untrained.", flag_values=flags)
  absl_flags.DEFINE_list("scale", ["1"], "Of task vectors: one number, or one for each.", flag_values=flags)
  absl_flags.DEFINE_float("keep", 0.2, "ties: the share of numbers that stay.", flag_values=flags)
  absl_flags.DEFINE_float("drop", 0.9, "dare: the share of numbers that go.", flag_values=flags)
  absl_flags.DEFINE_integer("draw", 0, "dare: the seed of what goes.", 0, flag_values=flags)
  absl_flags.DEFINE_list("blocks", [], "lines: blocks of parameters, the shallowest first.", flag_values=flags)
  absl_flags.DEFINE_float("alpha", 0.2, "lines: the scale of the first block.", flag_values=flags)
  absl_flags.DEFINE_float("beta", 0.8, "lines: what the last block has more.", flag_values=flags)
  absl_flags.DEFINE_integer("points", 11, "Of the path between the first two, ends included; 0: none.", 0, 201, flags)
  absl_flags.DEFINE_bool("align", False, "First match the hidden units of the others with the first's.", flags)
  absl_flags.DEFINE_integer("rows", 1000, "Test rows of each task, at most.", 1, flag_values=flags)
  absl_flags.DEFINE_string("data_dir", "", "Where the data lies.", flag_values=flags)
  absl_flags.DEFINE_string("out", "", "Folder of merge.json and params.npz; none without.", flag_values=flags)
  return flags


def opened(word: str, data_dir: str | None) -> Network:
  """``DIR`` or ``DIR@E``. Raises UsageError where there is no such state."""
  place, at, number = word.rpartition("@") if "@" in word else (word, "", "")
  if at and not number.isdigit():
    raise UsageError(f"DIR@E: got {word!r}; expected a number of events behind @, such as runs/er@2")
  folder = epath.Path(place).expanduser()
  _registered.recall(folder, [restore.config_of(folder)])
  history = restore.history(str(folder), data_dir=data_dir)
  known: dict[int, int] = {}
  for checkpoint_number in history.numbers:
    position = checkpoint.read_meta(f"{folder}/checkpoints", checkpoint_number)["position"]
    if position["step"] == 0 and not position["ended"]:
      known[position["event"]] = checkpoint_number
  event = int(number) if at else max(known, default=-1)
  if event == 0 and 0 not in known:
    keys = np.asarray([seed for seed, _ in history.config["members"]], np.uint32)
    learner = jax.vmap(lambda v, s: history.parts(v).init(jax.random.key(s)))(history.values, keys)
    return Network(word, history, learner, 0)
  if event not in known:
    raise UsageError(f"DIR@E: {word!r}: {folder} has no state after event {event}; it has those after {sorted(known)}")
  return Network(word, history, history.read(known[event])[0], event)


def _numbers(words: Sequence[str]) -> list[float]:
  try:
    found = [float(w) for w in words]
  except ValueError:
    found = [float("nan")]
  if not np.isfinite(found).all():
    raise UsageError(f"scale: got {','.join(words)!r}; expected numbers")
  return found


def merged(flags, params: Sequence[Any], base: Any | None, seed: int):
  """The merge of one member's parameters by the rule of the flags."""
  scale = _numbers(flags.scale)
  several = scale[0] if len(scale) == 1 else scale
  if flags.rule == "average":
    return edits.soup(params, several)
  if base is None:
    raise UsageError(f"base: not given; --rule={flags.rule} needs what all were tuned from, such as --base=runs/er@0")
  if flags.rule == "task_arithmetic":
    return edits.task_arithmetic(base, params, several)
  if flags.rule == "ties":
    if len(scale) > 1:
      raise UsageError(f"scale: got {len(scale)} numbers; ties takes one")
    return edits.ties(base, params, flags.keep, scale[0])
  if flags.rule == "dare":
    return edits.dare(jax.random.fold_in(jax.random.key(flags.draw), seed), base, params, flags.drop, several)
  if not flags.blocks:
    raise UsageError(
      "blocks: not given; --rule=lines needs blocks of parameters, such as --blocks=hidden_0,hidden_1,head"
    )
  return edits.lines_of_several(base, params, flags.blocks, flags.alpha, flags.beta)


def _members(networks: Sequence[Network]) -> list[list[int]]:
  """The seeds of each network, of which the first goes with the first; UsageError where their numbers differ."""
  seeds = [[seed for seed, _ in n.history.config["members"]] for n in networks]
  for n, mine in zip(networks, seeds, strict=True):
    if len(mine) != len(seeds[0]):
      raise UsageError(f"DIR: {n.name} has {len(mine)} seeds, {networks[0].name} {len(seeds[0])}; expected as many")
  return seeds


def _tables(flags, networks: Sequence[Network], base: Network | None) -> dict[str, Any]:
  every = [*networks, *([base] if base else [])]
  seeds, first = _members(every), networks[0]
  stream = first.history.stream
  own = looking.objective_of(first.history, list(range(len(seeds[0]))))
  last = min(max(n.event for n in networks), len(stream.events))
  learned = [e.task for e in stream.events[:last] if hasattr(e, "task")] or range(stream.num_tasks)
  tasks = list(dict.fromkeys(learned))
  # Each is shown the first's stream, by its own method, and judged as after its own events.
  looks = [looking.look_at(n.history._replace(stream=stream), own, flags.rows, tasks) for n in networks]
  pick = lambda t, m: jax.tree.map(lambda a: a[m], t)

  def score(which: int, member: int, params=None) -> list[float]:
    n, event = networks[which], min(networks[which].event, last) if params is None else last
    learner = pick(n.learner, member)
    learner = learner if params is None else learner._replace(params=params)
    values = pick(n.history.values, member)
    return [looking.score(looks[which], values, learner, t, event) for t in tasks]

  alphas = np.linspace(0, 1, flags.points) if flags.points > 1 and len(networks) > 1 else np.zeros(0)
  path: list[Any] = []
  kept: list[Any] = []
  for m in range(len(seeds[0])):
    params = [pick(n.learner.params, m) for n in networks]
    for n, p in zip(networks[1:], params[1:], strict=True):
      if not tree.alike(p, params[0]):
        raise UsageError(f"DIR: the network of {n.name} has other parameters than that of {first.name}")
    if flags.align:
      units = first.history.model.units
      params[1:] = [edits.permute_units(p, units, edits.match_units(params[0], p, units)) for p in params[1:]]
    kept.append(merged(flags, params, None if base is None else pick(base.learner.params, m), m))
    path.append([score(0, m, edits.interpolate(params[0], params[1], float(a))) for a in alphas])
  count = range(len(seeds[0]))
  found = {
    "tasks": tasks, "score": own.main, "better": own.scores[own.main].better,
    "networks": [{"name": n.name, "event": n.event, "seeds": s, "scores": [score(i, m) for m in count]}
                 for i, (n, s) in enumerate(zip(networks, seeds, strict=False))],
    "merged": [score(0, m, p) for m, p in enumerate(kept)],
  }  # fmt: skip
  if len(alphas):
    found |= _along(np.asarray(path), alphas, found["better"])
  return found | {"params": kept}


def _along(path: np.ndarray, alphas: np.ndarray, better: str) -> dict[str, Any]:
  """What is said of ``path [S, K, T]``: means over members, barriers, and the best point in the mean over tasks."""
  sign = scores.sign(better)
  mean = np.nanmean(path, 0)
  at = int(np.argmax(sign * np.nanmean(mean, -1)))
  return {
    "alphas": alphas.tolist(), "path": mean.tolist(),
    "barrier": [metrics.barrier(-sign * p, alphas).tolist() for p in path],
    "best": {"alpha": float(alphas[at]), "gain": float(sign * (np.nanmean(mean[at]) - np.nanmean(mean[-1])))},
  }  # fmt: skip


def text(found: Mapping[str, Any], rule: str) -> str:
  """The tables as plain text; scores as reports write them, means over members."""
  shown = lambda v: scores.number(found["score"], float(v)) if np.isfinite(v) else "-"
  head = ["", *(f"task {t}" for t in found["tasks"]), "mean"]
  line = lambda name, row: [name, *map(shown, row), shown(np.nanmean(row))]
  body = [head, *(line(n["name"], np.nanmean(n["scores"], 0)) for n in found["networks"])]
  lines = tables.aligned([*body, line(f"merged ({rule})", np.nanmean(found["merged"], 0))])
  several = [", ".join(map(str, n["seeds"])) for n in found["networks"]]
  if len(set(several)) > 1:
    lines.append(f"Seeds go together by place: {'; '.join(several)}.")
  lines.append("Each network is judged among the classes of its own events, the merge and the path among those of all.")
  if "path" in found:
    steps = [line(f"{a:.2f}", r) for a, r in zip(found["alphas"], found["path"], strict=True)]
    barriers = ["barrier", *map(shown, np.nanmean(found["barrier"], 0)), ""]
    lines += ["", "From the first to the second:", *tables.aligned([["alpha", *head[1:]], *steps, barriers])]
    best = found["best"]
    lines.append(
      f"Best in the mean at alpha {best['alpha']:.2f}, {shown(best['gain'])} above the second; chosen on these rows."
    )
  return "\n".join(lines)


def _run(argv: Sequence[str], stop: _shared.Stop) -> int:
  del stop
  flags = _flags()
  given, rest = split(argv)
  _shared.parse(rest, flags, __doc__ or "")
  if not given:
    raise UsageError(
      "DIR: not given; expected workdirs of launch.train, as in: python -m launch.merge runs/a@1 runs/a@2"
    )
  for name, rules in READ.items():
    if flags[name].present and flags.rule not in rules:
      raise UsageError(f"{name}: given with --rule={flags.rule}, which does not read it; {', '.join(rules)} do")
  networks = [opened(word, flags.data_dir or None) for word in given]
  base = opened(flags.base, flags.data_dir or None) if flags.base else None
  found = _tables(flags, networks, base)
  params = found.pop("params")
  print(text(found, flags.rule))
  if flags.out:
    out = epath.Path(flags.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python -m launch.merge", *argv[1:]])
    files.write_text(out / "merge.json", files.dumps({**formats.noted(), "command": command, **found}, indent=1) + "\n")
    stacked = jax.tree.map(lambda *a: np.stack(a), *params)
    with (out / "params.npz").open("wb") as file:
      np.savez(file, **{name.replace("/", "."): value for name, value in tree.by_path(stacked).items()})
    print(f"written: {out / 'merge.json'}, params.npz")
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(_run, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
