"""What type checkers see: the README is right to them, misspelt names are not, stubs are the compiled modules."""

import ast
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv
from fastconv import _ext

PACKAGE = Path(fastconv.__file__).parent
README = Path(__file__).parent.parent / "README.md"
KERNELS = Path(_ext.__path__[0])
STUBS = sorted(KERNELS.rglob("*.pyi"))
CONSTRUCTOR = re.compile(r"^cdef class (\w+).*?def __c?init__\(self,?(.*?)\)", re.M | re.S)

# --- as a user's mypy has it -----------------------------------------------------------------------------------------

RIGHT = """
net2 = fastconv.Sequential({"a": fastconv.Conv2d(1, 2, 3), "b": fastconv.BatchNorm2d(2)}).eval()
weights: np.ndarray = fastconv.Conv2d(1, 2, 3).train().weight
print(net2["b"].running_mean, net2[-1].eps, net2[:1][0].bias, [layer.weight for layer in net2])
part: fastconv.Sequential = net2[:1].astype(np.float64)
losses: list[float] = history["loss"]
first: float = history[0]["loss"]
again: fastconv.Trainer = fastconv.Trainer.resume("digits.ckpt")
loss, gradients = fastconv.value_and_grad(again.net, "cross_entropy", X, y)
again.optimizer.step(again.net.parameters(), gradients)
graph = fastconv.Graph({"stem": (fastconv.Conv2d(1, 2, 3), "input"), "sum": ("add", "stem", "stem")})
print(graph(X), graph.predict(X), graph.state_dict(), fastconv.models.lenet5(rng=0), fastconv.layers.Layer)
number: float = fastconv.analysis.walkthrough("conv2d", X, X, direction="dx")[0].value
print(fastconv.analysis.record(net, X, y)["0"].y.shape, fastconv.analysis.walkthrough(F.relu, X)[1:3][0].text)
print(fastconv.Conv2d(1, 2, [3, 3], stride=(1, 2), padding="same"), F.max_pool2d(X, [2, 2]).size)
print(fastconv.analysis.receptive_field(net, (1, 1, 8, 8)).size, fastconv.augment.Flip(), F.relu(X).shape)
"""
WRONG = """
fastconv.Trainer(batch_sise=3)
fastconv.Trainer(net, fastconv.optim.SGD(0.1), batch_sise=3)
trainer.fit(X, y, epohcs=3)
fastconv.Conv2d(kernal_size=3)
fastconv.Conv2d(1, 2, kernal_size=3)
fastconv.Conv2d(1, 2, "3")
fastconv.MaxPool2d(2.5)
fastconv.Conv2d(1, 2, 3, stirde=2)
fastconv.BatchNorm2d(4, momentun=0.1)
fastconv.ReLU(inplase=True)
fastconv.MaxPool2d(2, strde=2)
fastconv.Sequential(3)
fastconv.optim.Adam(weight_deccay=0.1)
fastconv.models.lenet5(classes=3)
fastconv.Conv4d(1, 2, 3)
fastconv.expalin(net, (1, 1, 8, 8))
net.predct(X)
net.eval().freze("0")
F.conv2d(X, X, strde=2)
fastconv.reference.max_pool2d(X)
"""


def readme_lines():
    """The Python of the README: its blocks, then what stands in a line of text and prints."""
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert blocks
    printed = re.findall(r"`(print\([^`]+\))`", text)
    return "\n".join([*blocks, *printed])


@pytest.fixture(scope="module")
def complaints(tmp_path_factory, request):
    """mypy's errors about one program: {number of a line: text}; and the program's lines."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip('mypy is not installed: pip install "fastconv[dev]"')
    if not README.is_file():
        pytest.skip("away from the source tree: no README")
    program = "import numpy as np\n" + readme_lines() + RIGHT + WRONG
    file = tmp_path_factory.mktemp("user") / "program.py"
    file.write_text(program)
    places = {} if PACKAGE.parent.name == "site-packages" else {"MYPYPATH": str(PACKAGE.parent)}
    kept = getattr(request.config, "cache", None)  # pytest -p no:cacheprovider has none
    cache = kept.mkdir("mypy") if kept else tmp_path_factory.mktemp("mypy")
    command = [
        sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--hide-error-context", "--config-file=",
        f"--cache-dir={cache}", file.name,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=file.parent, env={**os.environ, **places}, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(rf"^{file.name}:(\d+): error: (.*)$", done.stdout, re.M)
    return {int(number): text for number, text in found}, program.splitlines()


def test_the_readme_and_what_users_write_have_their_types(complaints):
    found, lines = complaints
    right = len(lines) - len(WRONG.strip().splitlines())
    assert {lines[number - 1]: text for number, text in found.items() if number <= right} == {}


def test_misspelt_names_are_errors(complaints):
    found, lines = complaints
    wrong = len(lines) - len(WRONG.strip().splitlines())
    assert [line for number, line in enumerate(lines[wrong:], wrong + 1) if number not in found] == []


# --- stubs and compiled modules --------------------------------------------------------------------------------------


def parameters_of(signature):
    return [(p.name, p.kind, p.default is not p.empty) for p in signature.parameters.values()]


def stub_signature(function):
    """The signature of a function in a stub, without its annotations."""
    bare = ast.parse(f"def f({ast.unparse(function.args)}): pass").body[0]
    for argument in ast.walk(bare):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    scope = {}
    exec(ast.unparse(bare), scope)
    return inspect.signature(scope["f"])


def constructors(source):
    """Of every class in a .pyx, the names of its constructor's arguments (a compiled class does not tell)."""
    return {
        name: [argument.split("=")[0].split()[-1] for argument in arguments.split(",") if argument.strip()]
        for name, arguments in CONSTRUCTOR.findall(source)
    }


def own_names(module):
    """What a compiled module defines and does not keep to itself."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


def differences(stub, module, source):
    """What a stub (its text) says otherwise than the module."""
    wrong, said = [], set()
    for node in ast.parse(stub).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        name = node.target.id if isinstance(node, ast.AnnAssign) else node.name
        said.add(name)
        if not hasattr(module, name):
            wrong.append(f"{name} is not in the module")
        elif isinstance(node, ast.FunctionDef):
            expected, actual = stub_signature(node), inspect.signature(getattr(module, name))
            if parameters_of(expected) != parameters_of(actual):
                wrong.append(f"{name}{expected} is {name}{actual}")
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                attribute = member.target.id if isinstance(member, ast.AnnAssign) else member.name
                if attribute == "__init__":
                    names = [argument.arg for argument in member.args.args[1:]]
                    if names != constructors(source)[name]:
                        wrong.append(f"{name}({', '.join(names)}) takes {constructors(source)[name]}")
                elif attribute != "__buffer__" and not hasattr(getattr(module, name), attribute):
                    wrong.append(f"{name}.{attribute} is not in the module")
    return wrong + [f"{name} is not in the stub" for name in sorted(own_names(module) - said)]


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.stem)
def test_a_stub_says_what_the_module_has(stub):
    module = importlib.import_module(".".join(["fastconv._ext", *stub.relative_to(KERNELS).with_suffix("").parts]))
    assert differences(stub.read_text(), module, stub.with_suffix(".pyx").read_text()) == []


def test_every_kernel_module_has_a_stub():
    sources = {path.with_suffix("") for path in KERNELS.rglob("*.pyx")}
    assert sources == {path.with_suffix("") for path in STUBS}
    assert len(sources) > 10


def test_every_header_has_a_module_of_its_name_in_its_room():
    """But for simd/, which all use: NAME.h and NAME_typed.h belong to NAME.pyx (or .pxd, which is included itself)."""
    strays = []
    for header in KERNELS.rglob("*.h"):
        room, name = header.parent, header.stem.removesuffix("_typed")
        if room.name == name:  # team/, the C library of team.pyx
            room = room.parent
        if room.name != "simd" and not any(Path(room, name + end).exists() for end in (".pyx", ".pxd")):
            strays.append(str(header.relative_to(KERNELS)))
    assert strays == []


def test_a_wrong_stub_is_caught():
    from fastconv._ext import layout, memory

    source = Path(KERNELS, "memory.pyx").read_text()
    stub = Path(KERNELS, "memory.pyi").read_text()
    for right, wrong, complaint in (
        ("def trim()", "def prune()", ["prune is not in the module", "trim is not in the stub"]),
        ("nbytes: int) -> None: ...\ndef cached", "size: int) -> None: ...\ndef cached", ["set_limit(size) is "]),
        ("self, nbytes: int, lasts", "self, size: int, lasts", ["Block(size, lasts) takes ['nbytes', 'lasts']"]),
    ):
        assert right in stub
        found = differences(stub.replace(right, wrong), memory, source)
        assert len(found) == len(complaint)
        assert all(a.startswith(b) for a, b in zip(found, complaint, strict=True))
    assert differences("", layout, "") == [f"{name} is not in the stub" for name in sorted(own_names(layout))]
