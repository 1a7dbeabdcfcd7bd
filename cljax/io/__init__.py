"""What is written and read back: checkpoints, the ledger of deletions, identities, files and trackers."""
