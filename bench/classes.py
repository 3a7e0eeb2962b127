"""The convolutions that peers.py measures, by class, with the ratio to PyTorch that each class is to reach.

A class has named shapes of real nets and held-out ones: odd sizes, channel counts that are no multiple of 16, batches
of 1 and 3.
"""

from __future__ import annotations

from typing import NamedTuple

from fastconv.lab.shapes import CONVOLUTIONS, TRANSPOSED, ConvShape

__all__ = ["CLASSES", "SHAPES", "Class"]


class Class(NamedTuple):
    goal: float  # PyTorch's time over fastconv's, of a step
    named: list[ConvShape]
    held_out: list[ConvShape]


def conv2d(kernel: str, channels: int, filters: int, size: int, batch: int, **options: int) -> ConvShape:
    """A square one; its name says kernel, stride, channels, size and what else is not at its default."""
    r = int(kernel.split("x")[0])
    return _shape(kernel, (r, r), channels, filters, (size, size), batch, **options)


def conv1d(r: int, channels: int, filters: int, length: int, batch: int, **options: int) -> ConvShape:
    return _shape(str(r), (r,), channels, filters, (length,), batch, **options)


def conv3d(r: int, channels: int, filters: int, size: int, batch: int, **options: int) -> ConvShape:
    return _shape(f"{r}x{r}x{r}", (r,) * 3, channels, filters, (size,) * 3, batch, **options)


def _shape(
    kernel: str, taps: tuple[int, ...], channels: int, filters: int, spatial: tuple[int, ...], batch: int,
    transposed: bool = False, padding: int | None = None, **options: int,
) -> ConvShape:  # fmt: skip
    stride, dilation, groups = (options.get(name, 1) for name in ("stride", "dilation", "groups"))
    if padding is None:
        padding = taps[0] // 2 * dilation
    depthwise = groups == channels == filters
    sizes = f" depthwise {channels}" if depthwise else f" {channels}-{filters}"
    name = "".join(
        (
            kernel, f"/{stride}" if stride > 1 else "", " transposed" if transposed else "",
            f" dilated {dilation}" if dilation > 1 else "",
            sizes, f" in {groups} groups" if groups > 1 and not depthwise else "", f" @{spatial[0]}",
        )
    )  # fmt: skip
    return ConvShape(
        name,
        batch,
        channels,
        spatial,
        filters,
        taps,
        padding=padding,
        transposed=transposed,
        **options,  # type: ignore[arg-type]
    )


def known(*names: str) -> list[ConvShape]:
    return [CONVOLUTIONS[name] for name in names]


CLASSES: dict[str, Class] = {
    "3x3, 64 to 256": Class(
        2.5,
        [
            *known("3x3 64-64 @32", "3x3 128-128 @16", "3x3 256-256 @8", "3x3 64-64 @56"),
            conv2d("3x3", 128, 128, 28, 8),
        ],
        [
            conv2d("3x3", 65, 70, 33, 3),
            conv2d("3x3", 100, 150, 17, 3),
            conv2d("3x3", 200, 200, 9, 3),
            conv2d("3x3", 64, 64, 57, 1),
            conv2d("3x3", 250, 250, 13, 1),
        ],
    ),
    "3x3, 512 at 7 and 14": Class(
        1.6,
        [*known("3x3 512-512 @7"), conv2d("3x3", 512, 512, 14, 4)],
        [conv2d("3x3", 500, 500, 7, 3), conv2d("3x3", 512, 520, 15, 1)],
    ),
    "3x3, 16 to 48": Class(
        1.7,
        [*known("3x3 16-16 @32", "3x3 32-32 @16", "3x3 32-64 @28"), conv2d("3x3", 48, 48, 28, 16)],
        [conv2d("3x3", 20, 20, 31, 3), conv2d("3x3", 40, 24, 27, 3), conv2d("3x3", 33, 47, 29, 1)],
    ),
    "3x3 stride 2, dilated": Class(
        1.25,
        known("3x3/2 16-32 @32", "3x3/2 64-128 @56", "3x3/2 64-128 @32", "3x3 dilated 64-64 @28"),
        [
            conv2d("3x3", 65, 130, 33, 3, stride=2),
            conv2d("3x3", 100, 100, 57, 1, stride=2),
            conv2d("3x3", 50, 50, 29, 3, dilation=2),
            conv2d("3x3", 64, 96, 31, 1, dilation=3),
        ],
    ),
    "1x1 at 56, strided": Class(
        1.5,
        [*known("1x1 256-64 @56", "1x1/2 64-128 @56"), conv2d("1x1", 64, 256, 56, 8)],
        [
            conv2d("1x1", 100, 60, 55, 3),
            conv2d("1x1", 256, 70, 57, 1),
            conv2d("1x1", 72, 100, 57, 3, stride=2),
        ],
    ),
    "1x1 compute-bound": Class(
        1.05,
        [*known("1x1 512-512 @14"), conv2d("1x1", 1024, 256, 14, 8)],
        [conv2d("1x1", 500, 510, 13, 3), conv2d("1x1", 384, 600, 15, 1)],
    ),
    "5x5": Class(
        1.3,
        [*known("5x5 32-64 @14"), conv2d("5x5", 16, 32, 28, 16), conv2d("5x5", 48, 64, 27, 8)],
        [conv2d("5x5", 20, 50, 13, 3), conv2d("5x5", 36, 70, 15, 3), conv2d("5x5", 64, 64, 27, 1)],
    ),
    "first layers from 3": Class(
        2.2,
        [
            *known("3x3 3-64 @32"),
            conv2d("3x3", 3, 16, 32, 128),
            conv2d("3x3", 3, 32, 64, 32),
            conv2d("3x3", 3, 64, 224, 2),
            conv2d("3x3", 3, 32, 224, 8, stride=2),
        ],
        [conv2d("3x3", 3, 50, 33, 3), conv2d("3x3", 3, 20, 97, 3), conv2d("3x3", 3, 64, 223, 1)],
    ),
    "the 7x7 stem": Class(
        2.0,
        known("7x7/2 3-64 @224"),
        [conv2d("7x7", 3, 60, 225, 1, stride=2), conv2d("7x7", 3, 64, 161, 3, stride=2)],
    ),
    "LeNet's 1 to 6": Class(7.0, known("5x5 1-6 @28"), [conv2d("5x5", 1, 6, 27, 1), conv2d("5x5", 1, 7, 31, 3)]),
    "1 to 32": Class(5.0, known("3x3 1-32 @28"), [conv2d("3x3", 1, 32, 29, 1), conv2d("3x3", 1, 30, 27, 3)]),
    "LeNet's 6 to 16": Class(
        1.8,
        known("5x5 6-16 @14"),
        [conv2d("5x5", 6, 16, 15, 1, padding=0), conv2d("5x5", 7, 18, 13, 3, padding=0)],
    ),
    "depthwise": Class(
        2.0,
        [
            *known("3x3 depthwise 64 @32"),
            conv2d("3x3", 128, 128, 56, 8, stride=2, groups=128),
            conv2d("5x5", 96, 96, 28, 16, groups=96),
            conv2d("7x7", 96, 96, 28, 8, groups=96),
            conv2d("3x3", 32, 64, 28, 16, groups=32),
            conv1d(9, 64, 64, 1000, 16, groups=64),
            conv3d(3, 32, 32, 16, 4, groups=32),
        ],
        [
            conv2d("3x3", 70, 70, 31, 3, groups=70),
            conv2d("3x3", 50, 50, 57, 1, stride=2, groups=50),
            conv2d("5x5", 33, 33, 15, 3, groups=33),
        ],
    ),
    "grouped": Class(
        1.5,
        [
            *known("3x3 grouped 128-128/32 @28"),
            conv2d("3x3", 256, 256, 14, 8, groups=32),
            conv2d("3x3", 64, 64, 28, 16, groups=2),
            conv2d("1x1", 240, 240, 28, 4, groups=3),
        ],
        [conv2d("3x3", 90, 90, 27, 3, groups=9), conv2d("3x3", 60, 120, 15, 1, groups=4)],
    ),
    "1-D": Class(
        1.5,
        [
            *known("80/4 1-32 @16000", "3 32-64 @1000"),
            conv1d(3, 64, 64, 1000, 16),
            conv1d(9, 16, 32, 4000, 8),
        ],
        [conv1d(3, 50, 70, 999, 3), conv1d(15, 2, 20, 7999, 3, stride=2), conv1d(5, 64, 100, 333, 1)],
    ),
    "3-D": Class(
        1.3,
        [*known("3x3x3 1-16 @32", "3x3x3 16-32 @16"), conv3d(3, 32, 32, 8, 8)],
        [conv3d(3, 3, 20, 15, 3), conv3d(3, 17, 33, 9, 1)],
    ),
    "transposed": Class(
        1.3,
        [
            *TRANSPOSED.values(),
            conv2d("2x2", 64, 32, 28, 8, stride=2, padding=0, transposed=True),
            conv2d("3x3", 64, 64, 14, 16, stride=2, output_padding=1, transposed=True),
            conv2d("4x4", 128, 64, 8, 64, stride=2, padding=1, transposed=True),
        ],
        [
            conv2d("3x3", 30, 50, 13, 3, stride=2, transposed=True),
            conv2d("4x4", 100, 3, 31, 1, stride=2, padding=1, transposed=True),
        ],
    ),
}

SHAPES: dict[str, ConvShape] = {}
for _class in CLASSES.values():
    for _one in (*_class.named, *_class.held_out):
        assert _one.name not in SHAPES, _one.name
        SHAPES[_one.name] = _one
