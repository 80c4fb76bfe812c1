"""Prepares a data set for training: the standard TFDS layout, as ArrayRecord.

  python scripts/prepare_data.py --name=cifar10
  python scripts/prepare_data.py --name=fashion_mnist --idx_dir=/usr/share/datasets/fashion-mnist
  python scripts/prepare_data.py --name=imagenet2012 --data_dir=/data/tfds --manual_dir=/data/imagenet

A data set that is prepared already is left alone; one that is prepared as TFRecord is rewritten. digits needs no
network and is also prepared by the first training run. ImageNet has to be downloaded by hand from image-net.org:
--manual_dir holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar. A folder of images (data.name=folder) needs
no preparation.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout

from input_pipeline.prepare import prepare


def main(argv: list[str] | None = None) -> int:
    """Exit status 0: the data set is there; 1: one line on stderr says why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="digits, or a TFDS name such as cifar10")
    parser.add_argument("--data_dir", default="", help="where to write; $TFDS_DATA_DIR or ~/tensorflow_datasets")
    parser.add_argument("--idx_dir", help="the four IDX files of mnist, fashion_mnist or kmnist, gzipped or not")
    parser.add_argument("--manual_dir", help="archives that have to be downloaded by hand")
    args = parser.parse_args(argv)
    print(f"prepare_data: {args.name} ...", flush=True)
    try:
        folder, was_there = prepare(args.name, args.data_dir, args.idx_dir, args.manual_dir)
    except Exception as error:  # TFDS and its downloads raise many classes; the user needs the reason, not the stack
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(lines[0] if lines[0].startswith("prepare_data") else f"prepare_data: {lines[0]}", file=sys.stderr)
        return 1
    print(f"prepare_data: {args.name} {'was already prepared' if was_there else 'is prepared'}: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
