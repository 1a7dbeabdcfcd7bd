"""Every option of every entry does something: another value traces to other operations, in the step or in a hook.

Nothing is compiled or run: a program that is the same for two values of an option cannot depend on it. A float is an
argument of the programs, so that one trace tells of all of an entry's: what comes out depends on it. What an option
needs beside it (``Option.needs``) is chosen, and refused without; ``NEUTRAL`` names what only limits or batches.
"""

from __future__ import annotations

import pathlib
import re
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import records
from bench import Bench
from jax.interpreters import partial_eval

from cljax import methods, models
from cljax.core.types import UsageError
from cljax.io.identity import traced_digest

HOOKS = ("step", "end_task", "forget", "init", "start_task", "predict", "scrub")
ANSWERS = ("forget", *(h for h in HOOKS if h != "forget"))  # of what answers requests: found sooner
LIMITS = "refuses what is larger"
BATCHES = "how many rows are passed over at once; the sum is the same"
NEUTRAL = {
  "ogd.max_bytes": LIMITS, "pca_ogd.max_bytes": LIMITS, "ewc.fisher_batch_size": BATCHES,
  "online_ewc.fisher_batch_size": BATCHES, "ssd.importance_batch": BATCHES,
  "fisher_forgetting.importance_batch": BATCHES,
  "coreset_forget.batch": BATCHES, "certified_removal.batch": BATCHES, "kfac_ewc.fisher_batch_size": BATCHES,
  "ncl.fisher_batch_size": BATCHES, "unified.fisher_batch_size": BATCHES, "refresh.fisher_batch_size": BATCHES,
  "clr.pointwise": "what stands behind convolutions of 1x1, of which a small CNN has none: tests/methods/test_clr.py",
  "remind.least_area": "how much of maps is mixed, which a small MLP has not: tests/methods/test_remind.py",
  "retrain.schedule": "how long the host replays: tests/unlearning/test_retraining_schedules.py",
}  # fmt: skip


def apart() -> str:
  """A file of rows of the streams here, for a method that takes rows from elsewhere."""
  path = pathlib.Path(tempfile.mkdtemp()) / "rows.npy"
  np.save(path, np.zeros((3, 4, 4, 1), np.float32))
  return str(path)


# GEM's margin cannot be behind the optimizer, a schedule's end cannot come before its parts, and a network of two
# blocks has no more than two.
WITH = {"dvc.retrieval": {"candidates": 50}, "gem.on": {"margin": 0.0}, "er_gem.on": {"margin": 0.0},
        "dualprompt.expert_blocks": {"general_blocks": 0}, "mvp.expert_blocks": {"general_blocks": 0}}  # fmt: skip
VALUES = {"bir.layer": ["head"], "desire.trained": ["head|hidden_0/bias"],
          "infinite.anneal_start": [8], "clpu_derpp.permanent": [(1,)], "trgp.regions": [1],
          "dualprompt.general_blocks": [0], "mvp.general_blocks": [0],
          "coda_prompt.length": [6], "hfc.heads": [2], "fpf.modules": [1],
          "ocm.replay_batch": [4], "replay_scheduling.schedule": ["numbered"],
          "mix_cd.by": ["both", "class"], "remind.layer": ["head"], "sharp.layer": ["head"], "rmu.layer": [-1, -2],
          "remind.parts": [2], "ocm.width": [4], "fscil_tricks.width": [5], "zscl.reference": [apart()],
          "cal.candidates": [9]}  # fmt: skip
DEEPER = (
  "rmu",
  "desire",
  "i_lora",
  "niwf",
  "lines",
  "heterogeneous_averaging",
  "erase_at_the_core",
  "o_lora",
  "inflora",
  "sd_lora",
  "sharp",
  "ease",
  "lae",
  "mos",
)  # stages or blocks between the first and the head
TOLD = ("cuber",)  # an option of it needs the task at test
# What a text or a tuple may be beside its default.
TEXTS = {
  "skip": "hidden", "patterns": "head/*", "blocks": "head,hidden_0", "head": "hidden", "leaves": "kernel",
  "kernels": "hidden_0/kernel", "temporary": (0,), "layers": "hidden_0", "block_pattern": "kernel",
  "options": "steps=2", "trained": "hidden_0/bias",
}  # fmt: skip


def others(name: str, key: str, now) -> list:
  """Values beside the one that is used; one is enough to see that the option is read."""
  option = methods.METHODS[name].options[key]
  if f"{name}.{key}" in VALUES:
    return VALUES[f"{name}.{key}"]
  if option.choices:
    return [v for v in option.choices if v != now]
  if isinstance(option.default, bool):
    return [not now]
  if isinstance(option.default, float):
    low, high = option.low if option.low is not None else -np.inf, option.high if option.high is not None else np.inf
    return [v for v in (0.5 * now + 0.01, 0.5 * now, now + 0.25) if low <= v <= high and v != now]
  if isinstance(option.default, int):
    return [v for v in (now + 1, now + 3) if option.high is None or v <= option.high]
  return [TEXTS[key]]


class Traced:
  """The hooks of an entry under given options, traced when asked for."""

  def __init__(self, name, stream, model, options):
    self.bench = Bench(name, stream, model, options)
    parts = self.bench.parts
    learner = jax.eval_shape(parts.init, jax.random.key(0))
    rows = np.asarray(stream.train[0], np.int32)
    boundary = (
      jnp.asarray(True),
      self.bench.data,
      self.bench.where(1),
      rows,
      np.zeros_like(rows),
      jnp.int32(len(rows)),
    )
    request = self.bench.request(rows[:3], rows[3:])
    self.arguments = {
      "init": (jax.random.key(0),), "step": (learner, *self.bench.arguments(1)), "start_task": (learner, *boundary),
      "end_task": (learner, *boundary), "forget": (learner, *request), "scrub": (learner, *request[4:6]),
      "predict": (learner, jnp.zeros((2, *stream.dataset.train.x.shape[1:])), jnp.int32(0)),
    }  # fmt: skip
    self.parts, self.found = parts, {}

  def traced(self, hook: str) -> tuple[str, set[str]]:
    """What a hook traces to, floats being arguments where they can be; and those on which what it returns depends."""
    if hook not in self.found:
      self.found[hook] = "", set()
      function, program = getattr(self.parts, hook), self.bench.programs.get(hook)
      if function is not None and program is None:
        self.found[hook] = traced_digest(function, *self.arguments[hook]), set()
      elif function is not None:
        made = program.trace(self.bench.hyper, *self.arguments[hook])
        used = partial_eval.dce_jaxpr(made.jaxpr.jaxpr, [True] * len(made.jaxpr.jaxpr.outvars))[1]
        names = sorted(self.bench.hyper)  # the order of a dict's leaves
        live = {k for k, u in zip(names, used[: len(names)], strict=True) if u}
        text = re.sub("0x[0-9a-f]+", "", f"{made.jaxpr.jaxpr}{jax.tree.structure(made.out_info)}")
        constants = [jax.random.key_data(c) if jax.dtypes.issubdtype(c.dtype, jax.dtypes.prng_key) else c
                     for c in made.jaxpr.consts]  # fmt: skip
        self.found[hook] = text + str([np.asarray(c).tobytes() for c in constants]), live
    return self.found[hook]


@pytest.mark.parametrize("name", [n for n, e in sorted(methods.METHODS.items()) if e.options])
def test_every_option_is_read(name, class_stream, task_stream, small_model):
  entry = methods.METHODS[name]
  stream = task_stream if entry.access.task_id_at_test or name in TOLD else class_stream
  model = models.mlp((4, 4, 1), 4, hidden=(8, 6)) if name in DEEPER else records.network(name, small_model)
  made, hooks = {}, ANSWERS if entry.access.forgets else HOOKS

  def traced(options):
    key = repr(sorted(options.items()))
    if key not in made:
      made[key] = Traced(name, stream, model, options)
    return made[key]

  unread = []
  for key, option in entry.options.items():
    if f"{name}.{key}" in NEUTRAL:
      continue
    base = {**records.arguments(name), **WITH.get(f"{name}.{key}", {}), **{k: v[0] for k, v in option.needs.items()}}
    values = others(name, key, base.get(key, option.default))
    assert values, f"{name}.{key}: give another value in TEXTS"
    before = traced(base)
    told = f"method.{key}"
    if told in before.bench.hyper and any(told in before.traced(hook)[1] for hook in hooks):
      continue
    reads = lambda value, base=base, key=key, before=before: any(
      traced({**base, key: value}).traced(hook)[0] != before.traced(hook)[0] for hook in hooks
    )
    if not any(reads(v) for v in values):
      unread.append(key)
  assert not unread, f"{name}: another value of {', '.join(unread)} changes nothing"


NEEDS = [(n, k) for n, e in sorted(methods.METHODS.items()) for k, o in e.options.items() if o.needs]


@pytest.mark.parametrize(("name", "key"), NEEDS)
def test_an_option_that_is_given_and_not_read_is_refused(name, key):
  entry = methods.METHODS[name]
  value = others(name, key, entry.options[key].default)[0]
  needs = entry.options[key].needs
  others_of = lambda k, v: next(o for o in (entry.options[k].default, *others(name, k, v[0])) if o not in v)
  unread = {k: others_of(k, v) for k, v in needs.items()}
  with pytest.raises(UsageError, match=f"method.{key}: got .* does not read with"):
    methods.check_options(name, {**unread, key: value})
  assert methods.check_options(name, {key: value, **{k: v[0] for k, v in needs.items()}})[key] == value
