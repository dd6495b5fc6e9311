"""Expert files: what is saved comes back, and whatever does not fit is refused with a message that helps."""

import errno
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.fingerprint import fingerprint_of, largest_difference, same_weights

SINGULAR_VALUES = {
    "layers.0.q_proj": torch.tensor([3.0, 2.0, 1.0]),
    "layers.0.up_proj": torch.tensor([5.0, 4.0]),
}
SHAPES = {name: len(s) for name, s in SINGULAR_VALUES.items()}
FINGERPRINT = fingerprint_of(SINGULAR_VALUES)
METADATA = ExpertMetadata(
    base_model="org/small",
    fingerprint=FINGERPRINT,
    parametrization="sigmoid",
    task="gsm8k",
    domain="math",
    description="grade school ²×− word problems",
    objective="reinforce",
    step=25,
    t2_version="0.1.0",
    val_before=0.1,
    val_after=1 / 3,
    git_commit="abc123",
)


def make_expert(**changes) -> Expert:
    scales = {
        "layers.0.q_proj": torch.tensor([1.01, 0.99, 1.0]),
        "layers.0.up_proj": torch.tensor([1.001, 0.9]),
    }
    return Expert(scales, replace(METADATA, **changes))


def write(path: Path, metadata: dict[str, str] | None, scales: dict[str, torch.Tensor] | None = None) -> Path:
    path.write_bytes(save({"m": torch.ones(2)} if scales is None else scales, metadata=metadata))
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "expert.safetensors"


def test_scales_come_back_bit_for_bit(path):
    expert = make_expert()
    loaded = Expert.load(expert.save(path))
    assert loaded.scales.keys() == expert.scales.keys()
    for module, scale in expert.scales.items():
        assert torch.equal(loaded.scales[module], scale)


def test_metadata_comes_back_exactly(path):
    assert Expert.load(make_expert().save(path)).metadata == METADATA


def test_missing_scores_and_commit_come_back_as_none(path):
    expert = make_expert(val_before=None, val_after=None, git_commit=None)
    assert Expert.load(expert.save(path)).metadata == expert.metadata


def test_empty_description_is_not_missing(path):
    assert Expert.load(make_expert(description="").save(path)).metadata.description == ""


def test_save_makes_the_folder(tmp_path):
    assert make_expert().save(tmp_path / "a" / "b" / "e.safetensors").is_file()


def test_scales_with_gradients_and_shared_storage_can_be_saved(path):
    z = torch.ones(6, requires_grad=True)
    expert = Expert({"a": z[::2], "b": z[1:4], "c": z}, METADATA)
    loaded = Expert.load(expert.save(path))
    assert torch.equal(loaded.scales["a"], torch.ones(3))
    assert not loaded.scales["b"].requires_grad


def test_loaded_scales_do_not_follow_the_file(path):
    loaded = Expert.load(make_expert().save(path))
    before = {module: scale.clone() for module, scale in loaded.scales.items()}
    with path.open("r+b") as file:
        file.seek(-20, 2)
        file.write(b"\0" * 20)
    assert all(torch.equal(loaded.scales[module], before[module]) for module in before)


def test_any_safetensors_reader_finds_the_metadata(path):
    make_expert().save(path)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["base_model"] == "org/small"
        assert file.metadata()["format_version"] == "1"


@pytest.mark.parametrize("step", ["write_bytes", "chmod"])
def test_full_disk_keeps_the_previous_file_and_leaves_nothing_behind(path, monkeypatch, step):
    make_expert().save(path)
    before = path.read_bytes()
    write_bytes = Path.write_bytes

    def full(self, argument):
        if step == "write_bytes":
            write_bytes(self, argument[: len(argument) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, step, full)
    with pytest.raises(OSError, match=r"full.*expert\.safetensors") as caught:
        make_expert(step=50).save(path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_missing_file_names_a_near_miss(tmp_path):
    make_expert().save(tmp_path / "gsm8k.safetensors")
    with pytest.raises(FileNotFoundError, match=r"gms8k.*Did you mean 'gsm8k\.safetensors'"):
        Expert.load(tmp_path / "gms8k.safetensors")


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="No expert file at"):
        Expert.load(tmp_path / "nowhere" / "e.safetensors")


def test_folder_is_no_expert(tmp_path):
    with pytest.raises(FileNotFoundError, match="No expert file at"):
        Expert.load(tmp_path)


def test_path_may_be_a_string(path):
    make_expert().save(path)
    assert Expert.load(str(path)).metadata == METADATA


@pytest.mark.parametrize("content", [b"", b"abc", b"not a tensor file at all" * 9, b"\x80\x02"])
def test_not_safetensors(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"expert\.safetensors is "):
        Expert.load(path)


def test_every_truncation_is_refused(path):
    whole = make_expert().save(path).read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated or no safetensors file"):
            Expert.load(path)


class Bomb:
    """A pickle that would fail the test when opened as one."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_is_recognized_and_never_opened(path, protocol):
    path.write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    with pytest.raises(ValueError, match="pickle"):
        Expert.load(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_save_is_recognized(path, zipped):
    torch.save({"m": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="pickle"):
        Expert.load(path)


def test_a_file_that_starts_like_a_pickle_by_chance_is_read(path):
    for padding in range(2000):
        make_expert(description="x" * padding).save(path)
        if path.read_bytes()[:2] in (b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            break
    assert path.read_bytes()[:2] in (b"\x80\x03", b"\x80\x04", b"\x80\x05")
    assert Expert.load(path).metadata.step == 25


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_missing_metadata(path, metadata):
    with pytest.raises(ValueError, match=r"expert\.safetensors.*no format_version"):
        Expert.load(write(path, metadata))


@pytest.mark.parametrize("version", ["2", "0", "", "1.0"])
def test_unknown_format_version(path, version):
    with pytest.raises(ValueError, match=r"format_version is .*this t2 reads 1"):
        Expert.load(write(path, METADATA.to_strings() | {"format_version": version}))


@pytest.mark.parametrize("field", sorted(METADATA.to_strings().keys() - {"val_before", "val_after", "git_commit"}))
def test_missing_field_is_named(path, field):
    strings = METADATA.to_strings()
    del strings[field]
    with pytest.raises(ValueError, match=field):
        Expert.load(write(path, strings))


@pytest.mark.parametrize("field", ["step", "val_before", "val_after"])
@pytest.mark.parametrize("text", ["many", "", "nan", "inf"])
def test_field_that_is_no_number(path, field, text):
    with pytest.raises(ValueError, match=f"{field} = '{text}'"):
        Expert.load(write(path, METADATA.to_strings() | {field: text}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_scale_in_a_file(path, value):
    write(path, METADATA.to_strings(), {"good": torch.ones(2), "bad": torch.tensor([1.0, value])})
    with pytest.raises(ValueError, match=r"expert\.safetensors.*of bad has 1 of 2 values"):
        Expert.load(path)


def test_non_finite_scale_cannot_be_made():
    with pytest.raises(ValueError, match="NaN or infinite"):
        Expert({"m": torch.tensor([float("nan")])}, METADATA)


def test_empty_file_content(path):
    with pytest.raises(ValueError, match="empty"):
        Expert.load(write(path, METADATA.to_strings(), {}))


@pytest.mark.parametrize(
    "scale",
    [torch.ones(0), torch.ones(2, 2), torch.tensor(1.0), torch.ones(2).bfloat16(), torch.ones(2).int()],
)
def test_anything_but_an_fp32_vector_is_refused(path, scale):
    with pytest.raises(ValueError, match="one float32 vector"):
        Expert.load(write(path, METADATA.to_strings(), {"m": scale}))


def test_its_own_model_is_accepted():
    make_expert().check(base_model="org/small", fingerprint=FINGERPRINT, shapes=SHAPES)


def test_a_model_that_adapts_more_modules_is_accepted():
    more = SINGULAR_VALUES | {"layers.0.k_proj": torch.ones(4)}
    make_expert().check(
        base_model="org/small", fingerprint=fingerprint_of(more), shapes={k: len(s) for k, s in more.items()}
    )


def test_another_revision_of_the_weights_names_the_module():
    other = fingerprint_of(SINGULAR_VALUES | {"layers.0.up_proj": torch.tensor([5.0, 4.02])})
    with pytest.raises(ValueError, match=r"weights differ.*layers\.0\.up_proj.*transfer=true"):
        make_expert().check(base_model="org/small", fingerprint=other, shapes=SHAPES)


def test_another_model_is_named_beside_the_one_it_was_trained_for():
    with pytest.raises(ValueError, match=r"trained for org/small; the loaded model is org/large"):
        make_expert().check(
            base_model="org/large",
            fingerprint=fingerprint_of({k: 2 * s for k, s in SINGULAR_VALUES.items()}),
            shapes=SHAPES,
        )


def test_another_source_with_equal_weights_is_refused_and_says_so():
    with pytest.raises(ValueError, match=r"org/small.*org/tuned.*Their weights agree.*transfer=true"):
        make_expert().check(base_model="org/tuned", fingerprint=FINGERPRINT, shapes=SHAPES)


def test_fingerprints_without_a_shared_module_cannot_vouch():
    with pytest.raises(ValueError, match="share no module"):
        make_expert().check(base_model="org/small", fingerprint=json.dumps({"x": 1.0}), shapes=SHAPES)


def test_transfer_accepts_another_model():
    make_expert().check(base_model="org/large", fingerprint=json.dumps({"x": 1.0}), shapes=SHAPES, transfer=True)


@pytest.mark.parametrize("transfer", [True, False])
def test_another_size_says_which_module_got_and_expected(transfer):
    shapes = SHAPES | {"layers.0.up_proj": 7}
    with pytest.raises(ValueError, match=r"layers\.0\.up_proj has 2 values, expected 7.*org/small.*org/b"):
        make_expert().check(base_model="org/b", fingerprint=FINGERPRINT, shapes=shapes, transfer=transfer)


@pytest.mark.parametrize("transfer", [True, False])
def test_unknown_module_gets_a_near_miss(transfer):
    shapes = {"layers.0.q_proj": 3, "layers.0.up_project": 2}
    with pytest.raises(ValueError, match=r"1 of .* 2 modules.*up_proj .*Did you mean 'layers\.0\.up_project'\?"):
        make_expert().check(base_model="org/small", fingerprint=FINGERPRINT, shapes=shapes, transfer=transfer)


def test_fingerprint_is_json_of_nuclear_norms_with_six_digits():
    made = json.loads(fingerprint_of({"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([1234567.0])}))
    assert made == {"a": 1234570.0, "b": 3.0}


def test_fingerprint_does_not_depend_on_the_order_of_modules():
    assert fingerprint_of(dict(reversed(SINGULAR_VALUES.items()))) == FINGERPRINT


def test_bf16_copy_of_a_matrix_has_the_same_weights():
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(0))
    made = [fingerprint_of({"m": torch.linalg.svdvals(w)}) for w in (weight, weight.bfloat16().float())]
    assert same_weights(*made)


def test_tolerance_is_two_parts_in_ten_thousand():
    assert same_weights('{"m": 1000.0}', '{"m": 1000.15}')
    assert not same_weights('{"m": 1000.0}', '{"m": 1000.3}')


def test_one_differing_module_among_many_is_enough():
    assert not same_weights('{"a": 1, "b": 2, "c": 3}', '{"a": 1, "b": 2.1, "c": 3}')


@given(
    st.dictionaries(st.sampled_from("abc"), st.floats(0, 1e6)),
    st.dictionaries(st.sampled_from("abc"), st.floats(0, 1e6)),
)
def test_same_weights_is_symmetric(a, b):
    first, second = json.dumps(a), json.dumps(b)
    assert same_weights(first, second) == same_weights(second, first)


def test_largest_difference_names_the_worst_shared_module():
    worst = largest_difference('{"a": 1.0, "b": 2.0, "x": 9.0}', '{"a": 1.1, "b": 4.0, "y": 1.0}')
    assert worst == ("b", pytest.approx(0.5))


def test_all_zero_matrices_agree():
    assert same_weights('{"m": 0.0}', '{"m": 0.0}')


@pytest.mark.parametrize("text", ["", "0a1b2c", "[1, 2]", '{"m": "x"}', '{"m": null}', '{"m": NaN}'])
def test_malformed_fingerprint(text):
    with pytest.raises(ValueError, match="A fingerprint is a JSON object"):
        same_weights(FINGERPRINT, text)


@pytest.mark.parametrize("values", [{}, {"m": torch.tensor([1.0, float("nan")])}])
def test_no_fingerprint_of_nothing_or_nan(values):
    with pytest.raises(ValueError, match=r"No singular values|of m sum to nan"):
        fingerprint_of(values)
