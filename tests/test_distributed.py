"""Training on several ranks: of threads, which need no MPI, and of processes under mpiexec, where there is one."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import distributed_worker as worker
import numpy as np
import pytest
from fake_mpi import Ended, World

import fastconv
from fastconv import distributed, functional, plan
from fastconv.layers import Conv2d, Graph, Linear
from fastconv.machine import launcher as variables
from fastconv.ops.norm.channels import synchronised
from fastconv.training import trainer as trainers
from fastconv.training.step import gradients_of, resolve_loss

WORKER = Path(__file__).with_name("distributed_worker.py")
LIMIT = 60  # seconds for any mpiexec


@pytest.fixture(autouse=True)
def no_ranks_left(monkeypatch):
    monkeypatch.setattr(distributed, "_worlds", [])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(distributed, "CLAIM", 0.2)
    monkeypatch.setattr(distributed, "_exit_after", lambda seconds, status: None)
    for name in (*variables.SIZES, *variables.RANKS):
        monkeypatch.delenv(name, raising=False)


def is_close(one, other, tolerance):
    for name in ("history", "weights"):
        a, b = one[name], other[name]
        pairs = [(a[key], b[key]) for key in a] if name == "weights" else [(a, b)]
        for x, y in pairs:
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


# --- ranks that are threads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "size"), [(0, 3), (1, 4), (5, 4), (16, 3), (7, 7), (3, 1)])
def test_every_sample_is_one_ranks_and_the_first_ranks_have_the_more(samples, size):
    parts = [distributed.part_of(samples, rank, size) for rank in range(size)]
    assert [n for part in parts for n in range(samples)[part]] == list(range(samples))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert lengths[0] == max(lengths)


def trained(size, net, dtype="float64", **options):
    loss = options.pop("loss", "cross_entropy")

    def function(communicator):
        return worker.result(
            worker.train(worker.trainer_of(net, dtype, communicator=communicator, loss=loss), **options)
        )

    return World(size).run(function)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize(
    ("net", "options"),
    [
        ("normed", {}),
        ("shared", {"weigh": True}),
        ("plain", {"move": True, "weigh": True}),
        ("plain", {"mix": True, "class_weight": {0: 3.0}}),
        ("normed", {"accumulate": 2, "metrics": ("f1", "accuracy"), "average": 0.9}),
        ("plain", {"loss": "composed"}),
        ("plain", {"batch_size": 33, "class_weight": "balanced"}),  # the last batch is of one sample and left out
        ("plain", {"batch_size": 65}),  # the last one is of two, and some ranks have none of it
    ],
    ids=str,
)
def test_ranks_train_as_one_process_does(net, options, size):
    loss = options.get("loss", "cross_entropy")
    rest = {name: value for name, value in options.items() if name != "loss"}
    alone = worker.result(worker.train(worker.trainer_of(net, loss=loss), epochs=2, **rest))
    every = trained(size, net, epochs=2, **options)
    assert all(other == every[0] for other in every)
    is_close(alone, every[0], 1e-11)


def test_batches_of_an_iterable_are_parted_too():
    X, y = worker.data()
    stream = [(X[n : n + 10], y[n : n + 10], np.linspace(0.5, 1, len(X[n : n + 10]))) for n in range(0, len(X), 10)]

    def train(communicator=None):
        trainer = worker.trainer_of("normed", communicator=communicator)
        trainer.fit(stream, epochs=2, validation_data=stream, progress=False)
        return worker.result(trainer)

    is_close(train(), World(3).run(train)[2], 1e-11)


def test_float32_and_the_same_bits_again():
    alone = worker.result(worker.train(worker.trainer_of("normed", "float32"), epochs=2, validate=False))
    every = trained(2, "normed", "float32", epochs=2, validate=False)
    is_close(alone, every[0], 1e-4)
    assert every == trained(2, "normed", "float32", epochs=2, validate=False)


def test_several_losses_each_count_for_their_own_targets():
    """Targets that are ignored are others in each part, and for each loss."""
    X, y = worker.data(24)
    targets = {"a": np.where(np.arange(24) % 5, y, -100), "b": np.where(np.arange(24) < 20, -100, y)}

    def train(communicator=None):
        net = Graph(
            {"c": (Conv2d(2, 3, 8, rng=1), "input"), "f": (fastconv.Flatten(), "c"), "a": (Linear(3, 3, rng=2), "f"),
             "b": (Linear(3, 3, rng=3), "f")}, outputs=("a", "b"),
        ).astype(np.float64)  # fmt: skip
        trainer = fastconv.Trainer(
            net, fastconv.optim.SGD(0.1), {"a": "cross_entropy", "b": "cross_entropy"}, loss_weights={"b": 0.3},
            communicator=communicator,
        )  # fmt: skip
        trainer.fit(X, targets, epochs=3, batch_size=8, progress=False)
        return worker.result(trainer)

    is_close(train(), World(3).run(train)[1], 1e-12)


def test_batch_norm_of_each_ranks_own_keeps_rank_0s_running_statistics():
    def train(communicator):
        trainer = worker.trainer_of("normed", communicator=communicator)
        trainer.sync_batch_norm = False
        return worker.result(worker.train(trainer, epochs=1))

    one, other = World(2).run(train)
    assert one == other
    with pytest.raises(AssertionError):
        is_close(one, trained(2, "normed", epochs=1)[0], 1e-6)


def test_a_checkpoint_goes_on_with_any_number_of_ranks(tmp_path):
    path = tmp_path / "c.safetensors"
    whole = worker.result(worker.train(worker.trainer_of("normed"), epochs=4, metrics=("f1",)))

    class Stopped(fastconv.callbacks.Callback):
        def on_step_end(self, trainer, record):
            if record["step"] == 8:  # in the second epoch
                trainer.save(path)
                raise trainer.ranks.agreed(KeyError("stopped"))

    with pytest.raises(KeyError):
        World(3).run(
            lambda world: worker.train(
                worker.trainer_of("normed", communicator=world), epochs=4, metrics=("f1",), callbacks=[Stopped()]
            )
        )

    def resume(communicator):
        trainer = fastconv.Trainer.resume(path, communicator=communicator, sync_batch_norm=True)
        assert trainer.step == 8
        return worker.result(worker.train(trainer, epochs=4))

    is_close(whole, World(2).run(resume)[1], 1e-11)
    is_close(whole, resume(None), 1e-11)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (worker.other_data, "rank 1 on .* is not like rank 0 on .*: data: checksum [0-9]+, not [0-9]+"),
        (worker.other_net, "rank 1 on .* is not like rank 0 on .*: net: "),
        (worker.drifts, "after step 5 the weights of rank 1 are not those of rank 0: .* is 6.bias .1 of 4 do."),
    ],
    ids=["data", "net", "drift"],
)
def test_what_differs_is_told_on_every_rank(task, message):
    told = []

    def function(communicator):
        try:
            task(communicator)
        except (ValueError, RuntimeError) as error:
            told.append(str(error))

    World(2).run(function)
    assert len(told) == 2
    assert told[0] == told[1]
    assert re.search(message, told[0])


def test_weights_are_looked_at_between_epochs_too(monkeypatch):
    monkeypatch.setattr(trainers, "CHECKED", 4)
    with pytest.raises(RuntimeError, match="after step 4 the weights of rank 1"):
        World(2).run(worker.drifts)


def test_nan_on_one_rank_stops_all_before_the_step(capsys):
    World(2).run(worker.nan)
    assert "the loss of rank 0 is nan in step 2" in capsys.readouterr().out


def test_one_rank_that_raises_ends_the_others_with_its_traceback(capsys):
    with pytest.raises(BaseException) as caught:
        World(3).run(worker.raises)
    assert caught.type is Ended
    text = capsys.readouterr().err
    assert text.count("ZeroDivisionError: in a callback") == 1
    assert text.startswith("fastconv: rank 1 on ")


@pytest.mark.parametrize(("after", "step"), [(2, 3), (None, 5)])
def test_ranks_are_interrupted_together(after, step, tmp_path, capsys):
    """The others hear of it in the next step, or when all is done; nothing is lost, nobody ends anybody."""
    path = tmp_path / "checkpoint"
    steps = World(3).run(lambda world: worker.stopped(world, path, after))
    assert steps == [step] * 3
    assert capsys.readouterr().err == ""
    alone = worker.result(worker.train(worker.trainer_of("plain"), epochs=3))
    is_close(alone, worker.result(worker.train(fastconv.Trainer.resume(path), epochs=3)), 1e-12)


def test_all_ranks_that_raise_print_one_traceback(capsys):
    with pytest.raises(ZeroDivisionError):
        World(3).run(lambda world: worker.raises(world, everywhere=True))
    text = capsys.readouterr().err
    assert text.count("Traceback") == 1
    assert "rank 0 on" in text


def test_nothing_that_arrives_is_told_with_what_was_waited_for(capsys, monkeypatch):
    monkeypatch.setenv("FASTCONV_MPI_TIMEOUT", "0.3")

    def function(communicator):
        ranks = distributed.ranks_of(communicator)
        ranks.step = 7
        if ranks.rank == 0:
            ranks.gather([1.0], "a word")
        else:
            time.sleep(1)

    with pytest.raises(Ended):
        World(2).run(function)
    text = capsys.readouterr().err
    assert re.search(r"rank 0 on \S+, step 7: nothing has arrived for 0.3 s; waiting for a word", text)


def test_what_one_rank_does_alone_may_take_longer(monkeypatch):
    monkeypatch.setenv("FASTCONV_MPI_TIMEOUT", "0.2")
    answers = World(2).run(lambda world: distributed.ranks_of(world).alone("slept", lambda: time.sleep(0.6) or 3))
    assert answers == [3, None]


@pytest.mark.parametrize("text", ["0", "-1", "nan", "soon"])
def test_a_timeout_that_is_none(text, monkeypatch):
    monkeypatch.setenv("FASTCONV_MPI_TIMEOUT", text)
    with pytest.raises(ValueError, match="FASTCONV_MPI_TIMEOUT must be a number of seconds above 0"):
        World(2).run(distributed.ranks_of)


def test_one_rank_is_this_process_alone():
    assert World(1).run(distributed.ranks_of) == [None]
    assert distributed.ranks_of(None) is None
    with pytest.raises(TypeError, match="communicator must be one of mpi4py's"):
        worker.trainer_of("plain", communicator=3)


@pytest.mark.parametrize("bucket", [1, 300, 1 << 20])
def test_buckets_have_the_sums_in_the_parameters_own_layout(bucket, monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET", bucket)
    monkeypatch.setattr(distributed, "MOST", 7)
    rng = np.random.default_rng(0)
    parameters = {
        "a": np.zeros((3, 4, 5)), "b": np.zeros((2, 3, 4), np.float64, order="F"), "c": np.zeros((), np.float32),
        "d": np.zeros((4, 6), np.float32).T,
    }  # fmt: skip
    given = [{name: rng.integers(-9, 9, p.shape).astype(p.dtype) for name, p in parameters.items()} for _ in range(3)]

    def function(communicator):
        ranks = distributed.ranks_of(communicator)
        buckets = distributed.Buckets(ranks, "net", parameters)
        found = []
        for _ in range(2):
            own = dict(given[ranks.rank])
            buckets.final("another", own, ["a"])
            for name in ("d", "c")[:: 1 - 2 * (ranks.rank == 1)]:  # whatever the order
                buckets.final("net", own, [name])
            found.append(buckets.finish(own))
        return found

    for found in (each for rank in World(3).run(function) for each in rank):
        for name, parameter in parameters.items():
            np.testing.assert_array_equal(found[name], sum(each[name] for each in given))
            assert found[name].dtype == parameter.dtype
            steps = [np.argsort(array.strides, kind="stable").tolist() for array in (found[name], parameter)]
            assert steps[0] == steps[1] or 1 in parameter.shape


@pytest.mark.parametrize("net", list(worker.NETS))
def test_a_gradient_is_told_when_nothing_changes_it_any_more(net):
    """The told ones are the whole, in the backward's order, each once, and with the bits of the end."""
    made = worker.NETS[net]()
    X, y = worker.data(8)
    loss = resolve_loss("cross_entropy", made)
    plain = gradients_of(made, loss, X, y, np.random.default_rng(1))[3]
    told, copies, calls = [], {}, []

    def final(which, gradients, names):
        if which is made:
            calls.append(1)
            told.extend(names)
            copies.update((name, gradients[name].copy()) for name in names)
            for name in names:
                gradients[name] = gradients[name].copy()

    found = gradients_of(made, loss, X, y, np.random.default_rng(1), final=final)[3]
    assert sorted(told) == sorted(found) == sorted(plain)
    assert len(calls) == len(plan.plan_of(made).steps)
    for name, gradient in plain.items():
        np.testing.assert_array_equal(gradient, found[name])
        np.testing.assert_array_equal(gradient, copies[name])


def test_dropout_of_a_part_is_that_of_the_whole():
    from fastconv.random import drawing_part

    x = np.ones((7, 3, 4, 5))
    whole = functional.dropout(x, 0.4, training=True, rng=np.random.default_rng(2))
    for first, last in ((0, 3), (3, 7), (5, 5)):
        with drawing_part(first, last - first):
            part = functional.dropout(x[first:last], 0.4, training=True, rng=np.random.default_rng(2))
        np.testing.assert_array_equal(part, whole[first:last])


@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_over_several_batches_is_that_of_one(relu):
    rng = np.random.default_rng(4)
    x, dy = rng.standard_normal((2, 9, 3, 4, 4))
    weight, bias = rng.standard_normal((2, 3))

    def norm(x, dy, gather=None):
        mean, var = np.zeros(3), np.ones(3)
        with synchronised(gather):
            y, pullback = fastconv.vjp(functional.batch_norm, x, mean, var, weight, bias, training=True)
            dy = dy * (y > 0) if relu else dy
            dx, _, _, dweight, dbias = pullback(dy)[:5]
        return y, dx, dweight, dbias, mean, var

    whole = norm(x, dy)

    def part(communicator):
        ranks = distributed.ranks_of(communicator)
        rows = [slice(0, 5), slice(5, 5), slice(5, 9)][ranks.rank]
        return norm(x[rows], dy[rows], lambda values: ranks.gather(values, "statistics"))

    parts = World(3).run(part)
    for place in (0, 1):
        np.testing.assert_allclose(
            np.concatenate([each[place] for each in parts]), whole[place], rtol=1e-11, atol=1e-12
        )
    for place in (2, 3):
        np.testing.assert_allclose(sum(each[place] for each in parts), whole[place], rtol=1e-11, atol=1e-12)
    for each in parts:
        np.testing.assert_allclose(each[4:], whole[4:], rtol=1e-12)


def test_batch_norm_over_several_batches_needs_two_values_in_all():
    def function(communicator):
        ranks = distributed.ranks_of(communicator)
        x = np.ones((1 - ranks.rank, 3))
        with (
            synchronised(lambda values: ranks.gather(values, "statistics")),
            pytest.raises(fastconv.ShapeError, match="more than 1 value per mean"),
        ):
            functional.batch_norm(x, None, None, training=True)
        return True

    assert World(2).run(function) == [True, True]


# --- the launcher ----------------------------------------------------------------------------------------------------


def command(*arguments, env, code=""):
    hidden = code or "import sys; sys.modules['mpi4py'] = None\n"
    return subprocess.run(
        [sys.executable, "-c", f"{hidden}from fastconv.cli import main\nsys.exit(main({arguments!r}))"],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("env", [{"OMPI_COMM_WORLD_SIZE": "2"}, {"PMI_SIZE": "4", "PMI_RANK": "0"}], ids=str)
def test_under_mpiexec_without_mpi4py_one_line_names_the_extra(env):
    done = command("train", "digits", env=env)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert 'pip install "fastconv[mpi]"' in done.stderr


@pytest.mark.parametrize(
    ("ranks", "given", "expected"),
    [("2", None, "3"), ("3", None, "1"), ("16", None, "3"), ("1", None, None), ("6", "4", "4")],
)
def test_open_mpi_is_told_how_to_add_up(ranks, given, expected):
    """By itself it sends all of it to one rank and back."""
    name = "OMPI_MCA_coll_libnbc_iallreduce_algorithm"
    env = {**os.environ, "OMPI_COMM_WORLD_SIZE": ranks} | ({} if given is None else {name: given})
    code = f"import os, fastconv; print(os.environ.get({name!r}))"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(expected)


def test_only_rank_0_says_it():
    done = command("train", "digits", env={"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"})
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    done = command("train", "--nonsense", env={"PMIX_RANK": "1"})
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_another_mpi_than_the_launchers_is_told():
    code = """
import sys, types
mpi = types.ModuleType("mpi4py.MPI")
class Comm:
    def Get_rank(self): return 0
    def Get_size(self): return 1
    Iallreduce = Iallgather = Idup = None
Comm.__module__ = "mpi4py.MPI"
mpi.COMM_WORLD, mpi.IN_PLACE, mpi.get_vendor = Comm(), object(), lambda: ("MPICH", (4, 0, 2))
package = types.ModuleType("mpi4py")
package.MPI = mpi
sys.modules.update({"mpi4py": package, "mpi4py.MPI": mpi})
"""
    done = command("train", "digits", env={"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, code=code)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for word in ("Open MPI", "MPICH 4.0.2", "MPI4PY_MPIABI", "MPI4PY_LIBMPI", "1 rank)"):
        assert word in done.stderr


@pytest.mark.parametrize("env", [{}, {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}], ids=str)
def test_one_process_never_asks_for_mpi4py(env, tmp_path):
    done = command("train", "digits", "-e", "1", "--no-plots", "--quiet", "--out", str(tmp_path / "run"), env=env)
    assert done.returncode == 0, done.stderr


# --- under mpiexec ---------------------------------------------------------------------------------------------------


def launcher():
    """mpiexec's call, from FASTCONV_MPIEXEC or as it is found."""
    given = os.environ.get("FASTCONV_MPIEXEC")
    if given:
        return shlex.split(given)
    found = shutil.which("mpiexec")
    if found is None:
        return None
    text = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    if "Open MPI" in text or "OpenRTE" in text:
        return [found, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
    return [found]


MPIEXEC = launcher() if importlib.util.find_spec("mpi4py") else None
needs_mpi = pytest.mark.skipif(MPIEXEC is None, reason="needs mpi4py (fastconv[mpi]) and an MPI's mpiexec")


def mpiexec(ranks, *arguments, env=None, limit=LIMIT):
    return subprocess.run(
        [*MPIEXEC, "-n", str(ranks), sys.executable, *map(str, arguments)],
        env={**os.environ, "FASTCONV_NUM_THREADS": "1", **(env or {})}, capture_output=True, text=True, timeout=limit,
        check=False,
    )  # fmt: skip


def under_mpi(ranks, task, out, *, env=None, **options):
    return mpiexec(ranks, WORKER, task, json.dumps(options), out, env=env)


@needs_mpi
@pytest.mark.parametrize(("net", "epochs"), [("normed", 50), ("plain", 50)])  # 200 steps
def test_processes_train_as_one_does(net, epochs, tmp_path):
    alone = worker.result(worker.train(worker.trainer_of(net), epochs=epochs, batch_size=17))
    for ranks in (2, 3):
        done = under_mpi(ranks, "train", tmp_path / "out", net=net, epochs=epochs, batch_size=17)
        assert done.returncode == 0, done.stderr
        is_close(alone, json.loads((tmp_path / "out").read_text()), 1e-9)


@needs_mpi
def test_processes_give_the_same_bits_again(tmp_path):
    for name in "ab":
        done = under_mpi(2, "train", tmp_path / name, net="normed", epochs=2, dtype="float32")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    alone = worker.result(worker.train(worker.trainer_of("normed", "float32"), epochs=2, validate=True))
    is_close(alone, json.loads((tmp_path / "a").read_text()), 1e-4)


@needs_mpi
@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("raises", {}, "ZeroDivisionError: in a callback"),
        ("raises", {"everywhere": True}, "ZeroDivisionError: in a callback"),
        ("raises", {"interrupt": True}, "\nKeyboardInterrupt\n"),
        ("drifts", {}, "the first that differs is 6.bias"),
    ],
)
def test_a_failure_ends_all_processes_with_one_traceback(task, options, message, tmp_path):
    done = under_mpi(2, task, tmp_path / "out", **options)
    assert done.returncode != 0
    assert done.stderr.count("Traceback") == done.stderr.count(message) == 1
    assert not (tmp_path / "out").exists()


@needs_mpi
def test_a_process_that_hangs_is_waited_for_no_longer_than_it_may(tmp_path):
    begun = time.monotonic()
    done = under_mpi(2, "hangs", tmp_path / "out", env={"FASTCONV_MPI_TIMEOUT": "1"})
    assert done.returncode != 0
    assert time.monotonic() - begun < 40
    assert re.search(r"rank 0 on \S+, step 2: nothing has arrived for 1 s; waiting for ", done.stderr)


@needs_mpi
def test_a_process_that_ends_before_it_trains_is_not_waited_for_either(tmp_path):
    done = under_mpi(2, "leaves_early", tmp_path / "out", env={"FASTCONV_MPI_TIMEOUT": "1"})
    assert done.returncode != 0
    assert "before there is a Trainer" in done.stderr
    assert re.search(
        r"rank 0 on \S+, step 0: nothing has arrived for 1 s; waiting for the others to get here", done.stderr
    )


@needs_mpi
def test_ctrl_c_at_the_launcher_loses_no_step(tmp_path):
    run = tmp_path / "run"
    call = [
        *MPIEXEC,
        "-n",
        "2",
        sys.executable,
        "-m",
        "fastconv",
        "train",
        "digits",
        "-e",
        "2000",
        "--no-plots",
        "--out",
        run,
    ]
    env = {**os.environ, "FASTCONV_NUM_THREADS": "1"}
    with subprocess.Popen(
        list(map(str, call)), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as job:
        begun = time.monotonic()
        while not (run / "history.json").exists() and not (run / "checkpoint.safetensors").exists():
            assert job.poll() is None and time.monotonic() - begun < LIMIT
            time.sleep(0.1)
        time.sleep(2)
        job.send_signal(signal.SIGINT)
        said = job.communicate(timeout=LIMIT)[1]
    assert said.count("interrupted; to go on: fastconv train --resume") == 1, said
    assert "Traceback" not in said
    assert fastconv.Trainer.resume(run / "checkpoint.safetensors").step > 0


@needs_mpi
def test_a_killed_process_ends_all_and_any_number_goes_on(tmp_path, request):
    rng = np.random.default_rng()
    alone = worker.result(worker.train(worker.trainer_of("normed"), epochs=6))
    for _ in range(request.config.getoption("--mpi-kills")):
        ranks = int(rng.integers(2, 4))
        moment = {"rank": int(rng.integers(ranks)), "step": int(rng.integers(1, 24)), "seconds": rng.random() * 0.02}
        path = tmp_path / "checkpoint"
        path.unlink(missing_ok=True)
        begun = time.monotonic()
        done = under_mpi(
            ranks,
            "killed",
            tmp_path / "out",
            env={"FASTCONV_MPI_TIMEOUT": "10"},
            checkpoint=str(path),
            epochs=6,
            **moment,
        )
        assert done.returncode != 0, moment
        assert time.monotonic() - begun < 30, moment
        assert not (tmp_path / "out").exists()
        again = under_mpi(5 - ranks, "resume", tmp_path / "out", checkpoint=str(path), epochs=6)
        assert again.returncode == 0, (moment, again.stderr)
        is_close(alone, json.loads((tmp_path / "out").read_text()), 1e-9)
        (tmp_path / "out").unlink()


@needs_mpi
def test_the_command_line_on_two_processes(tmp_path):
    run, call = tmp_path / "run", ("-m", "fastconv", "train")
    env = {"FASTCONV_PRECISION": "strict"}  # rounding alone: what Winograd makes of it decides ties otherwise
    done = mpiexec(2, *call, "digits", "-e", "2", "--no-plots", "--json", "--out", run, env=env)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ranks"] == 2
    assert done.stderr.count("epoch 1/2") == 1
    done = mpiexec(3, *call, "--resume", run, "-e", "3", "--no-plots", env=env)
    assert done.returncode == 0, done.stderr
    assert "1 thread on each of" in done.stdout
    alone = subprocess.run(
        [sys.executable, *call, "digits", "-e", "3", "--no-plots", "--out", tmp_path / "alone"],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    one, other = (json.loads((folder / "history.json").read_text()) for folder in (run, tmp_path / "alone"))
    assert json.dumps(one).count("loss") == json.dumps(other).count("loss")
    done = mpiexec(2, *call, "digits", "--out", run)
    assert done.returncode == 2
    assert done.stderr.count("exists already and is never overwritten") == 1


@needs_mpi
def test_info_tells_every_rank():
    done = mpiexec(2, "-m", "fastconv", "info", "--json")
    assert done.returncode == 0, done.stderr
    ranks = json.loads(done.stdout)["ranks"]
    assert [each["threads"] for each in ranks] == [1, 1]
    assert all(each["host"] and set(each["cpus"]) <= set(range(4096)) for each in ranks)
    assert re.search(r"rank 1 on \S+: 1 thread, CPUs [0-9,-]+", mpiexec(2, "-m", "fastconv", "info").stdout)
