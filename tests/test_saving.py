"""`fastconv.save` and `fastconv.load`: nets in files, checkpoints and the folders of runs."""

import json

import numpy as np
import pytest

import fastconv as fc
from fastconv.cli import main, rundir
from fastconv.training import checkpoint

X = np.random.default_rng(0).random((40, 1, 8, 8), np.float32)
Y = np.arange(40) % 10


def small_net(dtype=np.float32):
    return fc.Sequential(
        fc.Conv2d(1, 4, 3, rng=0), fc.BatchNorm2d(4), fc.ReLU(), fc.Dropout(0.5), fc.Flatten(),
        fc.Linear(144, 10, rng=1),
    ).astype(dtype)  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip(dtype, tmp_path):
    net = small_net(dtype).freeze("0")
    net.train()
    net[4].eval()
    net.classes = np.array([*"abcdefghij"])
    net.preparation = {"method": "picture", "image_shape": (1, 8, 8)}
    fc.save(net, tmp_path / "net.safetensors")
    again = fc.load(tmp_path / "net.safetensors")
    assert not any(layer.training for _, layer in again.walk())
    assert all(layer.training for name, layer in net.walk() if name != "4")  # saving changes nothing
    assert again.dtype == dtype and repr(again) == repr(net)
    assert again.classes == tuple("abcdefghij") and again.preparation == net.preparation
    assert list(again.parameters()) == list(net.parameters())
    np.testing.assert_array_equal(again(X.astype(dtype)), net.predict(X.astype(dtype)))
    net.eval()  # and trains as it did
    losses = [fc.value_and_grad(each, "cross_entropy", X, Y, rng=np.random.default_rng(1))[0] for each in (net, again)]
    assert losses[0] == losses[1]


def test_what_a_net_does_not_know(tmp_path):
    fc.save(small_net(), tmp_path / "net")
    again = fc.load(tmp_path / "net")
    assert again.classes is None and again.preparation is None
    _, metadata = checkpoint.read(tmp_path / "net")
    assert json.loads(metadata["net"]).keys().isdisjoint({"classes", "preparation"})  # files are what they were


def test_checkpoint(tmp_path):
    net = small_net()
    net.classes = tuple("0123456789")
    trainer = fc.Trainer(net, fc.optim.SGD(0.5), checkpoint=tmp_path / "run.ckpt")
    trainer.fit(X, Y, epochs=3, batch_size=8, validation_data=(X, Y), progress=False)
    last, best = fc.load(tmp_path / "run.ckpt"), fc.load(tmp_path / "run.ckpt", best=True)
    for found, state in ((last, net.state_dict()), (best, trainer.best_state)):
        assert found.classes == net.classes and not found.training
        for name, array in state.items():
            np.testing.assert_array_equal(found.state_dict()[name], array)
    trainer = fc.Trainer(net, fc.optim.SGD(0.5))
    trainer.fit(X, Y, epochs=1, progress=False)
    trainer.save(tmp_path / "unvalidated")
    fc.load(tmp_path / "unvalidated")
    with pytest.raises(ValueError, match=r"load: .*unvalidated has no best epoch: nothing was validated"):
        fc.load(tmp_path / "unvalidated", best=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = ["--epochs", "2", "--batch-size", "256", "--validation", "200", "--quiet", "--no-plots"]
    assert main(["train", "digits", "--out", str(folder), *options]) == 0
    return folder


def test_run(run, tmp_path):
    net, best = fc.load(run), fc.load(str(run), best=True)
    assert net.classes == best.classes == tuple("0123456789")
    assert net.preparation == {"method": "digits", "image_shape": (1, 8, 8)}
    (_, _), (x, y) = fc.datasets.load_digits()
    right = np.count_nonzero(net(x).argmax(axis=1) == y)
    assert right / len(y) == json.loads((run / "result.json").read_text())["test_accuracy"]
    for file in ("weights", "checkpoint"):  # which know as much
        alone = fc.load(run / f"{file}.safetensors")
        assert (alone.classes, alone.preparation) == (net.classes, net.preparation)
        np.testing.assert_array_equal(alone(x[:3]), net(x[:3]))
    for name in (rundir.CONFIG, rundir.CHECKPOINT):  # a run that was stopped
        (tmp_path / name).write_bytes((run / name).read_bytes())
    np.testing.assert_array_equal(fc.load(tmp_path)(x[:3]), net(x[:3]))
    np.testing.assert_array_equal(fc.load(tmp_path, best=True)(x[:3]), best(x[:3]))
    (tmp_path / rundir.CHECKPOINT).unlink()
    with pytest.raises(fc.FormatError, match="is a run that has not begun"):
        fc.load(tmp_path)


def test_read_image(run, tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    net = fc.load(run)
    (_, _), (x, _) = fc.datasets.load_digits()
    Image.fromarray(np.uint8(255 * (1 - x[0, 0]))).resize((40, 40)).save(tmp_path / "digit.png")
    batch = fc.datasets.read_image(tmp_path / "digit.png", net)
    assert batch.shape == (1, 1, 8, 8) and batch.dtype == np.float32
    expected = fc.datasets.preparation.prepare(tmp_path / "digit.png", "digits", (1, 8, 8))
    np.testing.assert_array_equal(batch[0], expected)
    other = small_net()
    with pytest.raises(ValueError, match="read_image: the net does not say how its images are prepared; write net"):
        fc.datasets.read_image(tmp_path / "digit.png", other)
    other.preparation = {"method": "picture"}
    with pytest.raises(ValueError, match="read_image: the net does not say how its images are prepared"):
        fc.datasets.read_image(tmp_path / "digit.png", other)
    other.preparation = {"method": "picture", "image_shape": [1, 5, 4]}
    assert fc.datasets.read_image(str(tmp_path / "digit.png"), other).shape == (1, 1, 5, 4)
    other.preparation = {"method": "pictures", "image_shape": [1, 5, 4]}
    with pytest.raises(ValueError, match="must be one of mnist, digits, picture, got 'pictures'"):
        fc.datasets.read_image(tmp_path / "digit.png", other)


def test_what_is_no_net(tmp_path, run):
    np.savez(tmp_path / "a.npz", a=X)
    checkpoint.write(tmp_path / "a.safetensors", {"a": X})
    (tmp_path / "text").write_text("hello, world")
    for name in ("a.npz", "a.safetensors", "text"):
        with pytest.raises(
            fc.FormatError, match=r"weights alone: net\.load_state_dict\(fastconv\.load_weights\(path\)\)"
        ):
            fc.load(tmp_path / name)
    with pytest.raises(fc.FormatError, match=r"is a folder, but none of a run: it has no config\.json"):
        fc.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        fc.load(tmp_path / "nothing")
    fc.save(small_net(), tmp_path / "net")
    with pytest.raises(ValueError, match=r"load: .*net holds one set of weights"):
        fc.load(tmp_path / "net", best=True)
    with pytest.raises(TypeError, match="save: net must be a layer, got PosixPath; write save"):
        fc.save(tmp_path / "net", small_net())
    with pytest.raises(TypeError, match="save: net must be a layer, got dict"):
        fc.save({}, tmp_path / "net")


@pytest.mark.parametrize("value", [{"method": "picture"}, {"method": "picture", "image_shape": (1, 8, 8), "size": 8}])
def test_nothing_is_saved_that_cannot_be_loaded(value, tmp_path):
    net = small_net()
    net.preparation = value
    with pytest.raises(ValueError, match="preparation must have a method and an image_shape, got "):
        fc.save(net, tmp_path / "net")
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("classes", "abc", "classes must be a list of texts, got 'abc'"),
        ("classes", [1], r"classes must be a list of texts, got \[1\]"),
        ("preparation", [], r"preparation must have a method and an image_shape, got \[\]"),
        ("preparation", {"image_shape": [1, 8, 8]}, "preparation must have a method and an image_shape"),
        ("preparation", {"method": "x", "image_shape": [1, 0, 8]}, "must be three positive integers"),
        ("preparation", {"method": 1, "image_shape": [1, 8, 8]}, "preparation must have a method"),
    ],
)
def test_knowledge_that_is_none(entry, value, message, tmp_path):
    net = small_net()
    data = checkpoint.net_data(net) | {entry: value}
    checkpoint.write(tmp_path / "net", net.state_dict(), {"format": checkpoint.FORMAT, "net": json.dumps(data)})
    with pytest.raises(fc.FormatError, match=message):
        fc.load(tmp_path / "net")
