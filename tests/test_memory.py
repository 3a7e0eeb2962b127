"""Memory: results are the caller's for good, freed blocks are reused, and what does not fit is refused beforehand."""

import concurrent.futures
import gc
import os
import tracemalloc

import numpy as np
import pytest
from test_runtime import printed, python

import fastconv
from fastconv import functional, reference, vjp
from fastconv._ext import memory
from fastconv.machine import memory as accounts
from fastconv.ops import OPS

FLOAT = np.dtype(np.float32)


@pytest.fixture
def empty_pool():
    """A free list with nothing on it, and its usual limit afterwards."""
    memory.trim()
    yield
    memory.set_limit(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)


def address(array):
    return array.__array_interface__["data"][0]


def block(nbytes):
    return np.frombuffer(memory.Block(nbytes), np.uint8)


# --- the free list ---------------------------------------------------------------------------------------------------


def test_a_freed_block_is_used_again(empty_pool):
    first = accounts.allocate("op", (1000, 1000), FLOAT)
    where = address(first)
    del first
    assert address(accounts.allocate("op", (500, 2000), FLOAT)) == where
    assert address(accounts.allocate("op", (999, 1000), FLOAT)) == where  # the same size class


def test_a_view_keeps_its_block(empty_pool):
    array = accounts.allocate("op", (1000, 1000), FLOAT)
    array[...] = 5
    view = array[::7, 3:9].T
    del array
    other = accounts.allocate("op", (1000, 1000), FLOAT)
    other[...] = 6
    assert not np.shares_memory(view, other)
    assert (view == 5).all()


@pytest.mark.parametrize(
    "nbytes", [1, 4095, 4096, 4097, 65536, 70000, 1 << 20, (1 << 20) + 1, 5_000_000, (9 << 20) + 7]
)
def test_a_block_is_large_enough_aligned_and_little_is_wasted(empty_pool, nbytes):
    array = block(nbytes)
    assert array.size == nbytes
    assert address(array) % 64 == 0
    array[...] = 1
    del array
    assert nbytes <= memory.cached() <= max(4096, nbytes * 9 // 8 + 512)


def test_blocks_in_use_never_overlap(empty_pool):
    """Blocks come and go at random; each keeps what was written into it."""
    rng = np.random.default_rng(0)
    held = {}
    for step in range(2000):
        if held and rng.random() < 0.5:
            key = int(rng.choice([*held]))
            assert (held.pop(key) == key % 251).all()
        else:
            array = block(int(rng.choice([3000, 4096, 10_000, 70_000, 200_000])))
            array[...] = step % 251
            held[step] = array
        if step % 300 == 299:
            memory.trim()
    for key, array in held.items():
        assert (array == key % 251).all()


def test_threads_never_get_the_same_block(empty_pool):
    def work(number):
        for _ in range(200):
            array = accounts.allocate("op", (40_000,), FLOAT)
            array[...] = number
            assert (array == number).all()
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_the_limit_bounds_what_is_kept(empty_pool):
    memory.set_limit(1 << 20)
    arrays = [block(300_000) for _ in range(10)]
    del arrays
    assert 0 < memory.cached() <= 1 << 20
    memory.trim()
    large, apart = block(2 << 20), memory.Block(2 << 20, True)
    del large
    assert memory.cached() <= 1 << 20  # the rest of its pages was given back at once
    kept = memory.cached()
    del apart
    assert memory.cached() == kept  # all of it
    memory.set_limit(0)
    assert memory.cached() == 0
    array = block(10_000)
    del array
    assert memory.cached() == 0


def test_trim_gives_everything_back(empty_pool):
    array = block(1 << 20)
    del array
    assert memory.cached() >= 1 << 20
    memory.trim()
    assert memory.cached() == 0


def touch(*sizes):
    """A call that has blocks of these sizes at a time."""
    with memory.call:
        blocks = [block(nbytes) for nbytes in sizes]
    del blocks


@pytest.mark.parametrize("step", [1 << 13, 1 << 20], ids=["listed", "cut from the arena"])
def test_blocks_of_other_shapes_go_when_new_ones_are_made(empty_pool, step):
    largest = 64 * step
    for size in (64, 2, 3, 5, 7, 9, 11, 13, 18, 22, 26, 30, 36, 44, 52, 60):
        touch(size * step)
        assert memory.cached() <= largest * 1.45
    for size in (3, 5, 7):  # what is little beside the largest stays
        touch(size * step)
    before = memory.cached()
    for _ in range(3):
        for size in (3, 5, 7):
            touch(size * step)
    assert memory.cached() == before


@pytest.mark.parametrize(("unit", "needed"), [(1 << 14, sum), (1 << 20, max)], ids=["listed", "cut from the arena"])
def test_what_the_same_calls_need_again_stays(empty_pool, unit, needed):
    """Whatever a call's sizes, and calls inside of calls; also without any."""
    sizes = [unit * n for n in (1, 2, 3, 5, 9, 17, 33)]

    def inside():
        with memory.call:
            for nbytes in sizes:
                touch(nbytes)  # one at a time: all blocks together are more than ever are in use

    inside()
    kept = memory.cached()
    assert kept >= needed(sizes)
    for _ in range(5):
        inside()
    assert memory.cached() == kept
    for nbytes in sizes:
        block(nbytes * 3)
    assert memory.cached() >= kept


def test_free_parts_of_the_arena_join(empty_pool):
    """What is free serves blocks of other sizes, whatever was freed first."""
    blocks = [block(nbytes << 20) for nbytes in (3, 5, 2, 7, 1)]
    for index in (1, 3, 0, 4, 2):
        blocks[index] = None
    kept = memory.cached()
    assert kept == 18 << 20
    for nbytes in (18, 11, 4):
        array = block(nbytes << 20)
        assert memory.cached() == kept - array.nbytes
        del array


def test_between_blocks_that_lie_close_pages_are_given_back(empty_pool):
    """Where the free parts have no whole huge page: what is held is a sixteenth more than was ever in use."""
    blocks = [block(1 << 20) for _ in range(64)]
    most = memory.held()
    blocks = blocks[::2]
    while memory.held() + (5 << 18) < most:
        blocks.append(block(5 << 18))
        assert memory.held() + memory.cached() <= most * 17 // 16 + 4096


def test_what_lasts_stands_between_no_parts_of_the_arena(empty_pool):
    """An optimiser's slots, made after the first gradients."""
    array = block(8 << 20)
    lasting = memory.Block(8 << 20, True)
    del array
    array = block(12 << 20)
    assert memory.cached() <= 4 << 20  # 8 of the 12 are those of the first
    del array, lasting


def test_without_addresses_to_spare_large_blocks_are_apart():
    """ulimit -v counts addresses, not pages."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)); import numpy as np\n"
        "from fastconv.machine.memory import allocate; from pathlib import Path\n"
        "arrays = [allocate('test', (1 << 20,), np.dtype(np.float32)) for _ in range(3)]\n"
        "print(int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize())"
    )
    assert printed(code) < 4 << 30


def test_addresses_that_become_scarce_are_given_back():
    code = (
        "import resource; import numpy as np; from fastconv.machine.memory import allocate\n"
        "first = allocate('test', (1 << 22,), np.dtype(np.float32)); first[...] = 1\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "print(int(allocate('test', (1 << 23,), np.dtype(np.float32)).size + first.sum()))"
    )
    assert printed(code) == (1 << 23) + (1 << 22)


def test_a_ceiling_has_an_arena_where_addresses_are_scarce():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)); import numpy as np\n"
        "from fastconv._ext import memory; from fastconv.machine.memory import at_most\n"
        "with at_most(64 << 20):\n"
        "    blocks = [np.frombuffer(memory.Block(n << 20), np.uint8) for n in (3, 5)]\n"
        "    places = [block.__array_interface__['data'][0] for block in blocks]\n"
        "print(places[1] - places[0] == 3 << 20)"
    )
    assert printed(code.replace("print(", "print(int(") + ")") == 1


def test_what_is_garbage_gives_its_blocks_back_first(empty_pool):
    """The collector would clear what they are to be given back to."""

    class Knot:
        pass

    before = memory.held()
    pool = memory.Pool()
    with pool:
        inside = block(2 << 20)
    knot = Knot()
    knot.itself, knot.held = knot, (pool, memory.Block(2 << 20), memory.Block(1 << 18))
    del inside, pool, knot
    gc.collect()
    assert memory.held() == before
    memory.trim()
    array = block(2 << 20)
    array[...] = 1


def test_nothing_is_said_when_the_interpreter_ends():
    code = (
        "import numpy as np, fastconv\n"
        "from fastconv import Conv2d, Flatten, Linear, ReLU\n"
        "net = fastconv.Sequential(Conv2d(3, 32, 3), ReLU(), Flatten(), Linear(28800, 2))\n"
        "x = np.ones((32, 3, 32, 32), np.float32)\n"
        "for _ in range(5): kept = fastconv.value_and_grad(net, 'cross_entropy', x, np.zeros(32, int))"
    )
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_training_on_many_shapes_holds_little_more_than_the_largest(empty_pool):
    net = fastconv.Sequential(
        fastconv.Conv2d(3, 16, 3, padding=1), fastconv.BatchNorm2d(16), fastconv.ReLU(), fastconv.MaxPool2d(2),
        fastconv.Conv2d(16, 32, 3), fastconv.ReLU(), fastconv.AdaptiveAvgPool2d(1), fastconv.Flatten(),
        fastconv.Linear(32, 10),
    )  # fmt: skip

    def step(n, side):
        x, y = np.ones((n, 3, side, side), np.float32), np.zeros(n, np.int64)
        fastconv.value_and_grad(net, "cross_entropy", x, y)
        net.predict(x)

    for _ in range(3):
        step(16, 96)
    alone = memory.cached() + memory.held()
    rng = np.random.default_rng(0)
    most = 0
    for _ in range(100):
        step(int(rng.integers(1, 17)), int(rng.integers(8, 97)))
        most = max(most, memory.cached() + memory.held())
    assert most <= 1.5 * alone


def test_a_block_that_cannot_be_had_is_a_memory_error():
    with pytest.raises(MemoryError, match="could not allocate"):
        memory.Block(2**62)


# --- results ---------------------------------------------------------------------------------------------------------


def layer(seed, batch=8):
    rng = np.random.default_rng(seed)
    x = rng.integers(-4, 5, (batch, 8, 24, 24)).astype(np.float32)
    w = rng.integers(-4, 5, (16, 8, 3, 3)).astype(np.float32)
    return vjp(functional.conv2d, x, w, padding=1)


def test_results_survive_later_calls():
    y, pullback = layer(0)
    gradients = pullback(y)
    kept = [array.copy() for array in (y, *gradients[:2])]
    for seed in range(1, 6):
        other, other_pullback = layer(seed)
        other_pullback(other)
        assert not np.shares_memory(other, y)
    for array, copy in zip((y, *gradients), kept, strict=False):
        np.testing.assert_array_equal(array, copy)


def test_results_that_are_alive_share_nothing():
    alive = []
    for seed in range(5):
        y, pullback = layer(seed)
        alive += [y, *pullback(y), *pullback(y)]
    alive = [array for array in alive if array is not None]
    for i, a in enumerate(alive):
        assert not any(np.shares_memory(a, b) for b in alive[:i])


def test_a_pullback_survives_its_output():
    y, pullback = layer(0)
    dy = np.ones_like(y)
    expected = [gradient.copy() for gradient in pullback(dy)[:2]]
    del y
    for seed in range(1, 4):
        layer(seed)[0][...] = 7
    for a, b in zip(pullback(dy), expected, strict=False):
        np.testing.assert_array_equal(a, b)


def test_a_training_step_allocates_nothing_new(empty_pool):
    def step():
        y, pullback = layer(0)
        pullback(y)

    step()
    kept = memory.cached()
    for _ in range(5):
        step()
    assert memory.cached() == kept


# --- scratch ---------------------------------------------------------------------------------------------------------


def scratch(batch, backward):
    """Bytes that a pass borrows beyond its results, at most: what it leaves on the free list, and NumPy's peak.

    The backward pass to the input and the one to the weights borrow one after the other: the larger counts.
    """
    x = np.zeros((batch, 28, 28, 16), np.float32).transpose(0, 3, 1, 2)  # channels-last: nothing to convert
    w = np.zeros((32, 3, 3, 16), np.float32).transpose(0, 3, 1, 2)
    op = OPS["conv2d"]
    y, saved = op.forward(x, w, padding=1)
    if backward:
        passes = [lambda needs=needs: op.backward(y, saved, needs) for needs in ((True, False), (False, True))]
    else:
        passes = [lambda: op.forward(x, w, padding=1)]
    borrowed = []
    for one in passes:
        memory.trim()
        tracemalloc.start()
        try:
            results = one()
            borrowed.append(memory.cached() + tracemalloc.get_traced_memory()[1])
            del results
        finally:
            tracemalloc.stop()
    return max(borrowed)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_scratch_does_not_grow_with_the_batch(backward):
    fastconv.set_num_threads(2)
    small, large = scratch(32, backward), scratch(256, backward)
    columns = 256 * 28 * 28 * 16 * 9 * 4  # of the whole batch
    assert large <= small + (1 << 20)
    assert large < columns / 20


@pytest.mark.parametrize("limit", [1 << 20, 4 << 20])
@pytest.mark.parametrize("threads", [2, 32])
def test_the_workspace_limit_bounds_scratch(limit, threads):
    fastconv.set_num_threads(threads)
    fastconv.set_workspace_limit(limit)
    for backward in (False, True):
        assert scratch(64, backward) <= limit + (1 << 19)


def test_a_training_step_grows_by_what_it_must_keep():
    """Per image: the input, every layer's output, and the gradients that live at a time; no columns, no copies."""
    plane = 28 * 28
    kept = (8 + 5 * 16 + 4) * plane + 10  # Flatten is a view
    gradients = 2 * 16 * plane  # of a layer's output and of its input

    def peak(batch):
        net = fastconv.Sequential(
            fastconv.Conv2d(8, 16, 3, padding=1), fastconv.BatchNorm2d(16), fastconv.ReLU(),
            fastconv.Conv2d(16, 16, 3, padding=1), fastconv.ReLU(), fastconv.MaxPool2d(2),
            fastconv.Flatten(), fastconv.Linear(4 * plane, 10),
        )  # fmt: skip
        x, y = np.zeros((batch, 8, 28, 28), np.float32), np.zeros(batch, int)
        optimizer = fastconv.optim.SGD(0.1, momentum=0.9)
        for traced in (False, True):  # the first step makes what every later one has
            memory.trim()
            if traced:
                tracemalloc.start()
            _, gradients = fastconv.value_and_grad(net, "cross_entropy", x, y)
            optimizer.step(net.parameters(), gradients)
            del gradients
        try:
            return memory.cached() + tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    an_image = (peak(256) - peak(64)) / (256 - 64) / 4  # floats
    assert an_image < 1.1 * (kept + gradients)  # size classes round up
    assert an_image + 0.5 * 9 * 16 * plane > 1.1 * (kept + gradients)  # half an image's columns would be seen


@pytest.mark.parametrize("limit", [0, -1])
def test_bad_workspace_limits(limit):
    with pytest.raises(ValueError, match=rf"^set_workspace_limit: the limit must be at least 1 byte, got {limit}$"):
        fastconv.set_workspace_limit(limit)


@pytest.mark.parametrize("limit", [1.5, "64M", None])
def test_workspace_limits_that_are_no_integer(limit):
    with pytest.raises(TypeError):
        fastconv.set_workspace_limit(limit)


def test_the_workspace_limit_is_what_was_set():
    fastconv.set_workspace_limit(np.int64(123))
    assert accounts.get_workspace_limit() == fastconv.get_workspace_limit() == 123


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(accounts, "available_bytes", lambda: 100 << 20)
    accounts.require("op", 100 << 20)
    with pytest.raises(MemoryError, match=r"^op: needs 104,857,601 bytes of memory, this process may use 104,857,600$"):
        accounts.require("op", (100 << 20) + 1)
    with pytest.raises(MemoryError, match=r"^conv2d: needs"):
        functional.conv2d(np.zeros((1, 1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32), padding=3000)


def test_memory_available_is_plausible():
    assert 1 << 20 < accounts.available_bytes() < 1 << 50


REFUSED = """
import json, resource
from pathlib import Path
import numpy as np
import fastconv
from fastconv import functional, reference

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmPeak"))

tiny = np.zeros((1, 1, 1, 1), np.float32)
functional.conv2d(np.zeros((4, 8, 32, 32), np.float32), np.zeros((8, 8, 3, 3), np.float32))  # threads and their stacks
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), resource.RLIM_INFINITY))
before = peak()
messages = []
for module in functional, reference:
    for arrays, options in (
        ((tiny, tiny), {"padding": 20000}),
        ((tiny, tiny), {"padding": 9000}),  # 1.3 GB: less than the limit, more than what is left of it
        ((np.broadcast_to(tiny, (2**31, 1, 1, 1)), tiny), {}),
        ((np.broadcast_to(np.int8(1), (2**29, 1, 1, 1)), tiny), {}),
        ((np.broadcast_to(tiny, (1, 1, 2**16, 2**16)), np.broadcast_to(tiny, (1, 1, 2**16, 2**16))), {}),
        ((tiny, np.broadcast_to(tiny, (2**30, 1, 1, 1))), {}),
    ):
        try:
            module.conv2d(*arrays, **options)
            messages.append("no error")
        except MemoryError as error:
            messages.append(str(error))
y = functional.conv2d(np.ones((4, 8, 32, 32), np.float32), np.ones((8, 8, 3, 3), np.float32))  # still works
print(json.dumps([messages, peak() - before, float(y[0, 0, 0, 0])]))
"""


def test_nothing_is_allocated_before_the_refusal():
    messages, grown, value = printed(REFUSED)
    for message in messages:
        assert message.startswith("conv2d: needs ")
        assert "\n" not in message
    assert grown < 192 << 20  # a helper maps a heap of its own when it first allocates
    assert value == 72


def test_the_naive_loops_are_refused_before_they_fill_memory(monkeypatch):
    """Python's lists take more than the arrays that they were made of."""
    monkeypatch.setattr(accounts, "available_bytes", lambda: 100 << 20)
    image, kernel = np.zeros((1, 1, 2000, 2000), np.float32), np.zeros((1, 1, 1, 1), np.float32)  # 16 MB
    for call in (
        lambda: reference.conv2d(image, kernel),
        lambda: reference.max_pool2d(image, 2),
        lambda: reference.downsample(image, 2),
    ):
        with pytest.raises(MemoryError, match=r"^naive loops: needs [\d,]+ bytes of memory, this process may use "):
            call()
