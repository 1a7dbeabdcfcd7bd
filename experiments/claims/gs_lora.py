"""Prototypes and averaged weights in forgetting by sparse low-rank updates, with few rows to keep."""

from __future__ import annotations

import numpy as np

import cljax
from cljax.metrics.unlearning import h_mean
from experiments.claims import Claim, Measured
from experiments.claims._retain import stream
from experiments.claims._runs import mlp

SETTING = {"few_shot": 4}
CLAIM = Claim(
  methods=("gs_lora",),
  paper="Zhao et al. 2024; 2026",
  sentence="With few rows to keep, GS-LoRA++ (prototypes, averaged weights) has a better harmonic mean of what is "
  "forgotten and what is kept than GS-LoRA.",
  protocol="Digits, all classes learned (MLP 64-100-100-10, SGD 0.05, batch 32, 10 epochs), then class 3 forgotten by "
  "100 steps at the defaults, with 4 rows to keep of each class; H of the fall of accuracy on the forgotten training "
  "rows and the accuracy on all retained ones, in percent, of GS-LoRA++ minus GS-LoRA.",
)


def measure(seeds):
  def found(**hyper):
    result = cljax.run(
      stream(), mlp(stream()), forget="gs_lora", forget_hyper=hyper, seeds=seeds,
      optimizer_options={"learning_rate": 0.05}, training=cljax.Recipe(batch_size=32, epochs=10),
      options=cljax.Options(on_divergence="freeze"),
    )  # fmt: skip
    return [100 * np.asarray(result.forgotten[0][k], np.float64) for k in ("forget", "retain")]

  before = found(steps=0)[0]
  arms = {"GS-LoRA": found(**SETTING), "GS-LoRA++": found(**SETTING, prototypes=True)}
  h = {name: h_mean(before, *pair) for name, pair in arms.items()}
  figures = {f"{n}: {what}": v for n, pair in arms.items() for what, v in zip(("forget", "retain"), pair, strict=True)}
  figures |= {f"{n}: H": v for n, v in h.items()}
  return Measured({"H of GS-LoRA++ - GS-LoRA": h["GS-LoRA++"] - h["GS-LoRA"]}, figures)
