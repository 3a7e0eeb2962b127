"""What the layers see: filters, feature maps and receptive fields of a net trained on real digits.

The filters of the first layer; every layer's answers to one digit; the parts of test images that excite its neurons the
most; and where in the image a neuron looks: its receptive field from the layers' geometry, and the gradient inside it.

    python examples/what_layers_see.py --data FOLDER_OF_MNIST [--out FOLDER]       (without --data: the bundled digits)
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
from common import arguments, read_digits, save

import fastconv
from fastconv import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential, analysis, plots

SHOWN = 8  # channels of each layer
BEST = 16  # image parts that are averaged


def build(side: int) -> tuple[Sequential, list[int]]:
    """A net for images of side x side, and which of its layers are looked at."""
    if side == 28:
        body = [
            Conv2d(1, 8, 5, padding=2, rng=0), ReLU(), MaxPool2d(2),
            Conv2d(8, 16, 5, padding=2, rng=1), ReLU(), MaxPool2d(2),
            Conv2d(16, 32, 3, padding=1, rng=2), ReLU(),
        ]  # fmt: skip
        seen, features = [1, 4, 7], 32 * 7 * 7
    else:
        body = [
            Conv2d(1, 8, 3, padding=1, rng=0), ReLU(), MaxPool2d(2),
            Conv2d(8, 24, 3, padding=1, rng=1), ReLU(),
        ]  # fmt: skip
        seen, features = [1, 4], 24 * 4 * 4
    return Sequential(*body, Flatten(), Linear(features, 10, rng=3)), seen


class Region(NamedTuple):
    """A neuron's receptive field: its corner (may be negative, in the padding), and its size."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, field: Any, row: int, column: int) -> Region:
        """Of the neuron at (row, column); field: `analysis.receptive_field`."""
        size, stride, offset = field
        return cls(offset[0] + row * stride[0], offset[1] + column * stride[1], *size)

    def crop(self, image: np.ndarray) -> np.ndarray:
        """The part of image (H, W) that the neuron sees, zeros where that is padding."""
        padded = np.pad(image, ((self.height, self.height), (self.width, self.width)))
        top, left = self.top + self.height, self.left + self.width
        return padded[top : top + self.height, left : left + self.width]

    def holds(self, values: np.ndarray) -> bool:
        """Whether values (H, W) are zero everywhere else."""
        outside = np.ones(values.shape, bool)
        outside[max(0, self.top) : self.top + self.height, max(0, self.left) : self.left + self.width] = False
        return not values[outside].any()


class Layer(NamedTuple):
    """What one layer makes of one digit."""

    index: int
    maps: np.ndarray  # (SHOWN, H, W), its strongest channels
    exciting: list[np.ndarray]  # for each of them
    region: Region  # of its strongest neuron
    gradient: np.ndarray  # of that neuron's answer to the image, (H, W), absolute


def look(net: Sequential, index: int, image: np.ndarray, X: np.ndarray) -> Layer:
    body = net[: index + 1]
    field = analysis.receptive_field(net, (1, *image.shape), index)
    answers, pullback = fastconv.vjp(body, image[None])
    strongest = np.sort(np.argsort(-answers[0].max(axis=(1, 2)), kind="stable")[:SHOWN])
    everywhere = body.predict(X)
    exciting = []
    for channel in strongest:
        found = everywhere[:, channel]
        parts = []
        for n in np.argsort(-found.max(axis=(1, 2)), kind="stable")[:BEST]:
            row, column = np.unravel_index(found[n].argmax(), found[n].shape)
            parts.append(Region.of(field, int(row), int(column)).crop(X[n, 0]))
        exciting.append(np.mean(parts, axis=0))
    neuron = np.unravel_index(answers.argmax(), answers.shape)
    dy = np.zeros_like(answers)
    dy[neuron] = 1
    (gradient,) = pullback(dy)
    region = Region.of(field, int(neuron[2]), int(neuron[3]))
    return Layer(index, answers[0, strongest], exciting, region, np.abs(gradient[0, 0]))


def draw(net: Sequential, image: np.ndarray, layers: list[Layer], accuracy: float) -> Any:
    from matplotlib.patches import Rectangle

    rows = 1 + 2 * len(layers)
    figure = plots.need_matplotlib("the picture")(figsize=(13.5, 1.0 + 1.32 * rows), layout="constrained")
    figure.suptitle(f"What the layers of a CNN see ({accuracy:.1%} of the test digits read)", fontweight="bold")
    grid = figure.add_gridspec(rows, SHOWN + 2)

    def panel(row: Any, column: Any, picture: np.ndarray, **options: Any) -> Any:
        axes = figure.add_subplot(grid[row, column])
        axes.imshow(picture, **options)
        axes.set_xticks([])
        axes.set_yticks([])
        return axes

    def label(axes: Any, text: str) -> None:
        axes.set_ylabel(text, fontsize=9, rotation=0, ha="right", va="center", labelpad=6)

    corner = figure.add_subplot(grid[0, :2])
    corner.set_axis_off()
    corner.text(0.5, 0.5, "one digit, and where one\nneuron of each layer looks:\nits receptive field (frame) and\n"
                "the gradient in it (orange)", ha="center", va="center", fontsize=10)  # fmt: skip
    weights = net.parameters()["0.weight"][:, 0]
    most = float(np.abs(weights).max())
    for column, kernel in enumerate(weights[:SHOWN]):
        axes = panel(0, column + 2, kernel, cmap="RdBu", vmin=-most, vmax=most)
        if column == 0:
            label(axes, "filters of the\nfirst layer\n(blue: positive)")
    for place, layer in enumerate(layers):
        row, region = 1 + 2 * place, layer.region
        axes = panel(slice(row, row + 2), slice(0, 2), image[0], cmap="gray_r", vmin=0, vmax=1)
        strength = layer.gradient / max(float(layer.gradient.max()), 1e-12)
        colour = np.array([0.835, 0.369, 0.0, 1.0])  # plots.ORANGE
        axes.imshow(np.where(np.arange(4) < 3, colour, 0.85 * strength[..., None]))
        frame = (region.left - 0.5, region.top - 0.5), region.width, region.height
        axes.add_patch(Rectangle(*frame, fill=False, edgecolor=plots.BLUE, linewidth=2))
        (left, top), height, width = frame[0], region.height, region.width  # the frame may reach into the padding
        axes.set_xlim(min(-0.5, left) - 0.5, max(image.shape[2] - 0.5, left + width) + 0.5)
        axes.set_ylim(max(image.shape[1] - 0.5, top + height) + 0.5, min(-0.5, top) - 0.5)
        axes.set_title(f"convolution {place + 1}: sees {region.height}x{region.width}", fontsize=10)
        for column, (answers, part) in enumerate(zip(layer.maps, layer.exciting, strict=True)):
            upper = panel(row, column + 2, answers, cmap="Blues", vmin=0, vmax=float(layer.maps.max()))
            lower = panel(row + 1, column + 2, part, cmap="gray_r", vmin=0, vmax=1)
            if column == 0:
                label(upper, f"feature maps\n{answers.shape[0]}x{answers.shape[1]}")
                label(lower, f"excited most by\n(mean of {BEST})")
    return figure


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = arguments(__doc__, "what_layers_see", argv, data=True)
    (X, y), test = read_digits(args.data)
    images, epochs = (20_000, 2) if args.data is not None else (800, 6) if args.small else (1437, 40)
    net, seen = build(X.shape[2])
    optimizer = fastconv.optim.Adam(lr=fastconv.optim.Cosine(lr=3e-3, warmup=0.1))
    trainer = fastconv.Trainer(net, optimizer)
    trainer.fit(X[:images], y[:images], epochs=epochs, batch_size=32)
    accuracy = trainer.evaluate(*test).accuracy
    print(f"{accuracy:.2%} of {len(test[1]):,} test images read")
    image = test[0][int(np.flatnonzero(test[1] == 5)[0])]
    layers = [look(net, index, image, test[0][:1000]) for index in seen]
    inside = [layer.region.holds(layer.gradient) for layer in layers]
    for layer, is_inside in zip(layers, inside, strict=True):
        print(f"layer {layer.index}: sees {layer.region.height}x{layer.region.width} pixels; the gradient of its "
              f"strongest neuron stays inside: {'yes' if is_inside else 'NO'}")  # fmt: skip
    save(draw(net, image, layers, accuracy), args.out, "what_layers_see")
    return {"accuracy": accuracy, "inside": inside, "sizes": [layer.region.height for layer in layers]}


if __name__ == "__main__":
    main(sys.argv[1:])
