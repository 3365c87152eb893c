"UTD-MHAD's network with embeddings of 512 numbers, as wide as the narrowest published one: for conditions-utd-mhad."
from torch import nn

from moosa.extractors.base import Extractor
from moosa.extractors.shapes import small_series


def series_512(shape, frozen_stem: bool = False, frozen_bn: str = "eval") -> Extractor:  # (B, C, T) -> (B, 512)
    "Return `small_series` with a last convolution of 512 channels in place of 128."
    narrow = small_series(shape, frozen_stem, frozen_bn)
    conv = nn.Conv1d(128, 512, 5, stride=2, padding=2, bias=False)
    last = nn.Sequential(conv, nn.BatchNorm1d(512), nn.ReLU())
    tail = nn.Sequential(narrow.tail[0], last, nn.AdaptiveAvgPool1d(1), nn.Flatten())
    return Extractor(narrow.stem, tail, 512, frozen_stem, frozen_bn)
