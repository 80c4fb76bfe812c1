"""The embedded data set: 1,797 handwritten digits of 8x8 pixels, bundled with scikit-learn, as a TFDS builder.

They are the test part of the UCI "Optical Recognition of Handwritten Digits" set (E. Alpaydin and C. Kaynak, 1998).
Nothing is downloaded and TensorFlow is not needed.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from input_pipeline.prepare import aside, publish

# The test split: 360 indices into sklearn.datasets.load_digits(), drawn once by scikit-learn's
# train_test_split(range(1797), test_size=360, random_state=0, stratify=target) and fixed here for good.
_TEST_INDICES = """
    21 24 28 34 35 37 39 42 45 51 57 77 78 81 87 96 99 102 103 105 110 117 119 131 132 134 148 159 170 173 186 188
    197 198 202 204 205 211 214 227 240 243 245 252 254 264 267 275 276 279 283 286 293 298 304 305 306 307 308 312
    314 326 328 335 339 344 346 364 372 374 376 380 386 393 397 403 405 407 410 413 417 420 423 425 430 433 440 442
    452 454 481 493 496 497 499 500 520 527 528 538 553 556 565 567 568 569 573 587 593 604 608 610 619 637 639 641
    649 652 666 667 675 694 700 701 702 704 705 709 716 719 734 738 741 744 749 760 766 767 768 770 772 783 786 787
    788 789 794 800 802 805 806 808 811 812 820 822 852 854 855 860 865 876 885 888 890 899 900 905 908 918 926 929
    937 943 944 945 951 960 973 977 985 989 990 992 997 1002 1003 1005 1006 1007 1009 1010 1012 1014 1016 1023 1030
    1035 1037 1038 1049 1053 1056 1073 1081 1086 1088 1090 1096 1098 1101 1107 1108 1116 1118 1121 1123 1136 1141
    1148 1150 1151 1152 1157 1159 1161 1162 1167 1168 1169 1173 1174 1180 1187 1192 1204 1217 1220 1221 1224 1232
    1233 1242 1253 1261 1262 1264 1268 1269 1270 1287 1292 1296 1302 1312 1319 1330 1331 1332 1340 1350 1351 1352
    1353 1364 1371 1372 1375 1395 1404 1405 1406 1415 1424 1429 1435 1440 1442 1450 1455 1466 1467 1470 1471 1474
    1476 1482 1484 1487 1493 1496 1497 1505 1509 1512 1513 1520 1529 1530 1532 1540 1541 1542 1551 1558 1560 1566
    1567 1576 1582 1592 1596 1602 1606 1608 1610 1613 1614 1617 1626 1628 1629 1634 1637 1645 1650 1655 1660 1664
    1666 1668 1673 1674 1680 1688 1691 1696 1703 1704 1706 1716 1717 1726 1728 1734 1742 1745 1750 1755 1758 1767
    1770 1771 1772 1776 1778 1781 1787 1789 1791
"""
TEST_INDICES = tuple(map(int, _TEST_INDICES.split()))


def pixels(values: np.ndarray) -> np.ndarray:
    """uint8 of scikit-learn's counts 0..16, scaled to 0..255 and rounded to the nearest."""
    return np.round(values * 255 / 16).astype(np.uint8)


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Handwritten digits, uint8 [8, 8, 1] and a label in 0..9; 1,437 for training and 360 for testing."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="The 1,797 handwritten digits bundled with scikit-learn, split 1,437 / 360 by class.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        test = set(TEST_INDICES)
        train = [index for index in range(1797) if index not in test]
        return {"train": self._generate_examples(train), "test": self._generate_examples(TEST_INDICES)}

    def _generate_examples(self, indices) -> Iterator[tuple[int, dict]]:
        from sklearn.datasets import load_digits

        data = load_digits()
        for index in indices:
            encoded = io.BytesIO()
            Image.fromarray(pixels(data.images[index])).save(encoded, "png")
            # TFDS encodes arrays with TensorFlow; bytes that are encoded already need none.
            encoded.seek(0)
            yield index, {"image": encoded, "label": int(data.target[index])}


def prepare(data_dir: str) -> Path:
    """Writes the data set under `data_dir` unless it is there; returns its folder.

    It is written aside and renamed into place, so that several processes may call this at the same time.
    """
    target = Path(data_dir).expanduser() / Digits.name / str(Digits.VERSION)
    if (target / "dataset_info.json").exists():
        return target
    with aside(target) as scratch:
        builder = Digits(data_dir=scratch, file_format="array_record")
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download, and there is none
            builder.download_and_prepare()
        publish(builder.data_dir, target)
    return target
