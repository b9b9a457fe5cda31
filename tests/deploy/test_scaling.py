"""How many replicas are wanted, by what waits."""

from types import SimpleNamespace

import pytest
from ray.serve.config import AutoscalingPolicy

from deploy.deployments import replicas
from deploy.scaling import BACKLOG, ByBacklog
from deploy.settings import Settings, SettingsError, load_settings


@pytest.mark.parametrize(
    ("now", "waiting", "wanted"),
    [
        (1, [], 1),
        (3, [], 3),  # nobody has told anything yet
        (1, [0.0], 1),
        (1, [9.9], 1),
        (1, [10.1], 2),
        (1, [95.0], 10),
        (2, [12.0, 0.0], 2),
        (2, [9.0, 0.5], 2),  # one of them would have nearly the target
        (2, [4.0, 0.5], 1),
        (4, [3.0, 3.0, 3.0, 3.0], 3),
        (4, [0.0] * 4, 1),
    ],
)
def test_replicas_follow_what_waits(now: int, waiting: list[float], wanted: int):
    told = {BACKLOG: {f"replica {k}": each for k, each in enumerate(waiting)}} if waiting else {}
    context = SimpleNamespace(aggregated_metrics=told, target_num_replicas=now)
    assert ByBacklog(10.0)(context)[0] == wanted
    assert ByBacklog(10.0)(SimpleNamespace(aggregated_metrics=None, target_num_replicas=now)) == (now, {})


def test_serve_is_told_the_policy(tmp_path):
    settings = load_settings(models=tmp_path, environment={}, max_replicas=3, target_backlog_seconds=7)
    made = replicas(settings, gpus=False, elsewhere=False)._bound_deployment._deployment_config.autoscaling_config
    assert made is not None
    assert (made.min_replicas, made.max_replicas) == (1, 3)
    assert isinstance(made.policy, AutoscalingPolicy)
    policy = made.policy.get_policy()(**made.policy.policy_kwargs)
    told = {BACKLOG: {"a": 15.0}}
    assert policy(SimpleNamespace(aggregated_metrics=told, target_num_replicas=1)) == (3, {})
    fixed = replicas(Settings(models=tmp_path), gpus=False, elsewhere=False)._bound_deployment._deployment_config
    assert fixed.autoscaling_config is None
    assert fixed.num_replicas == 1


def test_bounds_that_cannot_be(tmp_path):
    with pytest.raises(SettingsError, match="--max-replicas: expected at least 4, as replicas says, got 2"):
        load_settings(models=tmp_path, environment={}, replicas=4, max_replicas=2)
    with pytest.raises(SettingsError, match="--replica-ports: expected at least 3 ports"):
        load_settings(models=tmp_path, environment={}, max_replicas=3, replica_ports="8100-8101")
    with pytest.raises(SettingsError, match=r"--target-backlog-seconds: .*0\.01"):  # the policy divides by it
        load_settings(models=tmp_path, environment={}, target_backlog_seconds=1e-308)
    assert load_settings(models=tmp_path, environment={}, max_replicas=1024).threads == 1
