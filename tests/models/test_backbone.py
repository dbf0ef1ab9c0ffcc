"""A frozen network from a file: its arithmetic, bounded features, and every way in which a file can be wrong."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn

from primum.errors import ModelError
from primum.models import backbone
from primum.models.backbone import Backbone, shapes, weights_path
from primum.models.feature_map import BackboneCard
from primum.models.multiscale import noise_pictures
from primum.rng import Stream


def _images(count: int, size: int, channels: int = 1) -> Tensor:
    stream = Stream.public("backbone tests")
    return torch.from_numpy(stream.uniform((count, channels, size, size))).to(torch.float32)


class _Block(nn.Module):
    """As in torchvision: the names of its layers are the keys of published files."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + (self.downsample(x) if hasattr(self, "downsample") else x))


class _ResNet18(nn.Module):
    """The slow twin, with modules; `fc` is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(_Block(64, 64, 1), _Block(64, 64, 1))
        self.layer2 = nn.Sequential(_Block(64, 128, 2), _Block(128, 128, 1))
        self.layer3 = nn.Sequential(_Block(128, 256, 2), _Block(256, 256, 1))
        self.layer4 = nn.Sequential(_Block(256, 512, 2), _Block(512, 512, 1))
        self.fc = nn.Linear(512, 1000)

    def averages(self, images: Tensor) -> list[Tensor]:
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = torch.cat([images] * (3 // images.shape[1]), 1)
        x = (x - mean[:, None, None]) / deviation[:, None, None]
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        third = self.layer3(self.layer2(self.layer1(x)))
        return [third.mean((2, 3)), self.layer4(third).mean((2, 3))]


def _network() -> _ResNet18:
    torch.manual_seed(4)
    network = _ResNet18()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval().requires_grad_(False)


def _put(folder: Path, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    (folder / f"{digest}.safetensors").write_bytes(data)
    return digest


@pytest.fixture(scope="module")
def network() -> _ResNet18:
    return _network()


@pytest.fixture(scope="module")
def data(network: _ResNet18) -> bytes:
    return save(network.state_dict())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRIMUM_BACKBONES", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 40)])
def test_features_are_those_of_the_network_in_modules(
    folder: Path, network: _ResNet18, data: bytes, channels: int, size: int
) -> None:
    front_end, images = Backbone(size, channels, "resnet18", _put(folder, data)), _images(3, size, channels)
    seen_from = network.averages(noise_pictures(32, size, channels))
    parts = [one - all_of_them.mean(0) for one, all_of_them in zip(network.averages(images), seen_from, strict=True)]
    expected = torch.cat([part / part.norm(dim=1, keepdim=True) for part in parts], 1) / 2**0.5
    rows = front_end.features(images)
    assert rows.shape == (3, front_end.dimension) == (3, 768)
    assert torch.allclose(rows, expected, atol=2e-5)
    assert torch.allclose(front_end.features(images[1:2]), rows[1:2], atol=1e-5)
    assert float(rows.double().norm(dim=1).max()) <= 1
    assert float(rows.double().norm(dim=1).min()) > 1 - 1e-5


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_flat_pictures_are_bounded_too(folder: Path, data: bytes, value: float) -> None:
    row = Backbone(32, 1, "resnet18", _put(folder, data)).features(torch.full((1, 1, 32, 32), value))
    assert torch.isfinite(row).all()
    assert float(row.double().norm()) <= 1


def test_a_network_of_zeros_gives_zeros(folder: Path) -> None:
    digest = _put(folder, save({key: torch.zeros(shape) for key, shape in shapes().items()}))
    front_end = Backbone(32, 1, "resnet18", digest)
    assert front_end.features(_images(2, 32)).abs().max() == 0
    assert front_end.features(torch.zeros(0, 1, 32, 32)).shape == (0, 768)


def test_half_precision_is_taken(folder: Path, network: _ResNet18) -> None:
    halves = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    row = Backbone(32, 1, "resnet18", _put(folder, save(halves))).features(_images(1, 32))
    assert row.dtype == torch.float32


def _without(tensors: dict[str, Tensor]) -> None:
    del tensors["layer3.1.bn2.running_var"]


def _with_more(tensors: dict[str, Tensor]) -> None:
    tensors["layer1.0.conv3.weight"] = torch.zeros(1)


def _of_another_shape(tensors: dict[str, Tensor]) -> None:
    tensors["conv1.weight"] = torch.zeros(64, 1, 7, 7)


def _of_integers(tensors: dict[str, Tensor]) -> None:
    tensors["bn1.bias"] = torch.zeros(64, dtype=torch.int32)


def _not_finite(tensors: dict[str, Tensor]) -> None:
    tensors["layer4.0.conv1.weight"][0, 0, 0, 0] = torch.inf


def _negative(tensors: dict[str, Tensor]) -> None:
    tensors["bn1.running_var"] = torch.full((64,), -1.0)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_without, r"has no 'layer3.1.bn2.running_var'.*torchvision"),
        (_with_more, r"holds 'layer1.0.conv3.weight', which is unknown"),
        (_of_another_shape, r"conv1.weight is .* \(64, 1, 7, 7\), expected .* \(64, 3, 7, 7\)"),
        (_of_integers, r"bn1.bias is torch.int32"),
        (_not_finite, r"layer4.0.conv1.weight has values that cannot be"),
        (_negative, r"bn1.running_var has values that cannot be"),
    ],
)
def test_files_of_another_network(
    folder: Path, data: bytes, spoil: Callable[[dict[str, Tensor]], None], says: str
) -> None:
    tensors = load(data)
    spoil(tensors)
    digest = _put(folder, save(tensors))
    with pytest.raises(ModelError, match=says) as caught:
        Backbone(32, 1, "resnet18", digest)
    assert str(folder / f"{digest}.safetensors") in caught.value.message


def test_a_missing_file_says_where_it_should_be(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"does not exist.*PRIMUM_BACKBONES") as caught:
        Backbone(32, 1, "resnet18", "ab" * 32)
    assert str(folder / f"{'ab' * 32}.safetensors") in caught.value.message


def test_a_file_appears_after_it_was_missed(folder: Path, data: bytes) -> None:
    digest = hashlib.sha256(data).hexdigest()
    with pytest.raises(ModelError, match="does not exist"):
        Backbone(32, 1, "resnet18", digest)
    _put(folder, data)
    assert Backbone(32, 1, "resnet18", digest).dimension == 768


def test_one_altered_byte_is_refused(folder: Path, data: bytes) -> None:
    digest = _put(folder, data)
    (folder / f"{digest}.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelError, match="SHA-256 differs"):
        Backbone(32, 1, "resnet18", digest)


@pytest.mark.parametrize("garbage", [b"", b"\x80\x04\x95pickle", b"\xff" * 100])
def test_what_is_no_safetensors_is_refused(folder: Path, garbage: bytes) -> None:
    with pytest.raises(ModelError, match="not a safetensors file"):
        Backbone(32, 1, "resnet18", _put(folder, garbage))


def test_a_folder_in_its_place_and_a_huge_file(folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    (folder / f"{'cd' * 32}.safetensors").mkdir()
    with pytest.raises(ModelError, match="cannot be read"):
        Backbone(32, 1, "resnet18", "cd" * 32)
    monkeypatch.setattr(backbone, "_LARGEST", 1000)
    with pytest.raises(ModelError, match="larger than"):
        Backbone(32, 1, "resnet18", _put(folder, data))


def test_the_usual_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRIMUM_BACKBONES", raising=False)
    assert weights_path("ab") == Path.home() / ".local/share/primum/backbones/ab.safetensors"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "resnet19"}, "unknown backbone 'resnet19'"),
        ({"weights": "../../etc/passwd"}, "not a SHA-256"),
        ({"weights": "AB" * 32}, "not a SHA-256"),
        ({"size": 31}, "32 to 4096"),
        ({"channels": 2}, "1 or 3 channels"),
    ],
)
def test_settings_that_cannot_be(folder: Path, settings: dict[str, object], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        Backbone(**{"size": 32, "channels": 1, "name": "resnet18", "weights": "ab" * 32, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 1, 32, 33), (1, 3, 32, 32), (32, 32)])
def test_images_of_another_shape_are_refused(folder: Path, data: bytes, shape: tuple[int, ...]) -> None:
    front_end = Backbone(32, 1, "resnet18", _put(folder, data))
    with pytest.raises(ValueError, match="expected images of shape"):
        front_end.features(torch.zeros(shape))
    with pytest.raises(ValueError, match="not finite"):
        front_end.features(torch.full((1, 1, 32, 32), torch.nan))


def test_a_card_names_it(folder: Path, data: bytes) -> None:
    card = BackboneCard(size=32, backbone="resnet18", weights=_put(folder, data))
    assert card.feature_map() == Backbone(32, 1, "resnet18", card.weights)
    assert BackboneCard.model_validate_json(card.model_dump_json()) == card
    with pytest.raises(ValidationError):
        BackboneCard(size=32, backbone="resnet19", weights=card.weights)  # type: ignore[arg-type]
