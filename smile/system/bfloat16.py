"""What bfloat16 gains or costs on this machine's CPU."""

import platform

import torch

UNITS = "AMX, AVX-512 BF16 or Arm BF16"  # what `bfloat16_unit` looks for
# How many times as fast as float32, as measured on two cores of an Intel Xeon. Other units were not
# measured. BLIP base's captions, with three beams and eight images of 224 pixels at once:
CAPTIONING = {"AMX": 2.0}
# Steps of training: BLIP base with eight images and five captions each, and the captioner of
# configs/flickr8k_scratch.toml, which has 7 million weights.
TRAINING = {"AMX": (2.3, 1.75)}
# How many times as long it takes where no unit is, on one core of an AMD EPYC with AVX2. Captions
# of one image, and of eight at once:
COST = (3, 5)
# Steps of training: 7 times for configs/shapes.toml, 10 and more for configs/flickr8k_scratch.toml.
TRAINING_COST = 7


def bfloat16_unit() -> str:
    """The instructions with which torch multiplies bfloat16 on this CPU; "" if there are none.

    Intel's Xeons have AMX since 2023. AMD's processors have AVX-512 BF16 since Zen 4. Many of Arm's
    cores have BF16, such as those of Graviton 3 and Grace. It takes oneDNN to use any of them.
    """
    if not _asks(torch.backends.mkldnn, "is_available"):
        return ""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "Arm BF16" if _asks(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") else ""
    if _asks(torch.cpu, "_is_amx_tile_supported"):
        return "AMX"
    return "AVX-512 BF16" if _asks(torch.cpu, "_is_avx512_bf16_supported") else ""


def _asks(place: object, name: str) -> bool:
    """What a function of torch without arguments says; False where this torch lacks it."""
    return hasattr(place, name) and bool(getattr(place, name)())
