"""Multi-scale CAMs against the official script, batching, and continuing."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from tests import recipe
from tests.runs.small import ColourProjection, Pictures, colour_projection, tiny_config
from wsss_lib.errors import InputError
from wsss_lib.methods.cam import CAM, Config
from wsss_lib.models import create_backbone
from wsss_lib.models.backbone import Normalisation
from wsss_lib.ops.cam import cam_label, normalise_range
from wsss_lib.stages import infer as infer_module
from wsss_lib.stages.context import Context
from wsss_lib.stages.infer import Views, classify, infer, multi_scale_cam, pooled_features
from wsss_lib.stages.store import CamStore

SIZES = [(40, 56), (33, 33), (40, 56), (56, 40), (40, 56), (33, 33), (40, 56)]
LABELS = [[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0]]


@pytest.fixture
def pictures():
    return Pictures(SIZES, LABELS)


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)


def official_maps(method, normalise, golden):
    """Our maps of a golden vector's image, unrounded, with its 20 labels."""
    labels = torch.zeros(1, 20)
    labels[0, golden["cls"]] = 1
    data = Pictures([golden["img"].shape[:2]], labels.tolist(), [golden["img"]])
    _, views = Views(data, method.config.scales, normalise, None)[0]
    method.train(False)
    with torch.inference_mode():
        [(classes, cams)] = multi_scale_cam(method, [v[None] for v in views], labels, data.size(0))
    return classes, cams


def test_official_inference_with_a_projection_of_colours():
    golden = recipe.golden("psa/infer_colour")
    classes, cams = official_maps(ColourProjection(golden["proj"], golden["bias"]), Normalisation(), golden)
    assert classes.tolist() == golden["cls"].tolist()
    np.testing.assert_allclose(cams.numpy(), golden["cam"], rtol=0, atol=1e-4)
    assert (cam_label(cams, classes, 0.2).numpy() == golden["pred"]).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone"), [("psa/infer_cls", "vgg16"), ("psa/infer_cls_r38", "resnet38d")])
def test_official_inference_with_a_filled_network(name, backbone):
    golden = recipe.golden(name)
    method = CAM(Config.preset("voc12", backbone).replace(pretrained=False), 20)
    checkpoint = recipe.fill(recipe.shapes(name), name)
    state = {method.network.official_key(key): torch.from_numpy(value) for key, value in checkpoint.items()}
    method.network.load_state_dict(state)
    classes, cams = official_maps(method, method.backbone.normalisation, golden)
    assert classes.tolist() == golden["cam_keys"].tolist()
    np.testing.assert_allclose(cams.numpy(), golden["cam"], rtol=0, atol=1e-3)
    assert (cam_label(cams, classes, 0.2).numpy() == golden["pred"]).mean() > 0.995


def test_maps_of_one_view_are_what_the_formula_says():
    """Without ``merge_mirrored``: enlarge the map of the plain and of the mirrored image, mirror back, add."""
    method = colour_projection(3, scales=(1.0,))
    images = torch.rand(1, 3, 24, 40)
    [(classes, cams)] = multi_scale_cam(method, [images], torch.tensor([[0.0, 1.0, 0.0]]), (24, 40))
    enlarge = nn.Upsample((24, 40), mode="bilinear")
    total = enlarge(method.cam(images))[0, 1] + enlarge(method.cam(images.flip(-1)))[0, 1].flip(-1)
    assert classes.tolist() == [1]
    torch.testing.assert_close(cams[0], total / (total.max() + 1e-5), rtol=0, atol=1e-5)


class SignedProjection(ColourProjection):
    """Maps that may be negative, by the sum over the views stretched to their range."""

    signed = True

    def cam(self, images):
        pooled = nn.functional.avg_pool2d(images, 8, 8, ceil_mode=True)
        return torch.einsum("kc,bchw->bkhw", self.projection, pooled) + self.bias.view(1, -1, 1, 1)

    def normalise_maps(self, maps):
        return normalise_range(maps)


def test_signed_maps_are_enlarged_before_they_are_rectified():
    """Of every scale, the plain and the mirrored image apart; and normalised as the method says."""
    method = SignedProjection(torch.tensor([[1.0, -2.0, 1.0], [0.5, 1.0, -1.5]]), torch.tensor([-0.1, 0.05]))
    size = (24, 40)
    views = [torch.randn(2, 3, *(int(scale * side) for side in size)) for scale in (1.0, 0.5, 1.5)]
    labels = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    results = multi_scale_cam(method, views, labels, size)
    enlarge = nn.Upsample(size, mode="bilinear")
    total, merged, early = (torch.zeros(2, 2, *size) for _ in range(3))
    for images in views:
        for image, back in ((images, lambda x: x), (images.flip(-1), lambda x: x.flip(-1))):
            maps = method.cam(image)
            total += back(enlarge(maps).clamp(min=0))
            early += back(enlarge(maps.clamp(min=0)))
        merged += enlarge(method.cam(images) + method.cam(images.flip(-1)).flip(-1)).clamp(min=0)
    for (classes, cams), label, sums in zip(results, labels, total, strict=True):
        assert torch.equal(classes, label.nonzero().flatten())
        for k, found in zip(classes, cams, strict=True):
            least, most = sums[k].min(), sums[k].max()
            wanted = (sums[k] - least - 1e-5).clamp(min=0) / (most - least + 1e-5)
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    for other in (early, merged):  # neither of which would be the same
        assert (normalise_range(total) - normalise_range(other)).abs().max() > 0.01
    assert results[1][1].min() == 0


def test_signed_maps_of_a_data_set(tmp_path, pictures, fabric):
    method = SignedProjection(torch.randn(3, 3), torch.zeros(3), scales=(1.0, 0.5))
    for (classes, cams), index in zip(inferred(tmp_path, pictures, fabric, method=method), range(7), strict=True):
        views = [view[None] for view in Views(pictures, method.config.scales, Normalisation(), None)[index][1]]
        labels = pictures.labels[[index]]
        [(wanted_classes, wanted)] = multi_scale_cam(method, views, labels, pictures.size(index))
        assert torch.equal(classes, wanted_classes)
        torch.testing.assert_close(cams, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("pixels", [1, 2 * 2 * 40 * 56, 2 * 3 * 40 * 56 + 1, 10**9])
def test_batches_hold_every_image_once_and_one_size_each(pictures, pixels):
    views = Views(pictures, (0.5, 1.0), Normalisation(), None)
    batches = views.batches(pixels)
    assert sorted(index for batch in batches for index in batch) == list(range(len(pictures)))
    for batch in batches:
        [(height, width)] = {pictures.size(index) for index in batch}
        assert len(batch) == 1 or len(batch) * 2 * height * width <= pixels
    assert batches == Views(pictures, (0.5, 1.0), Normalisation(), None).batches(pixels)


def test_a_larger_scale_makes_smaller_batches(pictures):
    counts = [
        max(len(b) for b in Views(pictures, scales, Normalisation(), None).batches(2 * 4 * 40 * 56))
        for scales in ((1.0,), (1.0, 2.0))
    ]
    assert counts == [4, 2]  # at twice the size, only the small images still fit in pairs


def inferred(folder, data, fabric, **changes):
    method = changes.pop("method", None) or colour_projection(len(data.classes))
    infer(method, data, CamStore(folder), Context(fabric, Normalisation(), **changes))
    return [CamStore(folder).read(image_id) for image_id in data.ids]


def test_maps_have_the_classes_and_sizes_of_their_images(tmp_path, pictures, fabric):
    for (classes, cams), labels, size in zip(inferred(tmp_path, pictures, fabric), LABELS, SIZES, strict=True):
        assert classes.tolist() == [k for k, label in enumerate(labels) if label]
        assert cams.shape == (sum(labels), *size)
        assert not len(cams) or 0 <= cams.min() <= cams.max() <= 1
        assert not len(cams) or cams.amax((1, 2)).min() > 0.99


def test_an_image_without_classes_has_an_empty_file(tmp_path, pictures, fabric):
    classes, cams = inferred(tmp_path, pictures, fabric)[3]
    assert classes.shape == (0,)
    assert cams.shape == (0, 56, 40)
    assert not cam_label(cams, classes, 0.2).any()


def test_images_without_classes_need_no_network(tmp_path, pictures, fabric, monkeypatch):
    monkeypatch.setitem(infer_module.PIXELS_PER_BATCH, "cpu", 1)
    method, seen = colour_projection(3, scales=(1.0,)), []
    plain = method.cam

    def watched(images):
        seen.append(tuple(images.shape[2:]))
        return plain(images)

    method.cam = watched
    inferred(tmp_path, pictures, fabric, method=method)
    assert sorted(seen) == sorted(size for size, labels in zip(SIZES, LABELS, strict=True) if any(labels))


def test_maps_do_not_depend_on_the_batch_size(tmp_path, pictures, fabric, monkeypatch):
    method = CAM(tiny_config(), 3)
    rows = {}
    for pixels in (1, 2**30):
        monkeypatch.setitem(infer_module.PIXELS_PER_BATCH, "cpu", pixels)
        views = Views(pictures, method.config.scales, Normalisation(), None)
        rows[pixels] = {}
        method.train(False)
        for indices in views.batches(pixels):
            stacked = [torch.stack(column) for column in zip(*(views[i][1] for i in indices), strict=True)]
            with torch.inference_mode():
                results = multi_scale_cam(method, stacked, pictures.labels[indices], pictures.size(indices[0]))
            rows[pixels] |= dict(zip(indices, results, strict=True))
        inferred(tmp_path / str(pixels), pictures, fabric, method=method)
    for index, image_id in enumerate(pictures.ids):
        torch.testing.assert_close(rows[1][index][1], rows[2**30][index][1], rtol=0, atol=1e-5)
        one, many = (CamStore(tmp_path / str(pixels)).read(image_id)[1] for pixels in rows)
        torch.testing.assert_close(one, many, rtol=0, atol=1e-3)


def test_workers_change_nothing(tmp_path, pictures, fabric):
    alone = inferred(tmp_path / "0", pictures, fabric)
    for (_, one), (_, other) in zip(alone, inferred(tmp_path / "2", pictures, fabric, workers=2), strict=True):
        assert torch.equal(one, other)


def test_what_is_done_is_not_done_again(tmp_path, pictures, fabric):
    inferred(tmp_path, pictures, fabric)
    method = colour_projection(3)
    method.cam = None  # calling it would raise
    inferred(tmp_path, pictures, fabric, method=method)


def test_what_is_missing_is_completed_with_the_same_numbers(tmp_path, pictures, fabric):
    before = inferred(tmp_path, pictures, fabric)
    CamStore(tmp_path).path(pictures.ids[2]).unlink()
    for (_, one), (_, other) in zip(before, inferred(tmp_path, pictures, fabric), strict=True):
        assert torch.equal(one, other)


def test_stopped_inference_leaves_whole_files_and_continues(tmp_path, pictures, fabric, monkeypatch):
    monkeypatch.setitem(infer_module.PIXELS_PER_BATCH, "cpu", 1)
    expected = inferred(tmp_path / "whole", pictures, fabric)
    method, calls = colour_projection(3), []
    plain = method.cam

    def stopping(images):
        calls.append(images)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return plain(images)

    method.cam = stopping
    with pytest.raises(KeyboardInterrupt):
        inferred(tmp_path / "stopped", pictures, fabric, method=method)
    done = [image_id for image_id in pictures.ids if image_id in CamStore(tmp_path / "stopped")]
    assert 0 < len(done) < len(pictures)
    assert len(list((tmp_path / "stopped").iterdir())) == len(done)
    for (_, one), (_, other) in zip(expected, inferred(tmp_path / "stopped", pictures, fabric), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_in_one_sentence(tmp_path, pictures, fabric, monkeypatch, workers):
    def unreadable(_):
        raise InputError("photo.jpg cannot be read (cut off); copy it again.")

    monkeypatch.setattr(pictures, "image", unreadable)
    with pytest.raises(InputError) as caught:
        inferred(tmp_path, pictures, fabric, workers=workers)
    assert str(caught.value) == "photo.jpg cannot be read (cut off); copy it again."
    with pytest.raises(InputError) as caught:
        classify(colour_projection(3), pictures, Context(fabric, Normalisation(), workers))
    assert str(caught.value) == "photo.jpg cannot be read (cut off); copy it again."


def test_logits_of_images_of_mixed_sizes_are_in_order(pictures, fabric):
    method = colour_projection(3)
    logits = classify(method, pictures, Context(fabric, Normalisation()))
    views = Views(pictures, (1.0,), Normalisation(), None)
    expected = torch.cat([method.logits(views[i][1][0][None]) for i in range(len(pictures))])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_pooled_features_are_means_and_maxima_in_order(pictures, fabric):
    backbone = create_backbone("efficientnet_lite0", width=0.25)
    found = pooled_features(backbone, pictures, Context(fabric, backbone.normalisation))
    assert not backbone.training
    assert not found.requires_grad
    with torch.inference_mode():
        for index in range(len(pictures)):
            image = Views(pictures, (1.0,), backbone.normalisation, None)[index][1][0]
            features = backbone(image[None])["head"][0]
            expected = torch.cat([features.mean((1, 2)), features.amax((1, 2))])
            torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-5)
