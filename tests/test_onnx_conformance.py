"""ONNX's own conformance suite through `fastconv.onnx.backend`, and the gradients of its cases.

pytest tests/test_onnx_conformance.py --onnx-all      every case (.ci/run onnx does); else a sample
pytest tests/test_onnx_conformance.py -rP -k left     how many cases there are, how many are left out, and why
"""

import re

import numpy as np
import pytest

import fastconv as fc

pytest.importorskip("onnx", reason="onnx, whose suite this is, is not installed")
import onnx
import onnx_cases

import fastconv.onnx

SAMPLE = 9  # every so many cases, without --onnx-all


@pytest.fixture
def part(request):
    """The cases of a list that are run."""
    return lambda cases: cases if request.config.getoption("--onnx-all") else list(cases)[::SAMPLE]


def agrees(case, found, expected, rtol=1e-3, atol=1e-7):
    for ours, theirs in zip(found, expected, strict=True):
        assert (case, ours.dtype, ours.shape) == (case, theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=case)


def test_what_is_left_out():
    cases = onnx_cases.all_node_cases()
    rest = list(cases)
    for reason, left in onnx_cases.LEFT.items():
        out = [case for case in rest if left(case)]
        rest = [case for case in rest if not left(case)]
        print(f"{len(out):5}  {reason}")
    print(f"{len(rest):5}  of {len(cases)} cases of nodes are run")
    assert len(rest) >= 500


def test_nodes(part):
    for case in part(onnx_cases.node_cases()):
        prepared = fastconv.onnx.backend.prepare(case.model)
        for given, expected in case.data_sets:
            found = prepared.run([onnx_cases.as_array(each) for each in given])
            agrees(case.name, found, [onnx_cases.as_array(each) for each in expected], case.rtol, case.atol)


@pytest.mark.parametrize(("kind", "count"), [("pytorch-converted", 82), ("pytorch-operator", 35), ("simple", 7)])
def test_stored(kind, count, part):
    cases = onnx_cases.stored_cases(kind)
    assert len(cases) == count
    for folder in part(cases):
        prepared = fastconv.onnx.backend.prepare(onnx.load(folder / "model.onnx"))
        for given, expected in onnx_cases.stored_sets(folder):
            agrees(folder.name, prepared.run(given), expected)


BY_VALUE = re.compile("maxunpool_export_with_|constant_pad.*axes|reduce_log_sum_(a|de)sc|reshape_reduced|unsqueeze_two")


def test_what_is_served_goes_out_again(part, tmp_path):
    """Of a file alone: what it says of its inputs is enough, but where the number of axes depends on values."""
    path, newest = tmp_path / "net.onnx", onnx.defs.onnx_opset_version()
    cases = [(case.name, case.model, case.data_sets[0][0]) for case in part(onnx_cases.node_cases())]
    for kind in ("pytorch-converted", "pytorch-operator", "simple"):
        for folder in part(onnx_cases.stored_cases(kind)):
            cases.append((folder.name, onnx.load(folder / "model.onnx"), onnx_cases.stored_sets(folder)[0][0]))
    for name, model, given in cases:
        net, arrays = fastconv.onnx.load(model), [onnx_cases.as_array(each) for each in given]
        if BY_VALUE.search(name):
            with pytest.raises(fc.ShapeError, match="the shape of output output is not known"):
                fastconv.onnx.save(net, path, opset=newest)
            continue
        fastconv.onnx.save(net, path, opset=newest)
        found, expected = fastconv.onnx.load(path)(*arrays), net(*arrays)
        several = isinstance(expected, tuple)
        agrees(name, found if several else (found,), expected if several else (expected,), 1e-4, 1e-5)


LIGHT = ["light_shufflenet", "light_squeezenet", "light_inception_v1", "light_inception_v2", "light_resnet50",
         "light_densenet121", "light_bvlc_alexnet", "light_zfnet512", "light_vgg19"]  # fmt: skip


@pytest.mark.parametrize("name", LIGHT)
def test_light_nets(name, request):
    """With the weights of the file, then, at batch 3 and with a backward, with random ones."""
    if LIGHT.index(name) > 1 and not request.config.getoption("--onnx-all"):
        pytest.skip("a large net: --onnx-all")
    model = onnx.load(onnx_cases.FOLDER / "light" / f"{name}.onnx")
    net = fastconv.onnx.load(model)
    value = next(value for value in model.graph.input if value.name == net.inputs[0])
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    x = (np.arange(np.prod(shape), dtype=np.float32) / np.float32(np.prod(shape))).reshape(shape)
    expected = onnx_cases.as_array(onnx.load_tensor(onnx_cases.FOLDER / "light" / f"{name}_output_0.pb"))
    agrees(name, [net(x)], [expected])
    rng = np.random.default_rng(0)
    for _, layer, attribute in net.named_arrays():
        array = getattr(layer, attribute)
        if array.ndim > 1 and attribute == "weight":
            bound = np.sqrt(3 / max(1, np.prod(array.shape[1:])))
            array[...] = rng.uniform(-bound, bound, array.shape)
        elif array.dtype == np.float32:
            array[...] = rng.uniform(0.5, 1.5, array.shape)
    x = rng.standard_normal((3, *shape[1:])).astype(np.float32)
    y, pull = fc.vjp(net, x)
    np.testing.assert_allclose(y[:1], net(x[:1]), rtol=1e-4, atol=1e-6)
    (dx,) = pull(rng.standard_normal(y.shape).astype(np.float32))
    assert dx.shape == x.shape
    assert np.isfinite(dx).all()
    assert all(row.receptive_field is not None for row in net.summary(shape))


def test_gradients_by_finite_differences(part):
    for case in part(onnx_cases.node_cases()):
        if case.name not in onnx_cases.KINKS:
            check_gradients_of(case)


def check_gradients_of(case):
    """Of a random mixture of the outputs to every float input, along a random direction, in float64."""
    op = case.model.graph.node[0].op_type
    rng = np.random.default_rng(1)
    given = [onnx_cases.as_array(each) for each in case.data_sets[0][0]]
    given = [array.astype(np.float64) if array.dtype == np.float32 else array for array in given]
    floats = [place for place, array in enumerate(given) if array.dtype.kind == "f" and array.size]
    if op in ("Resize", "Upsample", "Dropout"):
        floats = floats[:1]  # the rest are factors and ratios
    if not floats:
        return
    if op not in ("Pow", "Log"):  # away from kinks and ties, which the cases' round numbers hit
        for place in floats:
            given[place] = given[place] + 0.01 * rng.standard_normal(given[place].shape)
    net = fastconv.onnx.load(onnx_cases.in_double(case.model))
    y, pull = fc.vjp(net, *given)
    ys = y if isinstance(y, tuple) else (y,)
    dys = tuple(rng.standard_normal(each.shape) if each.dtype.kind == "f" else None for each in ys)
    if all(dy is None or not dy.size for dy in dys):
        return
    found = pull(dys if isinstance(y, tuple) else dys[0])

    def mixture(arrays):
        outputs = net(*arrays)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return sum(float((each * dy).sum()) for each, dy in zip(outputs, dys, strict=True) if dy is not None)

    for place in floats:
        assert (case.name, found[place].shape, found[place].dtype) == (case.name, given[place].shape, np.float64)
        tried = []
        for _ in range(3):  # a step may cross a kink
            direction = rng.standard_normal(given[place].shape)
            if op == "BatchNormalization" and place == 4:
                direction = np.abs(direction)
            step = 1e-6 * max(1, np.abs(given[place]).max())
            sides = [
                [a + sign * step * direction if i == place else a for i, a in enumerate(given)] for sign in (1, -1)
            ]
            expected = (mixture(sides[0]) - mixture(sides[1])) / (2 * step)
            tried.append((float((found[place] * direction).sum()), expected))
            if abs(tried[-1][0] - expected) <= 1e-5 * max(1, abs(expected)):
                break
        else:
            raise AssertionError(f"{case.name}, input {place}: (ours, finite differences) {tried}")


def test_run_node_and_device():
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"])
    (found,) = fastconv.onnx.backend.run_node(node, [np.float32([1, 2]), np.float32([3, 4])])
    np.testing.assert_array_equal(found, [4, 6])
    assert fastconv.onnx.backend.supports_device("CPU")
    assert not fastconv.onnx.backend.supports_device("CUDA:0")
    assert not fastconv.onnx.backend.is_compatible(
        onnx.helper.make_model(
            onnx.helper.make_graph(
                [onnx.helper.make_node("Nosuch", ["x"], ["y"])], "g",
                [onnx.helper.make_tensor_value_info("x", 1, [1])], [onnx.helper.make_tensor_value_info("y", 1, [1])],
            )
        )
    )  # fmt: skip
