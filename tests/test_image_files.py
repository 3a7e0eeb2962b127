"""Image files: one reading for training, prediction and users; upright, at full depth, within bounded memory."""

import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image, ImageOps

from fastconv import datasets
from fastconv.datasets import image_files, preparation
from fastconv.errors import FormatError

RNG = np.random.default_rng(0)
ORIENTATION = 0x0112


def refused(path, rule):
    """A context in which one FormatError must be raised: one line, the path, then `rule` (a regex)."""
    return pytest.raises(FormatError, match=rf"^{re.escape(str(path))}: {rule}[^\n]*$")


def everywhere(path, channels=None, size=None):
    """The file as all who read images see it, which must be the same."""
    one = datasets.load_image(path, channels=channels, size=size)
    (folder, _), _ = datasets.load_folder(path.parent.parent, channels=channels, size=size)
    np.testing.assert_array_equal(folder[0], one, strict=True)
    np.testing.assert_array_equal(preparation.prepare(path, "picture", one.shape), one, strict=True)
    with image_files.opened(path) as image:
        assert image.size == one.shape[1:] or size
    assert one.dtype == np.float32
    return one


@pytest.fixture
def place(tmp_path):
    """Where a file of an image folder goes."""
    (tmp_path / "class").mkdir()
    return tmp_path / "class"


# --- orientation -----------------------------------------------------------------------------------------------------


def exif(orientation):
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data


def upright(pixels, orientation):
    """`pixels` (H, W) as EXIF's specification says that they are to be shown."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T  # 5: rows are columns
    turned = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.flip(pixels, turned)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation(place, suffix, orientation):
    path = place / f"a.{suffix}"
    stored = np.kron(RNG.integers(0, 256, (1, 3), np.uint8), np.ones((8, 4), np.uint8))
    stored[:3] //= 2
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100}}.get(suffix, {})
    Image.fromarray(stored).save(path, exif=exif(orientation), **options)
    x = everywhere(path, channels=1)
    expected = upright(stored, orientation)
    assert x.shape == (1, *expected.shape)
    np.testing.assert_allclose(x[0] * 255, expected, atol=8 if suffix == "jpg" else 1e-4)


def test_a_photograph_taken_with_the_camera_turned(place):
    Image.new("RGB", (12, 8)).save(place / "a.jpg", exif=exif(6))
    assert everywhere(place / "a.jpg").shape == (3, 12, 8)
    Image.new("RGB", (8, 12)).save(place / "b.jpg")
    assert datasets.load_folder(place.parent)[0][0].shape == (2, 3, 12, 8)  # sizes are compared upright
    Image.new("RGB", (12, 8)).save(place / "c.jpg")
    with refused(place / "c.jpg", r"is 8 x 12, .*a.jpg is 12 x 8: all images must have one size"):
        datasets.load_folder(place.parent)


def test_resized_after_it_is_turned(place):
    stored = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8))
    stored.save(place / "a.png", exif=exif(8))
    expected = ImageOps.exif_transpose(Image.open(place / "a.png")).resize((7, 9), Image.Resampling.BILINEAR)
    x = everywhere(place / "a.png", size=(9, 7))
    np.testing.assert_array_equal(np.rint(x * 255), np.asarray(expected).transpose(2, 0, 1))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, pixels, *, depth=8, colour=0, before=b"", after=b""):
    """A PNG whose rows are not filtered, with chunks of one's own before and after them."""
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + before + chunk(b"IDAT", pixels) + after + chunk(b"IEND", b"")


def test_exif_behind_the_pixels_of_a_png_is_found_without_decoding_them(place, monkeypatch):
    data = zlib.compress(bytes([0, 1, 2, 3]) * 2)
    late = chunk(b"tEXt", b"a\0b") + chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    (place / "a.png").write_bytes(png(3, 2, data, after=late))
    assert everywhere(place / "a.png").shape == (1, 3, 2)
    (place / "a.png").write_bytes(png(3, 2, b"no pixels", after=late))
    with image_files.opened(place / "a.png") as image:
        assert image.size == (3, 2)


@pytest.mark.parametrize("data", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(range(200))])
def test_damaged_exif_says_nothing(place, data):
    Image.new("L", (3, 2)).save(place / "a.jpg", exif=data)
    assert everywhere(place / "a.jpg").shape == (1, 2, 3)


def test_a_turned_digit_is_read_upright(tmp_path):
    pixels = np.pad(RNG.integers(0, 256, (10, 4), np.uint8), 5)
    paths = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(pixels).save(paths[0])
    Image.fromarray(np.rot90(pixels)).save(paths[1], exif=exif(6))
    one, other = (preparation.prepare(path, "digits", (1, 8, 8)) for path in paths)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_large_photograph_is_decoded_at_a_fraction_of_its_size(place, orientation):
    """What is resized of it is what the whole would give, but for the last shades; upright, and the same for all."""
    y, x = np.mgrid[:600, :800] / 100
    pixels = np.stack([127 + 100 * np.sin(x), 127 + 100 * np.cos(y), 127 + 100 * np.sin(x + y)], axis=-1)
    path = place / "1.jpg"
    Image.fromarray(np.rint(pixels).astype(np.uint8)).save(path, exif=exif(orientation), quality=95)
    size = (60, 80) if orientation < 5 else (80, 60)
    with Image.open(path) as image:
        whole = ImageOps.exif_transpose(image).resize(size[::-1], Image.Resampling.BILINEAR)
    read = everywhere(path, size=size)
    assert np.abs(read - np.asarray(whole).transpose(2, 0, 1) / 255).max() < 0.02
    with image_files.opened(path) as image:
        image.pixels(3, size)
        assert image._image.size == (200, 150)
    with image_files.opened(path) as image:
        assert image.pixels(3, (300, 300)).shape == (3, 300, 300)
        assert image._image.size == (800, 600)


# --- depth -----------------------------------------------------------------------------------------------------------


def deep(channels, height=5, width=7):
    values = RNG.integers(0, 65536, (height, width, channels)).astype(np.uint16)
    values[0, 0] = 0x01FF
    return values


COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def deep_png(values, **options):
    height, width, channels = values.shape
    rows = np.pad(values.astype(">u2").reshape(height, -1).view(np.uint8), ((0, 0), (1, 0)))
    return png(width, height, zlib.compress(rows), depth=16, colour=COLOUR_TYPES[channels], **options)


def deep_ppm(values):
    height, width, channels = values.shape
    kind = {1: b"P5", 3: b"P6"}[channels]
    return b"%s\n%d %d\n65535\n" % (kind, width, height) + values.astype(">u2").tobytes()


def tiff(
    values, order="<", *, bits=16, photometric=None, packed=False, extra=(), strips=1, planar=1, form=1, tags=None
):
    """A TIFF of the numbers (H, W, C), in `strips` strips, deflated if `packed`."""
    height, width, channels = values.shape
    if photometric is None:
        photometric = 2 if channels >= 3 else 1
    rows = -(-height // strips)
    kind = values.dtype.newbyteorder(order)
    data = [values[top : top + rows].astype(kind).tobytes() for top in range(0, height, rows)]
    data = [zlib.compress(strip) for strip in data] if packed else data
    offsets = [8 + sum(map(len, data[:number])) for number in range(strips)]
    entries = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [bits] * channels), 259: ("H", [8 if packed else 1]),
        262: ("H", [photometric]), 273: ("I", offsets), 277: ("H", [channels]), 278: ("I", [rows]),
        279: ("I", list(map(len, data))), 284: ("H", [planar]), 339: ("H", [form] * channels),
    }  # fmt: skip
    if extra:
        entries[338] = ("H", list(extra))
    entries.update(tags or {})
    body = b"".join(data)
    body += bytes(len(body) % 2)
    directory = 8 + len(body)
    place = directory + 2 + 12 * len(entries) + 4
    listed, apart = struct.pack(order + "H", len(entries)), b""
    for tag, (code, numbers) in sorted(entries.items()):
        packed_numbers = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        if len(packed_numbers) > 4:
            where, apart = place + len(apart), apart + packed_numbers + bytes(len(packed_numbers) % 2)
            packed_numbers = struct.pack(order + "I", where)
        listed += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[code], len(numbers)) + packed_numbers.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "I", directory) + body + listed + bytes(4) + apart


DEEP = {
    "PNG, gray": ("a.png", 1, deep_png),
    "PNG, gray and alpha": ("a.png", 2, deep_png),
    "PNG, colour": ("a.png", 3, deep_png),
    "PNG, colour and alpha": ("a.png", 4, deep_png),
    "PGM": ("a.pgm", 1, deep_ppm),
    "PPM": ("a.ppm", 3, deep_ppm),
    **{
        f"TIFF, {'little' if order == '<' else 'big'} endian, {'packed' if packed else 'plain'}, {channels}": (
            "a.tif", channels, lambda values, order=order, packed=packed, channels=channels: tiff(
                values, order, packed=packed, strips=1 + 2 * (channels > 1), extra=(2,) if channels == 4 else ())
        )
        for order in "<>" for packed in (False, True) for channels in (1, 3, 4)
    },
}  # fmt: skip


@pytest.mark.parametrize("case", DEEP)
def test_16_bits_are_not_cut(place, case):
    name, channels, encode = DEEP[case]
    values = deep(channels)
    (place / name).write_bytes(encode(values))
    shown = values[..., : 1 if channels < 3 else 3].transpose(2, 0, 1)
    x = everywhere(place / name)
    np.testing.assert_array_equal(x, shown / np.float32(65535))
    assert x[0, 0, 0] == np.float32(511 / 65535)

    other = everywhere(place / name, channels=4 - len(shown))
    gray = np.tensordot([0.299, 0.587, 0.114], np.broadcast_to(shown, (3, *shown.shape[1:])), 1) / 65535
    np.testing.assert_allclose(other, np.broadcast_to(gray, other.shape), rtol=1e-6, atol=1e-7)
    small = everywhere(place / name, size=(3, 2))
    assert small.shape == (len(shown), 3, 2)
    assert 0 <= small.min() < small.max() <= 1
    for load in (datasets.load_image, lambda path, raw: datasets.load_folder(path.parent.parent, raw=raw)):
        with refused(place / name, "has more than 8 bits per channel, and raw=True holds 8"):
            load(place / name, raw=True)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_and_orientation(place, channels):
    values = deep(channels)
    late = chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    (place / "a.png").write_bytes(deep_png(values, after=late))
    shown = values[..., : 1 if channels < 3 else 3]
    x = everywhere(place / "a.png")
    np.testing.assert_array_equal(x, np.rot90(shown, -1).transpose(2, 0, 1) / np.float32(65535))


def test_files_of_8_and_of_16_bits_in_one_folder(place):
    values = deep(3)
    (place / "a.png").write_bytes(deep_png(values))
    Image.fromarray((values >> 8).astype(np.uint8)).save(place / "b.png")
    (x, _), _ = datasets.load_folder(place.parent)
    np.testing.assert_array_equal(x[0], values.transpose(2, 0, 1) / np.float32(65535))
    np.testing.assert_array_equal(x[1], (values >> 8).transpose(2, 0, 1) / np.float32(255))


def as_levels(values):
    return np.divide(values, 65535, dtype=np.float32)


def test_other_gray_depths(place):
    path = place / "a.tif"
    values = RNG.integers(0, 65536, (5, 7))
    Image.fromarray(values.astype(np.int32)).save(path)
    np.testing.assert_array_equal(everywhere(path)[0], as_levels(values))
    Image.fromarray(as_levels(values)).save(path)
    np.testing.assert_array_equal(everywhere(path)[0], as_levels(values))
    path.write_bytes(tiff(values.astype(np.uint16)[..., np.newaxis], photometric=0))
    np.testing.assert_array_equal(everywhere(path)[0], as_levels(65535 - values))  # white is zero
    path.write_bytes(tiff(values.astype(np.uint32)[..., np.newaxis], bits=32))
    np.testing.assert_array_equal(everywhere(path)[0], as_levels(values))

    nibbles = np.array([0x0FF, 0xFFF, 0x123, 0x000]).reshape(1, 4)
    stored = np.array([[0x0F, 0xFF, 0xFF, 0x12, 0x30, 0x00]], np.uint8)[..., np.newaxis]
    data = tiff(stored, bits=12).replace(struct.pack("<HHII", 256, 4, 1, 6), struct.pack("<HHII", 256, 4, 1, 4))
    path.write_bytes(data)
    np.testing.assert_array_equal(everywhere(path)[0], np.divide(nibbles, 4095, dtype=np.float32))

    path.unlink()
    path = place / "a.pgm"
    path.write_bytes(b"P2 3 1 1023 0 511 1023")
    np.testing.assert_allclose(everywhere(path)[0, 0], [0, 511 / 1023, 1], atol=1e-5)
    path.write_bytes(b"P6 2 1 1023 " + np.array([0, 511, 1023, 1, 2, 3], ">u2").tobytes())
    np.testing.assert_allclose(everywhere(path)[:, 0].T.ravel(), np.array([0, 511, 1023, 1, 2, 3]) / 1023, atol=1e-5)


UNREADABLE = {
    "negative": (
        tiff(np.full((2, 2, 1), -3, np.int32), bits=32, form=2),
        "holds integers from -3 to -3; from 0",
    ),
    "beyond white": (
        tiff(np.full((2, 2, 1), 70000, np.uint32), bits=32),
        "holds integers from 70000 to .* 65,535",
    ),
    "NaN": (
        tiff(np.full((2, 2, 1), np.nan, np.float32), bits=32, form=3),
        "holds floats from nan to nan; .* to 1",
    ),
    "floats up to 255": (tiff(np.full((2, 2, 1), 255, np.float32), bits=32, form=3), "holds floats from 255 to 255"),
    "CMYK": (tiff(deep(4), photometric=5), "has more than 8 bits per channel in a form that Pillow cuts"),
    "premultiplied": (tiff(deep(4), extra=(1,)), "has more than 8 bits per channel in a form that Pillow cuts"),
    "planar": (tiff(deep(3), planar=2, strips=3), "has more than 8 bits per channel in a form that Pillow cuts"),
    "planar, packed": (tiff(deep(3), planar=2, packed=True), "has more than 8 bits per channel in a form that Pillow"),
    "PPM as text": (b"P3 1 1 1023 1 2 3", "has more than 8 bits per channel in a form that Pillow cuts"),
    "PPM beyond its white": (b"P6 1 1 1023 " + b"\4\0" * 3, "no image .* its numbers reach 1,024, its white is 1,023"),
    "PPM, cut": (b"P6 2 1 65535 " + bytes(9), "no image that can be read: image file is truncated"),
    "PNG, cut": (deep_png(deep(3))[:-90], "no image that can be read: "),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_whole_is_refused(place, kind):
    data, rule = UNREADABLE[kind]
    (place / "a.png").write_bytes(data)
    for form in ("picture", "mnist"):
        with refused(place / "a.png", rule):
            preparation.prepare(place / "a.png", form, (1, 28, 28))
    with refused(place / "a.png", rule):
        datasets.load_folder(place.parent)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("longest", [4, 64])
def test_levels_of_16_bits_are_those_of_8(tmp_path, channels, longest):
    values = RNG.integers(1, 256, (9, 7, channels)).astype(np.uint16)  # what has no opacity has any level
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    Image.frombytes(mode, (7, 9), values.astype(np.uint8).tobytes()).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(deep_png(values * 257))
    with image_files.opened(tmp_path / "a.png") as image:
        levels, opacity = image.levels(longest)
    with image_files.opened(tmp_path / "b.png") as image:
        deep_levels, deep_opacity = image.levels(longest)
    assert levels.shape == ((9, 7) if longest == 64 else (3, 3))
    np.testing.assert_allclose(deep_levels, levels, atol=0.02)
    assert (opacity is None) is (deep_opacity is None) is (channels in (1, 3))
    if opacity is not None:
        np.testing.assert_allclose(deep_opacity, opacity, atol=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_of_16_bits_that_is_transparent(tmp_path, channels):
    values = deep(channels)
    hidden = chunk(b"tRNS", values[0, 0].astype(">u2").tobytes())
    (tmp_path / "a.png").write_bytes(deep_png(values, before=hidden))
    with image_files.opened(tmp_path / "a.png") as image:
        _, opacity = image.levels(64)
    np.testing.assert_array_equal(opacity, (values != values[0, 0]).any(axis=2))


@pytest.mark.parametrize("name", ["a.png", "a.ppm", "a.tif", "a.webp"])
def test_random_damage(tmp_path, name):
    path = tmp_path / name
    if name == "a.webp":
        Image.fromarray((deep(3) >> 8).astype(np.uint8)).save(path, exif=exif(6))
    else:
        encode = {"a.png": deep_png, "a.ppm": deep_ppm, "a.tif": lambda values: tiff(values, packed=True)}[name]
        path.write_bytes(encode(deep(3)))
    good = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(100):
        data = good.copy()
        data[RNG.integers(0, len(data), RNG.choice([1, 8]))] = RNG.integers(0, 256)
        path.write_bytes(data[: RNG.choice([len(data), RNG.integers(len(data))])].tobytes())
        for form in ("picture", "mnist"):
            try:
                preparation.prepare(path, form, (1, 28, 28))
            except FormatError as error:
                assert str(error).startswith(f"{path}: ")
                assert "\n" not in str(error)
            except ValueError as error:
                assert "blank" in str(error)


def test_modes_of_8_bits(place):
    pixels = RNG.integers(0, 256, (4, 5, 3), np.uint8)
    colour = Image.fromarray(pixels)
    path = place / "a.tif"
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "LA"):
        image = colour.convert(mode)
        image.save(path)
        x = everywhere(path)
        assert x.shape == (1 if mode in ("1", "L", "LA") else 3, 4, 5)
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)[: len(x)]
        np.testing.assert_array_equal(np.rint(x * 255), expected)


def test_load_image(tmp_path):
    pixels = RNG.integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    x = datasets.load_image(str(tmp_path / "a.png"), raw=True)
    np.testing.assert_array_equal(x, pixels.transpose(2, 0, 1), strict=True)
    x[:] = 0  # it is the caller's
    assert datasets.load_image(tmp_path / "a.png", size=3, channels=1).shape == (1, 3, 3)
    with pytest.raises(ValueError, match="load_image: channels must be 1 or 3, got 2"):
        datasets.load_image(tmp_path / "a.png", channels=2)
    with pytest.raises(ValueError, match="load_image: size must be"):
        datasets.load_image(tmp_path / "a.png", size=0)
    with pytest.raises(FileNotFoundError):
        datasets.load_image(tmp_path / "b.png")


def test_animations_show_their_first_frame(place):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for name, options in (("a.gif", {}), ("a.webp", {"lossless": True}), ("a.png", {})):
        frames[0].save(place / name, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(everywhere(place / name)[:, 0, 0], [1, 0, 0])
        (place / name).unlink()


# --- bombs -----------------------------------------------------------------------------------------------------------


MEASURED = """
import resource, sys
from pathlib import Path
from PIL import Image
from scipy import ndimage
from fastconv.datasets.preparation import prepare

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024

Image.init()
before = peak()
for name in sys.argv[1:]:
    for form in ("mnist", "picture"):
        try:
            prepare(Path(name), form, (1, 28, 28))
        except ValueError as error:
            print(error)
print(peak() - before)
"""


def tiny_files(folder):
    """Files of some hundred bytes that declare much; those up to `FREE` bytes may be read."""
    rows = zlib.compress(bytes(2 * 8_323_081), 9)
    yield "tall, whole.png", png(8, 8_323_081, rows, depth=1), "is 8,323,081 x 8 pixels; a side may have 1 to 65,535"
    yield "tall.png", png(8, 8_323_081, zlib.compress(bytes(99))), "is 8,323,081 x 8 pixels"
    for colour in (2, 6):
        yield f"{colour}.png", png(9400, 9400, zlib.compress(bytes(99)), colour=colour), "a decompression bomb"
    tile = {322: ("I", [60000]), 323: ("I", [30000]), 324: ("I", [8]), 325: ("I", [9])}
    yield "tile.tif", tiff(np.zeros((9, 9, 1), np.uint8), bits=8, packed=True, tags=tile), "a decompression bomb"
    yield "header.ppm", b"P6 9400 9400 255 ", "a decompression bomb"
    yield "header.pgm", b"P5 9400 9400 65535 ", "a decompression bomb"
    small = folder / "small.webp"
    Image.new("RGB", (9, 9)).save(small, lossless=True)
    size = struct.unpack_from("<I", small.read_bytes(), 21)[0] >> 28 << 28 | 9399 << 14 | 9399
    yield "all.webp", small.read_bytes()[:21] + struct.pack("<I", size) + small.read_bytes()[25:], "decompression bomb"
    text = zlib.compress(bytes(20 << 20))
    for kind, key in ((b"zTXt", b"Raw profile type exif\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        yield f"{kind.decode()}.png", png(1, 1, b"", before=chunk(kind, key + text)), "no image that can be read"


def test_small_files_do_not_take_much_memory(tmp_path):
    files = [(tmp_path / name, data, rule) for name, data, rule in tiny_files(tmp_path)]
    for path, data, _ in files:
        path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *[path for path, _, _ in files]], capture_output=True, text=True, check=True
    )
    *lines, megabytes = done.stdout.splitlines()
    assert len(lines) == 2 * len(files)
    for (path, _, rule), *found in zip(files, lines[::2], lines[1::2], strict=True):
        for line in found:
            assert line.startswith(f"{path}: ")
            assert rule in line
    assert int(megabytes) < 150


def test_a_large_image_takes_little_more_than_its_pixels(tmp_path):
    Image.new("P", (5000, 5000)).save(tmp_path / "a.gif")  # 24 MB
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "a.gif"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.splitlines()[-1]) < 24 * 6


def test_memory_is_asked_for_before_pixels_are_decoded(place, monkeypatch):
    Image.fromarray(RNG.integers(0, 256, (2100, 2100, 3), np.uint8)).save(place / "a.bmp")
    monkeypatch.setattr("fastconv.machine.memory.available_bytes", lambda: 1 << 24)
    monkeypatch.setattr("fastconv._ext.memory.cached", lambda: 0, raising=False)
    with pytest.raises(MemoryError, match=rf"^{re.escape(str(place))}/a.bmp: needs 17,640,000 bytes of memory"):
        datasets.load_image(place / "a.bmp")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 2**31}, MemoryError, "load_image: needs 18,446,744,073,709,551,616 bytes"),
        ({"size": (1, 2**20)}, ValueError, "load_image: size must have sides of 65,535 at most"),
        ({"size": 0}, ValueError, "load_image: size must be"),
        ({"size": 4.0}, TypeError, "load_image: size must be an integer, got 4.0; write 4"),
        ({"channels": 3.0}, TypeError, "load_image: channels must be an integer"),
        ({"channels": True}, ValueError, "load_image: channels must be 1 or 3"),
    ],
)
def test_wrong_options_are_not_the_files_fault(options, error, message):
    with pytest.raises(error, match=message):
        datasets.load_image("nowhere.png", **options)
