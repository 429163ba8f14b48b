"""What bfloat16 gains or costs on this machine's CPU."""

import platform

import torch

UNITS = "AMX, AVX-512 BF16 or Arm BF16"  # what `bfloat16_unit` looks for
# How many times as fast as float32, as measured with BLIP base: captions with three beams, eight
# images of 224 pixels at once, and steps of eight images with five captions each. Two cores of an
# Intel Xeon. Other units were not measured.
CAPTIONING = {"AMX": 2.0}
TRAINING = {"AMX": 2.3}
# How many times as long captions take where no unit is: of one image, and of eight at once. One
# core of an AMD EPYC with AVX2.
COST = (3, 5)


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
