"""Trials of candidates on fold 0: the rule of successive halving, and what is said about it."""
