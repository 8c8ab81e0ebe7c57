"""Train one detector, or many with -m: ``python train.py -m model=cnn_lstm,cnn_gru``."""

import sys

import hydra
from omegaconf import DictConfig

from deepfake.commands import TOGETHER
from deepfake.hydra_app import guarded
from deepfake.sweeping.jobs import runs_together


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@runs_together(TOGETHER)
def main(config: DictConfig) -> dict[str, object]:
    """Hydra calls this with the composed config, once per run."""
    from deepfake.commands.train import train

    return train(config)


if __name__ == "__main__":
    sys.exit(guarded(main))
