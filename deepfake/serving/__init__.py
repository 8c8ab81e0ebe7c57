"""A detector that answers over HTTP: what comes in, how much of it, and what is said. Knows FastAPI, no run."""
