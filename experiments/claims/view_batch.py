"""Views of a row at once, and a rest of as many passes, improve a method of exemplars."""

import cljax
from cljax import methods
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, mlp, percent

CLAIM = Claim(
  methods=("view_batch", "icarl"),
  paper="Kang et al. 2025",
  sentence="Beside iCaRL, showing each row in four views at once and letting it rest for four passes ends at a better "
  "accuracy than showing each row once in each pass, at the same number of updates.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.5, 12 epochs in batches of 32, "
  "rows moved by up to a pixel (crop), 100 exemplars; 4 views, alpha 1 from the first pass. Final average accuracy "
  "minus that of icarl alone, in points.",
  seeds=5,
)


def beside_icarl(**hyper):
  """A factory: view-batches with these options, composed with icarl."""

  def factory(model, spec):
    icarl = methods.make("icarl", model, spec, capacity=100)
    return cljax.compose(view_batch=methods.make("view_batch", model, spec, **hyper), icarl=icarl)

  factory.__qualname__ = "_".join(["view_batch", *(f"{k}{v}" for k, v in hyper.items())])
  return factory


def measure(seeds):
  stream = digits("class")

  def run(method):
    return cljax.run(
      stream, mlp(stream), method, optimizer="sgd", optimizer_options={"learning_rate": 0.5},
      training=cljax.Recipe(batch_size=32, epochs=12, augment="crop"),
      options=cljax.Options(on_divergence="freeze"), seeds=seeds,
    )  # fmt: skip

  arms: dict[str, dict] = {"icarl": {"views": 1}, "views and KL": {"views": 4}, "views": {"views": 4, "alpha": 0.0}}
  runs = {name: run(beside_icarl(**hyper)) for name, hyper in arms.items()}
  figures = {f"{name}: accuracy": percent(r) for name, r in runs.items()}
  figures |= {f"{name}: forgetting": forgetting(r) for name, r in runs.items()}
  figures |= {f"{name}: learned": learned(r) for name, r in runs.items()}
  return Measured({"accuracy with views - without": percent(runs["views and KL"]) - percent(runs["icarl"])}, figures)
