"""What is said of runs: results and their tables, selection, cost, evidence of forgetting."""
