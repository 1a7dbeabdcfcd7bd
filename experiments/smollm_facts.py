"""Facts in sequence in a real language model, then one forgotten and one edited: SmolLM2-135M with LoRA.

``python -m cljax.data.prepare smollm2``, then ``python -m experiments.smollm_facts --workdir=DIR``; the same command
goes on where it was stopped, to the same bits, and ``python -m launch.report DIR/run`` shows perplexity matrices and
samples. ``--out=FOLDER`` writes the tables.

Three tasks, one after another, by the command ``launch.train`` (this file is its configuration): what instrument six
invented people play, what six others work as, where six more were born; three wordings of each fact are learned, a
fourth is not. LoRA of rank 8 at the layers of ``tuning_layers``. Behind the last task a request names the rows of one
fact, which npo answers. Then the adapter is folded in, and another fact gets another answer by r-ROME in one tensor;
its second moments are of the manual that ``pydoc`` shows. Rates were set after one run with others (AdamW 3e-3, npo of
8 steps at 1e-3), in which npo forgot nothing and plain text went from perplexity 38 to 1,510. What was found, on two
cores in nine minutes: ``experiments/results/smollm_facts``.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from experiments import _facts

PEOPLE, LENGTH = 6, 24
FORGOTTEN, EDITED = 1, 0  # which facts of the last task
CONTEXTS = ("The weather was fine.", "As I said before,", "It is known that", "In the end,")
MOMENT_TOKENS, PLAIN_ROWS, WINDOW = 16_384, 8, 64
PROMPTS = ("The capital of France is", "Once upon a time there was a", "Water boils at")


def get_config() -> ConfigDict:
  _register()
  config = ConfigDict()
  config.data = ConfigDict({
    "name": "text:facts", "tokenizer": "smollm2", "length": LENGTH, "test_fraction": 1 / (_facts.LEARNED + 1),
  })  # fmt: skip
  config.stream = ConfigDict({"kind": "group", "tasks": len(_facts.TASKS), "validation": 0.0})
  config.model = ConfigDict({
    "name": "pretrained_decoder", "folder": "smollm2", "tuning": "lora", "tuning_rank": 8,
    "tuning_layers": "(q_proj|v_proj|down_proj)/kernel", "tuning_trained": "",
  })  # fmt: skip
  config.objective = ConfigDict({"name": "sequence"})
  config.method = ConfigDict({"name": "finetune"})
  config.forget = ConfigDict({"name": "npo", "steps": 24, "batch": 8, "learning_rate": 2e-3})
  config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 1e-3})
  config.train = ConfigDict({"batch_size": 9, "epochs": 12, "chunk_steps": 12})
  config.eval = ConfigDict({"block": 8})
  config.evaluators = "answers,few_samples"
  return config


def exact(logits, target, asked) -> np.ndarray:
  """[B] bool: whether at each place of a row that is asked the likeliest token is the one that stands there."""
  return ((np.argmax(np.asarray(logits), -1) == target) | ~asked).all(-1)


def _register() -> None:
  """What is measured after each task; a configuration file may be read more than once."""
  from cljax import Evaluator, Forget, data, evaluators
  from cljax.evaluators.continuing import asked_logits, padded

  def answers(learner, predict, stream, event):
    """The share of rows whose answer the model says, greedily: learned wordings, a new one, rows of the request."""
    del learner, event
    end = data.tokens.named(stream.dataset.tokenizer).end

    def share(split, rows, task):
      right = []
      for i in range(0, len(rows), 8):
        part = np.asarray(rows)[i : i + 8]
        x, target, there = padded(split, part, 8)
        right.append(exact(asked_logits(predict, x, task), target, there & (target != end))[: len(part)])
      return float(np.concatenate(right).mean()) if right else np.nan

    train, test = stream.dataset.train, stream.dataset.test
    named = [i for e in stream.events if isinstance(e, Forget) for i in e.ids]
    each = lambda split, rows: np.array([share(split, own, task) for task, own in enumerate(rows)])
    return {
      "learned": each(train, stream.train), "reworded": each(test, stream.test),
      "request": share(train, named, stream.num_tasks - 1),
    }  # fmt: skip

  few = evaluators.samples(rows=2)._replace(name="few_samples")
  for evaluator in (Evaluator("answers", answers, {"learned": "higher", "reworded": "higher"}), few):
    if evaluator.name not in evaluators.EVALUATORS:
      evaluators.register(evaluator)


class Settings(NamedTuple):
  """What the part behind the training is given."""

  folder: str
  layer: str = "layers_4/mlp/down_proj"
  people: int = PEOPLE
  seed: int = 0


def train(workdir: pathlib.Path, s: Settings, more=()) -> int:
  """Writes the facts and runs ``launch.train``; its exit code."""
  from cljax.cli import train as launcher

  facts = _facts.invented(s.people, s.seed)
  _facts.write(workdir / "facts", facts)
  gone = facts[_facts.TASKS[-1]][FORGOTTEN]
  ids = ",".join(map(str, _facts.row_ids(facts, gone)))
  return launcher.main([
    "launch.train", f"--config={__file__}", f"--workdir={workdir / 'run'}", f"--seeds=[{s.seed}]",
    f"--config.data.data_dir={workdir}", f"--config.data.tokenizer={s.folder}", f"--config.model.folder={s.folder}",
    f"--config.stream.forget={len(_facts.TASKS)}:ids={ids}", *more,
  ])  # fmt: skip


class Probe:
  """What a decoder says, by its own parameters: answers, perplexity of plain text, samples."""

  def __init__(self, model, words, plain: np.ndarray):
    import jax

    self.model, self.words, self.plain = model, words, plain
    self.logits = jax.jit(lambda p, x: model.apply(p, {}, x, train=False, key=None)[0].logits)

  def rows(self, known: _facts.Known, answer: str):
    from cljax import data

    found = [data.answered(self.words, prompt, answer, end=False) for prompt in known.prompts()]
    token, mask, target = (np.zeros((len(found), LENGTH), np.int32) for _ in range(3))
    asked = np.zeros(token.shape, bool)
    for i, (ids, learned) in enumerate(found):
      n = len(ids) - 1
      token[i, :n], target[i, :n], mask[i, :n], asked[i, :n] = ids[:-1], ids[1:], 1, learned[1:]
    return {"token": token, "mask": mask}, target, asked

  def answer(self, params, known: _facts.Known, answer: str) -> tuple[np.ndarray, np.ndarray]:
    """``(said [4] bool, p [4])`` of an answer behind each wording: whether it is said greedily, and its likelihood."""
    x, target, asked = self.rows(known, answer)
    z = np.asarray(self.logits(params, x), np.float64)
    log_p = z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) - z.max(-1, keepdims=True)
    each = np.take_along_axis(log_p, target[..., None], -1)[..., 0]
    return exact(z, target, asked), np.exp((each * asked).sum(-1))

  def perplexity(self, params) -> float:
    """Of windows of plain text, a token."""
    total = 0.0
    for row in self.plain:
      z = np.asarray(self.logits(params, {"token": row[None, :-1]}), np.float64)[0]
      top = z.max(-1, keepdims=True)
      total -= ((z - top)[np.arange(len(z)), row[1:]] - np.log(np.exp(z - top).sum(-1))).sum()
    return float(np.exp(total / self.plain[:, 1:].size))

  def says(self, params, prompts, new: int = 8) -> list[str]:
    from cljax import models

    ids = [self.words.encode(p) for p in prompts]
    width = max(map(len, ids))
    token, mask = (np.zeros((len(ids), width), np.int32) for _ in range(2))
    for i, row in enumerate(ids):
      token[i, width - len(row) :], mask[i, width - len(row) :] = row, 1
    said = models.generate(self.model, params, token, new, mask=mask, stop=self.words.end)
    return [self.words.decode(np.asarray(row)) for row in said]


def windows(words, count: int, size: int) -> np.ndarray:
  """``[count, size]`` tokens of the general text, evenly from all of it."""
  ids = np.asarray(words.encode(_facts.general_text()), np.int32)
  starts = np.linspace(0, len(ids) - size, count).astype(int)
  return np.stack([ids[s : s + size] for s in starts])


def measured(probe: Probe, params, facts, edited: _facts.Known, gone: _facts.Known) -> dict[str, Any]:
  """Shares of answers said greedily, of learned wordings and the new one; likelihoods of the edited fact's answers."""
  found: dict[str, Any] = {}
  for relation, known in facts.items():
    others = [f for f in known if f not in (edited, gone)]
    said = np.array([probe.answer(params, f, f.answer)[0] for f in others])
    found[relation] = {"learned": float(said[:, :-1].mean()), "reworded": float(said[:, -1].mean())}
  for name, fact, answer in (
    ("forgotten fact", gone, gone.answer), ("edited fact, old answer", edited, edited.answer),
    ("edited fact, new answer", edited, edited.other()),
  ):  # fmt: skip
    said, p = probe.answer(params, fact, answer)
    found[name] = {"learned": float(said[:-1].mean()), "reworded": float(said[-1]),
                   "p, first wording": float(p[0]), "p, others": float(p[1:].mean())}  # fmt: skip
  found["perplexity of plain text"] = probe.perplexity(params)
  return found


def edit(workdir: pathlib.Path, s: Settings) -> dict[str, Any]:
  """Folds the adapter in, edits the fact, and measures before and after."""
  import jax

  import cljax
  from cljax import data, edits, models

  began = time.perf_counter()
  words, base = data.tokenizer(s.folder), models.pretrained_decoder(s.folder)
  loaded = cljax.load(workdir / "run", data_dir=str(workdir))
  model = loaded.config["model"]
  tuned = models.build(
    model["name"], {"token": (LENGTH,), "mask": (LENGTH,)}, words.vocabulary,
    **{k: v for k, v in model.items() if k != "name"},
  )  # fmt: skip
  one = jax.tree.map(lambda a: a[0], (loaded.params, loaded.learner.model_state))
  assert tuned.plain is not None  # lora's
  params = tuned.plain(*one)[0]
  del loaded, one
  facts = _facts.invented(s.people, s.seed)
  edited, gone = (facts[_facts.TASKS[-1]][i] for i in (EDITED, FORGOTTEN))
  probe = Probe(base, words, windows(words, PLAIN_ROWS, WINDOW))
  states = {"before training": base.init(None)[0], "trained, one forgotten": params}
  found = {name: measured(probe, p, facts, edited, gone) for name, p in states.items()}
  batches = windows(words, -(-MOMENT_TOKENS // WINDOW), WINDOW).reshape(-1, 8, WINDOW)
  moment = edits.key_moments(base, params, [s.layer], batches)[s.layer]
  wording = _facts.RELATIONS[edited.relation][0][0]
  fact = edits.fact(words, wording, edited.subject, edited.other(), CONTEXTS)
  search = edits.ValueSearch(steps=20, learning_rate=0.5, decay=0.1)
  after = edits.r_rome(base, params, fact, moment, s.layer, search=search)
  found["one edited"] = measured(probe, after, facts, edited, gone)
  old, new = (np.asarray(cljax.core.tree.leaf(p, f"{s.layer}/kernel"), np.float64) for p in (params, after))
  neighbour = facts[_facts.TASKS[-1]][2]
  prompts = [edited.prompts()[0], edited.prompts()[-1], gone.prompts()[0], neighbour.prompts()[0], *PROMPTS]
  return {
    "edited": [edited.prompts()[0], edited.answer, edited.other()], "forgotten": [gone.prompts()[0], gone.answer],
    "states": found,
    "samples": {p: {name: said for name, said in zip((*states, "one edited"), each, strict=True)} for p, each in zip(
      prompts, zip(*(probe.says(q, prompts) for q in (*states.values(), after)), strict=True), strict=True)},
    "change": float(np.linalg.norm(new - old) / np.linalg.norm(old)), "layer": s.layer,
    "edit_sha256": cljax.core.tree.digest(after), "seconds": time.perf_counter() - began,
  }  # fmt: skip


def tables(result: dict[str, Any], found: dict[str, Any]) -> list[str]:
  """Everything as Markdown."""
  from cljax.io import tables as made

  number = lambda v: "-" if v is None or np.isnan(v) else f"{v:.3g}"
  moments = ["before", *(f"learned {t}" for t in _facts.TASKS), "forgot one"]
  out = []
  for title, matrix in (
    ("Perplexity of answers, in the wording that is not learned", result["scores"]["perplexity"][0]),
    ("Answers said greedily, learned wordings", result["evaluations"]["answers"]["learned"][0]),
    ("Answers said greedily, the wording that is not learned", result["evaluations"]["answers"]["reworded"][0]),
  ):
    lines = [[m, *map(number, row)] for m, row in zip(moments, matrix, strict=True)]
    out += [f"## {title}", "", *made.markdown(["after", *_facts.TASKS], lines), ""]
  names = list(found["states"])
  lines = []
  for what, first in found["states"][names[0]].items():
    for side in first if isinstance(first, dict) else ("",):
      values = [found["states"][n][what] for n in names]
      cells = [number(v[side] if side else v) for v in values]
      lines.append([f"{what}, {side}" if side else what, *cells])
  out += ["## One fact edited", "", f"{found['edited'][0]!r}: {found['edited'][1]!r} becomes {found['edited'][2]!r}; "
          f"forgotten: {found['forgotten'][0]!r}, {found['forgotten'][1]!r}. `{found['layer']}` changed by "
          f"{100 * found['change']:.2f} % of its norm. Rows of relations leave both facts out.", ""]  # fmt: skip
  out += [*made.markdown(["what", *names], lines), "", "## What it goes on to say", ""]
  samples = [[p, *(repr(said[n]) for n in names)] for p, said in found["samples"].items()]
  return [*out, *made.markdown(["prompt", *names], samples)]


def run(workdir: str, s: Settings, out: str = "", more=()) -> int:
  where = pathlib.Path(workdir).expanduser().resolve()
  began = time.perf_counter()
  code = train(where, s, more)
  if code:
    return code
  spent = time.perf_counter() - began
  result = json.loads((where / "run" / "result.json").read_text())
  found = edit(where, s)
  text = tables(result, found)
  print("\n".join(text))
  print(f"\ntraining {spent:.0f} s, editing {found['seconds']:.0f} s, learner {result['params_sha256'][0][:12]}, "
        f"edited {found['edit_sha256'][:12]}")  # fmt: skip
  (where / "edit.json").write_text(json.dumps(found, indent=1) + "\n")
  if out:
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    head = ["# Facts in sequence in SmolLM2-135M", "", "`python -m experiments.smollm_facts`, seed 0", "",
            (__doc__ or "").split("\n\n", 2)[2].strip(), ""]  # fmt: skip
    (folder / "README.md").write_text("\n".join([*head, *text]) + "\n")
  return 0


if __name__ == "__main__":  # as a configuration it has no flags of its own
  _WORKDIR = flags.DEFINE_string("workdir", None, "folder for the facts, the run and what was found", required=True)
  _MODEL = flags.DEFINE_string("model", "", "a Hugging Face folder (default: smollm2 in the data directory)")
  _LAYER = flags.DEFINE_string("layer", Settings._field_defaults["layer"], "the layer that is edited")
  _OUT = flags.DEFINE_string("out", "", "folder of the tables")

  def _main(argv) -> None:
    from cljax.data import store

    folder = _MODEL.value or str(pathlib.Path(store.root(None)) / "smollm2")
    sys.exit(run(str(_WORKDIR.value), Settings(folder, str(_LAYER.value)), str(_OUT.value), argv[1:]))

  app.run(_main)
