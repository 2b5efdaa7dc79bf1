"""Finished models rounded to few bits: plainly, or so that what they do to a user's text changes least."""
