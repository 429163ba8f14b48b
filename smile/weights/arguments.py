"""What cannot be inferred from a source, on every command line that names one."""

import argparse


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What cannot be inferred from a source and can be said on any command line."""
    parser.add_argument(
        "--model-config",
        metavar="FILE.toml",
        help="settings that weights do not show, such as [vit] num_heads",
    )
    parser.add_argument("--vocab", metavar="vocab.txt", help="vocabulary, if not the source's own")
