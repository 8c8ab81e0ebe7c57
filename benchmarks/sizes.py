"""How much ``gpu`` measures, and how little where it is only to be seen that it works."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        clips: In the store.
        batch: Clips a step.
        frames: Of a clip.
        pixels: A frame's side.
        steps: Taken between two readings of the clock.
        rounds: In turns.
        models: timm's name for each model of the table.
        backend: That compiles.
        trials: That share the device.
        trial_clips: In each of those trials' splits.
        trial_epochs: Of each.
    """

    clips: int = 384
    batch: int = 16
    frames: int = 8
    pixels: int = 224
    steps: int = 8
    rounds: int = 5
    models: dict[str, str] = field(
        default_factory=lambda: {
            "resnet50": "resnet50",
            "efficientnet_b4": "efficientnet_b4",
            "vit_base": "vit_base_patch16_224",
        }
    )
    backend: str = "inductor"
    trials: int = 8
    trial_clips: int = 512
    trial_epochs: int = 12


TINY = Sizes(
    clips=8,
    batch=4,
    frames=2,
    pixels=32,
    steps=1,
    rounds=1,
    models={"resnet50": "resnet18", "efficientnet_b4": "mobilenetv3_small_100", "vit_base": "vit_tiny_patch16_224"},
    backend="eager",
    trials=2,
    trial_clips=8,
    trial_epochs=1,
)
