"""SIGKILL at random moments, in real processes; the long version is ``python -m experiments.kill_and_resume``."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("method", ["er"])
def test_killed_runs_end_with_the_same_bits(method):
  command = [sys.executable, "-m", "experiments.kill_and_resume", f"--methods={method}", "--kills=2", "--every=5"]
  command += ["--seed=1", "--set=train.epochs=2"]
  out = subprocess.run(command, capture_output=True, text=True, check=False)
  assert out.returncode == 0, out.stdout + out.stderr
  assert out.stdout.count(": equal") == 2
  assert out.stdout.count("killed after") >= 1, "no kill landed inside the run"
