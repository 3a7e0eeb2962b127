"""How each data set is trained by default: what `fastconv train` does when it is not told otherwise.

A recipe is data, in the form that `optim.from_config` and `augment.from_config` read; it is copied into the run folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastconv import augment
from fastconv.errors import nearest

__all__ = ["AUGMENTATIONS", "RECIPES", "Recipe", "augmentation_of"]

NO_DECAY = {"ndim": 1, "weight_decay": 0.0}  # biases and batch norm


@dataclass(frozen=True)
class Recipe:
    """A net of `fastconv.models` by name, and how it is trained.

    validation     images taken out of the training part where there is no test part: a number, or a share below 1
    weights        a file of weights to begin with: its head, the last layer, may be of another size
    freeze         patterns of names of layers and parameters that are not trained; "backbone": all but the head
    head_lr        the head's learning rate, the highest of its schedule
    patience       end when no epoch was better for so many
    class_weight   "balanced", or {name of a class: weight}
    accumulate, average, metrics   see `Trainer.fit`
    """

    net: str
    epochs: int
    batch_size: int
    optimizer: dict[str, Any]
    augment: dict[str, Any] | None = None
    label_smoothing: float = 0.0
    validation: float = 0.1
    weights: str | None = None
    freeze: tuple[str, ...] = ()
    head_lr: float | None = None
    patience: int | None = None
    class_weight: str | dict[str, float] | None = None
    accumulate: int = 1
    average: float | None = None
    metrics: tuple[str, ...] = ()

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Recipe:
        """The recipe that a JSON file holds."""
        data.update({name: tuple(data[name]) for name in ("freeze", "metrics") if name in data})
        return cls(**data)


RECIPES: dict[str, Recipe] = {
    # 18 settings compared on 4 folds of the training images, 3 seeds each; of 20 seeds on the test part all had 98.8 %
    "digits": Recipe(
        net="digits_cnn",
        epochs=40,
        batch_size=64,
        optimizer={
            "optimizer": "SGD",
            "lr": {"schedule": "Cosine", "lr": 0.05, "warmup": 0.15},
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 0.01,
        },
        augment={"augment": "Affine", "rotate": 10.0, "scale": 0.1, "shift": 1.0},
        label_smoothing=0.1,
    ),
    # chosen on 5,000 of the training images
    "mnist": Recipe(
        net="mnist_cnn",
        epochs=5,
        batch_size=128,
        optimizer={
            "optimizer": "SGD",
            "lr": {"schedule": "Cosine", "lr": 0.1, "warmup": 0.2},
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,
        },
        augment={"augment": "Shift", "pixels": 2},
    ),
    "cifar10": Recipe(
        net="vgg_cifar",
        epochs=20,
        batch_size=128,
        optimizer={
            "optimizer": "SGD",
            "lr": {"schedule": "OneCycle", "peak": 0.1},
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,
            "groups": [NO_DECAY],
        },
        augment={
            "augment": "Compose",
            "parts": [{"augment": "Crop", "padding": 4}, {"augment": "Flip"}],
        },
    ),
    "folder": Recipe(
        net="folder_cnn",
        epochs=30,
        batch_size=32,
        optimizer={
            "optimizer": "AdamW",
            "lr": {"schedule": "OneCycle", "peak": 2e-3},
            "weight_decay": 0.01,
            "groups": [NO_DECAY],
        },
        augment={"augment": "Affine", "rotate": 10.0, "scale": 0.1, "shift": 2.0},
        label_smoothing=0.05,
    ),
}

# what `--augment` calls them, in the order in which they are applied
AUGMENTATIONS: dict[str, augment.Augment] = {
    "resized-crop": augment.RandomResizedCrop(scale=(0.35, 1.0)),
    "crop": augment.Crop(padding=4),
    "shift": augment.Shift(2),
    "affine": augment.Affine(10.0, 0.1, 2.0),
    "flip": augment.Flip(),
    "vflip": augment.Flip(horizontal=False, vertical=True),
    "colour": augment.ColorJitter(0.3, 0.3, 0.3, 0.05),
    "noise": augment.Noise(0.03),
    "cutout": augment.CutOut(8),
    "erasing": augment.RandomErasing(),
    "mixup": augment.MixUp(),
    "cutmix": augment.CutMix(),
}
SPELLINGS = {"color": "colour", "jitter": "colour", "color-jitter": "colour", "random-erasing": "erasing"}


def augmentation_of(words: str) -> dict[str, Any]:
    """The augmentation that a list of words says, "flip,colour,mixup", as data; mixup and cutmix are used in turns.

    ValueError for a word that is none.
    """
    named = [SPELLINGS.get(word, word) for word in words.lower().replace("_", "-").replace(" ", "").split(",") if word]
    for word in named:
        if word not in AUGMENTATIONS:
            there = ", ".join(AUGMENTATIONS)
            raise ValueError(f"no augmentation is called {word!r}; there are {there}{nearest(word, AUGMENTATIONS)}")
    if not named:
        raise ValueError("it names no augmentation; --no-augment trains on the images as they are")
    parts = [part for name, part in AUGMENTATIONS.items() if name in named and not part.mixes]
    mixing = [part for name, part in AUGMENTATIONS.items() if name in named and part.mixes]
    parts += [augment.OneOf(*mixing)] if len(mixing) > 1 else mixing
    return (parts[0] if len(parts) == 1 else augment.Compose(*parts)).config()
