"""The script that makes the toy world's weights again."""

import sys

import pytest
import torch

from tests.scripts import load_script
from wsss_lib.data.corpus import Corpus
from wsss_lib.methods import load_method
from wsss_lib.models import create_backbone
from wsss_lib.models.pretrained import load_backbone


@pytest.fixture(scope="module")
def script():
    module = load_script("pretrain_toy")
    for network in module.NETWORKS.values():
        network.epochs, network.whole_epochs = 2, 1
    return module


@pytest.mark.parametrize(("name", "method"), [("resnet50", "cam"), ("deit_small", "pcss")])
def test_the_same_seed_gives_the_same_file(script, tmp_path, name, method):
    corpus = Corpus(32)
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        network = script.pretrain(name, corpus, seed, lambda _: None)
        script.save(network.backbone, tmp_path / folder / f"{name}.safetensors", right=script.accuracy(network, corpus))
    a, b, c = ((tmp_path / folder / f"{name}.safetensors").read_bytes() for folder in "abc")
    assert a == b != c
    config = load_method(method).Config.preset("toy")
    backbone = create_backbone(config.backbone, **config.backbone_options)
    load_backbone(backbone, tmp_path / "a" / f"{name}.safetensors")  # compares the SHA-256
    rounded = [value.half().float() for value in network.backbone.state_dict().values() if value.is_floating_point()]
    assert all(torch.isfinite(value).all() for value in rounded)


def test_the_command_makes_files(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "Corpus", lambda count, seed: Corpus(min(count, 32), seed))
    monkeypatch.setattr(sys, "argv", ["pretrain_toy.py", "resnet50", "--out", str(tmp_path), "--count", "32"])
    script.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resnet50.json", "resnet50.safetensors"]
    assert "% of 32 new pictures right" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["pretrain_toy.py", "vgg16"])
    with pytest.raises(SystemExit):
        script.main()
    assert "network vgg16 is unknown; choose among resnet50, deit_small." in capsys.readouterr().err


def test_a_transformer_begins_with_local_attention(script):
    torch.manual_seed(0)
    backbone = script.Transformer().backbone
    tokens, (rows, columns) = backbone.embed(torch.zeros(1, 3, 96, 96))
    _, weights = backbone.blocks[0](tokens, "constant")
    among = weights[0, 1:, 1:] / weights[0, 1:, 1:].sum(1, keepdim=True)
    place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    distance = torch.cdist(place.float(), place.float())
    assert (among * distance).sum(1).mean() < 0.6 * distance.mean()


def test_windows_keep_their_positions(script):
    """Without a window and hidden patches, the tokens are those of the backbone."""
    network = script.Transformer().eval()
    images = torch.randn(2, 3, 96, 96)
    tokens, _ = network.backbone.embed(images)
    for block in network.backbone.blocks:
        tokens, _ = block(tokens)
    torch.testing.assert_close(network.tokens(images), tokens)
    first = network.tokens(images[:, :, 32:, 16:80], 4, 2)
    assert first.shape == (2, 65, 96)
    moved = network.tokens(images[:, :, 32:, 16:80], 3, 2)
    assert not torch.allclose(first, moved, atol=1e-3)
