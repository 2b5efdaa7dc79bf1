"""Answers for a direction of preference: DPA's training data, and RPS' choice among a direction's neighbours."""
