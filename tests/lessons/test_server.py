"""The server that a lesson offers to copy: its functions, put into a file as the lesson says, withstand what comes."""

import ast
import contextlib
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch

LIMIT = 120  # seconds that a server may live
# A model that takes time, answers a picture with 64 times its first number, and fails where that is 1.
MODEL = "lambda pictures: time.sleep({}) or [1 // (first != 1) and round(64 * first) for first, *_ in pictures]"
JSON = {"content-type": "application/json"}


def picture(number):
    """Return a picture that the model above answers with the number."""
    return [number / 64] * 64


@pytest.fixture(scope="module")
def source(root):
    """Return the imports and functions of the server, cut out of the lesson."""
    text = next((root / "gallery/deployment").glob("*_serve_a_model.py")).read_text(encoding="utf-8")
    tree = ast.parse(text).body
    values = {ast.unparse(node.targets[0]): node.value for node in tree if isinstance(node, ast.Assign)}
    functions = {node.name: node for node in tree if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    parts = [ast.get_source_segment(text, functions[name.id]) for name in values["parts"].elts]
    return "\n\n".join([f"import {ast.literal_eval(values['modules'])}", *parts])


@pytest.fixture(scope="module")
def serving(source, tmp_path_factory):
    """Return a function that runs the server on the text of a model, in a context that gives its process and a client."""

    @contextlib.contextmanager
    def run(model, batch=32, queue=64):
        folder = tmp_path_factory.mktemp("server")
        text = (
            f"{source}\n\nimport time\n\nuvicorn.run(create_app({model}, {batch}, {queue}), port=0, access_log=False)\n"
        )
        (folder / "server.py").write_text(text, encoding="utf-8")
        command = [sys.executable, "-W", "error", "server.py"]
        server = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        alarm = threading.Timer(LIMIT, server.kill)
        alarm.start()
        try:
            ready = next(line for line in server.stderr if "running on http" in line)
            with httpx.Client(base_url=ready.split()[4], timeout=LIMIT) as client:
                yield server, client
        finally:
            server.terminate()
            server.communicate()
            alarm.cancel()

    return run


@pytest.fixture(scope="module")
def client(serving):
    """Return a client of a server whose model takes a twentieth of a second and at most eight pictures."""
    with serving(MODEL.format(0.05), batch=8) as (_, client):
        yield client


def send(client, pixels):
    """Send a picture and return the reply."""
    return client.post("/predict", json={"pixels": pixels})


def crowd(client, pictures):
    """Send each picture from a thread of its own; return the replies in order."""
    with ThreadPoolExecutor(len(pictures)) as pool:
        return list(pool.map(lambda pixels: send(client, pixels), pictures))


def test_each_gets_its_own_answer(client):
    """Forty at once are answered in batches, none larger than allowed, and nobody gets another's answer."""
    replies = crowd(client, [picture(number) for number in range(40)])
    assert [reply.json()["digit"] for reply in replies] == list(range(40))
    assert 1 < max(reply.json()["batch"] for reply in replies) <= 8


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"pixels": [0.5, 0.5]}', 422),
        ('{"pixels": "seven"}', 422),
        (f'{{"pixels": [{"[0.5], " * 63}[0.5]]}}', 422),
        (f'{{"pixels": [{"NaN, " * 63}NaN]}}', 422),
        (f'{{"pixels": [{"7, " * 63}7]}}', 422),
        ('{"pixels": [0.5,', 422),
        ("[]", 422),
        ("", 422),
        (b"\xff\xfe\x00", 400),
        (f'{{"pixels": [{"0.5, " * 9999}1]}}', 413),
        ([b" " * 1000] * 9, 413),  # in pieces that do not tell the length before
    ],
)
def test_a_wrong_body_gets_a_reason(client, body, status):
    """It is the sender's fault, the answer says why, and the next one is served."""
    content = iter(body) if isinstance(body, list) else body
    reply = httpx.post(client.base_url.join("/predict"), content=content, headers=JSON, timeout=LIMIT)
    assert reply.status_code == status
    assert len(reply.text) > 10
    assert send(client, picture(7)).json()["digit"] == 7


def test_a_model_that_fails(client):
    """Its requests get 500; the server goes on."""
    reply = httpx.post(client.base_url.join("/predict"), json={"pixels": picture(64)}, timeout=LIMIT)
    assert reply.status_code == 500  # after which uvicorn closes this connection
    assert send(client, picture(9)).json()["digit"] == 9


def test_the_model_of_the_lesson(serving, source, tmp_path):
    """Its answers are those of the network in evaluation mode, and always the same."""
    scope = {}
    exec(source, scope)
    network = scope["network"]()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    pictures = torch.rand(20, 64, generator=torch.Generator().manual_seed(0))
    right = network.eval()(pictures).argmax(dim=1).tolist()
    with serving(f"load({str(tmp_path / 'weights.pt')!r})") as (_, client):
        assert [reply.json()["digit"] for reply in crowd(client, pictures.tolist())] == right


def test_a_full_queue_and_a_stop(serving):
    """More than fit are refused with a reason; what was accepted before SIGTERM is answered, and nothing after it."""
    with serving(MODEL.format(0.5), batch=1, queue=5) as (server, client):
        replies = crowd(client, [picture(number) for number in range(30)])
        assert {reply.status_code for reply in replies} == {200, 503}
        assert all("try again" in reply.text for reply in replies if reply.status_code == 503)
        assert all(reply.json()["digit"] == i for i, reply in enumerate(replies) if reply.status_code == 200)
        with ThreadPoolExecutor(5) as pool:
            jobs = [pool.submit(send, client, picture(number)) for number in range(5)]
            accepted = 0
            while accepted < 5:
                time.sleep(0.05)
                waiting = client.get("/health").json()["waiting"]
                accepted = waiting + 1 + sum(job.done() for job in jobs)  # 1 is in the model
            server.send_signal(signal.SIGTERM)
            assert [job.result().json()["digit"] for job in jobs] == list(range(5))
        with pytest.raises(httpx.TransportError):
            send(client, picture(1))
        assert server.wait(LIMIT) == -signal.SIGTERM
