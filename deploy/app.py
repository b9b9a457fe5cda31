"""Import paths for a configuration of Ray Serve: `deploy.app:replicas` in a RayService's serveConfigV2, or a file that
`serve deploy` takes.

    applications:
      - name: replicas
        import_path: deploy.app:replicas
        route_prefix: null
        args: {models: /models, directory: ["directory:8004"], replicas: 2, threads_per_replica: 4, ...}
"""

from collections.abc import Mapping
from typing import Any

from ray.serve import Application

from deploy import deployments
from deploy.settings import SettingsError, settings_elsewhere


def replicas(args: Mapping[str, Any]) -> Application:
    """The replicas of a server whose fronts run elsewhere (`tiltserve front`).

    Args:
        args: the keys of a settings file. `models`, `directory` and `threads_per_replica` are needed. Files and folders
            are those of the nodes on which replicas run; environment variables of this process are not looked at.

    Raises:
        SettingsError: one cannot be used.
    """
    settings = settings_elsewhere(args)
    if settings.models is None:
        raise SettingsError("args: models: expected a folder, got none")
    if not settings.directory:
        raise SettingsError("args: directory: expected HOST:PORT of a `tiltserve directory`, got none")
    if settings.threads_per_replica is None:  # the cores here are not those of the replicas
        raise SettingsError("args: threads_per_replica: expected a number, got none")
    settings.check_reachable()
    return deployments.replicas(settings, gpus=settings.provider != "cpu", elsewhere=True)
