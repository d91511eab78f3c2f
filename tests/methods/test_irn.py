"""IRN against the official labels, losses, updates, boundaries, walk and masks."""

import dataclasses

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from tests import recipe
from tests.ops import oracles
from wsss_lib.errors import InputError
from wsss_lib.methods.affinitynet import affinity_loss
from wsss_lib.methods.irn import (
    IRN,
    Config,
    boundary_loss,
    confident_labels,
    displacement_loss,
    final_scores,
    label,
    threshold_labels,
)
from wsss_lib.methods.method import Batch
from wsss_lib.ops import dense_crf
from wsss_lib.ops.affinity import pair_labels
from wsss_lib.ops.cam import cam_label
from wsss_lib.ops.paths import official_order, path_affinities

KINDS = ("background", "object", "different")


def filled(name, **changes):
    """The method with the made-up official checkpoint of a golden vector, in evaluation mode; and the checkpoint."""
    method = IRN(Config.preset("voc12").replace(**changes), 20)
    checkpoint = recipe.fill(recipe.shapes(f"irn/{name}"), f"irn/{name}")
    if name == "sem_seg":
        checkpoint["fc_edge6.weight"] = checkpoint["fc_edge6.weight"] * np.float32(3)
    checkpoint = {key: torch.from_numpy(value) for key, value in checkpoint.items()}
    method.load_official(checkpoint, "made up")
    method.train(False)
    return method, checkpoint


def small(**changes):
    torch.manual_seed(0)
    official_walk = {"beta": 10.0, "walk_steps": 256, "background": 0.25, "erase_boundaries": True}
    fixed = {"pretrained": False, **official_walk}
    return IRN(Config.preset("toy").replace(**(fixed | changes)), 3)


def started(method, steps):
    method.setup(Fabric(accelerator="cpu", devices=1), total_steps=steps)
    method.train()
    return method


def batch(images, labels):
    return Batch(images, labels, torch.arange(len(images)))


def in_official_parts(losses):
    """The four logged losses of the official training."""
    near = (losses["background"] + losses["object"]) / 2
    apart = losses["displacement_object"], losses["displacement_background"]
    return [value.item() for value in (near, losses["different"], *apart)]


# ------------------------------------------------------------------------------------------------------------ labels


def colour():
    golden = {key: torch.from_numpy(value) for key, value in recipe.golden("irn/colour").items()}
    return golden, golden["img"].permute(2, 0, 1).contiguous()


def test_official_labels():
    golden, image = colour()
    (result,) = label([image], [golden["high_res"]], [golden["keys"]], Config())
    assert result.dtype == torch.uint8
    assert len(result.unique()) == 4  # background, two classes, not known
    assert (result == golden["ir_label"]).double().mean() > 0.999
    for threshold, key in ((0.3, "fg_pred"), (0.05, "bg_pred")):
        rows = threshold_labels(golden["high_res"], threshold)
        unary = dense_crf.unary_from_labels(rows, 3, 0.7)
        found = dense_crf.dense_crf([image], [unary], "irn")[0].argmax(0)
        assert (found == golden[key]).double().mean() > 0.999


def test_an_object_wins_over_another_and_over_background():
    objects, background = torch.tensor([[2, 1, 0, 0, 1]]), torch.tensor([[2, 3, 0, 4, 0]])
    assert confident_labels(objects, background).tolist() == [[2, 1, 0, 255, 1]]


def test_of_equal_scores_the_background_comes_first():
    maps = torch.tensor([[[0.3, 0.5, 0.2]], [[0.3, 0.5, 0.4]]])
    assert threshold_labels(maps, 0.3).tolist() == [[0, 1, 2]]


def test_images_of_many_sizes_with_and_without_classes():
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((20, 31), (25, 18), (9, 9))]
    cams = [torch.rand(n, *image.shape[1:]) for n, image in zip((2, 1, 0), images, strict=True)]
    classes = [torch.tensor([4, 17]), torch.tensor([0]), torch.zeros(0, dtype=torch.int64)]
    together = label(images, cams, classes, Config())
    for i, allowed in enumerate(({0, 5, 18, 255}, {0, 1, 255}, {0})):
        assert together[i].shape == images[i].shape[1:]
        assert set(together[i].unique().tolist()) <= allowed
        assert torch.equal(label(images[i : i + 1], cams[i : i + 1], classes[i : i + 1], Config())[0], together[i])


def test_a_map_without_any_confident_pixel():
    """All is between the thresholds: nothing is known, and nothing is learned from that."""
    image = torch.full((3, 24, 24), 90, dtype=torch.uint8)
    (unknown,) = label([image], [torch.full((1, 24, 24), 0.2)], [torch.tensor([3])], Config())
    assert unknown.unique().tolist() == [255]
    method = started(small(optimizer="sgd", weight_decay=0.0), 1)
    before = [p.detach().clone() for p in method.network.parameters()]
    losses = method.step(batch(torch.randn(2, 3, 96, 96), unknown.expand(2, 24, 24)))
    assert set(losses) == {"loss", *KINDS, "displacement_object", "displacement_background"}
    assert [loss.item() for loss in losses.values()] == [0.0] * 6
    assert all(torch.equal(p, q) for p, q in zip(method.network.parameters(), before, strict=True))


@pytest.mark.parametrize("value", [1.5, -0.2, torch.nan])
def test_labels_of_maps_that_are_no_shares(value):
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"maps hold negative or non-finite values or values above 1; give maps in"):
        label([image], [torch.full((1, 8, 8), value)], [torch.tensor([0])], Config())


@pytest.mark.parametrize("draw", [0, 1, 2])
def test_official_pairs_of_labels(draw):
    golden = recipe.golden("irn/aff_item")
    kinds = pair_labels(torch.from_numpy(golden[f"reduced_{draw}"])[None], 10)
    for name, kind in zip(("bg", "fg", "neg"), kinds, strict=True):
        np.testing.assert_array_equal(np.packbits(kind[0, official_order(10)].numpy()), golden[f"{name}_{draw}"])
        assert kind.sum() == golden[f"{name}_count_{draw}"]


# ------------------------------------------------------------------------------------------------------------ losses


def test_official_losses_and_gradients(device):
    golden = recipe.golden("irn/losses")
    edge = torch.from_numpy(recipe.array("irn/losses/edge", (2, 1, 24, 24), 1.5)).to(device).requires_grad_()
    displacements = torch.from_numpy(recipe.array("irn/losses/dp", (2, 2, 24, 24), 2.0)).to(device).requires_grad_()
    labels = torch.from_numpy(golden["label"]).to(device)
    kinds = pair_labels(labels, 10)
    np.testing.assert_array_equal([kind.sum().item() for kind in kinds], golden["counts"])
    losses = boundary_loss(edge.sigmoid()[:, 0], labels, 10) | displacement_loss(displacements, labels, 10)
    parts = in_official_parts(losses)
    total = losses["loss"] + (losses["displacement_object"] + losses["displacement_background"]) / 2
    np.testing.assert_allclose([*parts, total.item()], golden["losses"], rtol=1e-5)
    total.backward()
    np.testing.assert_allclose(edge.grad.cpu().numpy(), golden["edge_grad"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(displacements.grad.cpu().numpy(), golden["dp_grad"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "radius", "border"), [(6, 9, 4, "official"), (5, 4, 6, "full")])
def test_displacement_losses_one_pair_at_a_time(height, width, radius, border, device):
    field = torch.randn(2, 2, height, width, dtype=torch.float64).float()
    labels = torch.randint(0, 3, (2, height, width), dtype=torch.uint8)
    background, object_, _ = pair_labels(labels, radius, border)
    (offset, place, i, j), _ = oracles.pairs(height, width, radius, border)
    theirs = field.double().requires_grad_()
    flat = theirs.flatten(2)
    steps = torch.stack([j // width - i // width, j % width - i % width]).double()
    difference = flat[..., i] - flat[..., j]
    expected = []
    for kind, wanted in ((object_, steps), (background, 0 * steps)):
        chosen = kind[:, offset, place].double()
        expected.append(((difference - wanted).abs().sum(1) * chosen).sum() / (2 * chosen.sum() + 1e-5))
    ours = field.to(device).requires_grad_()
    found = displacement_loss(ours, labels.to(device), radius, border)
    found = [found["displacement_object"], found["displacement_background"]]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.item(), other.item(), rtol=1e-6)
    (found[0] + 3 * found[1]).backward()
    (expected[0] + 3 * expected[1]).backward()
    torch.testing.assert_close(ours.grad.cpu().double(), theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("height", "width", "radius", "border"),
    [(6, 9, 4, "official"), (10, 20, 10, "official"), (5, 4, 6, "full"), (1, 1, 3, "full")],
)
def test_the_loss_of_boundaries_is_that_of_their_affinities(height, width, radius, border, device):
    labels = torch.tensor([0, 0, 1, 2, 255], dtype=torch.uint8)[torch.randint(0, 5, (3, height, width))]
    values = torch.rand(3, height, width).clamp(0.01, 0.99)
    theirs, ours = values.clone().requires_grad_(), values.to(device).requires_grad_()
    kinds = pair_labels(labels, radius, border)
    expected = affinity_loss(oracles.path_affinities(theirs, radius, border), *kinds)
    found = boundary_loss(ours, labels.to(device), radius, border)
    assert list(found) == list(expected)
    for name, loss in expected.items():
        np.testing.assert_allclose(found[name].item(), loss.item(), rtol=1e-5, err_msg=name)
    weights = torch.tensor([1.0, 0.3, -2.0, 0.7])
    (torch.stack(list(found.values())).cpu() * weights).sum().backward()
    (torch.stack(list(expected.values())) * weights).sum().backward()
    torch.testing.assert_close(ours.grad.cpu(), theirs.grad, rtol=1e-4, atol=1e-6)


def test_losses_on_a_map_that_is_smaller_than_the_radius():
    labels = torch.zeros(1, 6, 30, dtype=torch.uint8)
    for loss, field in ((boundary_loss, torch.rand(1, 6, 30)), (displacement_loss, torch.rand(1, 2, 6, 30))):
        with pytest.raises(InputError, match="6 × 30 features is too small for pairs of radius 10"):
            loss(field, labels, 10)
    with pytest.raises(InputError, match="boundaries hold values below 0 or above 1"):
        boundary_loss(torch.full((1, 9, 9), 1.5), torch.zeros(1, 9, 9, dtype=torch.uint8), 3)


@pytest.mark.parametrize("value", [torch.nan, -torch.nan])
def test_boundaries_that_are_no_numbers_show_in_the_loss(value):
    labels = torch.zeros(1, 9, 9, dtype=torch.uint8)
    assert boundary_loss(torch.full((1, 9, 9), value), labels, 3)["loss"].isnan()


def test_displacements_that_meet_cost_nothing():
    """All cells of a square that point to its centre."""
    y, x = torch.meshgrid(torch.arange(7.0), torch.arange(9.0), indexing="ij")
    labels = torch.ones(1, 7, 9, dtype=torch.uint8)
    losses = displacement_loss(torch.stack([3 - y, 4 - x])[None], labels, 4)
    assert [loss.item() for loss in losses.values()] == [0.0, 0.0]
    losses = displacement_loss(torch.stack([y - 3, 4 - x])[None], labels, 4)
    assert losses["displacement_object"] > 0.5


# ---------------------------------------------------------------------------------------------------------- training


@pytest.mark.slow
def test_three_updates_of_the_official_script():
    golden = recipe.golden("irn/train_irn")
    method, checkpoint = filled("train_irn", learning_rate=0.01)
    started(method, 3)
    for t in range(3):
        images = torch.from_numpy(recipe.array(f"irn/train_irn/x{t}", (2, 3, 96, 96)))
        losses = method.step(batch(images, torch.from_numpy(golden["label"][t])))
        wanted = [golden[f"loss{i}"][t] for i in (1, 2, 3, 4)]
        np.testing.assert_allclose(in_official_parts(losses), wanted, rtol=1e-4)
        np.testing.assert_allclose(losses["loss"].item(), sum(wanted) / 2, rtol=1e-4)
    means = [torch.from_numpy(recipe.array(f"irn/train_irn/m{t}", (2, 3, 96, 96))) for t in range(2)]
    method.centre_displacements(means)
    state, rename = method.network.state_dict(), method.network.official_key
    np.testing.assert_allclose(state["mean_shift.running_mean"].numpy(), golden["running_mean"], rtol=0, atol=1e-3)
    moved = 0
    for key, wanted in zip(map(str, golden["keys"]), golden["delta_norm"], strict=True):
        if key == "mean_shift.running_mean":
            continue
        change = (state[rename(key)].double() - checkpoint[key].double()).norm().item()
        np.testing.assert_allclose(change, wanted, rtol=2e-3, atol=1e-6, err_msg=key)
        moved += change > 0
        if f"new/{key}" in golden:
            new = state[rename(key)].flatten()[:200].numpy()
            np.testing.assert_allclose(new, golden[f"new/{key}"], rtol=2e-4, atol=1e-5)
    assert moved == len(list(method.network.edge_layers.parameters())) + len(
        list(method.network.displacement_layers.parameters())
    )


def test_a_fixed_backbone_gets_no_gradient_and_one_without_weights_is_trained():
    for pretrained in (True, False):
        method = started(small(pretrained=pretrained), 1)
        before = {name: value.clone() for name, value in method.backbone.state_dict().items()}
        labels = torch.zeros(2, 24, 24, dtype=torch.uint8)
        labels[:, 12:] = 1
        method.step(batch(torch.randn(2, 3, 96, 96), labels))
        same = all(torch.equal(value, before[name]) for name, value in method.backbone.state_dict().items())
        assert same == pretrained
        assert any(p.grad is not None for p in method.backbone.parameters()) != pretrained


@pytest.mark.slow
def test_it_learns_where_a_square_ends_without_any_boundary_label():
    images = torch.randn(4, 3, 96, 96) * 0.1
    images[..., 46:] += 1.0
    labels = torch.zeros(4, 24, 24, dtype=torch.uint8)
    labels[..., 12:] = 1
    labels[..., 10:13] = 255
    method = started(small(pretrained=False), 40)
    losses = [method.step(batch(images, labels))["loss"].item() for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
    method.train(False)
    with torch.inference_mode():
        found = method.boundaries(images).mean((0, 1))
    assert 9 <= int(found.argmax()) <= 13
    assert found[:8].max() < found[9:14].max() / 2


# -------------------------------------------------------------------------------------------------- boundaries, walk


@pytest.mark.slow
@pytest.mark.parametrize(("name", "canvas", "size"), [("", 128, (70, 93)), ("_512", 512, (75, 100))])
def test_official_boundaries_and_displacements(name, canvas, size):
    golden = recipe.golden(f"irn/edge_displacement{name}")
    method, _ = filled(f"edge_displacement{name}", canvas=canvas)
    images = torch.from_numpy(recipe.array(f"irn/edge_displacement{name}/x", (1, 3, *size)))
    with torch.inference_mode():
        boundaries, displacements = method.boundaries(images), method.displacements(images)
    np.testing.assert_allclose(boundaries.numpy(), golden["edge"], rtol=0, atol=2e-4)
    error = np.abs(displacements[0].numpy() - golden["dp"]).max()
    assert error < 2e-4 * np.abs(golden["dp"]).max()


def test_official_walk(device):
    golden = {key: torch.from_numpy(value).to(device) for key, value in recipe.golden("irn/propagate").items()}
    edge = golden["edge"]
    (walked,) = small().walk_on(edge, [golden["x"]])
    torch.testing.assert_close(walked, golden["rw"][:, 0], rtol=0, atol=1e-4)
    affinities = path_affinities(edge, 5, "full")[0]
    matrix = oracles.affinity_matrix(affinities, edge.shape[1:], 5, "full")
    np.testing.assert_allclose(matrix.numpy(), golden["affinity"].cpu().numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(matrix.sum(0).numpy(), golden["affinity_sums"].cpu().numpy(), rtol=1e-5)
    assert torch.equal((matrix != 0).sum(0), golden["degree"].cpu())


@pytest.mark.parametrize("size", [(3, 4), (1, 7), (9, 2), (1, 1)])
def test_a_walk_on_a_map_that_is_smaller_than_the_radius(size, device):
    edge, maps = torch.rand(1, *size), torch.rand(2, *size)
    (walked,) = small(walk_steps=16).walk_on(edge.to(device), [maps.to(device)])
    affinities = path_affinities(edge, 5, "full")[0]
    expected = oracles.random_walk(maps * (1 - edge), affinities, 10, 16, 5, "full").float()
    torch.testing.assert_close(walked.cpu(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_official_masks_of_the_whole_last_step():
    golden = recipe.golden("irn/sem_seg")
    method, _ = filled("sem_seg")
    image = method.backbone.normalisation(torch.from_numpy(golden["img"]).permute(2, 0, 1))[None]
    cams, classes = torch.from_numpy(golden["cam"]), torch.from_numpy(golden["cls"])
    size = golden["img"].shape[:2]
    with torch.inference_mode():
        boundaries = method.boundaries(image)
        (exact,) = method.walk_on(torch.from_numpy(golden["edge"]), [cams])
        (walked,) = method.walk(image, [cams])
    np.testing.assert_allclose(boundaries.numpy(), golden["edge"], rtol=0, atol=2e-4)
    np.testing.assert_allclose(exact.numpy(), golden["rw"][:, 0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(walked.numpy(), golden["rw"][:, 0], rtol=0, atol=5e-4)
    mask = cam_label(final_scores(walked, 4, size), classes, Config().background)
    assert (mask.numpy() == golden["pred"]).mean() > 0.995


def test_official_masks_from_given_boundaries():
    golden, image = colour()
    (walked,) = small().walk_on(golden["edge"], [golden["cam"]])
    torch.testing.assert_close(walked, golden["rw"][:, 0], rtol=0, atol=1e-4)
    mask = cam_label(final_scores(walked, 4, image.shape[1:]), golden["keys"], 0.25)
    assert (mask == golden["pred"]).double().mean() > 0.999


def test_official_instances():
    golden = {key: torch.from_numpy(value) for key, value in recipe.golden("irn/instance").items()}
    size = tuple(golden["size"].tolist())
    found = small().instances_on(golden["edge"][0], golden["dp"], golden["cam"], golden["cls"], size)
    assert torch.equal(found.classes, golden["out_class"])
    np.testing.assert_allclose(found.scores.numpy(), golden["score"].numpy(), rtol=0, atol=1e-4)
    shape = golden["mask_shape"].tolist()
    masks = np.unpackbits(golden["mask"].numpy())[: np.prod(shape)].reshape(shape)
    assert (found.masks.numpy() == masks).mean() > 0.995


def test_an_image_without_classes_has_no_instance():
    displacements = torch.randn(2, 6, 7)
    found = small().instances_on(torch.rand(6, 7), displacements, torch.zeros(0, 6, 7), torch.arange(0), (24, 28))
    assert found.masks.shape == (0, 24, 28)


def test_a_batch_is_its_images(device):
    """One image fills one canvas, so that the normalisation sees nothing of the others."""
    method = small()
    method.train(False)
    method.network.to(device)
    images = torch.randn(3, 3, 60, 77, device=device)
    cams = [torch.rand(n, 60, 77, device=device) for n in (2, 0, 1)]
    with torch.inference_mode():
        boundaries = method.boundaries(images)
        alone = torch.cat([method.boundaries(image[None]) for image in images])
        torch.testing.assert_close(boundaries, alone, rtol=1e-4, atol=1e-5)
        together = method.walk_on(boundaries, cams)
        for i in range(3):
            (one,) = method.walk_on(boundaries[i : i + 1], cams[i : i + 1])
            assert one.shape == (len(cams[i]), 15, 20)
            torch.testing.assert_close(together[i], one, rtol=1e-4, atol=1e-6)


def test_no_score_crosses_a_closed_wall():
    wall = torch.zeros(1, 12, 12)
    wall[:, :, 6] = 1
    maps = torch.zeros(1, 12, 12)
    maps[:, 5, 2] = 1
    (walked,) = small().walk_on(wall, [maps])
    assert (walked[..., 6:] == 0).all()
    torch.testing.assert_close(walked[0, :, :6].amin(), walked[0, :, :6].amax(), rtol=0.5, atol=0)
    (blurred,) = small().walk_on(torch.zeros(1, 12, 12), [maps])
    assert (blurred > 0).all()


def test_maps_of_full_size_are_reduced_to_cells():
    edge, maps = torch.rand(1, 9, 12), torch.rand(1, 36, 48)
    cells = torch.nn.functional.interpolate(maps[None], (9, 12), mode="bilinear", align_corners=False)[0]
    (one,), (other,) = small().walk_on(edge, [maps]), small().walk_on(edge, [cells])
    assert torch.equal(one, other)


def test_the_power_of_the_maps():
    edge, maps = torch.rand(1, 9, 12), torch.rand(1, 9, 12)
    (one,), (other,) = small(power=1.3).walk_on(edge, [maps]), small().walk_on(edge, [maps**1.3])
    torch.testing.assert_close(one, other)


def test_images_larger_than_the_canvas_get_a_larger_one():
    method = small(canvas=32)
    method.train(False)
    with torch.inference_mode():
        assert method.boundaries(torch.randn(1, 3, 50, 81)).shape == (1, 13, 21)
        assert method.displacements(torch.randn(1, 3, 10, 81)).shape == (1, 2, 3, 21)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_maps_without_any_score_become_background(count):
    scores = final_scores(torch.zeros(count, 5, 6), 4, (18, 23))
    assert scores.shape == (count, 18, 23)
    assert cam_label(scores, torch.arange(count), 0.25).eq(0).all()


def test_scores_are_divided_by_the_highest_of_all_classes():
    walked = torch.tensor([0.1, 0.4])[:, None, None].expand(2, 3, 3)
    assert torch.equal(final_scores(walked, 4, (9, 12)).amax((1, 2)), torch.tensor([0.25, 1.0]))


@pytest.mark.parametrize("value", [1.5, -0.2, torch.nan])
def test_maps_that_are_no_shares_do_not_walk(value):
    with pytest.raises(InputError, match=r"maps hold negative or non-finite values or values above 1; give maps in"):
        small().walk_on(torch.rand(1, 6, 6), [torch.full((1, 6, 6), value)])


# ---------------------------------------------------------------------------------------------------------- settings


def test_paper_settings():
    config = Config.preset("voc12")
    assert (config.epochs, config.batch_size, config.crop_size, config.radius) == (3, 32, 512, 10)
    assert (config.learning_rate, config.displacement_factor, config.momentum) == (0.1, 10, 1e-4)
    assert (config.object_threshold, config.background_threshold, config.label_confidence) == (0.3, 0.05, 0.7)
    assert (config.walk_radius, config.beta, config.walk_steps, config.background) == (5, 10, 256, 0.25)
    assert (config.canvas, config.border, config.power) == (512, "official", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"background_threshold": 0.4}, "background_threshold is 0.4, more than object_threshold 0.3; make it smaller"),
        ({"object_threshold": 1.2}, r"object_threshold is 1.2; it must lie in \[0, 1\]"),
        ({"background": -0.1}, r"background is -0.1; it must lie in \[0, 1\]"),
        ({"label_confidence": 1.0}, "label_confidence is 1.0; it must lie between 0 and 1"),
        ({"min_scale": 2.0}, "min_scale is 2 and max_scale 1.5; give 0 < min_scale <= max_scale"),
        ({"power": 0.0}, "power is 0.0; it must be above 0"),
        ({"radius": 1}, "radius is 1, which leaves no pairs; give at least 2"),
        ({"walk_radius": 0}, "walk_radius is 0, which leaves no pairs; give at least 2"),
        (
            {"crop_size": 64},
            "radius is 10, too large for crop_size 64, which gives 16 × 16 cells; make it at most 8, or",
        ),
        ({"walk_crf": "paris"}, "CRF preset 'paris' is unknown"),
    ],
)
def test_settings_that_cannot_be_used(changes, message):
    with pytest.raises(InputError, match=rf"^{message}.*\.$"):
        Config.preset("voc12").replace(**changes).check()


def test_the_largest_radius_that_a_crop_allows():
    config = Config.preset("toy").replace(pretrained=False, border="official", crop_size=64, radius=8)
    config.check()
    losses = started(IRN(config, 3), 1).step(batch(torch.randn(1, 3, 64, 64), torch.ones(1, 16, 16, dtype=torch.uint8)))
    assert losses["object"] > 0
    with pytest.raises(InputError, match="radius is 9, too large for crop_size 64"):
        config.replace(radius=9).check()


def test_a_checkpoint_of_another_radius():
    method, checkpoint = filled("irn_net")
    state = checkpoint | {f"path_indices{i}": torch.zeros(3, 2, 4, dtype=torch.int64) for i in range(9)}
    with pytest.raises(InputError, match=r"^irn\.pth was trained with pairs of radius 5, not 10; set the radius"):
        method.load_official(state, "irn.pth")
    other = IRN(dataclasses.replace(method.config, radius=5), 20)
    assert len(other.load_official(state, "irn.pth").loaded) == len(checkpoint)


def test_without_a_displacement_branch():
    method = started(small(displacements=False), 1)
    losses = method.step(batch(torch.randn(1, 3, 96, 96), torch.ones(1, 24, 24, dtype=torch.uint8)))
    assert list(losses) == ["loss", *KINDS]
    method.centre_displacements([torch.randn(1, 3, 96, 96)])
    with pytest.raises(InputError, match="this network has no displacement branch; set displacements to True"):
        method.displacements(torch.randn(1, 3, 96, 96))
