"""One small experiment for each objective, from the command line, on real data."""
