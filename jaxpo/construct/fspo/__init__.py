"""FSPO's data: episodes of one user, descriptions of users, answers in two steps, and personas that decide."""
