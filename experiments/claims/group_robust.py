"""A deletion that falls on one group costs that group; reweighting by groups gives it back."""

from __future__ import annotations

import numpy as np

import cljax
from cljax import data, streams
from cljax.metrics.unlearning import group_accuracies
from experiments.claims import Claim, Measured
from experiments.claims._runs import mlp

SHARE, GONE = 0.3, 0.9
EDIT = {"learning_rate": 0.05, "steps": 200}
CLAIM = Claim(
  methods=("group_reweight", "miu"),
  paper="arXiv 2503.09330",
  sentence="Where the rows to forget are of one group, unlearning lowers the accuracy on that group; with retain rows "
  "reweighted by groups (REWEIGHT), and with MIU, it stays higher.",
  protocol=f"Digits, {SHARE:.0%} of the rows turned upside down (the group), MLP 64-100-100-10, SGD 0.05, batch 32, 20 "
  f"epochs; {GONE:.0%} of the group's rows are forgotten, by {EDIT['steps']} steps of SGD at {EDIT['learning_rate']}. "
  "Accuracy on the group's test rows, in points: with reweighting, and of MIU, minus fine-tuning on what is kept, "
  "beside retraining.",
)


def grouped():
  """Digits of which a share is turned upside down, and the ids of its rows to forget."""
  digits, rng = data.load("digits"), np.random.default_rng(0)
  arrays: dict[str, np.ndarray] = {}
  for name, split in (("train", digits.train), ("test", digits.test)):
    turned = rng.random(len(split.y)) < SHARE
    x = split.x.astype(np.float32) * digits.scale
    x[turned] = x[turned, ::-1]
    arrays |= {f"x_{name}": x, f"y_{name}": split.y, f"group_{name}": turned.astype(np.int32)}
  members = np.flatnonzero(arrays["group_train"])
  gone = rng.permutation(members)[: int(GONE * len(members))]
  return data.from_arrays("turned_digits", arrays), tuple(sorted(gone.tolist()))


def measure(seeds):
  dataset, gone = grouped()
  stream = streams.build(dataset, "class", tasks=1, validation=0.0)
  stream = stream._replace(events=(*stream.events, cljax.Forget(ids=gone)))
  test = dataset.test

  def found(forget, **hyper):
    result = cljax.run(
      stream, mlp(stream), "finetune", forget=forget, forget_hyper=hyper, seeds=seeds,
      optimizer_options={"learning_rate": 0.05}, training=cljax.Recipe(batch_size=32, epochs=20),
      options=cljax.Options(on_divergence="freeze"),
    )  # fmt: skip
    logits = np.stack([np.asarray(result.predict(test.x, i)) for i in range(len(result.alive))])
    return np.where(np.asarray(result.alive)[:, None], 100 * group_accuracies(logits, test.y, test.group, 2), np.nan)

  arms = {"retrain": found("retrain"), **{n: found(n, **EDIT) for n in ("finetune_retain", "group_reweight", "miu")}}
  base = arms["finetune_retain"][:, 1]
  return Measured(
    {f"group accuracy of {n} - fine-tuning": arms[n][:, 1] - base for n in ("group_reweight", "miu")},
    {f"{n}: {which}": v[:, g] for n, v in arms.items() for g, which in enumerate(("others", "group"))},
  )
