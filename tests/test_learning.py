"""The six backbones learn the same with features kept or not, on one device or on
several; each in processes of its own, in minutes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.promises import ROOT, environment
from tlperf.reference.backbones import BACKBONES

# Three steps of eight photos an epoch.
STEPS = 50


@pytest.fixture
def losses(photos_dir, tmp_path):
    """The losses of a backbone's first steps, in a process of its own."""

    def run(spec, *, features="off", **values):
        given = {
            "backbone": spec.name,
            "data_dir": str(photos_dir),
            "workdir": str(tmp_path),
            "input": {"image_size": 96, "batch_size": 8},
            "features": {"feature_cache": features},
            "steps": STEPS,
            **values,
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.learning_child", json.dumps(given)],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return np.array(json.loads(done.stdout))

    return run


def apart(found, wanted):
    """Relative, of each step; a loss below 0.01 is taken for that: nearly all is learnt
    by heart."""
    return np.abs(found - wanted) / np.maximum(np.abs(wanted), 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("spec", BACKBONES, ids=lambda spec: spec.name)
def test_kept_features_learn_as_the_network_does(spec, losses, record_property):
    """Step 1 within 1e-5; 50 steps within three times what one thread instead of two
    makes, which may sum in another order."""
    plain = losses(spec, threads=2)
    kept = apart(losses(spec, threads=2, features="on"), plain)
    threads = apart(losses(spec, threads=1), plain)
    told = (
        f"step 1 {kept[0]:.1e} apart, 50 steps {kept.max():.1e}; one thread instead "
        f"of two {threads.max():.1e}; loss {plain[:3].mean():.3f} to "
        f"{plain[-3:].mean():.3f}"
    )
    record_property("figures", told)
    print(spec.name, told)
    assert kept[0] <= 1e-5
    assert kept.max() <= 3 * threads.max()


@pytest.mark.slow
@pytest.mark.T5
@pytest.mark.parametrize("spec", BACKBONES, ids=lambda spec: spec.name)
def test_replicas_train_a_backbone_as_one_device_does(spec, losses, record_property):
    """BatchNormalization as it came, no dropout: 50 steps within 1e-5 or, at each step,
    within three times what the last bit of each weight has made on one device by then.
    Adam takes whole steps along gradients that are nothing but rounding."""
    how = {
        "dropout": False,
        "training": {"batch_norm": "inference"},
        "features": "on",
    }
    one = losses(spec, **how)

    def most(**changes):
        """The largest difference up to each step."""
        return np.maximum.accumulate(apart(losses(spec, **changes, **how), one))

    nudged = most(nudged=True)
    far = {count: most(device={"logical_devices": count}) for count in (2, 4)}
    told = ", ".join(
        f"{count} replicas {found[9]:.1e} apart in 10 steps, {found[-1]:.1e} in {STEPS}"
        for count, found in far.items()
    )
    told += f"; the last bit of each weight {nudged[9]:.1e}, {nudged[-1]:.1e}"
    record_property("figures", told)
    print(spec.name, told)
    for found in far.values():
        assert np.all(found <= np.maximum(1e-5, 3 * nudged))
