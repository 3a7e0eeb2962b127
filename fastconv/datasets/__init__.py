"""Data sets as arrays: `(X_train, y_train), (X_test, y_test)`, X (N, C, H, W) float32 in [0, 1], y (N,) int64.

    load_digits()          1,797 handwritten digits of 8x8 pixels, part of this package
    load_mnist(folder)     MNIST's IDX files, and sets in its form (Fashion-MNIST, KMNIST)
    load_cifar10(folder)   the binary version of CIFAR-10, as files or as its tar archive
    load_folder(path)      images in one folder per class; folder_classes(path) names the classes
    open_folder(path)      the same in any number and of any size: read when they are asked for
    load_image(path)       one image file, read as load_folder reads it: (C, H, W)
    place(X, size)         small images on a larger background, anywhere
    read_image(path, net)  one, as a batch for a trained net, prepared as the net's own images were
    mean_and_std(X)        of every channel, for a net's first layer: fastconv.Normalize(*mean_and_std(X))
    report(X, y)           what is suspicious in a data set: duplicates, blank images, bad labels, ...

A missing test part is None. `raw=True` gives the stored uint8 pixels instead, a quarter of the memory; training on them
wants them scaled by whoever casts them. Nothing is downloaded, nothing is extracted to disk, no pickle is ever read.

A file that is not what its name or header says is a `FormatError` that begins with the file's path; files that are not
there are a FileNotFoundError that names the folder and what was looked for; a set larger than the memory this process
may use is a MemoryError, raised before the arrays are allocated.
"""

from fastconv.datasets.canvas import place
from fastconv.datasets.cifar10 import load_cifar10
from fastconv.datasets.digits import load_digits
from fastconv.datasets.folder import folder_classes, load_folder, open_folder
from fastconv.datasets.image_files import load_image
from fastconv.datasets.mnist import load_mnist
from fastconv.datasets.pixels import mean_and_std
from fastconv.datasets.preparation import read_image
from fastconv.datasets.quality import Report, report

__all__ = [
    "load_digits",
    "load_mnist",
    "load_cifar10",
    "load_folder",
    "open_folder",
    "folder_classes",
    "load_image",
    "place",
    "read_image",
    "mean_and_std",
    "report",
    "Report",
]
