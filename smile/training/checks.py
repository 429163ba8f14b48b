"""Checks and warnings before the first step, for what would otherwise show after an epoch."""

import shlex

import torch

from smile.config import Config, check_relations, num_weights
from smile.errors import UserError, counted
from smile.model.captioner import Captioner
from smile.system.bfloat16 import (
    NO_UNIT,
    SLOW_TRAINING,
    TRAINING,
    TRAINING_COST,
    bfloat16_unit,
    cost,
    is_slow,
)
from smile.system.device import pick_device
from smile.training.estimate import size, total_memory
from smile.training.schedule import Phase
from smile.training.splits import Splits

FEW_IMAGES = 1000  # for training on photos from scratch, where Flickr8k's 6000 are about the least
TRAINED_COPIES = 4  # of each weight: the weight, its gradient, and AdamW's two averages


def check_memory(config: Config) -> None:
    """Raises UserError if training the weights alone needs more memory than the machine has."""
    on_cpu = pick_device(config.train.device).type == "cpu"
    copies = TRAINED_COPIES if on_cpu and not config.train.freeze else 1
    needed, there = 4 * copies * num_weights(config), total_memory(torch.device("cpu"))
    if needed > there:
        raise UserError(
            f"[vit] and [decoder] have {num_weights(config) / 1e6:.0f} M weights, which take "
            f"{size(needed)} to train, but this machine has {size(there)}: lower dim, depth or "
            "mlp_dim"
        )


def check_fit(captioner: Captioner, *, processes: int) -> None:
    """Raises UserError if a batch has no image for each process, or a caption has no room.

    Uses the captioner's sizes, which differ from the config file's if it starts from other weights.
    """
    config, prompt = captioner.config, captioner.config.data.prompt
    if config.train.batch_size < processes:
        raise UserError(
            f"train.batch_size = {config.train.batch_size}: expected at least {processes}, an "
            "image for each process"
        )
    check_relations(config, {}, default_place=config.model.init or "config")
    length = len(captioner.tokenizer.prompt_ids(prompt))
    if config.data.max_tokens < length + 2:
        raise UserError(
            f"data.max_tokens = {config.data.max_tokens}: expected at least {length + 2}: "
            f"[DEC] and the prompt {prompt!r} are {length} tokens, and a word and [SEP] follow"
        )
    try:
        captioner.check(config.generate, prompt=prompt)
    except UserError as error:
        raise UserError(f"generate.{error}") from error


def advice(config: Config, examples: Splits, *, steps: int) -> list[str]:
    """Warnings to show before training starts, for a run of `steps` steps an epoch."""
    lines, num_images = [], len(examples["train"])
    if num_images < FEW_IMAGES and not config.model.init and config.data.format != "shapes":
        data = {"data.format": config.data.format, "data.root": config.data.root}
        if config.data.annotations:
            data["data.annotations"] = config.data.annotations
        words = [word for key, value in data.items() for word in ("--set", f"{key}={value}")]
        lines.append(
            f"{counted(num_images, 'image')}: far too few to learn to describe photos from "
            "scratch; fine-tune instead: "
            + shlex.join(["python", "train.py", "configs/flickr8k.toml", *words])
        )
    last = config.train.epochs - 1
    for phase in dict.fromkeys([Phase.of(config, 0), Phase.of(config, last)]):
        total = phase.epochs * steps
        if phase.warmup_steps > total:
            after_mle = phase.first_epoch > 0 and config.loss.warmup_steps > 0
            setting = "loss.warmup_steps" if after_mle else "train.warmup_steps"
            lines.append(
                f"{setting} = {phase.warmup_steps}: longer than the phase of {phase.objective} "
                f"({counted(total, 'step')}), whose learning rate ends at "
                f"{phase.lr * total / phase.warmup_steps:.1e} and never reaches {phase.lr:g}; try "
                f"--set {setting}={total // 10}"
            )
    if not examples["val"]:
        lines.append("no validation images: the captioner of the last epoch is kept")
    return lines + about_bfloat16(config)


def about_bfloat16(config: Config) -> list[str]:
    """A line about what bfloat16 costs on this CPU, or would gain there; none on other devices."""
    if pick_device(config.train.device).type != "cpu":
        return []
    unit, precision = bfloat16_unit(), config.train.precision
    if precision == "bfloat16" and not unit:
        return [
            f'train.precision = "bfloat16": {NO_UNIT}, so steps '
            + cost(f"at least {TRAINING_COST} times")
        ]
    if is_slow(unit):
        return [f'train.precision = "bfloat16": {SLOW_TRAINING}'] if precision == "bfloat16" else []
    if precision == "auto" and unit in TRAINING:
        base, small = TRAINING[unit]
        return [
            f"this processor multiplies bfloat16 ({unit}): --set train.precision=bfloat16 trained "
            f"BLIP base {base} times as fast, a captioner of 7 million weights {small} times"
        ]
    if precision == "auto" and unit:
        return [
            f"this processor multiplies bfloat16 ({unit}): --set train.precision=bfloat16 may well "
            f"train faster, which was not measured with {unit}"
        ]
    return []
