"""The shell commands for maps that other code made, such as score, refine and compare, with their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss_lib.errors import InputError, printable

if TYPE_CHECKING:
    from wsss_lib.exchange.maps import MapSet
    from wsss_lib.use.train_on_maps import Source

Add = Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]
"""A function that makes the parser of a command from its name, its function, a short and a long explanation."""

_FORMS = """\
MAPS is a folder of maps: .npy files as psa, SEAM, OC-CSE, MCTformer and PCSS write them ({class: map}), or as IRN does
(keys, cam, high_res), or with arrays; .npz files of this library; heat maps <id>_<class>.png; or label maps <id>.png.
The command finds out the form and prints it. PICTURES is the folder of the pictures.
"""

_SCORE = f"""\
Score maps with masks: the mean at all background thresholds in one pass, and each class at one threshold.

{_FORMS}"""

_REFINE = f"""\
Sharpen maps along the edges of their pictures with a dense CRF, and write masks: OUT/crf-ALPHA/<id>.png. With --masks
the masks are scored, too. If the command was stopped, the same command continues.

{_FORMS}"""

_COMPARE = f"""\
Compare two or more sets of maps over the pictures that all sets have: differences of the mean IoU, with the intervals
that hold 95 % of the differences if pictures are drawn at random again and again (the bootstrap).

{_FORMS}"""

_CHOOSE = f"""\
Print the background thresholds, and the powers (alphas) of the background in a CRF, that several ways choose from maps
and pictures, without any mask. Beside each value stands the regret of the way: how many points of mean IoU it lost
against the best choice in the measurements of docs/choices.md, on average and at most.

{_FORMS}"""

_TRUST = f"""\
Rank pictures by how far their masks can be trusted, without any true mask: by the agreement (mean IoU) of each mask
with what IRN's CRF makes of it, over the number of classes in the picture. The trust ranks pictures; it is not an
estimate of their IoU. On some maps it does not even rank, see docs/how_good.md: with --masks, of a few pictures, the
command compares trust and true IoU. It writes OUT/trust.csv, and the masks of the CRF, OUT/hard-THRESHOLD/<id>.png. If
the command was stopped, the same command continues.

{_FORMS}"""

_SUGGEST = f"""\
Choose N pictures at random whose masks are to be drawn, and write them with their probabilities to a file. No mask is
needed. Draw the masks of all of them, and give them to `wsss estimate`. docs/how_good.md says how exact the estimate
is.

{_FORMS}"""

_ESTIMATE = f"""\
Estimate the mean IoU of all maps, with a 95 % interval, from the masks of the pictures that `wsss suggest` has chosen.
The maps may be others than those that the pictures were chosen with.

{_FORMS}"""

_CONVERT = f"""\
Write maps in another form: npy (for psa, SEAM and OC-CSE), irn (for IRN), pictures, or masks; or write masks as coco
(an instances JSON) or voc (the archive for VOC's test server).

{_FORMS}"""

_WALK = f"""\
Train AffinityNet on maps, or use the authors' network (checkpoint=FILE). Then apply the random walk to the maps, and
write masks, OUT/walk/masks/walk-crf/. name=value are the parameters of `wsss run affinitynet`, such as preset=voc12;
they stand before the options. With method=irn the same is done by IRN, with the parameters of `wsss run irn`; its masks
are OUT/walk-irn/masks/walk/, and walk-crf/ beside it.

{_FORMS}PICTURES may also be a folder in VOC's or COCO's layout or one with a labels.csv.
"""

_SEGMENT = f"""\
Train the final network on the masks that maps give after a CRF, or on label maps as they are. name=value are preset,
seed and the like, and parameters of the network, such as final.epochs=3; they stand before the options. `wsss save`
writes the result to a model file.

{_FORMS}PICTURES may also be a folder in VOC's or COCO's layout or one with a labels.csv.
"""

_SBD = """\
Write the missing masks of VOC2012/SegmentationClassAug: VOC's own mask if there is one, otherwise SBD's. These masks
are for upper bounds and scores only.
"""

NAMES = ("score", "refine", "walk", "segment", "compare", "choose", "trust", "suggest", "estimate", "convert", "sbd")
"""The commands of this file."""


def add(command: Add) -> None:
    """Add the commands of this file.

    Args:
        command: Function that adds one command and returns its parser.
    """
    one = command("score", _score, "score maps of any repository", _SCORE)
    _add_maps(one)
    _add_masks(one, required=True)
    _add_threshold(one)
    one.add_argument(
        "--crf", type=Path, metavar="OUT", help="also refine the maps, write the masks to this folder, and score them"
    )
    _add_crf(one)
    one.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file, with the whole curve")

    one = command("refine", _refine, "maps of any repository in, masks after a CRF out", _REFINE)
    _add_maps(one)
    one.add_argument("--out", type=Path, required=True, metavar="OUT", help="where the masks go")
    _add_masks(one)
    _add_crf(one)

    for name, do, about, text in (
        ("walk", _walk, "AffinityNet or IRN, and the random walk on maps of any repository", _WALK),
        ("segment", _segment, "the final network, trained on maps of any repository", _SEGMENT),
    ):
        one = command(name, do, about, text)
        _add_maps(one)
        one.add_argument("words", nargs="*", metavar="name=value", help="parameters (see above)")
        one.add_argument("--out", type=Path, required=True, metavar="OUT", help="where the results go")
        one.add_argument("--masks", type=Path, metavar="FOLDER", help="true masks, for scores only")

    one = command("compare", _compare, "differences between sets of maps, with intervals", _COMPARE)
    one.add_argument("maps", nargs="+", metavar="MAPS", help="folders of maps, two or more, then the pictures")
    one.add_argument("pictures", type=Path, metavar="PICTURES", help="folder of the pictures")
    _add_reading(one)
    _add_masks(one, required=True)
    _add_threshold(one)
    one.add_argument(
        "--repetitions", type=int, default=1000, metavar="N", help="repetitions of the bootstrap (default: 1000)"
    )
    one.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of the bootstrap (default: 0)")
    one.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file")

    one = command("choose", _choose, "thresholds and alphas chosen without masks", _CHOOSE)
    _add_maps(one)
    one.add_argument("--other", type=Path, metavar="MAPS", help="further maps of the pictures, for their agreement")
    one.add_argument("--sample", type=int, default=50, metavar="N", help="pictures that get a CRF (default: 50)")
    one.set_defaults(masks=None, mask_values="")

    one = command("trust", _trust, "which masks to look at first, without true masks", _TRUST)
    _add_maps(one)
    one.add_argument("--out", type=Path, required=True, metavar="OUT", help="where the results go")
    _add_masks(one)
    one.add_argument("--threshold", type=float, default=0.2, metavar="T", help="background score (default: 0.2)")
    one.add_argument("--show", type=int, default=10, metavar="N", help="pictures that are printed (default: 10)")
    _add_workers(one)

    one = command("suggest", _suggest, "pictures whose masks are worth drawing", _SUGGEST)
    one.add_argument("count", type=int, metavar="N", help="number of pictures")
    _add_maps(one)
    one.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file, *.json")
    one.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of the choice (default: 0)")
    one.set_defaults(masks=None, mask_values="")

    one = command("estimate", _estimate, "the mean IoU of all pictures from a few drawn masks", _ESTIMATE)
    _add_maps(one)
    _add_masks(one, required=True)
    one.add_argument("--suggested", type=Path, required=True, metavar="FILE", help="the file that suggest has written")
    one.add_argument("--threshold", type=float, default=0.2, metavar="T", help="background score (default: 0.2)")
    one.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file")

    one = command("convert", _convert, "maps of any repository in another form", _CONVERT)
    _add_maps(one)
    one.add_argument("--out", type=Path, required=True, metavar="OUT", help="where the results go")
    one.add_argument("--to", required=True, metavar="FORM", help="npy, irn, pictures, masks, coco or voc")
    one.add_argument(
        "--threshold", type=float, default=0.2, metavar="T", help="background score of masks (default: 0.2)"
    )
    one.add_argument("--half", action="store_true", help="float16 in .npy files; most other code expects float32")
    one.add_argument("--bits", type=int, default=8, metavar="8|16", help="bits per pixel of pictures (default: 8)")
    one.add_argument(
        "--competition", default="comp6", metavar="comp5|comp6", help="competition on VOC's server (default: comp6)"
    )
    one.set_defaults(masks=None, mask_values="")

    one = command("sbd", _sbd, "SBD's MATLAB files in, SegmentationClassAug out", _SBD)
    one.add_argument("sbd", type=Path, metavar="SBD", help="folder of SBD, with cls")
    one.add_argument("voc", type=Path, metavar="VOC2012", help="folder of VOC 2012, with SegmentationClass")


def _add_maps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("maps", type=Path, metavar="MAPS", help="folder of the maps")
    parser.add_argument("pictures", type=Path, metavar="PICTURES", help="folder of the pictures")
    _add_reading(parser)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--classes", default="voc", metavar="voc|coco|FILE", help="names, one per line (default: voc)")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="image-level labels, .npy or .txt (default: the classes with maps)"
    )
    parser.add_argument("--ids", type=Path, metavar="FILE", help="list of the pictures that are wanted")
    parser.add_argument(
        "--numbering",
        default="auto",
        metavar="auto|0|1|background",
        help="number of the first class, or 0 is the background (default: recognised)",
    )
    parser.add_argument("--normalise", action="store_true", help="rectify every map and divide it by its maximum")
    parser.add_argument("--stretch", action="store_true", help="stretch maps of any size over their picture")


def _add_masks(parser: argparse.ArgumentParser, required: bool = False) -> None:
    parser.add_argument("--masks", type=Path, required=required, metavar="FOLDER", help="true masks, for scores only")
    parser.add_argument("--mask-values", default="", metavar="0:0,255:1", help="meaning of the values in the masks")


def _add_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold",
        default="fixed",
        metavar="fixed|best|NUMBER|FILE",
        help="background score: fixed is 0.2; best is the best on these masks; a number; or a file that lists "
        "pictures, on which the best is chosen, and which are then not scored (default: fixed)",
    )


def _add_crf(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="psa", metavar="NAME", help="settings of the CRF: psa, irn or deeplab")
    parser.add_argument("--alphas", default="", metavar="4,16", help="powers of the background (default: 8)")
    parser.add_argument("--hard", type=float, metavar="THRESHOLD", help="labels at this threshold instead of alphas")
    parser.add_argument(
        "--confidence",
        type=float,
        default=0.7,
        metavar="P",
        help="probability that such a label is right (default: 0.7)",
    )
    _add_workers(parser)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=-1, metavar="N", help="processes (default: one for each core)")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda", help="device of the CRF (default: auto)")


# --------------------------------------------------------------------------------------------------------- the commands


def _open(options: argparse.Namespace, maps: str | Path) -> MapSet:
    from wsss_lib.exchange.maps import open_maps

    found = open_maps(
        maps,
        options.pictures,
        options.masks,
        options.labels,
        options.classes,
        options.ids,
        options.numbering,
        options.normalise,
        options.stretch,
        options.mask_values,
    )
    print(printable(found.said))
    return found


def _score(options: argparse.Namespace) -> int:
    from wsss_lib.results.choose import MEASURED
    from wsss_lib.use.on_maps import score_maps

    one = _open(options, options.maps)
    found = score_maps(one, options.threshold)
    summary = found.summary()
    print(_score_table({f"threshold {found.threshold:.2f}, {found.chosen}": summary}))
    print(_class_table(summary))
    if found.chosen == "fixed":
        average, greatest = MEASURED["threshold"]["fixed"]
        print(
            f"In docs/choices.md the fixed threshold lost {average:.1f} points of mean IoU on average and "
            f"{greatest:.1f} at most."
        )
    results = {"maps": summary, "images": len(one.data.masked), "said": one.said}
    if options.crf is not None:
        results["refined"] = _refined(options, one, options.crf)
    _write(options.json, results)
    return 0


def _refine(options: argparse.Namespace) -> int:
    _refined(options, _open(options, options.maps), options.out)
    return 0


def _refined(options: argparse.Namespace, one: MapSet, out: Path) -> dict[str, dict[str, Any]]:
    from wsss_lib.runs.report import FIXED_ALPHA
    from wsss_lib.use.on_maps import refine_maps, score_refined

    try:
        alphas = [float(alpha) for alpha in options.alphas.split(",")] if options.alphas else [FIXED_ALPHA]
    except ValueError:
        raise InputError(f"alphas {options.alphas!r} are not numbers; give them with commas, such as 4,16.") from None
    stores = refine_maps(
        one, out, options.preset, alphas, options.hard, options.confidence, options.workers, options.device
    )
    scores = score_refined(one, stores)
    if scores:
        print(_score_table(scores))
    for store in stores.values():
        print(f"{len(one.data)} masks in {printable(store.folder)}")
    return scores


def _walk(options: argparse.Namespace) -> int:
    from wsss_lib.use.train_on_maps import walk_maps

    run = walk_maps(_source(options), options.out, options.words)
    for split, results in _results(run.folder, "refinements").items():
        print(f"scores of {split}:\n{_score_table(results)}")
    print(f"masks in {printable(run.folder / 'masks')}")
    return 0


def _segment(options: argparse.Namespace) -> int:
    from wsss_lib.use.train_on_maps import segment_maps

    run = segment_maps(_source(options), options.out, options.words)
    for split, results in _results(run.folder, "masks").items():
        print(f"scores of {split}:\n{_score_table(results)}")
    print(f"final network in {printable(run.folder)}; write it to a file with wsss save")
    return 0


def _source(options: argparse.Namespace) -> Source:
    from wsss_lib.use.train_on_maps import Source

    return Source(**{name: getattr(options, name) for name in Source.__dataclass_fields__})


def _results(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Return the scores by split in a run's ``metrics.json``."""
    from wsss_lib.stages.store import read_json

    return read_json(folder / "metrics.json").get(name, {})


def _compare(options: argparse.Namespace) -> int:
    from wsss_lib.show.tables import markdown_table
    from wsss_lib.use.on_maps import compare_maps

    sets = [_open(options, maps) for maps in options.maps]
    found = compare_maps(sets, options.threshold, options.repetitions, options.seed)
    for name, threshold in found.thresholds.items():
        print(f"{printable(name)}: threshold {threshold:.2f}, {found.chosen}")
    rows = []
    for pair in found.differences:
        low, high = (f"{100 * end:+.2f}" for end in pair.interval)
        scores = [f"{100 * score:.2f}" for score in pair.mean_iou]
        better = f"{100 * pair.better:.0f}"
        rows.append([*pair.names, *scores, f"{100 * pair.difference:+.2f}", f"{low} to {high}", better])
    head = ["one", "other", "mIoU % one", "mIoU % other", "difference", "95 % interval", "% of pictures better"]
    print(markdown_table(head, rows))
    print(f"{found.differences[0].images} pictures, {options.repetitions} repetitions, seed {options.seed}")
    _write(options.json, found.to_dict())
    return 0


def _choose(options: argparse.Namespace) -> int:
    from wsss_lib.exchange.maps import shared
    from wsss_lib.results.choose import NOTE, candidates
    from wsss_lib.show.tables import markdown_table

    if options.sample < 1:
        raise InputError(f"sample {options.sample} is out of range; give a number of pictures of at least 1.")
    sets = [_open(options, options.maps)]
    if options.other is not None:
        sets = shared([*sets, _open(options, options.other)])
    found = candidates(sets[0].store, sets[0].data, sets[1].store if sets[1:] else None, options.sample)
    for of, digits in (("threshold", 2), ("alpha", 0)):
        rows = [
            [one.name, f"{one.value:.{digits}f}", *(f"{regret:.1f}" for regret in one.regrets)]
            for one in sorted(found, key=lambda one: one.regrets)
            if one.of == of
        ]
        print(markdown_table([f"{of} chosen by", of, "mean regret", "greatest regret"], rows), end="\n\n")
    print(NOTE)
    return 0


def _trust(options: argparse.Namespace) -> int:
    from wsss_lib.show.tables import markdown_table
    from wsss_lib.use.how_good import check_trust, trust_maps

    one = _open(options, options.maps)
    found = trust_maps(one, options.out, options.threshold, options.workers, options.device)
    rows = [[printable(i), f"{value:.3f}"] for i, value in zip(found.ids, found.trust.tolist(), strict=True)]
    print(markdown_table(["least trusted", "trust"], [row for row in rows if row[1] != "nan"][: max(0, options.show)]))
    if one.data.masked:
        check = check_trust(one, found, options.threshold)
        lines = [[f"{part.trust:.3f}", f"{part.iou:.3f}", str(part.pictures)] for part in check.curve]
        print(markdown_table(["mean trust", "mean IoU", "pictures"], lines))
        known = check.correlation == check.correlation
        correlation = f"{check.correlation:.2f}" if known else "unknown (fewer than three pictures, or equal values)"
        print(f"rank correlation of trust and IoU: {correlation}, {check.pictures} pictures")
    print(f"all pictures in {printable(options.out / 'trust.csv')}")
    return 0


def _suggest(options: argparse.Namespace) -> int:
    from wsss_lib.results.suggest import read_suggestion
    from wsss_lib.stages.store import write_json
    from wsss_lib.use.how_good import suggest_maps

    if options.out.suffix != ".json":
        raise InputError(f"out {options.out} must end with .json; give it such a name.")
    found = suggest_maps(_open(options, options.maps), options.count, options.seed)
    if options.out.exists() and read_suggestion(options.out) != found:
        raise InputError(
            f"out {options.out} has another suggestion, whose masks may have been drawn already; give another file, or "
            "remove this one."
        )
    write_json(options.out, found.to_dict())
    for image_id in found.drawn:
        print(printable(image_id))
    print(f"{len(found.drawn)} of {found.pictures} pictures, with their probabilities in {printable(options.out)}")
    return 0


def _estimate(options: argparse.Namespace) -> int:
    from wsss_lib.results.suggest import read_suggestion
    from wsss_lib.show.tables import markdown_table
    from wsss_lib.use.how_good import estimate_maps

    suggestion = read_suggestion(options.suggested)
    one = _open(options, options.maps)
    found = estimate_maps(one, suggestion, options.threshold)
    rows = [[name, f"{100 * iou:.1f}"] for name, iou in zip(("background", *one.data.classes), found.iou, strict=True)]
    print(markdown_table(["class", "IoU %, estimated"], [row for row in rows if row[1] != "nan"]))
    low, high = (f"{100 * end:.1f}" for end in found.interval)
    print(f"mIoU % of {found.pictures} pictures, estimated from {found.drawn} masks: {100 * found.mean_iou:.1f}")
    print(f"95 % interval: {low} to {high}")
    if absent := [row[0] for row in rows if row[1] == "nan"]:
        print(f"left out, as no drawn picture shows them: {', '.join(absent)}")
    _write(options.json, asdict(found))
    return 0


def _convert(options: argparse.Namespace) -> int:
    from wsss_lib.use.on_maps import convert_maps

    one = _open(options, options.maps)
    made = convert_maps(
        one, options.out, options.to, options.threshold, options.half, options.bits, options.competition
    )
    print(f"{len(one.data)} pictures in {printable(made)}")
    return 0


def _sbd(options: argparse.Namespace) -> int:
    from wsss_lib.exchange.sbd import make_sbd_masks

    made, kept = make_sbd_masks(options.sbd, options.voc)
    print(f"{made} masks made, {kept} were there already, in {printable(options.voc / 'SegmentationClassAug')}")
    return 0


def _score_table(rows: dict[str, dict[str, Any]]) -> str:
    from wsss_lib.show.tables import markdown_table

    lines = [
        [name, *(f"{100 * row[f'mean_{column}']:.2f}" for column in ("iou", "precision", "recall"))]
        for name, row in rows.items()
    ]
    return markdown_table(["", "mIoU %", "precision %", "recall %"], lines)


def _class_table(summary: dict[str, Any]) -> str:
    from wsss_lib.show.tables import markdown_table

    lines = [
        [name, *(f"{100 * row[column]:.1f}" for column in ("iou", "precision", "recall"))]
        for name, row in summary["classes"].items()
    ]
    return markdown_table(["class", "IoU %", "precision %", "recall %"], lines)


def _write(path: Path | None, results: dict[str, Any]) -> None:
    from wsss_lib.stages.store import write_json

    if path is not None:
        write_json(path, results)
        print(f"all numbers in {printable(path)}")
