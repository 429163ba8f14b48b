"""`python -m smile`: says which commands there are."""

import sys

COMMANDS = """\
python -m smile does nothing by itself; from the project's folder run one of

  python train.py configs/shapes.toml    train a captioner (minutes, without a download)
  python sample.py PHOTO                 describe photos
  python evaluate.py --model RUN         score captions
  python -m smile.data draw DIR          draw scenes to try it on
  python -m smile.weights inspect        inspect weights; also convert and export

each with --help."""

if __name__ == "__main__":
    print(COMMANDS, file=sys.stderr)
    sys.exit(2)
