"""Fit, evaluate, checkpoints and metrics. Knows data and models; no Hydra, no MLflow, no Optuna."""
