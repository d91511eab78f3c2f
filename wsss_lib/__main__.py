"""The commands of the shell: ``wsss ...`` or ``python -m wsss_lib ...``.

One stage of an existing run, for several processes, has no command's name:
``torchrun --nproc-per-node 8 -m wsss_lib FOLDER train``, or ``srun --ntasks 8 python -m wsss_lib FOLDER train``.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NoReturn

from wsss_lib.errors import InputError, ProcessError, printable
from wsss_lib.runs.folder import holds_run
from wsss_lib.runs.kinds import reopen
from wsss_lib.stages.agent import end_with_launcher, report
from wsss_lib.use import map_commands

if TYPE_CHECKING:
    from wsss_lib.use.predict import Summary

_DESCRIPTION = """\
Masks of objects from image-level labels alone.

  wsss fit my_pictures                              train on labelled pictures, to the final network
  wsss doubt my_pictures                            labels that are perhaps wrong, before training
  wsss predict MODEL new_pictures --out masks       masks of pictures without labels
  wsss export MODEL network.onnx                    the network for programs without PyTorch
  wsss report RUN                                   one HTML page about a run
  wsss score MAPS PICTURES --masks FOLDER           scores of maps that other code made
"""

_STAGES = """\
One stage of an existing run, alone or in several processes that torchrun or srun starts:

  python -m wsss_lib FOLDER train                   the others: infer SPLIT, refine REFINEMENT SPLIT, label
  torchrun --nproc-per-node 8 -m wsss_lib FOLDER train

`wsss COMMAND --help` explains a command. If a command was stopped, the same command continues.
For wrong input, a command prints one sentence and ends with the exit status 1.
"""

_FIT = """\
Train METHOD (method=cam unless you say otherwise) on labelled pictures, make masks of the pictures with it, train a
segmentation network on the masks, score what can be scored, and write the network to one file, the model.

PICTURES is a folder with images/ and labels.csv (first line image,labels; then a line such as cat_01.jpg,cat;sofa for
each picture), or a folder in VOC's layout. The run is the one that the notebook of the method makes, in the same folder
under runs/, and continues after a stop.
"""

_RUN = """\
Train a method, make its maps and masks, and score them: the run of the method's notebook without the notebook, and
without the final network, which `fit` adds. The method irn_cam, the classifier whose maps IRN refines, has no
notebook; its parameters are those of cam.
"""

_DOUBT = """\
List the labels of pictures that are perhaps wrong, the most doubtful first: labels that seem to be missing, and labels
that seem to be superfluous. Classifiers learn from the features of a pre-trained network, and each picture is judged by
classifiers that have not seen it (cross-validation). Needs the package cleanlab. docs/label_doubts.md says how many
wrong labels the first lines held in our measurements; every line is a suspicion that somebody must look at.

PICTURES is a folder as for `wsss fit`; of a split, the pictures that would be trained on are judged. The results go to
OUT (out=FOLDER, by default runs/doubts/PRESET): doubts.csv, with the picture, the class, the given label and the
probability of the class in each line, and doubts.png, the pictures of the first lines of each kind.
"""

_PREDICT = """\
Write masks of pictures: a palette PNG for each picture, with its name and its size; a table, predictions.csv, with the
classes of every picture, their share of the area and the model's confidence in them; and predictions.json, with the
model and the options. Masks that the same model has made with the same options stay as they are.
"""


_EXPORT = """\
Write the network of a model for programs without wsss_lib: 8-bit RGB pixels of any size in, probabilities and labels
out. FILE ends with .onnx, which needs the packages onnx and onnxruntime, or with .pt2, for torch.export. It is written
only if its outputs are those of the model in PyTorch.
"""

_REPORT = """\
Write one HTML page about a run, finished or not: settings, data and what is doubtful about them, training curves,
scores and how each threshold was chosen, best, median and worst pictures, times, and the limits of the numbers. The
page needs no other file and no network connection.
"""

_FOLLOW = """\
Print a table of the CAM seeds of every network that a run has kept after its epochs (keep_epochs=True): their mean IoU
on a sample of the pictures with masks. The run may still be in training. Then say how much choosing the best epoch on
the scored masks would add to the score of the last one.
"""

_LEADERBOARD = """\
Collect finished runs of one method with different random seeds into one file, leaderboard/NAME.json, with counts of
every picture, or write the page of all entries: means, spread, and paired differences to the controls with intervals.

  wsss leaderboard add runs/mine-0 runs/mine-1 --name mine --control cam
  wsss leaderboard page
"""


class _Parser(argparse.ArgumentParser):
    """A parser that says in one sentence what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Raise what :func:`main` prints."""
        raise InputError(f"{message}; `{self.prog} --help` explains the command.")


def _parser(wanted: str = "") -> argparse.ArgumentParser:
    """Return the parser of the commands; only the wanted one explains its parameters, for which methods are loaded."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="wsss", description=_DESCRIPTION, epilog=_STAGES, formatter_class=raw)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, do: Callable[[argparse.Namespace], int], about: str, text: str) -> argparse.ArgumentParser:
        epilog = _explained(name) if name == wanted and name in ("fit", "run", "doubt") else None
        one = commands.add_parser(name, help=about, description=text, epilog=epilog, formatter_class=raw)
        one.set_defaults(do=do)
        return one

    one = command("fit", _fit, "labelled pictures in, a model file out", _FIT)
    one.add_argument(
        "words", nargs="+", metavar="PICTURES [name=value]", help="the folder, then parameters (see below)"
    )
    one.add_argument("--model", type=Path, metavar="FILE", help="the model file, by default in the folder of the run")

    one = command("run", _run, "a method's maps and masks, without the final network", _RUN)
    one.add_argument("method", metavar="METHOD", help="name of the method, such as cam (see below)")
    one.add_argument("words", nargs="*", metavar="name=value", help="parameters (see below)")

    one = command("doubt", _doubt, "labels that are perhaps wrong, the most doubtful first", _DOUBT)
    one.add_argument(
        "words", nargs="+", metavar="PICTURES [name=value]", help="the folder, then parameters (see below)"
    )

    one = command("predict", _predict, "a model file and pictures in, masks out", _PREDICT)
    one.add_argument("model", type=Path, metavar="MODEL", help="model file; with --maps the folder of a run")
    one.add_argument(
        "pictures", nargs="+", type=Path, metavar="PICTURES", help="pictures, folders, or .txt files that list pictures"
    )
    one.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the results go")
    one.add_argument(
        "--overlay",
        nargs="?",
        const="jpg",
        default="",
        choices=("jpg", "png"),
        help="also write the masks over the pictures, overlays/NAME.jpg; with --maps the maps, overlays/NAME.png",
    )
    one.add_argument("--scores", action="store_true", help="also write the probabilities, scores/NAME.npz")
    one.add_argument("--classes", metavar="A,B", help="only these classes may be found; with --maps the maps of these")
    one.add_argument("--scales", metavar="0.75,1", help="sizes at which a picture is looked at (default: the model's)")
    one.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="look at the mirror image, too, or do not (default: as the model was scored); without, twice as fast",
    )
    one.add_argument("--crf", action="store_true", help="refine the masks along edges with a dense CRF; slower")
    one.add_argument("--device", default="auto", metavar="auto|cpu|cuda", help="where it is computed (default: auto)")
    one.add_argument("--precision", default="32-true", metavar="32-true|bf16-mixed|16-mixed", help="default: 32-true")
    one.add_argument("--maps", action="store_true", help="write the class activation maps of a run instead of masks")

    map_commands.add(command)

    one = command("save", _save, "write the final network of a run to a model file", "Write the model file of a run.")
    one.add_argument("folder", type=Path, metavar="RUN", help="folder of a run that has a final network")
    one.add_argument("file", type=Path, metavar="FILE", help="the model file, *.safetensors")

    one = command("export", _export, "write a model for other programs", _EXPORT)
    one.add_argument("model", type=Path, metavar="MODEL", help="model file")
    one.add_argument("file", type=Path, metavar="FILE", help="the file, *.onnx or *.pt2")

    one = command("report", _report, "one HTML page about a run", _REPORT)
    one.add_argument("folder", type=Path, metavar="RUN", help="folder of a run")
    one.add_argument(
        "--out", type=Path, metavar="FILE", help="the page, by default report.html in the folder of the run"
    )

    one = command("follow", _follow, "scores of a run's networks after each epoch", _FOLLOW)
    one.add_argument("folder", type=Path, metavar="RUN", help="folder of a run with keep_epochs=True")
    one.add_argument(
        "--sample",
        type=int,
        default=100,
        metavar="N",
        help="pictures of each split that are scored, evenly spaced; 0 for all (default: 100)",
    )
    one.add_argument(
        "--ids", type=Path, metavar="FILE", help="list of the pictures from which the sample is taken, one id per line"
    )

    one = command("leaderboard", _leaderboard, "one table of methods, with one file per entry", _LEADERBOARD)
    one.add_argument("action", choices=("add", "page"), help="add an entry, or write the page of all entries")
    one.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="add: finished runs that differ in their seed")
    one.add_argument("--name", metavar="NAME", help="add: name of the entry; an earlier entry of this name is replaced")
    one.add_argument("--control", default="", metavar="NAME", help="add: name of the entry to compare with")
    one.add_argument(
        "--entries", type=Path, default=Path("leaderboard"), metavar="FOLDER", help="entries (default: leaderboard)"
    )
    one.add_argument(
        "--out",
        type=Path,
        default=Path("docs/leaderboard.md"),
        metavar="FILE",
        help="page: the page (default: docs/leaderboard.md)",
    )

    one = command("stage", _stage, "one stage of an existing run", "Do one stage of an existing run.")
    one.add_argument("folder", type=Path, help="folder of a run, with its config.json")
    one.add_argument("stage", help="train, infer, refine and, for AffinityNet, label")
    one.add_argument(
        "arguments", nargs="*", help="infer: the split; refine: the refinement, such as crf, and the split"
    )
    return parser


def _explained(command: str) -> str:
    """Return the explanation of all parameters that a command takes."""
    from wsss_lib.runs.parameters import run_names
    from wsss_lib.use import chains, label_doubts

    if command == "doubt":
        texts = {**chains.explain("cam"), **label_doubts.PARAMETERS}
        return _listed({"Parameters": ("", texts, list(label_doubts.NAMES))})
    common = chains.known_parameters("cam")
    groups = {"Parameters of every method, or of method=cam": ("", chains.explain("cam"), common)}
    for method in run_names():
        own = sorted({*chains.known_parameters(method)} - {*common})
        if own:
            groups[f"More with {'method=' if command == 'fit' else ''}{method}"] = ("", chains.explain(method), own)
    if command == "fit":
        groups["Parameters of the final network"] = (
            chains.FINAL,
            chains.explain("segmentation"),
            [*chains.final_parameters()],
        )
    named = [method if method == name else f"{method} ({name})" for method, name in run_names().items()]
    return f"\nMethods: {', '.join(named)}\n{_listed(groups)}"


def _listed(groups: dict[str, tuple[str, dict[str, str], list[str]]]) -> str:
    """Return groups of parameters, each with the beginning of their names, all explanations, and the wanted names."""
    lines = []
    for title, (prefix, texts, names) in groups.items():
        lines.append(f"\n{title}:\n")
        for name in names:
            lines += wrap(texts.get(name, ""), 116, initial_indent=f"  {prefix + name:24} ", subsequent_indent=" " * 27)
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------- the commands


def _fit(options: argparse.Namespace) -> int:
    from wsss_lib.use.chains import fit, open_method, read_words
    from wsss_lib.use.model_file import check_target

    folder, words = _pictures_and_words(options.words)
    parameters = read_words(words)
    _add_pictures("fit", folder, parameters.values)
    if options.model is not None:
        check_target(options.model)
    fit(open_method(parameters, with_final=True), parameters.final, options.model)
    return 0


def _pictures_and_words(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the folder of the pictures, "" if the first word is a parameter, and the other words."""
    if "=" not in words[0] or Path(words[0]).exists():
        return words[0], list(words[1:])
    return "", list(words)


def _add_pictures(command: str, folder: str, values: dict[str, Any]) -> None:
    """Put the folder of the pictures, and the preset for it, into the values of a command's parameters."""
    from wsss_lib.runs.parameters import existing

    if folder:
        if "data_root" in values:
            raise InputError(f"data_root is given, and so is the folder {folder}; leave one out.")
        existing("data_root", folder)  # before weights are looked for
        values["data_root"] = folder
        values.setdefault("preset", "photos")
    elif "data_root" not in values and values.get("preset", "photos") != "toy":
        raise InputError(
            f"the folder of the pictures is missing; write wsss {command} PICTURES, or preset=toy for drawn ones."
        )


def _run(options: argparse.Namespace) -> int:
    from wsss_lib.use.chains import open_method, read_words, run_method

    run_method(open_method(read_words(options.words, options.method), with_final=False))
    return 0


def _doubt(options: argparse.Namespace) -> int:
    from wsss_lib.use.chains import split_words
    from wsss_lib.use.label_doubts import doubt_labels

    folder, words = _pictures_and_words(options.words)
    values = split_words(words, "folds=10")
    _add_pictures("doubt", folder, values)
    found, out = doubt_labels(values)
    if found.left_out:
        print(printable(f"note: {found.left_out}"))
    table, sheet = found.write(out)
    print(f"{len(found.doubts)} labels of {printable(found.data.name)}, the most doubtful first: {printable(table)}")
    print(f"the pictures of the first lines of each kind: {printable(sheet)}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    classes = None if options.classes is None else [name for name in options.classes.split(",") if name.strip()]
    if options.maps:
        from wsss_lib.use.maps import map_folder

        summary = map_folder(options.model, options.pictures, options.out, bool(options.overlay), classes)
        return _conclude(summary, "maps", options.out)
    from wsss_lib.use.model_file import load_model
    from wsss_lib.use.predict import predict_folder

    summary = predict_folder(
        load_model(options.model, options.device, options.precision),
        options.pictures,
        options.out,
        options.overlay,
        options.scores,
        options.scales,
        options.mirror,
        options.crf,
        classes,
    )
    return _conclude(summary, "masks", options.out)


def _conclude(summary: Summary, what: str, out: Path) -> int:
    kept = f", {summary.kept} were there already" if summary.kept else ""
    print(f"{summary.made} {what} made{kept}, in {printable(out)}")
    if summary.broken:
        print(f"{len(summary.broken)} pictures cannot be used (named above)")
    return int(bool(summary.broken))


def _save(options: argparse.Namespace) -> int:
    from wsss_lib.use.model_file import check_target, final_network, save_model

    check_target(options.file)
    print(f"model file: {printable(save_model(final_network(options.folder), options.file))}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from wsss_lib.use.model_file import load_model
    from wsss_lib.use.onnx import check_onnx_target, export_onnx
    from wsss_lib.use.program import check_program_target, export_program

    if options.file.suffix not in (".onnx", ".pt2"):
        raise InputError(f"file {options.file} must end with .onnx or .pt2; give it such a name.")
    is_onnx = options.file.suffix == ".onnx"
    if is_onnx:
        check_onnx_target(options.file)
    else:
        check_program_target(options.file)
    model = load_model(options.model, "cpu")
    export = export_onnx if is_onnx else export_program
    path = export(model.network, model.about.normalisation, model.classes, options.file)
    print(f"exported, and compared with PyTorch: {printable(path)}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from wsss_lib.use.report import write_report

    print(f"report: {printable(write_report(options.folder, options.out))}")
    return 0


def _follow(options: argparse.Namespace) -> int:
    from wsss_lib.data.voc import read_ids
    from wsss_lib.results.epochs import epochs_table, follow, gain_of_choice
    from wsss_lib.runs.cam import CamRun

    if options.sample < 0:
        raise InputError(f"sample {options.sample} is out of range; give a number of pictures, or 0 for all.")
    run = reopen(options.folder, guest=True)
    if not isinstance(run, CamRun):
        raise InputError(f"{options.folder} is a run of {run.settings.method}, which makes no CAM seeds; give another.")
    rows = follow(run, options.sample, () if options.ids is None else read_ids(options.ids))
    print(epochs_table(rows))
    splits = [*rows[0].mean_iou]
    print(gain_of_choice(rows, "val" if "val" in splits else splits[0]))
    return 0


def _leaderboard(options: argparse.Namespace) -> int:
    from wsss_lib.results.leaderboard import collect_entry, write_entry
    from wsss_lib.results.leaderboard_page import write_page

    if options.action == "page":
        if options.runs or options.name or options.control:
            raise InputError("leaderboard page takes no run and no name; use leaderboard add for these.")
        print(f"page: {printable(write_page(options.entries, options.out))}")
        return 0
    if options.name is None:
        raise InputError("name is missing; give the entry a name, such as --name my-method.")
    entry = collect_entry(options.runs, options.name, options.control)
    print(f"entry: {printable(write_entry(entry, options.entries))}")
    return 0


def _stage(options: argparse.Namespace) -> int:
    end_with_launcher()
    run = reopen(options.folder)
    if options.stage not in run.stages:
        raise InputError(f"stage {options.stage!r} is unknown; choose one of {', '.join(run.stages)}.")
    stage = getattr(run, options.stage)
    wanted = [name for name, p in inspect.signature(stage).parameters.items() if p.default is p.empty]
    if len(options.arguments) != len(wanted):
        raise InputError(
            f"the arguments of stage {options.stage} do not fit ({' '.join(options.arguments) or 'none'}); "
            f"give {' and '.join(wanted) or 'none'}."
        )
    stage(*options.arguments)
    return 0


_COMMANDS = (
    "fit",
    "run",
    "doubt",
    "predict",
    *map_commands.NAMES,
    "save",
    "export",
    "report",
    "follow",
    "leaderboard",
    "stage",
)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Return what the words of the command line mean; ``FOLDER STAGE`` is short for ``stage FOLDER STAGE``."""
    first = words[0] if words else "--help"
    if first.startswith("-"):
        return _parser().parse_args([first])
    is_stage = first not in _COMMANDS or _names_stage(first, words[1] if len(words) > 1 else "")
    if is_stage and not Path(first).exists() and (near := difflib.get_close_matches(first, _COMMANDS, 1)):
        raise InputError(f"command {first!r} is unknown; perhaps {near[0]} is meant.")
    return _parser(first).parse_args(["stage", *words] if is_stage else list(words))


def _names_stage(folder: str, word: str) -> bool:
    """Whether the first word, which is a command, is meant as the folder of a run that is called like the command."""
    if not holds_run(Path(folder)):
        return False
    if word in ("train", "infer", "refine", "label"):  # as processes are started, whatever else there may be
        return True
    from wsss_lib.runs.parameters import run_names

    return not (word in run_names() or "=" in word or word.startswith("-") or Path(word).exists())


def main() -> int:
    """Do what the command line says and return the exit status."""
    try:
        options = _parse(sys.argv[1:])
        done: int = options.do(options)
    except (InputError, ProcessError) as error:
        sentence = f"{type(error).__name__}: {error}"
        if not report(sentence):
            sys.stdout.write(f"\n{sentence}\n")  # in one piece: other processes write to the same pipe
            sys.stdout.flush()
        return 1
    except KeyboardInterrupt:
        sys.stdout.write("\nstopped; start the same command again, and it continues.\n")
        return 130
    except Exception:
        if not report(traceback.format_exc()):
            raise
        return 1
    return done


if __name__ == "__main__":
    sys.exit(main())
