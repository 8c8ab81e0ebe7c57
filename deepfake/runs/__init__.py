"""One run, from its config to what is kept of it: built, trained, scored, saved and loaded again. What verbs share."""
