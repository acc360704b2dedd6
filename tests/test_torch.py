"""What PyTorch users expect of a module, beyond its numbers."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

import attention_torch  # noqa: E402
import parity  # noqa: E402
from attention_torch import CBAM, ECA, CoordinateAttention, SqueezeExcitation, adapter  # noqa: E402
from attention_torch._norm import SynchronizedBatchNormalization  # noqa: E402
from parity import cases  # noqa: E402
from parity.spec import SPECS, BatchNorm, InputError, SpecError  # noqa: E402

SMALL = {"se": {"reduction": 4}, "cbam": {"reduction": 4, "kernel_size": 3}, "ca": {"reduction": 4}}


KERAS = BatchNorm(epsilon=1e-3, unbiased_variance=False)


def make(block, **more):
    return getattr(attention_torch, SPECS[block].options_class.class_name)(12, **(SMALL.get(block, {}) | more))


def same(one, other):
    return torch.equal(one, other)


@pytest.mark.parametrize("block", SPECS)
def test_state_deepcopy_and_pickle(block):
    module, x = make(block), torch.randn(2, 12, 5, 7)
    module(x)  # moves the running statistics away from where a fresh module has them
    module.eval()
    twin = make(block).eval()
    assert not same(twin(x), module(x))
    assert str(twin.load_state_dict(module.state_dict())) == "<All keys matched successfully>"
    for copied in (twin, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert same(copied(x), module(x))
        assert copied.spec == module.spec


@pytest.mark.parametrize("block", SPECS)
def test_device_and_dtype_reach_every_tensor(block):
    module = make(block, device="meta", dtype=torch.float64)
    tensors = [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert {tensor.dtype for tensor in tensors} == {torch.float64}


@pytest.mark.parametrize("block", SPECS)
def test_memory_format_is_kept(block):
    module = make(block).eval()
    x = torch.randn(2, 12, 5, 7).to(memory_format=torch.channels_last)
    y = module(x)
    if y.ndim == x.ndim:  # what has lost an axis has no such format
        assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, module(x.contiguous()))


@pytest.mark.parametrize("block", SPECS)
def test_from_spec_builds_the_same_block(block):
    for options in cases.OPTIONS[block].values():
        spec = options.resolve(12, 3)
        module = getattr(attention_torch, options.class_name).from_spec(spec, dtype=torch.float64)
        assert module.spec == spec
        assert {p.dtype for p in module.parameters()} == {torch.float64}


def test_open_channels_build():
    for spec in (cases.OPTIONS["eca"]["biased"].resolve(None), cases.OPTIONS["cbam"]["spatial"].resolve(None)):
        module = getattr(attention_torch, spec.options_class.class_name).from_spec(spec)
        assert module(torch.randn(2, 5, 4, 3)).shape == (2, 5, 4, 3)


def test_running_statistics_of_two_calls_both_count():
    module = CoordinateAttention(12, reduction=4, norm=BatchNorm(update_rate=0.5, unbiased_variance=False))
    x = torch.randn(2, 12, 5, 7)
    module(x)
    once = module.norm.running_var.clone()
    module(x)
    assert not same(once, module.norm.running_var)
    assert module.norm.num_batches_tracked == 2


def test_biased_and_unbiased_variance_differ_by_bessels_factor():
    x = torch.randn(1, 12, 2, 3, dtype=torch.float64)
    after = []
    for unbiased in (True, False):
        torch.manual_seed(0)
        norm = BatchNorm(update_rate=1, unbiased_variance=unbiased)
        module = CoordinateAttention(12, reduction=4, norm=norm, dtype=torch.float64)
        module(x)
        after.append(module.norm.running_var)
    torch.testing.assert_close(after[0] * 4 / 5, after[1])  # N (H + W) = 5 values per channel


def test_sync_batch_norm_knows_the_norm():
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(CBAM(12))
    assert isinstance(converted.spatial.norm, SynchronizedBatchNormalization)


@pytest.mark.parametrize(
    ("act", "kind", "sentence"),
    [
        (lambda: SqueezeExcitation(12, reduction=0), SpecError, "received reduction=0"),
        (lambda: CBAM(12, kernel_size=4), SpecError, "received kernel_size=4; expected an odd integer"),
        (lambda: ECA(None), SpecError, "received neither channels nor kernel_size"),
        (lambda: CBAM(12)(torch.ones(2, 12, 5)), InputError, "set spatial_dims to the input's rank less 2"),
        (lambda: CBAM(12)(torch.ones(2, 11, 5, 7)), InputError, "11 channels on axis 1; expected 12 channels"),
        (lambda: CBAM(12)(torch.ones(1, 12, 1, 1)), InputError, "received one value per channel"),
        (lambda: CBAM(12, spatial_norm=KERAS)(torch.ones(0, 12, 1, 1)), InputError, "received no value per channel"),
        (lambda: CBAM.from_spec(ECA(12).spec), SpecError, "expected a spec of CBAM"),
        (lambda: CBAM.from_spec({"block": "cbam"}), SpecError, "expected a spec of CBAM"),
    ],
)
def test_misuse_is_a_value_error_with_a_sentence(act, kind, sentence):
    with pytest.raises(kind) as caught:
        act()
    assert isinstance(caught.value, ValueError)
    assert sentence in str(caught.value)


def test_a_lone_value_is_fine_outside_training():
    assert CBAM(12).eval()(torch.ones(1, 12, 1, 1)).shape == (1, 12, 1, 1)
    assert CBAM(12, spatial_norm=None)(torch.ones(1, 12, 1, 1)).shape == (1, 12, 1, 1)


def test_repr_shows_the_spec():
    assert "gate=Gate(kind='sigmoid'" in repr(SqueezeExcitation(12))


def test_weights_that_are_computed_are_not_written_in_vain():
    module = CBAM(12)
    torch.nn.utils.parametrizations.weight_norm(module.spatial.conv)
    with pytest.raises(InputError, match=r"spatial\.conv\.weight is computed, not stored"):
        parity.load_into(module, parity.blocks_of(CBAM(12)))
    with pytest.raises(InputError, match="is on the meta device"):
        parity.load_into(CBAM(12, device="meta"), parity.blocks_of(CBAM(12)))


def test_a_parameter_that_the_output_does_not_hang_on_has_a_gradient_of_zero(monkeypatch):
    """A detached branch is a mistake that the harness must be able to report, not one that it stumbles over."""
    spec = SqueezeExcitation(6, reduction=2).spec
    model = adapter.build(spec, shape=(2, 6, 3, 4), data_format="channels_first", dtype="float64", device="cpu")
    monkeypatch.setattr(model, "forward", lambda x: x * 2.0)
    (live,) = adapter.find_blocks(model, {}).values()
    step = adapter.stepper(model, live.variables, training=False, data_format="channels_first", learning_rate=0.0)
    x = torch.ones((2, 6, 3, 4), dtype=torch.float64).numpy()
    _, gradients = step(x, x, False)
    assert (gradients["input"] == 2).all()
    assert all(not gradients[name].any() for name in live.variables)
