"""Experiment sweeps for deepfake detection: Hydra composes, Optuna chooses, MLflow remembers."""

__version__ = "0.1.0"
