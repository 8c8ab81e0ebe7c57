"""Many runs: grids, search spaces, studies, workers. The only room that imports optuna."""
