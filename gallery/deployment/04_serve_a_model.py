r"""
Serve a model
=============

Put a network behind a web address, answer many users at once, refuse what you cannot
answer, and test that no request gets lost.

.. lesson::
   :needs: networks/03_normalization_and_dropout training/05_saving_and_resuming
   :data: scikit-learn's handwritten digits
   :keywords: serving, model server, REST API, HTTP, FastAPI, uvicorn, Flask, deploy a
      model, dynamic batching, micro-batching, latency, throughput, p50, p99,
      percentile, tail latency, queue, backpressure, 503 Service Unavailable, 422
      Unprocessable Entity, 413 Content Too Large, async, event loop blocked,
      run_in_executor, graceful shutdown, SIGTERM, load test, Little's law, TorchServe
   :thumbnail: 2
   :alone:
"""

# %%
# What do twenty users cost?
# --------------------------
#
# Your network reads digits, and now others want to use it, all at the same time. Each sends one picture. Must the twentieth wait
# until nineteen others are done? Ask the network what a batch costs. (``process_time`` counts the time of the processor, whatever other
# programs do.)

import time

import torch


def network():
    """Return the network, with random weights."""
    nn = torch.nn
    one, two, last = nn.Linear(64, 3072), nn.Linear(3072, 3072), nn.Linear(3072, 10)
    return nn.Sequential(one, nn.ReLU(), two, nn.ReLU(), nn.Dropout(0.5), last)


torch.manual_seed(0)
model = network()
sizes, spent = [1, 2, 5, 10, 20], []
for size in sizes:
    batch = torch.rand(size, 64)
    start = time.process_time()
    for _ in range(20):
        model(batch)
    spent.append(1000 * (time.process_time() - start) / 20)
print(f"measured one picture {spent[0]:.1f} ms, twenty in one call {spent[-1]:.1f} ms")

# %%

# fold: time of a call against the size of the batch
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.plot(sizes, [spent[0] * size for size in sizes], "C1--o", label="one by one")
ax.plot(sizes, spent, "C0-o", label="in one call")
ax.set(xlabel="pictures", ylabel="milliseconds", ylim=(0, None))
ax.legend()

# %%
# .. caption:: What pictures cost one by one (dashed: so many times the cost of one) and in a single call (solid), in time of the processor,
#    measured when this page was built.
#    :alt: Two lines over 1 to 20 pictures. The dashed one rises in proportion; the solid one lies below it.
#
# For each call, the processor fetches all 9.7 million weights from memory, however little it has to do with them. A batch fetches them
# once for all. So a good server collects the pictures that wait and answers them together. This is **dynamic batching**.
#
# Train it quickly, and keep its weights in a file. ``right`` holds the answers of this model, right or wrong: the server must give the
# same.

import tempfile
from pathlib import Path

from pytorch_course.datasets import digits

images, labels = digits().tensors
pictures = images.flatten(1)  # 64 numbers from 0 (paper) to 1 (ink)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for rows in torch.randperm(1408).repeat(2).split(128):
    torch.nn.functional.cross_entropy(model(pictures[rows]), labels[rows]).backward()
    optimizer.step()
    optimizer.zero_grad()

folder = tempfile.TemporaryDirectory()
torch.save(model.state_dict(), Path(folder.name, "weights.pt"))
unseen = pictures[1408:]
right = model.eval()(unseen).argmax(dim=1).tolist()

# %%
# How does a server answer many at once?
# --------------------------------------
#
# With four parts, each a short function. Together they will be the file ``server.py``.
#
# 1. **The model**, loaded once, in :meth:`~torch.nn.Module.eval` mode (else dropout would make its answers random) and without gradients.

import asyncio
import contextlib
import typing

import fastapi
import pydantic


def load(path):
    """Return a function from a list of pictures to a list of digits."""
    model = network().eval()
    model.load_state_dict(torch.load(path))

    def predict(pictures):
        with torch.inference_mode():
            return model(torch.tensor(pictures)).argmax(dim=1).tolist()

    return predict


# %%
# 2. **The batching.** An asynchronous web server, such as uvicorn, has *one* thread that serves all connections in turn, in its **event
#    loop**. An ``async`` function that has to wait says ``await``, and the loop goes on with another. So the model must not run in this
#    thread: while it computes, nobody would be served. ``to_thread`` gives it one, and only one call runs at a time. When it is done,
#    everything that waits becomes the next batch, at most ``max_batch``.
#
#    A *future* is a place for an answer that is still to come. Each request waits for its own; ``set_result`` puts the answer in, and
#    ``set_exception`` an error, which is then raised where the request waits.


async def answer_batches(queue, predict, max_batch):
    """Take what waits, answer all of it with one call, and begin again."""
    while True:
        batch = [await queue.get()]
        while len(batch) < max_batch and not queue.empty():
            batch.append(queue.get_nowait())
        pictures, futures = zip(*batch)
        try:
            digits = await asyncio.to_thread(predict, pictures)
            answers = [{"digit": digit, "batch": len(batch)} for digit in digits]
        except Exception as error:  # these requests fail, the server goes on
            answers = [error] * len(batch)
        for future, answer in zip(futures, answers):
            if not future.done():  # a request may have been cancelled
                fail = isinstance(answer, Exception)
                give = future.set_exception if fail else future.set_result
                give(answer)


# %%
# 3. **The routes.** ``/predict`` says what a picture is: 64 numbers from 0 to 1, in a body of at most 4,096 bytes. FastAPI checks it before
#    our code runs. ``embed=True`` means that the list has a name in the body: ``{"pixels": [...]}``. The queue has a limit as well; who
#    finds it full is told so at once, with the status 503, "try again later".


def add_routes(app, queue):
    """Say which requests there are, and what they must look like."""
    ink = typing.Annotated[float, pydantic.Field(ge=0, le=1)]
    body = fastapi.Body(embed=True, min_length=64, max_length=64)

    @app.get("/health")
    async def health():
        return {"waiting": queue.qsize()}

    @app.post("/predict", max_body_size=4096)
    async def answer(pixels: list[ink] = body):
        future = asyncio.get_running_loop().create_future()
        try:
            queue.put_nowait((pixels, future))
        except asyncio.QueueFull:
            raise fastapi.HTTPException(503, "too many wait, try again") from None
        return await future


# %%
# 4. **The application.** ``lifespan`` starts the batching before the first request and ends it after the last: what stands before its
#    ``yield`` runs at the start, what follows at the end. ``create_task`` lets ``answer_batches`` run in the event loop, beside the
#    requests, and does not wait for it. ``explain`` answers a wrong body with the first reason.


def create_app(predict, max_batch, max_waiting):
    """Return the application: routes, batching and a queue between them."""
    queue = asyncio.Queue(max_waiting)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        worker = asyncio.create_task(answer_batches(queue, predict, max_batch))
        yield  # serve
        worker.cancel()

    app = fastapi.FastAPI(lifespan=lifespan)
    add_routes(app, queue)

    @app.exception_handler(fastapi.exceptions.RequestValidationError)
    async def explain(request, error):
        reason = error.errors()[0]["msg"]
        return fastapi.responses.JSONResponse({"detail": reason}, 422)

    return app


# %%
# How do I start it, and end it?
# ------------------------------
#
# Copy the imports and functions into a file, or let :func:`inspect.getsource` do it:

import inspect
import subprocess
import sys
import threading

import httpx

modules = "asyncio, contextlib, typing, fastapi, pydantic, torch, uvicorn"
parts = [network, load, answer_batches, add_routes, create_app]
source = "\n\n".join([f"import {modules}", *map(inspect.getsource, parts)])

# %%
# It runs as a program of its own. ``serving`` adds the last line, ``uvicorn.run``, starts it, reads its address, and gives you a client at
# its ``yield``, where the block of your ``with`` runs. Port 0 means any free one; uvicorn says which, in the fifth word of its line
# ``INFO: Uvicorn running on http://...``. At the end it sends the signal SIGTERM, as Docker and Kubernetes do. If anything hangs, the alarm
# kills the server after two minutes. (A ``StopIteration`` means that the server did not start: run ``server.py`` by hand and read why.)


@contextlib.contextmanager
def serving(source, batch=32, queue=64):
    """Run the text of a server as a program; end it afterwards."""
    app = f"create_app(load('weights.pt'), max_batch={batch}, max_waiting={queue})"
    text = f"{source}\n\nuvicorn.run({app}, port=0, access_log=False)\n"
    Path(folder.name, "server.py").write_text(text)
    options = {"cwd": folder.name, "stderr": subprocess.PIPE, "text": True}
    server = subprocess.Popen([sys.executable, "server.py"], **options)
    alarm = threading.Timer(120, server.kill)
    alarm.start()
    try:
        ready = next(line for line in server.stderr if "running on http" in line)
        with httpx.Client(base_url=ready.split()[4], timeout=60) as client:
            yield client, server
    finally:
        server.terminate()  # SIGTERM
        server.communicate()  # wait for its end
        alarm.cancel()


# %%
# What does batching bring?
# -------------------------
#
# ``load_test`` has 20 users, each a thread that sends a picture, waits for the reply and sends the next, until all 389 are sent. ``ask``
# sends one and returns ``None`` if it is *lost*: if the connection breaks without a reply.

from concurrent.futures import ThreadPoolExecutor


def ask(client, picture):
    """Send one picture; return the reply, or None if it got lost."""
    with contextlib.suppress(httpx.TransportError):
        return client.post("/predict", json={"pixels": picture})


def load_test(client, pictures, users):
    with ThreadPoolExecutor(users) as pool:
        return list(pool.map(lambda picture: ask(client, picture), pictures))


def count(replies):
    """Say how many requests were sent, answered, refused and lost."""
    found = [reply.status_code if reply else None for reply in replies]
    answered, refused, lost = map(found.count, (200, 503, None))
    return f"sent {len(found)}, answered {answered}, refused {refused}, lost {lost}"


# %%

runs = {}
for size in (1, 32):
    with serving(source, batch=size) as (client, server):
        start = time.perf_counter()
        replies = load_test(client, unseen.tolist(), users=20)
        rate = len(replies) / (time.perf_counter() - start)
    print(f"batches up to {size}:", count(replies))
    assert count(replies) == "sent 389, answered 389, refused 0, lost 0"
    assert [reply.json()["digit"] for reply in replies] == right
    runs[size] = torch.tensor([reply.elapsed.total_seconds() for reply in replies])
    p50, p99 = runs[size].quantile(torch.tensor([0.5, 0.99]))
    calls = sum(1 / reply.json()["batch"] for reply in replies)
    print(f"measured {rate:.0f} per second, p50 {p50:.2f} s, p99 {p99:.2f} s")
    print(f"measured rate x mean {rate * runs[size].mean():.1f}, {calls:.0f} calls")
assert calls < 389

# %%

# fold: how many requests are answered within a time
fig, ax = plt.subplots(figsize=(6, 2.8))
for size, color, dash in ((1, "C1", "--"), (32, "C0", "-")):
    ax.ecdf(runs[size], color=color, ls=dash, label=f"batches up to {size}")
ax.set(xlabel="seconds", ylabel="share answered", xlim=(0, None))
ax.legend(loc="lower right")

# %%
# .. caption:: How many of the 389 requests are answered within a time, without batching (dashed) and with it (solid). Where a curve
#    crosses 0.5 is its p50. Further left is better. Measured when this page was built.
#    :alt: Two rising curves from 0 to 1, dashed without batching and solid with it.
#
# Everything sent was answered, and with the same digit as by the model itself. *p50* is the median: half of the requests are answered
# within it. *p99* is the time within which 99 of 100 are answered. Look at it, too: a user who sends many requests meets the slow ones
# every day.
#
# Batching saves calls of the model: see the last number of each. It does not save the work of HTTP and JSON, which each request needs. So
# expect less than the first figure promises. On a busy machine or with a small model, the rate may not grow at all. Compare all three
# numbers of the two runs: p99 may even be *worse* with batching, as a call for a whole batch takes longer, and whoever comes just after its
# start waits for all of it. Measure before you trust it.
#
# In the last line of each, ``rate x mean`` shows **Little's law**: the rate times the mean time is the number of users who wait,
# here nearly the 20 of the test.
#
# Often :term:`latency` is the price of :term:`throughput`: a server that waits for its batch to fill makes a lonely user wait, too. This
# one never waits for more. Whoever comes while the model is free is answered alone.
#
# What about senseless requests?
# ------------------------------
#
# Whatever arrives, the answer must say who is at fault: 4xx if it is the sender, 5xx if it is the server. Send five wrong bodies:

bodies = {
    "wrong shape": '{"pixels": [0.5, 0.5]}',
    "wrong type": '{"pixels": "seven"}',
    "not a number": '{"pixels": [' + "NaN, " * 63 + "NaN]}",
    "malformed": '{"pixels": [0.5,',
    "oversize": '{"pixels": [' + "0.5, " * 9999 + "1]}",
}
kind = {"content-type": "application/json"}
with serving(source) as (client, server):
    for name, body in bodies.items():
        reply = client.post("/predict", content=body, headers=kind)
        print(f"{name:12} {reply.status_code} {reply.text}")
        assert 400 <= reply.status_code < 500

# %%
# None of them reached the model. ``NaN`` deserves a second look: JSON does not know it, Python's parser accepts it. Left to itself,
# FastAPI then repeats the bad values in its answer, cannot write them as JSON, and fails with status 500. ``explain`` names the first
# reason only, and does not repeat the input.
#
# And if the model is too slow?
# -----------------------------
#
# Then a queue without a limit grows and grows: everybody waits longer and longer, until all give up, and the server still computes answers
# that nobody reads. Make the model slow, by one second a call, let four into a batch and eight into the queue, and send 40 at once.

slow = "import time\n" + source.replace("return model(", "time.sleep(1); return model(")

with serving(slow, batch=4, queue=8) as (client, server):
    crowd = load_test(client, unseen[:40].tolist(), users=40)
print("measured", count(crowd))
assert {reply.status_code for reply in crowd} == {200, 503}  # none is lost

# %%
# Everybody got a reply. Usually the first picture goes to the model alone, eight wait, and all who come within this second are refused;
# the exact number depends on who comes when. The refused know it, and may try again later or ask another server. The others wait for a
# few calls of the model at most, and not for forty.
#
# Is anything lost when it stops?
# -------------------------------
#
# Servers are stopped every day, for each new version. On SIGTERM uvicorn takes no new connections, lets the running requests finish, and
# only then ends ``lifespan``. Send five pictures to the slow server, which answers them one by one. When it has accepted all, stop it:

with serving(slow, batch=1) as (client, server), ThreadPoolExecutor(5) as pool:
    jobs = [pool.submit(ask, client, picture) for picture in unseen[:5].tolist()]
    while client.get("/health").json()["waiting"] + sum(j.done() for j in jobs) < 4:
        time.sleep(0.05)  # the fifth is with the model
    server.terminate()
    last = [job.result() for job in jobs]
    assert ask(client, unseen[5].tolist()) is None  # too late
print(count(last))
assert count(last) == "sent 5, answered 5, refused 0, lost 0"

# %%
# What it had accepted, it answered. Who comes later finds no server, and knows that, too. But a process that is killed with SIGKILL answers
# nobody, and Docker sends that after 10 seconds, Kubernetes after 30, unless you say otherwise. Do the sum for a full queue: 64 pictures,
# one by one and a second each, take more than a minute. With batches of 32, they take two calls.
#
# What does one blocking line do?
# -------------------------------
#
# A common mistake is not noticed with a single user: to call the model right there, in the ``async`` function.

deaf = slow.replace("await asyncio.to_thread(predict, pictures)", "predict(pictures)")
for name, text in (("in a thread", slow), ("in the loop", deaf)):
    with serving(text) as (client, server), ThreadPoolExecutor(1) as pool:
        job = pool.submit(ask, client, unseen[0].tolist())
        time.sleep(0.3)  # now the model is at work
        pause = client.get("/health").elapsed.total_seconds()
    print(f"measured model {name}: /health answers after {pause:.2f} s")
assert job.result().status_code == 200 and pause > 0.1

# %%
# You expect that ``async`` makes things run side by side. It does not: the loop is one thread, and it changes to another request only at
# an ``await``. While the model computes *in the loop*, the server is deaf: it answers no health check and sends no 503. If Kubernetes is
# told to restart a server that does not answer in time (a *liveness probe*), it may restart the busiest one. The fix is the line above: a
# thread for what computes. (Here most of the second is a ``sleep``, which leaves Python's global lock to the other threads. PyTorch
# releases it during its computations, too.)
#
# Which tools do this for me?
# ---------------------------
#
# ===========================  ====================================================================================
# you want                     today
# ===========================  ====================================================================================
# a few routes, one model      FastAPI with uvicorn, as here; Flask with gunicorn works too, with a thread a request
# many models, many GPUs       NVIDIA Triton, Ray Serve, BentoML: batching and queues built in
# a language model             vLLM or SGLang, which batch anew at each token
# a TensorFlow model           TensorFlow Serving; in a browser TensorFlow.js
# a phone or a small device    ExecuTorch, LiteRT (once TensorFlow Lite), ONNX Runtime
# ===========================  ====================================================================================
#
# TorchServe, PyTorch's own server, was archived in 2025; PyTorch Mobile and Caffe2 are history. Do not begin with them.
#
# Take this with you
# ------------------
#
# This serves a few users. Save it as ``app.py``; above it belong ``import typing, fastapi, pydantic, torch`` and the lines that load your
# ``model``. Start it with ``uvicorn app:app``. A ``def`` without ``async`` does not block the loop, as FastAPI calls it in a thread. There
# is no batching, no limit of the queue, and no ``explain``, so that NaN is answered with 500. For many users, take the functions of this
# page.

app = fastapi.FastAPI()
model.eval()
ink = typing.Annotated[float, pydantic.Field(ge=0, le=1)]
body = fastapi.Body(embed=True, min_length=64, max_length=64)


@app.post("/predict", max_body_size=4096)
def answer(pixels: list[ink] = body):
    with torch.inference_mode():
        return {"digit": model(torch.tensor([pixels])).argmax().item()}


# %%
# Change something
# ----------------
#
# * In ``load``, leave out ``.eval()``. Where does the page stop, and why?
# * In ``create_app``, leave out the handler ``explain`` (its four lines). Which of the senseless requests is answered with 500?
# * In the cell with ``slow``, let ``queue`` be 100. What becomes of the refusals, and what of the slowest answer?
#
# .. dropdown:: What happens
#
#    * At the first load test, where the digits are compared with ``right``: dropout is still on and switches off other units in each call.
#      The server itself reports nothing: each of its answers has status 200.
#    * The one that is not a number, and the assertion stops the page. The others keep their status, with longer reasons.
#    * There are none, and the assertion stops the page. But the last of 40 waits for ten or eleven calls of one second each. A limit of
#      the queue is a limit of the waiting time.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

folder.cleanup()

# %%
# .. exercise:: Predict a waiting time
#
#    50 users send requests without a break, each as soon as the last one is answered. The server answers 200 per second. How many
#    milliseconds does a request take on average?

### BEGIN SOLUTION
guess = 250
### END SOLUTION

expect(guess, round(1000 * 50 / 200))

# %%
# .. exercise:: Fix a batch that loses answers
#
#    A colleague answers a list of pictures in batches of 32. The loop runs over ``range(len(pictures) // 32)``, and each turn answers
#    ``pictures[32 * turn : 32 * turn + 32]``.
#    For 70 pictures there are 64 answers, and for 20 none. Write ``answer_all``: all answers in order, at most ``largest`` in a call.


def answer_all(predict, pictures, largest):
    ### BEGIN SOLUTION
    answers = []
    for start in range(0, len(pictures), largest):
        answers += predict(pictures[start : start + largest])
    return answers
    ### END SOLUTION


def in_batches(count, largest):
    sizes = []

    def double(batch):
        sizes.append(len(batch))
        return [2 * number for number in batch]

    answers = answer_all(double, list(range(count)), largest)
    return [answers == [2 * number for number in range(count)], *sizes]


expect(lambda: in_batches(70, 32), [True, 32, 32, 6])
expect(lambda: in_batches(20, 32), [True, 20])

# %%
# .. exercise:: Build a small server
#
#    Write ``build``. It returns a FastAPI application with one route: ``POST /mean`` takes ``{"numbers": [...]}``, one to five numbers, and
#    answers ``{"mean": ...}``. An empty or a longer list, or a word in it, gets 422. It is tested without a network, by a client that calls
#    the application directly.


def build():
    ### BEGIN SOLUTION
    app = fastapi.FastAPI()
    body = fastapi.Body(embed=True, min_length=1, max_length=5)

    @app.post("/mean")
    def mean(numbers: list[float] = body):
        return {"mean": sum(numbers) / len(numbers)}

    return app
    ### END SOLUTION


def reply(body):
    async def call():
        transport = httpx.ASGITransport(build())
        async with httpx.AsyncClient(
            transport=transport, base_url="http://app"
        ) as client:
            return await client.post("/mean", json=body)

    with ThreadPoolExecutor(1) as pool:  # a notebook has a loop of its own already
        return pool.submit(asyncio.run, call()).result()


expect(lambda: reply({"numbers": [1, 2, 6]}).json()["mean"], 3.0)
expect(lambda: reply({"numbers": [1, 2, 3, 4, 5, 6]}).status_code, 422)
expect(lambda: reply({"numbers": ["one"]}).status_code, 422)
