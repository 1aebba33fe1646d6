"""Several steps at once, programs kept in the workdir, traces of some steps."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as cache
from train_fakes import FakeLoader, fake_config, numpy_variables

from t2p import checkpoint
from t2p.io import UserError, read_json_lines
from t2p.train.compilation import kept_programs
from t2p.train.defaults import base_config
from t2p.train.evals import Eval
from t2p.train.feed import Feed
from t2p.train.logging import NonFinite
from t2p.train.loop import train
from t2p.train.sharding import make_mesh

pytestmark = pytest.mark.usefixtures("fake_data")


def config(**changes):
    return fake_config(**{"optimizer__ema": 0.9, "accumulation": 2, **changes})


def losses(workdir: Path) -> dict[int, float]:
    return {r["step"]: r["train/loss"] for r in read_json_lines(workdir / "metrics.jsonl") if "train/loss" in r}


def test_steps_at_once_are_the_steps_one_by_one(tmp_path):
    """Same keys, batches and order; resumed in the middle too."""

    def crash(variables, step, rng):
        raise ZeroDivisionError

    single, several = tmp_path / "single", tmp_path / "several"
    one = numpy_variables(train(config(log__every=16), single))
    with pytest.raises(ZeroDivisionError):
        train(config(dispatch=2, log__every=16), several, [Eval("crash", 6, crash)])
    two = numpy_variables(train(config(dispatch=2, log__every=16), several))
    assert one.keys() == two.keys()
    for path in one:
        np.testing.assert_allclose(two[path], one[path], rtol=0, atol=2e-6, err_msg=path)
    assert losses(several).keys() == losses(single).keys() == {4, 8}
    assert losses(several)[8] == pytest.approx(losses(single)[8], abs=1e-6)
    assert checkpoint.load(several, "latest")[1]["position"] == 8


def test_a_group_is_batches_one_after_the_other():
    loader = FakeLoader(4, 0, 0, 1, start=3)
    with Feed(loader, make_mesh(base_config()), 4, group=3) as feed:
        for first in (3, 6):
            batch, position, _ = feed.next()
            assert position == first + 3
            np.testing.assert_array_equal(batch.index, np.arange(4 * first, 4 * first + 12).reshape(3, 4))


def test_the_step_that_is_not_finite_is_named_within_its_group(tmp_path):
    with pytest.raises(NonFinite) as e:
        train(config(accumulation=1, dispatch=4, model__explode_at=5, log__every=8), tmp_path)
    assert (e.value.step, e.value.metric) == (6, "loss")
    assert checkpoint.load(tmp_path, "latest")[1]["step"] == 4


def test_what_does_not_come_out_even_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"eval.every is 4; expected a multiple of dispatch \(3\)"):
        train(config(dispatch=3, steps=9), tmp_path)
    train(config(steps=2), tmp_path)
    with pytest.raises(UserError, match=r"checkpoints/2 is at no multiple of dispatch \(4\)"):
        train(config(dispatch=4, log__every=4), tmp_path)


@pytest.mark.parametrize("dispatch", [1, 2])
def test_a_trace_holds_the_steps_asked_for(dispatch, tmp_path):
    train(config(profile__first=3, profile__last=4, dispatch=dispatch), tmp_path)
    (path,) = (tmp_path / "profile").rglob("*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    events = [e for plane in planes for line in plane.lines for e in line.events if e.name == "train"]
    steps = sorted({dict(e.stats)["step_num"] for e in events})
    assert steps == ([3, 4] if dispatch == 1 else [4])


def test_a_trace_without_steps_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"profile.first is 5 and profile.last 4"):
        train(config(profile__first=5, profile__last=4), tmp_path)


@pytest.fixture
def no_cache():
    """Without the folder that the tests share, and however short it takes to compile."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    cache.reset_cache()
    for name, value in zip(names, (None, 0.0)):
        jax.config.update(name, value)
    yield
    cache.reset_cache()
    for name, value in before.items():
        jax.config.update(name, value)


def compile_something(number: float) -> None:
    jax.jit(lambda x: jnp.sin(x @ x) * number).lower(jnp.ones((8, 8))).compile()


def test_programs_are_kept_for_the_owner_alone(no_cache, tmp_path):
    with kept_programs(tmp_path):
        compile_something(1.25)
    (folder,) = (tmp_path / "xla").iterdir()
    assert list(folder.iterdir()) and folder.stat().st_mode & 0o077 == 0
    assert jax.config.jax_compilation_cache_dir is None
    kept = len(list(folder.iterdir()))
    with kept_programs(tmp_path, wanted=False):
        compile_something(2.5)
    assert len(list(folder.iterdir())) == kept


def test_a_folder_that_others_write_to_is_not_used(no_cache, tmp_path, capsys):
    (tmp_path / "xla").mkdir()
    (tmp_path / "xla").chmod(0o777)
    with kept_programs(tmp_path):
        assert jax.config.jax_compilation_cache_dir is None
    assert f"WARNING: {tmp_path}/xla can be written to by others" in capsys.readouterr().out
