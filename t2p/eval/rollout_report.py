"""The page that `t2p rollout` writes: success with intervals, where the time went, films, and what was foreseen."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t2p.eval import computation, plots3d, report
from t2p.eval.films import FPS, Film, Recorder, film
from t2p.eval.insights import moments, with_attention, with_tracks
from t2p.eval.overlay import beside, draw_paths, encode_image, encode_video, rainbow, write_image
from t2p.eval.rollout import Record, Rollouts
from t2p.eval.success import Entry, task_note
from t2p.io import PathLike
from t2p.sim.points import to_image
from t2p.types import Camera

PARTS = ("physics", "control", "render", "reset")  # of the simulator's time
_INTERVALS = (
    "Intervals are of 95 %. Those of a rate (Wilson) say how far it may lie off because of which episodes were drawn; "
    "the spread over training seeds (standard deviation) is apart from it and says how much training itself varies."
)
_PAIRED = (
    "The episodes of two policies start alike, so their outcomes are compared pair by pair (Agresti and Min): narrower "
    "than comparing the two intervals above."
)
_TIMES = (
    "Wall-clock time of all episodes, those of earlier runs of the same command among them, compiling included. "
    "The simulator's share is divided in proportion to what its environments spent, added up over worker processes."
)
_FILMS = (
    "The first successes, then the first failures, by seed, not chosen; run again and filmed in simulated time. An "
    "episode whose physics came apart is shown up to there."
)
_TRACKS = (
    "Left what became of the points, right what the policy foresaw, drawn in the first picture. True tracks are exact: "
    "the points ride on the bodies on which they were seen, taken when each of the policy's steps ended."
)
_PICTURES = (
    "What the policy foresaw, in the pictures that it saw (ATM's Figure 8): a dot is where a point will be at the "
    "tracks' end, the line its way there. In simulated time; of decisions at most ten a second are shown."
)
_ATTENTION = (
    "Where the policy looks (ATM's Figure 7): how much the token that sums up a decision's pictures attends to each of "
    "their patches, in the last layer (the paper names none), the mean over heads. All pictures of an episode have one "
    "scale: grey where the weight is least, over violet and red to yellow where it is greatest."
)


@dataclass(frozen=True)
class Shown:
    """An episode on the page. picture: where a picture of it that is not a film's may be written."""

    film: Film
    caption: str
    picture: Path


def write(
    path: PathLike,
    entries: Sequence[Entry],
    runs: Sequence[Rollouts],
    summary: Mapping[str, Any],
    films: int,
    renderer: str,
    recorded: int = 0,
) -> Path:
    """Writes the report of `runs`, one for each of `entries`, on the same seeds. summary: success.summarise of both;
    films: so many successes and so many failures of each policy are filmed; recorded: so many of each entry's first
    episodes become videos in the folder videos/<entry> beside the page. Of filmed policies that tell attention there
    are pictures of it in attention/<entry>, too. Returns the page's path."""
    recorders = [
        Recorder(Path(path).parent / "videos" / entry.file, [record.seed for record in run.records[:recorded]])
        for entry, run in zip(entries, runs, strict=True)
    ]
    folder = Path(path).parent / "attention"
    shown = {name: _film(entries, runs, name, films, renderer, recorders, folder) for name in summary["policies"]}
    sections = [
        _success(entries, runs, summary),
        _training_seeds(entries, runs, summary),
        _differences(summary),
        _times(summary),
        computation.section(summary["policies"]),
        _departures(entries),
        *(_films(name, found) for name, found in shown.items()),
        _checkpoints(entries),
    ]
    if any(one.film.foreseen for found in shown.values() for one in found):
        sections.insert(0, plots3d.library())
    return report.write_report(path, f"t2p rollout: {summary['task']}", [s for s in sections if s])


def _success(entries: Sequence[Entry], runs: Sequence[Rollouts], summary: Mapping[str, Any]) -> str:
    policies = summary["policies"]
    rows = [
        [
            name,
            _percent(p["success"]),
            _interval(p),
            p["episodes"],
            len(p["training_seeds"]),
            "-" if p["std_over_training_seeds"] is None else _percent(p["std_over_training_seeds"]),
            p["failed"],
        ]
        for name, p in policies.items()
    ]
    head = ["policy", "success", "95 % interval", "episodes", "training seeds", "std over them", "physics failed"]
    seeds = [record.seed for record in runs[0].records]
    task = entries[0].task
    end = "its first success ends an episode" if task.stop_at_success else "success is judged at an episode's end"
    about = f'"{task.instruction}"; episodes of the seeds {min(seeds)} to {max(seeds)}; {end}. MuJoCo '
    dots = {n: list(p["training_seeds"].values()) for n, p in policies.items() if len(p["training_seeds"]) > 1}
    rates = {name: (p["success"], p["low"], p["high"]) for name, p in policies.items()}
    label = "success, with 95 % interval" + ("; dots: single training seeds" if dots else "")
    return report.section(
        "Success",
        report.paragraph(f"{about}{summary['mujoco']}. {task_note(task)} {_INTERVALS}"),
        report.table(head, rows),
        report.bars(rates, label, dots),
    )


def _training_seeds(entries: Sequence[Entry], runs: Sequence[Rollouts], summary: Mapping[str, Any]) -> str:
    """Each trained policy on its own, where some policy has several training seeds."""
    if all(len(p["training_seeds"]) == 1 for p in summary["policies"].values()):
        return ""
    each = [(entry.label, run.summary()) for entry, run in zip(entries, runs, strict=True)]
    rows = [[label, _percent(s["success"]), _interval(s), s["episodes"], s["failed"]] for label, s in each]
    head = ["policy", "success", "95 % interval over episodes", "episodes", "physics failed"]
    return report.section("Training seeds", report.table(head, rows))


def _differences(summary: Mapping[str, Any]) -> str:
    rows = [
        [f"{d['first']} - {d['second']}", f"{d['difference']:+.1%}", f"[{d['low']:+.1%}, {d['high']:+.1%}]"]
        for d in summary["differences"]
    ]
    if not rows:
        return ""
    table = report.table(["difference", "success", "95 % interval"], rows)
    return report.section("Differences on the same episodes", report.paragraph(_PAIRED), table)


def shares(times: Mapping[str, float]) -> dict[str, float]:
    """Shares of the wall-clock time by part: the policy's, and the simulator's (as it was waited for) divided like the
    sums over its environments. {} where nothing ran."""
    whole = times.get("policy", 0.0) + times.get("simulator", 0.0)
    if not whole:
        return {}
    inside = sum(times[part] for part in PARTS)
    found = {"policy": times["policy"] / whole}
    return found | {part: times["simulator"] / whole * times[part] / max(inside, 1e-12) for part in PARTS}


def _times(summary: Mapping[str, Any]) -> str:
    rows = []
    for name, p in summary["policies"].items():
        if found := shares(p["times"]):
            whole = p["times"]["policy"] + p["times"]["simulator"]
            rows.append([name, *(_percent(share) for share in found.values()), f"{whole:.1f} s"])
    head = ["policy", "policy", "physics", "control", "rendering", "reset", "together"]
    what = report.table(head, rows) if rows else report.paragraph("All episodes were there already.")
    return report.section("Time", report.paragraph(_TIMES), what)


def _film(
    entries: Sequence[Entry],
    runs: Sequence[Rollouts],
    name: str,
    count: int,
    renderer: str,
    recorders: Sequence[Recorder],
    folder: Path,
) -> list[Shown]:
    """Successes first. folder: of pictures, see Shown. Each episode is filmed once, for the page and for its video."""
    own = [each for each in zip(entries, runs, recorders, strict=True) if each[0].name == name]
    all_records = [(e, r) for e, run, _ in own for r in run.records]
    chosen = [pair for won in (True, False) for pair in [p for p in all_records if p[1].success == won][:count]]
    found: dict[tuple[str, int], Film] = {}
    for entry, _, recorder in own:
        seeds = [r.seed for e, r in chosen if e is entry]
        wanted = list(dict.fromkeys([*seeds, *recorder.missing()]))
        for one in film(entry.policy, entry.variables, entry.task, wanted, renderer) if wanted else ():
            recorder.write(one)
            if one.record.seed in seeds:
                found[entry.label, one.record.seed] = one
    pairs = [(entry, record) for entry, record in chosen if (entry.label, record.seed) in found]
    return [
        Shown(one, caption(entry, record, one.record), folder / entry.file / f"{record.seed}.png")
        for entry, record in pairs
        for one in [found[entry.label, record.seed]]
    ]


def caption(entry: Entry, recorded: Record, again: Record) -> str:
    """Which episode a film shows and how it ended."""
    text = f"{entry.label}, seed {recorded.seed}: {outcome(recorded)}"
    if outcome(again) == outcome(recorded):
        return text
    return f"{text}. Run again for the film it ended differently, by rounding: {outcome(again)}"


def outcome(record: Record) -> str:
    """How an episode ended, in words."""
    after = f"{record.steps} policy step{'' if record.steps == 1 else 's'}, {record.seconds:.1f} s"
    if record.failed:
        return f"the physics came apart after {after} ({record.failed})"
    return f"{'success' if record.success else 'no success'} after {after}"


def _films(name: str, found: Sequence[Shown]) -> str:
    if not found:
        return ""
    parts = [report.paragraph(_FILMS)]
    parts += [report.video(encode_video(one.film.frames, FPS), one.caption, width=420) for one in found]
    for about, draw in ((_TRACKS, _foreseen), (_PICTURES, _in_pictures), (_ATTENTION, _attention)):
        drawn = [part for one in found for part in draw(one)]
        parts += [report.paragraph(about), *drawn] if drawn else []
    return report.section(f"Films: {name}", *parts)


def _in_pictures(one: Shown) -> list[str]:
    """A film of the pictures with the tracks that were predicted in them."""
    told, record = [each for each in one.film.insights if each.tracks], one.film.record
    if not told:
        return []
    frames = np.stack([with_tracks(each) for each in told])
    fps = len(frames) / record.seconds if record.seconds else FPS
    return [report.video(encode_video(frames, fps), one.caption, width=340 * len(told[0].tracks))]


def _attention(one: Shown) -> list[str]:
    told = moments([each for each in one.film.insights if each.attention])
    if not told:
        return []
    figure, (low, high) = with_attention(told)
    write_image(one.picture, figure)
    layers = len(next(iter(told[0].attention.values())))
    what = f"{one.caption}. Layer {layers} of {layers}; weights from {low:.2%} (grey) to {high:.2%} (yellow)"
    return [report.image(encode_image(figure), what)]


def _foreseen(one: Shown) -> list[str]:
    """The first picture with both tracks, and both in space."""
    if one.film.foreseen is None:
        return []
    predicted, true, camera = one.film.foreseen.predicted, one.film.foreseen.true, one.film.camera
    error = 1000 * float(np.linalg.norm(predicted[1:] - true[1:], axis=-1).mean()) if len(true) > 1 else 0.0
    what = f"{one.caption}. {true.shape[1]} points, mean distance {error:.1f} mm"
    picture = report.image(encode_image(drawn(one.film.frames[0], predicted, true, camera)), what)
    return [picture, plots3d.tracks({"true": true, "predicted": predicted}, what, np.asarray(camera.T_base_cam))]


def drawn(picture: np.ndarray, predicted: np.ndarray, true: np.ndarray, camera: Camera) -> np.ndarray:
    """True beside predicted tracks over a picture. picture: [H, W, 3], seen by `camera`; tracks: [T, N, 3], metres in
    its frame."""
    shown, places = np.ones(true.shape[:2], bool), to_image(true, camera)
    foreseen = to_image(predicted, camera), predicted[..., 2] > 0
    colors = rainbow(places[0])
    pictures = [draw_paths(picture, *tracks, colors=colors) for tracks in ((places, shown), foreseen)]
    return beside(list(zip(("truth", "prediction"), pictures)))


def _departures(entries: Sequence[Entry]) -> str:
    """Of each policy, and of the earlier stages that it builds on."""
    told = {}
    for entry in entries:
        config = entry.meta["config"]
        earlier = [(f"{entry.name}: {k}", v.get("config")) for k, v in (entry.meta.get("init_from") or {}).items()]
        for name, one in [(entry.name, config), *earlier]:
            if text := report.departures(one or {}):
                told[name] = text
    parts = [part for name, text in told.items() for part in (f"<h3>{html.escape(name)}</h3>", text)]
    return report.section("Settings", *parts) if parts else ""


def _checkpoints(entries: Sequence[Entry]) -> str:
    rows = [[e.label, e.directory, e.meta.get("step", "-"), ", ".join(e.meta.get("tasks", [])) or "-"] for e in entries]
    return report.section("Checkpoints", report.table(["policy", "folder", "step", "trained on"], rows))


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _interval(p: Mapping[str, float]) -> str:
    return f"[{p['low']:.1%}, {p['high']:.1%}]"
