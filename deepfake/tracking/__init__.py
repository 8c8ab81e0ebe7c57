"""What a run leaves behind: MLflow runs, provenance, figures. The only room that imports mlflow."""
