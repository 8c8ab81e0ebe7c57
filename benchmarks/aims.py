"""What a GPU is to reach: each row of ``gpu``'s table by name, so that it can be shown as not measured."""

from __future__ import annotations

MODELS = ("resnet50", "efficientnet_b4", "vit_base")

#: What is compared, and the ratio to reach.
AIMS: dict[str, tuple[str, str]] = {
    "step": ("our training step / bare PyTorch, resnet50, bf16", "<= 1.01"),
    **{
        f"{way} {model}": (f"clips a second / on one synthetic batch, {model}, {told}", reach)
        for model in MODELS
        for way, told, reach in (
            ("store", "read from the store", ">= 0.95"),
            ("memory", "kept on the device", ">= 0.98"),
        )
    },
    "compiled": ("eager TF32 / bf16, channels last and compiled, resnet50", ">= 1.8"),
    "mfu resnet50": ("MFU of training, resnet50, bf16, compiled", ">= 0.20"),
    "mfu vit_base": ("MFU of training, vit_base, bf16, compiled", ">= 0.35"),
    "sharing": ("8 trials on stored features side by side / one after another", ">= 3"),
}
