"""What others published and users of t2p need: where it is, under which licence, what t2p does with it.

Facts are those of the pages named beside them, as looked up in November 2026. What could not be confirmed is empty
and shown as "not published". Sizes are in the units of the pages: 1 MB is 10^6 bytes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from t2p.io import UserError

UNKNOWN = "not published"
_UNITS = {"Bytes": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class File:
    """name: its place in the entry's folder. url: https; "" where it needs a browser (Entry.page). size: as published,
    such as "436 MB". sha256: in hexadecimal digits."""

    name: str
    url: str = ""
    size: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Conversion:
    """Which of an entry's files `t2p convert` turns into checkpoints. pattern: glob within the entry's folder, matching
    `<part>/<file>`; text: the entry whose folder holds the text encoder."""

    model: str
    pattern: str
    text: str


@dataclass(frozen=True)
class Entry:
    """what: in a few words. page: where it is described. licence: of the files, with its source where that is not the
    page. use: what t2p does with it. files: none where a folder has to be downloaded in a browser. unpack: whether the
    files are zip archives."""

    name: str
    what: str
    page: str
    licence: str
    use: str
    files: tuple[File, ...] = ()
    unpack: bool = False
    convert: Conversion | None = None


_TAPNET = "https://github.com/google-deepmind/tapnet"
_TAPIR = "https://storage.googleapis.com/dm-tapnet"
_APACHE = "Apache-2.0"
_NOT_YET = "not readable by t2p yet"
_CODE_ONLY = "(the repository's; none is stated for the files)"
_BERT = "https://huggingface.co/google-bert/bert-base-cased"
_BERT_FILES = f"{_BERT}/resolve/cd5ef92a9fb2f889e972770a36d4ed042daf221e"
_T5 = "https://huggingface.co/google-t5/t5-small"
_T5_FILES = f"{_T5}/resolve/f7522dd5af0bce21ab019f17ce7681fe540af551"
_CLIP = "https://huggingface.co/openai/clip-vit-base-patch32"
_ARM4R = "https://huggingface.co/datasets/yuvansharma/arm4r-ckpts"
_COTRACKER = "https://huggingface.co/facebook/cotracker3"


def _tapir(name: str, what: str, path: str, online: bool = False) -> Entry:
    file = File(path.rpartition("/")[2], f"{_TAPIR}/{path}")
    use = f"read by `t2p annotate --tracker {name.partition('-')[0]}{' --online' if online else ''} --weights FILE`"
    return Entry(name, what, _TAPNET, _APACHE, use, (file,))


def _libero(suite: str, box: str, tasks: str) -> Entry:
    return Entry(
        f"libero-{suite}",
        f"LIBERO's human demonstrations of {tasks}, HDF5 (Liu et al. 2023)",
        "https://github.com/Lifelong-Robot-Learning/LIBERO",
        "CC-BY-4.0",
        "read by `t2p data import --source libero`, together with AMPLIFY's tracks by `--source amplify "
        "--source.demos=FOLDER`, ATM's likewise",
        (File(f"libero_{suite}.zip", f"https://utexas.box.com/shared/static/{box}.zip"),),
        unpack=True,
    )


_ENTRIES = (
    _tapir("tapir", "TAPIR, point tracker (Doersch et al. 2023)", "tapir_checkpoint_panning.npy"),
    _tapir("tapir-online", "TAPIR, causal", "causal_tapir_checkpoint.npy", online=True),
    _tapir("bootstapir", "BootsTAPIR, point tracker (Doersch et al. 2024)", "bootstap/bootstapir_checkpoint_v2.npy"),
    _tapir("bootstapir-online", "BootsTAPIR, causal", "bootstap/causal_bootstapir_checkpoint.npy", online=True),
    Entry(
        "cotracker3",
        "CoTracker3, offline, point tracker (Karaev et al. 2024)",
        _COTRACKER,
        "CC-BY-NC-4.0: not for commercial use",
        "read by `t2p annotate --tracker cotracker --model cotracker3_offline --weights FILE`, which needs PyTorch and "
        "the cotracker package",
        (
            File(
                "scaled_offline.pth",
                f"{_COTRACKER}/resolve/a304f912a43a3f37a81256e55243137d60d223b7/scaled_offline.pth",
                "102 MB",
                "2670d4562ed69326dda775a26e54883925cd11b6fc9b24cb7aa9f8078bce7834",
            ),
        ),
    ),
    Entry(
        "atm",
        "ATM's track transformers of the LIBERO suites, and its policies (Wen et al. 2024)",
        "https://drive.google.com/file/d/1lG2hNG_-Etu2TG7XbGxOD40Gorj2DtLw/view",
        f"MIT {_CODE_ONLY}",
        "track transformers are converted by `t2p convert --from atm.track_transformer`, policies by "
        "`--from atm.policy`",
        (File("atm_release_checkpoints.zip"),),
        unpack=True,
        convert=Conversion("atm.track_transformer", "**/libero_track_transformer_*/model_best.ckpt", "bert-base-cased"),
    ),
    Entry(
        "amplify",
        "AMPLIFY's checkpoints on LIBERO (Collins et al. 2025)",
        "https://drive.google.com/drive/folders/10xkV3nj6qNZG4EQvgAu5eMOtO3EaeJHv",
        f"MIT {_CODE_ONLY}",
        "converted by `t2p convert --from amplify.bundle` and its siblings (docs/amplify.md)",
    ),
    Entry(
        "amplify-tracks",
        "AMPLIFY's preprocessed point tracks of LIBERO, HDF5",
        "https://drive.google.com/drive/folders/15-zj-sSl16xuBcQvZM1vhNvT_rL2phGB",
        f"MIT {_CODE_ONLY}",
        "read by `t2p data import --source amplify`, beside LIBERO's demonstrations",
    ),
    Entry(
        "arm4r",
        "ARM4R after its first stage, 3D points of Epic-Kitchens, and its vision encoder (Niu et al. 2025)",
        _ARM4R,
        "MIT (the repository's; that of the files could not be confirmed)",
        _NOT_YET,
        (
            File("pretrained_epic.pth", f"{_ARM4R}/resolve/main/model_ckpts/pretrained_epic/pretrained_epic.pth"),
            File("cross-mae-rtx-vitb.pth", f"{_ARM4R}/resolve/main/vision_encoder/cross-mae-rtx-vitb.pth"),
        ),
    ),
    Entry(
        "track2act",
        "Track2Act's track prediction model (Bharadhwaj et al. 2024)",
        "https://drive.google.com/drive/folders/1UMe7ojGWcs6IiALp3K-9YpcfHV0PWcKv",
        f"CC-BY-NC-4.0 {_CODE_ONLY}",
        _NOT_YET,
    ),
    Entry(
        "threepointr-data",
        "3PoinTr's real-world demonstrations (Hung et al. 2026)",
        "https://huggingface.co/datasets/ahung0/3PoinTr",
        "MIT",
        _NOT_YET,
    ),
    Entry(
        "bert-base-cased",
        "BERT, cased: ATM's encoder of sentences (Devlin et al. 2019)",
        _BERT,
        _APACHE,
        'read by `text.encoder = "bert"` as `text.path` (`--text_path FOLDER`)',
        (
            File("config.json", f"{_BERT_FILES}/config.json", "570 Bytes"),
            File("tokenizer.json", f"{_BERT_FILES}/tokenizer.json", "436 kB"),
            File("model.safetensors", f"{_BERT_FILES}/model.safetensors", "436 MB"),
        ),
    ),
    Entry(
        "t5-small",
        "T5, small: AMPLIFY's encoder of sentences (Raffel et al. 2020)",
        _T5,
        _APACHE,
        'read by `text.encoder = "t5"` as `text.path` (`--text_path FOLDER`)',
        (
            File("config.json", f"{_T5_FILES}/config.json", "1.21 kB"),
            File("tokenizer.json", f"{_T5_FILES}/tokenizer.json", "1.39 MB"),
            File(
                "model.safetensors",
                f"{_T5_FILES}/model.safetensors",
                "242 MB",
                "bd944e5f1b3ad9b70dd9d00010a517059e19265671076b8b0a4a58d9491842bc",
            ),
        ),
    ),
    Entry(
        "clip-vit-base-patch32",
        "CLIP ViT-B/32: General Flow's encoder of sentences (Radford et al. 2021)",
        _CLIP,
        "not stated for the files; github.com/openai/CLIP is MIT, and its model card rules out deployed uses",
        f'{_NOT_YET}; vectors made with it are, by `text.encoder = "precomputed"`',
        (
            File("tokenizer.json", f"{_CLIP}/resolve/main/tokenizer.json", "2.22 MB"),
            File("pytorch_model.bin", f"{_CLIP}/resolve/main/pytorch_model.bin", "605 MB"),
        ),
    ),
    _libero("spatial", "04k94hyizn4huhbv5sz4ev9p2h1p6s7f", "LIBERO-Spatial, 10 tasks"),
    _libero("object", "avkklgeq0e1dgzxz52x488whpu8mgspk", "LIBERO-Object, 10 tasks"),
    _libero("goal", "iv5e4dos8yy2b212pkzkpxu9wbdgjfeg", "LIBERO-Goal, 10 tasks"),
    _libero("100", "cv73j8zschq8auh9npzt876fdc1akvmk", "LIBERO-90 and LIBERO-10, 100 tasks"),
)
TABLE: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def find(name: str, table: Mapping[str, Entry] = TABLE) -> Entry:
    """The entry of that name; UserError names the nearest one."""
    if name not in table:
        near = difflib.get_close_matches(name.lower(), table, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"nothing published is called {name!r}{hint} (`t2p fetch` lists what there is)")
    return table[name]


def size_bounds(size: str) -> tuple[float, float]:
    """The fewest and the most bytes that "436 MB" stands for: a unit of its last digit on either side."""
    found = re.fullmatch(r"(\d+)(?:\.(\d+))? (\w+)", size)
    assert found and found[3] in _UNITS, f"sizes are written like '1.21 kB', not {size!r}"
    step = 0 if found[3] == "Bytes" else 10.0 ** -len(found[2] or "")
    value, unit = float(size.split()[0]), _UNITS[found[3]]
    return (value - step) * unit, (value + step) * unit


def total_size(entry: Entry) -> str:
    """ "436 MB" and the like for all files together; "not published" where one of them is."""
    if not entry.files or not all(f.size for f in entry.files):
        return UNKNOWN
    count = sum(sum(size_bounds(f.size)) / 2 for f in entry.files)
    unit = max((u for u in _UNITS if _UNITS[u] <= count), key=_UNITS.__getitem__)
    return f"{count / _UNITS[unit]:.3g} {unit}"


def listing(table: Mapping[str, Entry] = TABLE) -> str:
    """All entries as text: name, what it is, licence, size, what t2p does with it."""
    blocks = [f"{e.name}: {e.what}\n    licence {e.licence}; size {total_size(e)}\n    {e.use}" for e in table.values()]
    return "\n".join(blocks)


def describe(entry: Entry) -> str:
    """One entry as text, with its files: what is shown before anything is downloaded."""
    lines = [f"{entry.name}: {entry.what}", f"  page     {entry.page}", f"  licence  {entry.licence}"]
    lines += [f"  size     {total_size(entry)}", f"  in t2p   {entry.use}"]
    lines += [f"  file     {f.name}: {f.size or 'size ' + UNKNOWN}, sha256 {f.sha256 or UNKNOWN}" for f in entry.files]
    return "\n".join(lines)
