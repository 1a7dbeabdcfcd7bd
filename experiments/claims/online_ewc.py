"""Online EWC forgets more than EWC with an anchor for each task, where no task comes back."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("online_ewc", "ewc"),
  paper="Schwarz et al. 2018",
  sentence="One anchor at the newest parameters costs less memory than one for each task and keeps old tasks worse.",
  protocol="Permuted digits, 5 tasks that never repeat, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; average "
  "forgetting of online_ewc minus that of ewc, both with strength 10 and online_ewc without decay (the defaults).",
)


def measure(seeds):
  stream = digits("permuted")
  offline, online = train(stream, "ewc", seeds), train(stream, "online_ewc", seeds)
  return Measured(
    {"forgetting of online_ewc - ewc": forgetting(online) - forgetting(offline)},
    {"ewc accuracy": percent(offline), "online_ewc accuracy": percent(online)},
  )
