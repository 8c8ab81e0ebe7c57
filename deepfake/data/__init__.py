"""Files on disk to uint8 clips. Knows no model, no Hydra, no MLflow."""
