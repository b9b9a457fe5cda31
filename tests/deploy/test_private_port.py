"""What of Ray is private and replaced: its absence is an error at start, not an open port."""

import importlib

import pytest

from deploy import application, private_dashboard, private_port
from deploy.settings import Settings, SettingsError


def test_this_ray_has_the_names() -> None:
    private_port.check_ray()


@pytest.mark.parametrize("place", private_port.PLACES)
def test_a_ray_without_a_name_is_refused_in_one_line(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(importlib.import_module(place), private_port.LISTEN)
    for start in (lambda: private_port.keep_to("127.0.0.1"), lambda: application.serve(Settings.model_construct())):
        with pytest.raises(SettingsError) as error:
            start()
        assert str(error.value).startswith(f"ray: expected {place}.add_port_to_grpc_server, as in Ray 2.60, got Ray ")
        assert "\n" not in str(error.value)


def test_a_ray_that_starts_its_dashboard_in_another_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    node = importlib.import_module(private_dashboard.PLACE).Node
    monkeypatch.delattr(node, private_dashboard.START)
    with pytest.raises(
        SettingsError, match=r"ray: expected ray\._private\.node\.Node\.start_api_server, as in Ray 2\.60"
    ):
        private_dashboard.leave_out()
