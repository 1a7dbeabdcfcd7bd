"""The job of the suite ``cold`` in Avalanche 0.6: four strategies x five seeds on split digits, to a printed table.

``PYTHON experiments/benchmarks/_avalanche.py`` with an interpreter that has avalanche-lib, torch and scikit-learn; it
is no dependency of cljax. Streams, network, optimizer, batches, passes and memory are those of
``experiments/split_digits.py`` under the suite's flags; each task's end is evaluated on all tasks, as there.
"""

import numpy as np
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import AGEM, EWC, Naive, Replay
from sklearn.datasets import load_digits

SEEDS, TASKS = 5, 5
STRATEGIES = {
  "finetune": (Naive, {}),
  "ewc": (EWC, {"ewc_lambda": 10.0}),
  "er": (Replay, {"mem_size": 200}),
  "agem": (AGEM, {"patterns_per_exp": 40, "sample_size": 32}),
}


def network() -> torch.nn.Module:
  layers = [torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 100), torch.nn.ReLU()]
  return torch.nn.Sequential(*layers, torch.nn.Linear(100, 10))


def run(strategy, options, seed: int) -> float:
  """Accuracy over the test stream after the last task."""
  torch.manual_seed(seed)
  x, y = load_digits(return_X_y=True)
  x = (x / 16).astype(np.float32)
  held = np.random.default_rng(seed).random(len(y)) < 0.2
  sets = [torch.utils.data.TensorDataset(torch.tensor(x[at]), torch.tensor(y[at])) for at in (~held, held)]
  for made, at in zip(sets, (~held, held), strict=True):
    made.targets = y[at].tolist()
  benchmark = nc_benchmark(*sets, n_experiences=TASKS, task_labels=False, fixed_class_order=list(range(10)))
  model = network()
  evaluator = EvaluationPlugin(accuracy_metrics(experience=True, stream=True), loggers=[])
  learner = strategy(
    model=model, optimizer=torch.optim.SGD(model.parameters(), 0.05), criterion=torch.nn.CrossEntropyLoss(),
    train_mb_size=32, train_epochs=10, eval_mb_size=512, evaluator=evaluator, **options,
  )  # fmt: skip
  found = {}
  for experience in benchmark.train_stream:
    learner.train(experience)
    found = learner.eval(benchmark.test_stream)
  return next(v for k, v in found.items() if k.startswith("Top1_Acc_Stream"))


if __name__ == "__main__":
  for name, (strategy, options) in STRATEGIES.items():
    values = [100 * run(strategy, options, seed) for seed in range(SEEDS)]
    print(f"{name:10} {np.mean(values):5.1f} ± {np.std(values, ddof=1) / SEEDS**0.5:.1f}")
  print("mean ± standard error over seeds, in %", flush=True)
