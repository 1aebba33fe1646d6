"""`t2p train`: trains a stage from a config; started again with the same workdir, it goes on."""

from __future__ import annotations

import argparse
import sys
import traceback

EPILOG = "settings of the config: --config.batch_size=64 --config.optimizer.learning_rate=1e-4 ..."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--config", required=True, metavar="FILE.py[:variant]", help="a config file and its variant")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="checkpoints and logs; local or gs://")
    parser.add_argument("--seeds", metavar="0,1,2", help="train each seed in DIR/seed_<k> and report the spread")
    parser.add_argument(
        "--skip_damaged", action="store_true", help="skip and count damaged examples instead of stopping"
    )
    parser.add_argument("--coordinator", default="", metavar="HOST:PORT", help="of process 0, for several processes")
    parser.add_argument("--num_processes", type=int, default=0, metavar="N")
    parser.add_argument("--process_id", type=int, default=-1, metavar="K", help="0 .. N-1")
    parser.add_argument(
        "--heartbeat", type=int, default=100, metavar="S", help="seconds until a dead process is noticed"
    )


def run(args: argparse.Namespace, rest: list[str]) -> int:
    """Exit codes: 0 done, 1 stopped by a metric that is not finite, 42 saved after SIGTERM; 2 (of every command): what
    the user gave is wrong or damaged, or a checkpoint could not be written."""
    from t2p.train.preemption import leave_at_once

    with leave_at_once():
        return _train(args, rest)


def _train(args: argparse.Namespace, rest: list[str]) -> int:
    from absl import logging as absl_logging

    from t2p.cli.config import load_config
    from t2p.io import UserError
    from t2p.train.distributed import initialize, leave
    from t2p.train.logging import NonFinite
    from t2p.train.loop import train
    from t2p.train.preemption import EXIT_CODE, Preempted
    from t2p.train.seeds import train_seeds

    absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax reports each of its steps
    config = load_config(args.config, rest)
    seeds = parse_seeds(args.seeds) if args.seeds else []
    if args.skip_damaged:
        config.data.skip_damaged = True
    several = initialize(args.coordinator, args.num_processes, args.process_id, args.heartbeat)
    try:
        if seeds:
            train_seeds(config, args.workdir, seeds)
        else:
            train(config, args.workdir)
        return 0
    except Preempted as e:
        print(f"t2p train: {e}; the same command goes on from there", file=sys.stderr)
        return EXIT_CODE
    except NonFinite as e:
        print(f"t2p train: {e}", file=sys.stderr)
        code = 1
    except Exception as e:
        if not several:
            raise
        code = 2 if isinstance(e, UserError) else 1
        print(f"t2p train: {e}" if code == 2 else traceback.format_exc(), file=sys.stderr)
    if several:
        leave(code)
    return code


def parse_seeds(text: str) -> list[int]:
    """ "0,1,2" -> [0, 1, 2]."""
    from t2p.io import UserError

    parts = [p.strip() for p in text.split(",")]
    if not all(p.isdigit() for p in parts) or len(set(parts)) != len(parts):
        raise UserError(f"--seeds {text!r}; expected different numbers with commas between, such as 0,1,2")
    return [int(p) for p in parts]
