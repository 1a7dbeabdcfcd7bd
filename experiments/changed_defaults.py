"""What a call or a configuration of 0.1.0 means now where it says nothing of an option: the table of docs/versions.md.

``python -m experiments.changed_defaults`` compares the defaults of 0.1.0 (``experiments/results/defaults_0_1_0.json``:
options of methods, and arguments of public functions) with the present ones and writes the table. A change without a
reason here, and a reason without a change, ends it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pathlib

from absl import app

import cljax
from cljax.io import formats
from cljax.methods import METHODS
from experiments import _page_table
from experiments._proof_records import ROOT

OLD = pathlib.Path(ROOT) / "experiments" / "results" / "defaults_0_1_0.json"
PAGE = pathlib.Path(ROOT) / "docs" / "versions.md"
PACKAGES = (
  "losses", "regularizers", "projectors", "optimizers", "memory", "estimators", "models", "data", "metrics",
  "unlearning", "streams", "edits", "theory",
)  # fmt: skip

# (why, what restores it)
_HEADS = "heads that all tasks share are projected too; heads of a task's own are not", "`skip=head`"
_FISHER = "exact where the objective has a factor (classification, as before), else sampled, else empirical", "`exact`"
_ONCE = "each row of a task is offered to the memory once, not once an epoch", "`insert=every_pass`"
_UPDATE = "the promise is on the update that is applied, so the projector stands behind the optimizer", "`on=gradient`"
_PROTOTYPES = "the released weights; at 0 GS-LoRA++ was GS-LoRA, to the bit", "0"
_STRENGTH = "chosen anew for small networks: [forget_defaults.md](forget_defaults.md)"
_STRENGTHS = {
  "famr.learning_rate": 0.001, "famr.steps": 50, "finetune_retain.learning_rate": 0.02,
  "fisher_forgetting.variant": "paper", "gradient_ascent.steps": 20, "group_reweight.learning_rate": 0.05,
  "group_reweight.steps": 50, "iau.learning_rate": 0.001, "iau.variant": "paper", "miu.learning_rate": 0.05,
  "miu.steps": 50, "streaming.learning_rate": 0.05, "streaming.steps": 20, "unsir.steps": 50,
}  # fmt: skip
CHANGED = {
  **{f"method {name}": (_STRENGTH, f"`{name.partition('.')[2]}={value}`") for name, value in _STRENGTHS.items()},
  **{
    f"{of}prototype_{side}_weight{end}": _PROTOTYPES
    for side in ("forget", "retain")
    for of, end in (("method gs_lora.", ""), ("gs_lora(", ")"))
  },
  "method reptile.every": (
    "500 never acts on shorter streams (it is er there); 0, a twentieth of a pass, costs accuracy",
    "`every=500`",
  ),
  "method zeroth_order.queries": (
    "one diverges; 0 is 20 where there are so many; under SGD they hardly learn (Adam 1e-3 does)",
    "`queries=1`",
  ),
  **{f"method {name}.skip": _HEADS for name in ("gpm", "cuber", "coso")},
  "method center_loss.head": ("found where the model has one", "`head=head`"),
  **{f"method {name}.fisher": _FISHER for name in ("ewc", "online_ewc", "refresh", "unified")},
}
# Of options that did not exist: (why, what restores what was done then).
_ADDED = {
  "insert": _ONCE,
  "on": _UPDATE,
  "held_out": ("the margin is of rows that the method does not train on", "`held_out=0`"),
  "balance": ("a class-balanced memory, as the paper has it", "`balance=task`"),
  "norms": ("BatchNorm's parameters stay out of the projection, as the paper has it", "`norms=projected`"),
  "rate_schedule": ("as released", "`rate_schedule=constant`"),
  "normalise": ("the head had 72 % of the weight after two permuted tasks", "`normalise=none`"),
  "bound": ("an ascent ends for each row where nothing is known of it", "`bound=1e9`"),
  "search": ("the least strength at which the rows are known no better than by who never saw them", "`search=0`"),
  "contrast": ("nothing was held back", "`contrast=0`"),
  "optimizer": ("Adam moves every weight alike", "`optimizer=adam`"),
  "part": ("the Gaussians hold the head alone", "`part=all`"),
  "learned": ("each unit learns its width and height, as the released code does", "`learned=false`"),
  "rescale": ("fewer nets than rows shrink what is estimated", "`rescale=false`"),
  "shrink": ("one query under SGD 0.05 diverged", "`shrink=false`"),
}
ADDED = {
  f"method {name}.{key}": (value, *_ADDED[key])
  for name, options in formats.ABSENT.items() for key, value in options.items()
}  # fmt: skip


def present() -> dict[str, str]:
  """``{"method er.capacity": "100", "cross_entropy(weight)": "None"}``."""
  out = {f"method {n}.{k}": repr(o.default) for n, entry in METHODS.items() for k, o in entry.options.items()}
  places = [(module, name, name) for module in map(_module, PACKAGES) for name in module.__all__]
  places += [(cljax, name, f"cljax.{name}") for name in ("run", "load", "Recipe", "Options")]
  for module, name, shown in places:
    function = getattr(module, name)
    if callable(function):
      try:
        given = inspect.signature(function).parameters.values()
      except (TypeError, ValueError):
        continue
      out |= {f"{shown}({p.name})": repr(p.default) for p in given if p.default is not p.empty}
  for whole in ("cljax.run(options)", "cljax.run(training)"):  # their fields stand beside them
    out.pop(whole, None)
  return out


def _module(name: str):
  return importlib.import_module(f"cljax.{name}")


def changes() -> list[tuple[str, str, str, str, str]]:
  """``(what, before, now, why, what restores it)``. Raises ValueError where a reason is missing or stale."""
  old, now, out = json.loads(OLD.read_text()), present(), []
  for what in sorted(set(old) & set(now)):
    if old[what] != now[what]:
      if what not in CHANGED:
        raise ValueError(f"{what}: {old[what]} -> {now[what]} has no reason in CHANGED")
      out.append((what, old[what], now[what], *CHANGED[what]))
  stale = set(CHANGED) - {line[0] for line in out}
  if stale:
    raise ValueError(f"CHANGED: {', '.join(sorted(stale))} did not change")
  for what, (before, why, restores) in ADDED.items():
    if what in old or now.get(what) in (None, repr(before)):
      raise ValueError(f"ADDED: {what} is not a new option whose default differs from {before!r}")
    out.append((what, repr(before), now[what], why, restores))
    name, _, key = what.removeprefix("method ").partition(".")
    pure = f"{name}({key})"  # the function of that name that a method calls, where it has this argument, too
    if pure in now and pure not in old and now[pure] != repr(before):
      out.append((pure, repr(before), now[pure], why, restores))
  return sorted(out)


def table() -> str:
  """Methods that changed alike share a line."""
  alike: dict[tuple, list[str]] = {}
  for what, *rest in changes():
    kind, _, name = what.partition(" ")
    owner, dot, key = name.partition(".") if kind == "method" else (what, "", "")
    alike.setdefault((f"{dot}{key}", *rest), []).append(owner)
  lines = ["| option | 0.1 | now | why | as before |", "| --- " * 5 + "|"]
  for (key, *cells), owners in sorted(alike.items(), key=lambda pair: pair[1]):
    before, now, why, restores = cells
    named = ", ".join(f"`{owner}{key}`" for owner in owners)
    lines.append(f"| {named} | `{before}` | `{now}` | {why} | {restores} |")
  return "\n".join(lines) + "\n"


def main(argv) -> None:
  del argv
  _page_table.show(PAGE, "defaults", table())
  print(table())


if __name__ == "__main__":
  app.run(main)
