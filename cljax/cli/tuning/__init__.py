"""Hyper-parameter search by one protocol and one budget for every method: what is searched, and who goes on."""
