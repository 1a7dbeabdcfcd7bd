"""The launchers: training, sweeps, unlearning, analysis and reports from the command line."""
