"""What cannot be inferred from a source, on every command line that names one."""

import argparse


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for what cannot be inferred from a source."""
    parser.add_argument(
        "--model-config",
        metavar="FILE.toml",
        help="settings that weights do not show, such as [vit] num_heads",
    )
    parser.add_argument(
        "--vocab", metavar="vocab.txt", help="vocabulary to use instead of the source's"
    )
