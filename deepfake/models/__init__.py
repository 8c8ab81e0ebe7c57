"""Clips to logits. Knows no data, no Hydra, no MLflow."""
