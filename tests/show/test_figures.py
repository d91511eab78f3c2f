"""Pictures: what is drawn, and in which format."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from wsss_lib.show import curves, figures

METHODS = Path(curves.__file__).parents[1] / "methods"
PICTURE = np.full((10, 14, 3), 100, np.uint8)
CAM = np.linspace(0, 1, 140, dtype=np.float32).reshape(10, 14)
HISTORY = [{"epoch": i, "loss": 1 / i, "other_part": 0.5, "learning_rate": 0.1, "seconds": 1.0} for i in (1, 2, 3)]
MASK = np.array([[0, 1, 2], [0, 255, 2]], np.uint8)
CLASSES = ["cat", "dog", "bus"]


def decoded(content, kind):
    picture = Image.open(io.BytesIO(content))
    assert picture.format == kind
    return np.asarray(picture.convert("RGB"))


def all_figures():
    return {
        "grid": (figures.grid([PICTURE, CAM, Image.fromarray(PICTURE)], ["a", "b", "c"], columns=2), 5),
        "one": (figures.grid([PICTURE]), 1),
        "table": (figures.table_of_pictures({"x": [PICTURE, CAM], "y": [CAM, PICTURE]}, ["a", "b"]), 5),
        "training": (figures.training_curve(HISTORY), 1),
        "thresholds": (figures.threshold_curves([0.1, 0.2], {"a": np.array([1, 2])}, marked={"best": 0.2}), 1),
        "intervals": (figures.interval_figure({"a": (1, 0.5, 2), "b": (0, -1, 1)}, "points"), 1),
        "bars": (figures.class_bars(["cat", "dog"], {"a": [0.5, float("nan")], "b": [0.1, 1]}), 1),
        "lying bars": (figures.class_bars([f"class {i}" for i in range(20)], {"a": [0.5] * 20}), 1),
        "legend": (figures.class_legend(["cat", "dog"]), 0),
    }


@pytest.mark.parametrize("name", all_figures())
def test_figures_render_in_one_format(name):
    figure, axes = all_figures()[name]
    assert isinstance(figure, figures.Plot)
    assert len(figure.axes) == axes
    assert decoded(figure.png(), "PNG").std() > 0
    shown = {"PNG": figure._repr_png_(), "JPEG": figure._repr_jpeg_()}
    [(kind, content)] = [(kind, content) for kind, content in shown.items() if content is not None]
    assert kind == ("JPEG" if name in ("grid", "one", "table") else "PNG")
    content, about = content
    assert decoded(content, kind).shape == decoded(figure.png(), "PNG").shape
    assert figure.encoded()[0] == f"image/{kind.lower()}"
    assert decoded(figure.encoded()[1], kind).std() > 0
    assert about == {"alt": figure.alt()}
    assert len(figure.alt()) >= len("1 picture.")


def test_no_figure_is_kept_open():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    all_figures()
    assert pyplot.get_fignums() == before


def test_titles_stand_on_top_and_names_on_the_left():
    figure = figures.table_of_pictures({"x": [PICTURE, CAM], "y": [CAM, PICTURE]}, ["a", "b"])
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "", "", ""]
    assert [axis.get_ylabel() for axis in figure.axes] == ["x", "", "y", "", ""]
    assert {axis.yaxis.label.get_rotation() for axis in figure.axes[:4:2]} == {0}
    assert [axis.get_title() for axis in figures.grid([CAM, CAM], ["a", "b"]).axes] == ["a", "b", ""]


@pytest.mark.parametrize("name", all_figures())
def test_text_is_large_enough_and_lies(name):
    texts = written(all_figures()[name][0])
    assert min((text.get_fontsize() for text in texts), default=9) >= 9
    assert {text.get_rotation() for text in texts} <= {0}


def test_every_loss_has_a_line():
    [axis] = figures.training_curve(HISTORY).axes
    assert {line.get_label(): list(line.get_ydata()) for line in axis.lines} == {
        "loss that is minimised": [1, 0.5, 1 / 3],
        "other part": [0.5, 0.5, 0.5],
    }


def test_probabilities_and_norms_have_axes_of_their_own():
    figure = figures.training_curve([{"epoch": i, "loss": -3.0, "target_seen": 0.9, "gradient": 40.0} for i in (1, 2)])
    assert [axis.get_ylabel() for axis in figure.axes] == ["mean of the epoch", "probability", "norm"]
    assert [len(axis.lines) for axis in figure.axes] == [1, 1, 1]
    assert figure.axes[1].get_ylim() == (0, 1)
    losses, _, norms = (axis.get_ylim() for axis in figure.axes)
    assert losses[0] < -3 < losses[1]
    assert norms[0] == 0 < 40 < norms[1]


def test_curves_do_not_differ_by_colour_alone():
    names = [f"part_{i}" for i in range(9)]
    [axis] = figures.training_curve([{"epoch": i, **dict.fromkeys(names, 0.5)} for i in (1, 2)]).axes
    assert len({(line.get_linestyle(), line.get_marker()) for line in axis.lines}) == 9
    curves = figures.threshold_curves([0.1, 0.2], dict.fromkeys("abc", np.array([1, 2])))
    assert len({(line.get_linestyle(), line.get_marker()) for line in curves.axes[0].lines}) == 3


def test_every_number_of_a_training_has_words():
    """All names that a step of a method returns; a new one gets words in the table."""
    source = "\n".join(path.read_text("utf-8") for path in METHODS.glob("*.py"))
    named = set(re.findall(r'(?:losses|parts|terms)\["(\w+)"\]', source))
    assert named >= {"classification", "suppressed", "ipc", "background"}
    named |= {f"reconstructor_{name}" for name in ("loss", "classification", "whole", "hidden_target", "hidden_rest")}
    parts = named - {"whole", "hidden_target", "hidden_rest"}
    assert parts - curves.CURVES.keys() == set()


def legend(figure):
    """The names in the legend of a figure."""
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def test_masks_have_a_legend_of_the_classes_that_they_show():
    shown = figures.overlay_mask(PICTURE[:2, :3], MASK)
    table = figures.table_of_pictures({"x": [PICTURE, shown]}, ["image", "mask"], classes=CLASSES)
    assert legend(table) == ["cat", "dog", "no decision"]
    assert legend(figures.grid([shown[:, :2]], classes=CLASSES)) == ["cat", "dog", "no decision"]
    colours = [patch.get_facecolor()[:3] for patch in table.legends[0].get_patches()]
    np.testing.assert_allclose(colours, figures.colour_mask(np.array([1, 2, 255])) / 255)
    for figure in (figures.grid([shown]), figures.grid([PICTURE], classes=CLASSES), figures.grid([shown], classes=[])):
        assert "cat" not in legend(figure)


def bars(figure):
    """The ends of the colour bars of a figure."""
    return [axis.get_ylim() for axis in figure.axes if axis.get_label() == "<colorbar>"]


def test_heat_and_signed_maps_have_a_bar():
    assert bars(figures.grid([PICTURE])) == []
    for heat in (CAM, figures.overlay(PICTURE, CAM), figures.overlay(PICTURE, CAM)[:3]):
        assert bars(figures.grid([PICTURE, heat])) == [(0, 1)]
    signed = figures.signed_map(CAM * 8 - 2)
    assert bars(figures.table_of_pictures({"x": [PICTURE, signed]}, ["a", "b"])) == [(-6, 6)]
    both = figures.grid([signed, CAM])
    assert bars(both) == [(0, 1), (-6, 6)]
    assert {"-6", "0", "+6", "1"} <= {text.get_text() for text in written(both)}
    assert "+largest" in {text.get_text() for text in written(figures.grid([signed, figures.signed_map(CAM)]))}


def test_a_bar_does_not_make_the_pictures_smaller():
    def width(figure):
        figure.png()
        return figure.axes[0].get_window_extent().width

    assert width(figures.grid([PICTURE, CAM])) == pytest.approx(width(figures.grid([PICTURE, PICTURE])), rel=0.03)


def test_a_figure_says_in_words_what_it_shows():
    shown = figures.overlay_mask(PICTURE[:2, :3], MASK)
    table = figures.table_of_pictures({"cat (a)": [CAM, shown]}, ["map", "mask"], classes=CLASSES)
    assert table.alt() == (
        "Pictures. Columns: map; mask. Rows: cat (a). Heat from 0 (black) to 1 (light yellow). "
        "Colours: cat, dog, no decision."
    )
    assert figures.grid([PICTURE], ["a\nb"]).alt() == "1 picture: a b."
    assert figures.training_curve(HISTORY).alt() == (
        "Curves over the epochs of a training: loss that is minimised, other part."
    )
    drawn = figures.Plot()
    axis = drawn.subplots()
    axis.plot([0, 1], label="line")
    axis.set(title="title", xlabel="x", ylabel="y")
    axis.legend()
    assert drawn.alt() == "Figure: title. Axes: y over x. Legend: line."
    assert figures.Plot().alt() == "Figure"


def test_maps_are_shown_on_a_fixed_scale():
    axis, _ = figures.grid([CAM / 2]).axes
    assert axis.images[0].get_clim() == (0, 1)


def test_colours_of_masks():
    mask = np.array([[0, 1, 2, 15, 255]], np.uint8)
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128), (224, 224, 192)]
    assert [tuple(pixel) for pixel in figures.colour_mask(mask)[0]] == expected


def test_colours_over_an_image():
    picture = np.full((1, 3, 3), 100, np.uint8)
    mask = np.array([[0, 1, 255]], np.uint8)
    half = figures.overlay_mask(Image.fromarray(picture), mask, 0.5)
    assert half.dtype == np.uint8
    assert [tuple(pixel) for pixel in half[0]] == [(100, 100, 100), (114, 50, 50), (162, 162, 146)]
    np.testing.assert_array_equal(figures.overlay_mask(picture, mask, 0.0), picture)
    np.testing.assert_array_equal(figures.overlay_mask(picture, mask, 1.0)[0, 1:], figures.colour_mask(mask)[0, 1:])


def test_heat_over_an_image():
    np.testing.assert_array_equal(figures.overlay(PICTURE, CAM, 0.0), PICTURE)
    hot = figures.overlay(PICTURE, CAM, 1.0).astype(int)
    assert hot[0, 0].sum() < 20  # inferno begins black and ends light yellow
    assert hot[-1, -1].sum() > 600
    np.testing.assert_array_equal(
        figures.overlay(PICTURE, CAM * 0 + 9, 1.0), figures.overlay(PICTURE, CAM * 0 + 1, 1.0)
    )


NAMES = [r"a$\b$c", "$", r"x\$y$", 200 * "n", "_hidden", "\udcff"]
"""Names of classes that are not formulas, too long, hidden from a legend, or not UTF-8."""


def written(figure):
    """All that is written in a figure once it is drawn."""
    figure.png()
    return [text for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_written_letter_by_letter_and_not_too_long(name):
    seen = figures.shortened(name)
    for figure in (figures.grid([PICTURE], [name]), figures.table_of_pictures({name: [PICTURE]}, [name])):
        texts = written(figure)
        assert seen in [text.get_text().replace("\n", "") for text in texts]
        assert not any(text.get_parse_math() for text in texts)
        assert decoded(figure.png(), "PNG").shape[1] < 800
    assert len(seen) <= 60
    assert (seen == name) is (name in NAMES[:3] or name == "_hidden")
    short = figures.shortened(name, 20)
    for figure in (figures.class_legend([name, "b"]), figures.class_bars([name, "b"], {"IoU": [0.5, 0.2]})):
        texts = written(figure)
        assert short in [text.get_text().replace("\n", "") for text in texts]
        assert not any(text.get_parse_math() for text in texts)


def test_long_lines_lose_their_middle():
    assert figures.shortened("0123456789", 6) == "012…89"
    assert figures.shortened("error 1.5\ninstead of 2.5", 12) == "error 1.5\ninstead… 2.5"


def test_an_empty_list_of_pictures_gives_a_figure():
    for figure in (figures.grid([]), figures.grid([], []), figures.table_of_pictures({}, ["image"])):
        assert [text.get_text() for text in written(figure)] == ["no picture to show"]


@pytest.mark.parametrize("values", [[[-2.0, 0.0, 1.0, 2.0]], [[0.0, 0.0]]])
def test_a_signed_map_shows_where_zero_is(values):
    values = np.array(values)
    red, _, blue = (figures.signed_map(values)[..., i].astype(int) for i in range(3))
    assert (np.sign(np.fix((red - blue) / 5)) == np.sign(values)).all()  # nearly white may have a tint
    assert figures.signed_map(values)[values == 0].min() > 240


def test_a_signed_map_uses_one_scale_for_both_signs():
    weak, strong = figures.signed_map(np.array([[-1.0, 4.0]]))[0].astype(int)
    assert weak.min() > strong.min()


def test_in_a_signed_map_zero_is_white_and_a_weak_sign_is_seen():
    zero, weak = figures.signed_map(np.array([[0.0, -1.0, 20.0]]))[0, :2].astype(int)
    assert zero.tolist() == [255, 255, 255]
    assert weak[2] - weak[0] > 30
