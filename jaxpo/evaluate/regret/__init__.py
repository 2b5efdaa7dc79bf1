"""Rewards learnt from preferences between segments of tabular decision processes, by regret and by partial return."""
