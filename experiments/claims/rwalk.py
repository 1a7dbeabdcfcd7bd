"""What weights gave to the loss on their path is worth holding beside the Fisher information."""

from experiments.claims import Claim, Measured
from experiments.claims._paired import best, grid
from experiments.claims._runs import digits, forgetting, percent, train

STRENGTHS = (0.1, 1.0, 5.0)
CLAIM = Claim(
  methods=("rwalk",),
  paper="Chaudhry et al. 2018",
  sentence="A penalty by the running Fisher information and the score of the path forgets less than plain training, "
  "and ends at a better accuracy than the running Fisher information alone (EWC++).",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs, each penalty "
  "at the best of the strengths 0.1, 1 and 5; forgetting of finetune minus that of rwalk, and final accuracy of rwalk "
  "minus that of EWC++ (score=False), in points.",
)


def measure(seeds):
  stream, plain = digits("permuted"), train(digits("permuted"), "finetune", seeds)
  values = [{"strength": s} for s in STRENGTHS]
  _, mine, lost = best(*grid(stream, "rwalk", seeds, values))
  _, fisher, fisher_lost = best(*grid(stream, "rwalk", seeds, values, hyper={"score": False}))
  return Measured(
    {"forgetting of finetune - rwalk": forgetting(plain) - lost, "accuracy of rwalk - EWC++": mine - fisher},
    {
      "finetune accuracy": percent(plain), "rwalk accuracy": mine, "EWC++ accuracy": fisher,
      "rwalk forgetting": lost, "EWC++ forgetting": fisher_lost,
    },
  )  # fmt: skip
