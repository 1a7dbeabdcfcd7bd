"""Values that are read by keys forget less than a linear classifier on the same frozen features."""

from cljax.models import tuning
from experiments.claims import Claim, Measured
from experiments.claims._pretrained import downstream, pretrained
from experiments.claims._runs import forgetting, learned, percent, train

CLAIM = Claim(
  methods=("key_value_bottleneck",),
  paper="Träuble et al. 2023",
  sentence="Values that frozen keys choose, of which a step moves only those that its rows read, end a "
  "class-incremental stream at a better accuracy than a linear classifier that is trained on the same frozen features.",
  protocol="Class-incremental digits 0 to 5 in 3 tasks of 2 classes, MLP 64-100-100-10 whose hidden layers have "
  "learned digits 6 to 9 and stand; batch 32, 5 epochs, no stored rows. 32 codebooks of 64 pairs at SGD 0.3 (times the "
  "number of codebooks, for the mean over them divides each slope) against the classifier at SGD 0.05. Final average "
  "accuracy, in points.",
)


def measure(seeds):
  model = pretrained()
  linear = tuning.beside(model, lambda key, leaves: {}, lambda own, leaves: {**leaves, **own}, tuning.HEAD)
  runs = {
    "key_value_bottleneck": train(downstream(), "key_value_bottleneck", seeds, model=model, learning_rate=0.3 * 32),
    "linear classifier": train(downstream(), "finetune", seeds, model=linear),
  }
  figures = {f"{n}, accuracy": percent(run) for n, run in runs.items()}
  figures |= {f"{n}, forgetting": forgetting(run) for n, run in runs.items()}
  figures |= {f"{n}, learned": learned(run) for n, run in runs.items()}
  first, second = (percent(run) for run in runs.values())
  return Measured({"accuracy of key_value_bottleneck - of the classifier": first - second}, figures)
