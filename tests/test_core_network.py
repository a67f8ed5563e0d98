"""Which machines' servers others would reach."""

import shutil

import pytest

from tlperf.core import network
from tlperf.core.errors import ExitCode, TlperfError


def test_interfaces_that_others_reach(tmp_path):
    for name, flags in (("lo", "0x9"), ("eth0", "0x1003"), ("ifb0", "0x82")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flags").write_text(f"{flags}\n")
    network.check_private(allow_public_bind=True, root=tmp_path)
    (tmp_path / "odd").mkdir()  # tells nothing: taken for one that is up
    assert network.find_public_interfaces(tmp_path) == ["eth0", "odd"]
    with pytest.raises(TlperfError) as caught:
        network.check_private(allow_public_bind=False, root=tmp_path)
    assert caught.value.code == ExitCode.CONFIG
    assert (
        "public_bind: TensorFlow's servers listen on every interface, here also on "
        "eth0, odd, and" in str(caught.value)
    )
    for name in ("eth0", "odd"):
        shutil.rmtree(tmp_path / name)
    network.check_private(allow_public_bind=False, root=tmp_path)
