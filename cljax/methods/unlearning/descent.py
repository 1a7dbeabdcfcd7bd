"""Forgetting by a few steps of training, from :mod:`cljax.unlearning`: one registry entry each."""

from __future__ import annotations

import functools

import optax

from cljax import unlearning
from cljax.core.types import Access
from cljax.methods.registry import Option
from cljax.methods.unlearning.entries import FORGET_ONLY, ROW_LOSSES, TEACHERS, approximate

RETAIN_ONLY = Access(forgets=True, retain_data=True)


def trained(steps: int, learning_rate: float, **options):
  """The options of every entry here, and its own."""
  common = {"learning_rate": Option(learning_rate, 0), "steps": Option(steps, 0), "batch": Option(64, 1)}
  return {**options, **common}


adam = functools.partial(approximate, optimizer=optax.adam)

approximate(
  "finetune_retain",
  unlearning.finetune_retain,
  trained(100, 0.1),
  "fine-tuning on what is kept",
  access=RETAIN_ONLY,
  needs=ROW_LOSSES,
)
approximate(
  "gradient_ascent",
  unlearning.gradient_ascent,
  trained(100, 0.005, bound=Option(1.0, 0)),
  "gradient ascent",
  access=FORGET_ONLY,
  needs=ROW_LOSSES,
)
adam("random_labels", unlearning.random_labels, trained(50, 1e-3), "Graves et al. 2021")
adam(
  "bad_teacher",
  unlearning.bad_teacher,
  trained(50, 1e-3, retain_fraction=Option(0.3, 0), temperature=Option(1.0, 1e-6)),
  "Chundawat et al. 2023",
  needs=TEACHERS,
)
adam(
  "stochastic_teacher",
  unlearning.stochastic_teacher,
  trained(50, 1e-3, temperature=Option(1.0, 1e-6), erase_steps=Option(20, 0)),
  "arXiv 2308.14322",
  needs=TEACHERS,
)
adam(
  "scrub",
  unlearning.scrub,
  trained(
    100,
    5e-4,
    max_steps=Option(3, 0),
    min_steps=Option(7, 0),
    max_rounds=Option(5, 0),
    ce_weight=Option(1.0, 0),
    kl_weight=Option(0.5, 0),
    temperature=Option(2.0, 1e-6),
  ),
  "Kurmanji et al. 2023",
  needs=TEACHERS,
)
adam(
  "unsir",
  unlearning.unsir,
  trained(100, 1e-3, noise_rows=Option(32, 1), noise_steps=Option(25, 0), noise_penalty=Option(0.1, 0)),
  "Tarun et al. 2023",
  access=RETAIN_ONLY,
)
approximate(
  "famr",
  unlearning.famr,
  trained(100, 0.05, anchor=Option(0.01, 0), bound=Option(1.0, 0), optimizer=Option("sgd", choices=("sgd", "adam"))),
  "arXiv 2506.14515",
  access=FORGET_ONLY,
  needs=TEACHERS,
)
adam(
  "one_point_contraction",
  unlearning.one_point_contraction,
  trained(50, 1e-3, forget_weight=Option(1.0, 0)),
  "arXiv 2507.07754",
)
adam(
  "erase_at_the_core",
  unlearning.erase_at_the_core,
  trained(
    50,
    1e-3,
    forget_weight=Option(1.0, 0),
    stage_weight=Option(1.0, 0),
    temperature=Option(1.0, 1e-6),
    variant=Option("against_retain", choices=("against_retain", "within_forget")),
  ),
  "arXiv 2602.05375",
)
approximate(
  "gs_lora",
  unlearning.gs_lora,
  trained(
    100,
    1e-2,
    rank=Option(8, 1),
    forget_weight=Option(0.15, 0),
    bound=Option(2.0, 0),
    sparsity=Option(0.01, 0),
    layers=Option(""),
    block_pattern=Option(""),
    rate_schedule=Option("cosine", choices=("constant", "cosine")),
    few_shot=Option(0, 0),
    prototypes=Option(False),
    prototype_forget_weight=Option(0.015, 0, needs={"prototypes": (True,)}),
    prototype_retain_weight=Option(0.012, 0, needs={"prototypes": (True,)}),
    prototype_bound=Option(2.0, 0, needs={"prototypes": (True,)}),
    ema_decay=Option(0.9, 0, 1, needs={"prototypes": (True,)}),
  ),
  "Zhao et al. 2024",
  optimizer=functools.partial(optax.adamw, weight_decay=0.05),
  needs=ROW_LOSSES,
)
