"""What bfloat16 gains or costs on this machine's CPU."""

import os
import platform

import torch

from smile.system.onednn import asks, is_intel, multiplies

AMX, AVX512 = "AMX", "AVX-512 BF16"
NO_UNIT = "oneDNN uses no instructions for it here (AMX, AVX-512 BF16 or Arm BF16)"
# Measured on a Xeon whose AMX oneDNN was told not to use: captions of BLIP base, eight
# images at once and one alone; steps of the captioner of configs/study.
SLOW = f"an Intel Xeon with {AVX512} but no {AMX}"
SLOW_CAPTIONING = f"{SLOW} made BLIP's captions 0.7 to 1.2 times as fast as float32"
SLOW_TRAINING = f"steps on {SLOW} took 1.5 times as long as in float32"
# How many times as fast as float32, as measured on two cores of an Intel Xeon. Units of AMD and Arm
# were not measured. BLIP base's captions, with three beams and eight images of 224 pixels at once:
CAPTIONING = {AMX: 1.9}
# Steps of training: BLIP base with eight images and five captions each, and the captioner of
# configs/flickr8k_scratch.toml, which has 7 million weights.
TRAINING = {AMX: (1.7, 1.3)}
# How many times as long it takes where no unit is, on one core of an AMD EPYC with AVX2. Captions
# of one image, and of eight at once:
COST = (3, 5)
# Steps of training: 7 times for configs/shapes.toml, 10 and more for configs/flickr8k_scratch.toml.
TRAINING_COST = 7

# What oneDNN may be told to keep to, in ONEDNN_MAX_CPU_ISA or by its older name.
WITHOUT_BF16 = [
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
]
WITHOUT_AMX = [*WITHOUT_BF16, "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512"]


def bfloat16_unit() -> str:
    """The instructions with which oneDNN multiplies bfloat16 on this CPU; "" if it uses none.

    Intel's Xeons have AMX since 2023. AMD's processors have AVX-512 BF16 since Zen 4. Many of Arm's
    cores have BF16, such as those of Graviton 3 and Grace. torch has no oneDNN on macOS.
    """
    unit = _instructions()
    return unit if unit and multiplies(torch.bfloat16) else ""


def faster_dtype() -> torch.dtype:
    """bfloat16 where the CPU is likely to multiply it faster than float32; float32 elsewhere."""
    unit = bfloat16_unit()
    return torch.bfloat16 if unit and not is_slow(unit) else torch.float32


def _instructions() -> str:
    """What the processor has, of what oneDNN may use."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "Arm BF16" if asks(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") else ""
    names = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    limit = next(filter(None, map(os.environ.get, names)), "").upper()
    if limit not in WITHOUT_AMX and asks(torch.cpu, "_is_amx_tile_supported"):
        return AMX
    has_bf16 = limit not in WITHOUT_BF16 and asks(torch.cpu, "_is_avx512_bf16_supported")
    return AVX512 if has_bf16 else ""


def is_slow(unit: str) -> bool:
    """Whether bfloat16 gains little or loses: AVX-512 BF16 on Intel's, as far as was measured."""
    return unit == AVX512 and is_intel()


def cost(times: str) -> str:
    """What becomes of steps or captions that take so many times as long with AVX2 and no unit."""
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return f"take {times} as long as in float32"
    return "most likely take longer than in float32, by how much was not measured"
