"""Whether the hub answers: asked of a closed port, of a server that never says anything, and of one that refuses."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import datasets
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from grace.encoder import hub


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Online, with one try, and neither set for other tests."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "RETRIES", 0)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    close_session()  # it has read the environment's proxies
    yield
    close_session()


def test_a_closed_port(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert hub.unreachable() == "http://127.0.0.1:9: [Errno 111] Connection refused"
    hub.offline_if_unreachable()
    assert constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE
    assert hub.unreachable() == "HF_HUB_OFFLINE is set"


def test_a_hub_that_never_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "TIMEOUT", 0.2)
        assert hub.unreachable() == f"{constants.ENDPOINT}: timed out"


@pytest.mark.parametrize("status", [200, 401, 503])
def test_any_answer_is_one(monkeypatch, status):
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        hub.offline_if_unreachable()
        server.shutdown()
    assert not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE
