"""`t2p eval`: measures a checkpoint on held-out data; writes metrics.json and report.html."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, cast

from etils import epath

from t2p.io import UserError, write_json

if TYPE_CHECKING:
    from t2p.eval.restore import Restored
    from t2p.methods.base import MotionStage, Stage

ONE_CLIP = "The data holds one clip only: nothing is measured with an image, a sentence or codes of another clip."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a training workdir or converted checkpoint")
    parser.add_argument("--which", default="best", help="best (default), latest, or a step")
    parser.add_argument("--text_path", default="", metavar="DIR", help="the text encoder's directory or file")
    parser.add_argument("--data", metavar="DIR", help="a dataset (default: the validation data of the checkpoint)")
    parser.add_argument("--split", default="val", help="split of --data (default: val)")
    parser.add_argument("--tracks", default="", help="track set of --data to compare with (default: the config's)")
    parser.add_argument("--batches", type=int, default=0, help="so many batches at most (default: the whole split)")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--out", metavar="DIR", help="where to write (default: CHECKPOINT/eval)")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    if rest:
        raise UserError(f"unknown arguments {rest}; t2p eval --help lists what there is")
    out = epath.Path(args.out or epath.Path(args.checkpoint) / "eval")
    metrics = evaluate(args, out)
    for line in metrics["lines"]:
        print(line)
    print(f"report: {out / 'report.html'}")
    return 0


def evaluate(args: argparse.Namespace, out: epath.Path) -> dict[str, Any]:
    """Everything `t2p eval` does; returns what it wrote to metrics.json, and "lines" to print.

    Raises UserError for numbers out of bounds, a checkpoint or data that cannot be read, and clips without motion."""
    from t2p.data.pipeline import evaluation_batches, sentences
    from t2p.eval import points
    from t2p.eval.restore import restore
    from t2p.methods import language

    _check_numbers(args)
    restored = restore(args.checkpoint, args.which, args.text_path)
    config, stage = restored.config, restored.stage
    sources = _sources(args, config)
    data = config.data.copy_and_resolve_references()
    data.sources = sources
    text = language.embed(config.text, sentences(data)) if stage.window.text else None
    first = next(iter(evaluation_batches(sources, stage.window, batch_size=1, text=text, batches=1)))
    kind = points.prediction_kind(stage, restored.variables, first)
    measures = {"picture": _in_image, "space": _in_space, "views": _in_views}[kind]
    metrics = measures(args, out, restored, sources, text)
    metrics |= {"versions": restored.meta["versions"]}
    write_json(out / "metrics.json", {k: v for k, v in metrics.items() if k != "lines"})
    return metrics


def _in_image(args: argparse.Namespace, out: epath.Path, restored: Restored, sources: Any, text: Any) -> dict[str, Any]:
    """Measures and report of a stage that predicts tracks in the picture."""
    from t2p.data.pipeline import evaluation_batches
    from t2p.eval import report, track_report, tracks

    config, stage = restored.config, restored.stage
    history = _has_history(sources, stage.window.track_set)
    batches = evaluation_batches(
        sources,
        tracks.evaluation_window(stage.window, history),
        batch_size=args.batch_size,
        text=text,
        batches=args.batches,
    )
    clips = tracks.gather(stage.window, batches, history=history)
    several = clips.rows > 1 and _clip_count(sources) > 1
    predicted = tracks.predictions(stage, restored.variables, clips, args.batch_size, others=several)
    measures = tracks.measure(clips, predicted)
    note, facts = _told(args, restored, sources)
    note = note if several else f"{note} {ONE_CLIP}"
    curves = track_report.training_curves(args.checkpoint)
    sections = track_report.track_sections(clips, predicted, measures, curves, note)
    report.write_report(out / "report.html", f"t2p: {config.stage}", sections)
    ratios = tracks.verdict(measures)
    lines = [
        f"{who:44s} mse {values['mse (moving)']:9.3f} px²  delta {values['delta (moving)']:.3f}  (moving points)"
        for who, values in measures.items()
    ]
    metrics = {
        "measures": measures,
        "ratios": ratios,
        "examples": clips.rows,
        "image_size": list(clips.size),
        **facts,
        "lines": [*lines, *(f"{name:44s} {value:.3f}" for name, value in ratios.items()), *_warning(facts)],
    }
    if not several:
        metrics |= {"note": ONE_CLIP, "lines": [*metrics["lines"], ONE_CLIP]}
    return metrics


def _in_views(args: argparse.Namespace, out: epath.Path, restored: Restored, sources: Any, text: Any) -> dict[str, Any]:
    """Measures and report of a stage that tells the motion of all views as codes."""
    from t2p.data.pipeline import evaluation_batches
    from t2p.eval import motion, motion_report, report, track_report, tracks

    config, stage = restored.config, cast("MotionStage", restored.stage)
    window = tracks.evaluation_window(stage.window, history=False)
    batches = evaluation_batches(sources, window, batch_size=args.batch_size, text=text, batches=args.batches)
    views = tracks.gather_views(stage.window, batches, history=False)
    clips = next(iter(views.values()))
    several = clips.rows > 1 and _clip_count(sources) > 1
    predicted, codes = motion.predictions(stage, restored.variables, views, args.batch_size, others=several)
    measures = motion.measures(stage, views, predicted, codes)
    note, facts = _told(args, restored, sources)
    note = note if several else f"{note} {ONE_CLIP}"
    curves = track_report.training_curves(args.checkpoint)
    sections = motion_report.motion_sections(views, predicted, measures, curves, note)
    if told := report.departures(config):
        sections.append(report.section("Settings", told))
    report.write_report(out / "report.html", f"t2p: {config.stage}", sections)
    metrics = {"measures": measures, "examples": clips.rows, "image_size": list(config.window.image_size), **facts}
    metrics |= {"definitions": motion.DEFINITIONS, "lines": [*motion.lines(measures), *_warning(facts)]}
    return metrics if several else {**metrics, "note": ONE_CLIP, "lines": [*metrics["lines"], ONE_CLIP]}


def _in_space(args: argparse.Namespace, out: epath.Path, restored: Restored, sources: Any, text: Any) -> dict[str, Any]:
    """Measures and report of a stage that predicts tracks in the camera's frame."""
    from t2p.data.pipeline import evaluation_batches
    from t2p.eval import points, points_report, report, track_report

    config, stage = restored.config, restored.stage
    window = points.evaluation_window(stage.window)
    batches = evaluation_batches(sources, window, batch_size=args.batch_size, text=text, batches=args.batches)
    clouds = points.gather(stage.window, batches)
    predicted = points.predictions(stage, restored.variables, clouds, args.batch_size)
    measures = points.measure(clouds, predicted)
    note, facts = _told(args, restored, sources)
    curves = track_report.training_curves(args.checkpoint)
    sections = points_report.point_sections(clouds, predicted, measures, curves, note)
    if told := report.departures(config):
        sections.append(report.section("Settings", told))
    report.write_report(out / "report.html", f"t2p: {config.stage}", sections)
    lines = [
        f"{who:12s} ADE {values['ade']:8.2f} mm  5 % ADE {values['5 % ade']:8.2f} mm  ({clouds.rows} samples)"
        for who, values in measures.items()
    ]
    return {
        "measures": measures,
        "examples": clouds.rows,
        **facts,
        "rule": points.RULES[True],
        "lines": [*lines, *_warning(facts)],
    }


def _told(args: argparse.Namespace, restored: Restored, sources: Any) -> tuple[str, dict[str, Any]]:
    """What was measured on what: in words, and for metrics.json."""
    config, stage = restored.config, restored.stage
    where, learned = _where(sources, stage), _learned_from(config, sources)
    what = f"data it was also TRAINED on ({', '.join(learned)})" if learned else "held-out data"
    facts = {"data": where, "trained_on": learned}
    facts |= {"text_encoder": config.text.encoder} if stage.window.text else {}
    text = f"; text: {config.text.encoder}" if stage.window.text else ""
    return f"{config.stage} from {args.checkpoint} ({args.which}); {what}: {where}{text}.", facts


def _warning(facts: dict[str, Any]) -> list[str]:
    """A line to print where the data was learned from."""
    learned = ", ".join(facts["trained_on"])
    return [f"note: measured on data it was also TRAINED on ({learned})"] if learned else []


def _where(sources: Any, stage: Stage) -> str:
    """The data in words: folders, splits, track sets."""
    return ", ".join(f"{s.path} ({s.split}, {s.tracks or stage.window.track_set})" for s in sources.values())


def _learned_from(config: Any, sources: Any) -> list[str]:
    """Folders of the evaluation data whose split the checkpoint was trained on too."""
    trained = {(str(epath.Path(s.path).resolve()), s.split) for s in config.data.sources.values() if s.path}
    return [s.path for s in sources.values() if (str(epath.Path(s.path).resolve()), s.split) in trained]


def _check_numbers(args: argparse.Namespace) -> None:
    if args.batches < 0:
        raise UserError(f"--batches is {args.batches}; expected at least 0 (0: the whole split)")
    if args.batch_size < 1:
        raise UserError(f"--batch_size is {args.batch_size}; expected at least 1")


def _clip_count(sources: Any) -> int:
    """How many different episodes the sources keep. The rows of an evaluation are spread over all of them, so that
    two rows or more are of two clips if there are two."""
    from t2p.data.mixture import open_dataset, select_episodes

    found = set()
    for name, source in sources.items():
        infos = open_dataset(name, source).infos
        numbers = select_episodes(name, infos, tuple(source.tasks), source.fraction)
        found |= {(source.path, source.split, infos[n].id) for n in numbers}
    return len(found)


def _sources(args: argparse.Namespace, config: Any) -> Any:
    """The validation sources of the checkpoint, or the dataset that the user names."""
    import ml_collections

    from t2p.train.defaults import source_config

    if args.data:
        named = next(iter(config.data.sources.values()), None)
        source = source_config(args.data, args.split, args.tracks or (named.tracks if named is not None else ""))
        return ml_collections.ConfigDict({"data": source})
    if not config.data.validation:
        raise UserError("the checkpoint's config has no validation data; name a dataset with --data DIR")
    return config.data.validation


def _has_history(sources: Any, track_set: str | None) -> bool:
    """False if a source's tracks are of layout "window": they start at t and have no steps before it."""
    from t2p.data.mixture import open_dataset

    layouts = {
        layout
        for name, source in sources.items()
        for info in open_dataset(name, source).infos
        for layout in info.track_sets.get(source.tracks or track_set, {}).values()
    }
    return "window" not in layouts
