"""What memory says of machine configuration when the API server does not let it be followed."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nodeobs.deploy import machineobserved
from nodeobs.deploy.machineobserved import MachinesObserved, Stored
from nodeobs.deploy.machines import API_VERSION, PATHS
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from nodeobs.model import NodeObservabilityMachineConfig, from_builtins
from tests.fakes.api_server import Answer, FakeApiServer, Request, status
from tests.processes import wait_for

WANTED: dict[str, Any] = {"metadata": {"name": "one"}, "spec": {"debug": {"enableCrioProfiling": True}}}
EVERYONE = [Stored(from_builtins(WANTED, NodeObservabilityMachineConfig), b"")]
FORBIDDEN = Answer(403, status(403, "Forbidden", "no more"))


@pytest.mark.slow
def test_what_cannot_be_followed_any_more_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machineobserved, "_PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(machineobserved, "_BEHIND_SECONDS", 1.0)
    forbidden = False

    def respond(request: Request) -> Answer:
        if request.path == f"/apis/{API_VERSION}":
            return Answer(body={"resources": [{"name": path.plural} for path in PATHS.values()]})
        if "watch" not in request.query:
            return Answer(body={"metadata": {"resourceVersion": "1"}, "items": []})
        return FORBIDDEN if forbidden and request.path == "/api/v1/nodes" else Answer(lines=(), then="hang")

    with FakeApiServer(respond) as server:
        credentials = load_credentials(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig"), environ={})
        with closing(KubeClient(credentials)) as client:
            observed = MachinesObserved(client, openshift=True, randomness=Random(1), changed=lambda: None)
            with closing(observed):
                observed.start()

                def known() -> bool:
                    view = observed.view(EVERYONE)
                    return view is not None and view.known and observed.is_followed

                wait_for("it is known", known)
                time.sleep(1.5)
                view = observed.view(EVERYONE)
                assert view is not None
                assert view.known
                forbidden = True
                server.drop_connections()
                wait_for("it is said not to be known", lambda: not known(), seconds=10)
                wait_for("it stays so", lambda: not (observed.view(EVERYONE) or view).known, seconds=20)
                forbidden = False
                wait_for("it is known again", known, seconds=40)
