"""What hosting needs: commands of the noxfile, the workflow, the offline proof, and files for machines and offline readers."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from types import ModuleType, SimpleNamespace
from urllib.parse import urldefrag

import pytest
import yaml

ROOT = Path(__file__).parents[2]


class StopError(Exception):
    """What session.error raises."""


class FailedError(Exception):
    """What nox raises for a command that ends with an error."""


class Session:
    """Takes the place of nox's session: it notes commands and runs none."""

    def __init__(self, folder, *posargs, fail=False):
        folder.mkdir(parents=True, exist_ok=True)
        self.posargs, self.env, self.commands, self.messages, self.fail = list(posargs), {}, [], [], fail
        self.virtualenv = SimpleNamespace(location=str(folder))

    def run(self, *command, **options):
        """Note a command."""
        self.commands.append([str(part) for part in command])
        if self.fail:
            raise FailedError

    def install(self, *arguments):
        """Note what is installed."""
        self.commands.append(["install", *arguments])

    def log(self, message):
        """Note a message."""
        self.messages.append(message)

    def error(self, message):
        """End the session."""
        raise StopError(message)


@pytest.fixture
def noxfile(monkeypatch, tmp_path):
    """Return the noxfile as a module, without nox, for a checkout in an empty folder with two locks."""
    nox = ModuleType("nox")
    nox.options = SimpleNamespace()
    nox.session = lambda function=None, **options: function or (lambda function: function)
    nox.command = SimpleNamespace(CommandFailed=FailedError)
    monkeypatch.setitem(sys.modules, "nox", nox)
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "requirements").mkdir()
    for name in ("docs", "docs-cpu"):
        (tmp_path / f"requirements/{name}.txt").touch()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.delenv("BOOK_CPU", raising=False)
    return module


@pytest.fixture
def disk(noxfile, monkeypatch):
    """Return a function that says how much of the disk is free."""

    def free(size):
        monkeypatch.setattr(noxfile.shutil, "disk_usage", lambda path: SimpleNamespace(free=size))

    return free


def test_sessions_install_the_lock_that_is_asked_for(noxfile, monkeypatch, tmp_path):
    """The CPU builds are on an index of their own, so installing them names the backend, too."""
    session = Session(tmp_path / "env")
    noxfile.install(session, "docs")
    assert session.commands[0] == ["install", "--require-hashes", "-r", "requirements/docs.txt"]
    monkeypatch.setenv("BOOK_CPU", "1")
    session = Session(tmp_path / "env")
    noxfile.install(session, "docs")
    expected = ["install", "--torch-backend", "cpu", "--require-hashes", "-r", "requirements/docs-cpu.txt"]
    assert session.commands[0] == expected


def test_a_missing_cpu_lock_is_named(noxfile, monkeypatch, tmp_path):
    """Nothing is installed instead."""
    monkeypatch.setenv("BOOK_CPU", "1")
    session = Session(tmp_path / "env")
    with pytest.raises(StopError, match=r"asks for requirements/tests-cpu\.txt, which is not there: .* lock -- cpu"):
        noxfile.install(session, "tests")
    assert session.commands == []


def test_cpu_locks_hold_the_versions_of_the_usual_ones(noxfile, tmp_path):
    """Each is made by uv for the CPU backend, from the usual lock, and names no address."""
    session = Session(tmp_path / "env", "cpu")
    noxfile.lock(session)
    assert len(session.commands) == len(noxfile.LOCKS)
    for name, command in zip(noxfile.LOCKS, session.commands, strict=True):
        text = " ".join(command)
        assert "-m uv pip compile" in text
        assert f"--torch-backend cpu --constraint requirements/{name}.txt" in text
        assert f"--output-file requirements/{name}-cpu.txt" in text
        assert "--generate-hashes" in command
        assert "--no-emit-index-url" in command
        assert "--upgrade" not in command
        assert "://" not in text
    session = Session(tmp_path / "env")
    noxfile.lock(session)
    assert all("--upgrade" in command and "--torch-backend" not in command for command in session.commands)
    assert [command[-1] for command in session.commands] == [f"requirements/{name}.txt" for name in noxfile.LOCKS]


def test_uv_takes_the_commands_of_the_cpu_locks(noxfile, monkeypatch, tmp_path):
    """uv itself, for a package that needs nothing, so that no index is asked."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on the PATH")
    extras = "".join(f"{extra} = []\n" for extra in noxfile.LOCKS)
    project = f'[project]\nname = "pytorch-course"\nversion = "1"\n[project.optional-dependencies]\n{extras}'
    (tmp_path / "pyproject.toml").write_text(project)
    for name in noxfile.LOCKS:
        (tmp_path / f"requirements/{name}.txt").touch()
    session = Session(tmp_path / "env", "cpu")
    noxfile.lock(session)
    for _, _, _, *command in session.commands:
        subprocess.run([uv, *command], cwd=tmp_path, check=True, timeout=60)
    text = (tmp_path / "requirements/serve-cpu.txt").read_text()
    assert "nox -s lock -- cpu" in text
    assert "://" not in text
    monkeypatch.setenv("BOOK_CPU", "1")
    noxfile.install(session, "docs")
    command = [uv, "pip", *session.commands[-2], "--dry-run", "--python", sys.executable]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "where"), [(["cpu"], "the index of torch's CPU builds"), ([], "a package index")]
)
def test_an_index_out_of_reach(noxfile, tmp_path, arguments, where):
    """The error says which index is needed."""
    with pytest.raises(StopError, match=f"the lock of docs is as it was.*reach {where}"):
        noxfile.lock(Session(tmp_path / "env", *arguments, fail=True))


def test_lock_takes_no_other_word(noxfile, tmp_path):
    """A slip does not rewrite the usual locks."""
    session = Session(tmp_path / "env", "gpu")
    with pytest.raises(StopError, match="no argument but cpu, not gpu"):
        noxfile.lock(session)
    assert session.commands == []


def test_no_lock_names_an_address():
    """Whoever installs decides where from."""
    locks = [*(ROOT / "requirements").glob("*.txt"), ROOT / ".ci/requirements.txt"]
    assert [path.name for path in locks if "://" in path.read_text() or "--index" in path.read_text()] == []


def test_the_disk_has_to_hold_torch_once(noxfile, disk, tmp_path):
    """An environment whose torch is uv's own file costs little more than none; a copied torch costs all of it."""
    disk(2e9)
    with pytest.raises(StopError, match=r"2\.0 GB free, and a new environment with torch needs up to 7 GB"):
        noxfile.install(Session(tmp_path / "new"), "docs")
    cached = tmp_path / "cache.py"
    cached.touch()
    torch = tmp_path / ".nox/tests/lib/python3.13/site-packages/torch"
    torch.mkdir(parents=True)
    (torch / "version.py").touch()
    with pytest.raises(StopError, match="up to 7 GB"):
        noxfile.install(Session(tmp_path / "new"), "docs")
    (torch / "version.py").unlink()
    (torch / "version.py").hardlink_to(cached)
    noxfile.install(Session(tmp_path / "new"), "docs")
    disk(0.5e9)
    noxfile.install(Session(tmp_path / "new"), "docs")  # it is installed
    with pytest.raises(StopError, match=r"0\.5 GB free, and a new environment with torch needs up to 1 GB"):
        noxfile.install(Session(tmp_path / "newer"), "docs")


def steps():
    """Return every step of every workflow, with its job."""
    for path in sorted((ROOT / ".github/workflows").glob("*.yml")):
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            yield from ((job, step) for step in job["steps"])


def test_actions_are_pinned():
    """By a commit, with the version beside it; and what is checked out keeps no token."""
    lines = [line for path in (ROOT / ".github/workflows").glob("*") for line in path.read_text().splitlines()]
    uses = [line for line in lines if "uses:" in line]
    assert len(uses) == sum("uses" in step for _, step in steps())
    assert [line for line in uses if not re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []
    for _, step in steps():
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False
    tools = (ROOT / ".ci/requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w\[\]]+==[\d.]+", tool) for tool in tools)


def test_publishing_is_not_cut_off():
    """It waits in a group of its own, and no group of the whole workflow ends it."""
    (workflow,) = (ROOT / ".github/workflows").glob("*.yml")
    workflow = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    assert "concurrency" not in workflow
    groups = [job["concurrency"]["group"] for job in workflow["jobs"].values() if "concurrency" in job]
    assert len(set(groups)) == len(groups)
    assert workflow["jobs"]["publish"]["concurrency"]["cancel-in-progress"] is False


def test_every_session_of_the_workflow_exists(noxfile):
    """A renamed session is noticed here, not a week later."""
    commands = [step["run"] for _, step in steps() if "run" in step]
    commands += [(ROOT / ".ci/run").read_text()]
    named = {name for command in commands for name in re.findall(r"nox -s (\w+)", command)}
    assert {"lint", "tests", "docs", "site", "lowest", "links", "lock"} <= named
    assert [name for name in named if not callable(getattr(noxfile, name, None))] == []


def fake(folder, name, body):
    """Write a program in the place of a real one."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport os, sys\n{body}\n")
    path.chmod(0o755)


def offline(tmp_path, *command, **environment):
    """Run a command by .ci/offline.py, with programs of ours before the real ones."""
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CI": ""} | environment
    command = [sys.executable, ROOT / ".ci/offline.py", *command]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
class TestOffline:
    """The proof that the book needs no network."""

    def test_nothing_but_loopback(self, tmp_path):
        """No address can be reached, and this machine can."""
        done = offline(tmp_path, sys.executable, "-c", REACH)
        if "with the network in place" in done.stderr:
            pytest.skip("no right to take the network away")
        assert done.stdout == "loopback\nno way out\n"

    def test_where_no_way_is_allowed(self, tmp_path):
        """Under CI nothing runs; elsewhere the command runs, and the reader is told."""
        for name in ("unshare", "sudo"):
            fake(tmp_path, name, "sys.exit(1)")
        done = offline(tmp_path, "echo", "ran")
        assert (done.returncode, done.stdout) == (0, "ran\n")
        assert "with the network in place" in done.stderr
        done = offline(tmp_path, "echo", "ran", CI="true")
        assert (done.returncode, done.stdout) == (1, "")
        assert "neither unshare nor sudo" in done.stderr

    def test_by_sudo_as_the_same_user(self, tmp_path):
        """Root makes the namespace, in which the user who asked runs the command, with the same PATH."""
        fake(
            tmp_path,
            "sudo",
            "os.environ['ROOT'] = 'yes'; os.environ['PATH'] = '/bin'; os.execvp(sys.argv[3], sys.argv[3:])",
        )
        fake(tmp_path, "unshare", "os.execvp(sys.argv[2], sys.argv[2:]) if 'ROOT' in os.environ else sys.exit(1)")
        fake(tmp_path, "setpriv", "print(*sys.argv[1:4], flush=True); os.execvp(sys.argv[4], sys.argv[4:])")
        done = offline(tmp_path, sys.executable, "-c", "import os; print(os.environ['PATH'])", CI="true")
        user, path = done.stdout.splitlines()
        assert user == f"--reuid={os.getuid()} --regid={os.getgid()} --clear-groups"
        assert path.startswith(f"{tmp_path}:")

    def test_the_end_of_the_command_is_the_end(self, tmp_path):
        """A build that fails without a network fails."""
        assert offline(tmp_path, "sh", "-c", "exit 3").returncode == 3


REACH = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
print("loopback")
try:
    socket.create_connection(("192.0.2.1", 9), timeout=5)
except OSError as error:
    print("no way out" if error.errno == 101 else error)
"""


class Links(HTMLParser):
    """Collects what a page links to."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Keep addresses."""
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def test_the_book_as_one_file(noxfile, shared_site, tmp_path):
    """The archive holds what its pages link to, the wheel, too, and is the same for the same pages."""
    site = shared_site
    site.lesson("01_a", "assert True")
    site.chapter("b", "print(1)")
    assert site.build().returncode == 0
    (site.html / "_sources").mkdir(exist_ok=True)
    for name in ("_sources/left.txt", "sitemap.xml"):
        (site.html / name).touch()
    first, second = tmp_path / "1/book.zip", tmp_path / "2/book.zip"
    for archive in (first, second):
        archive.parent.mkdir()
        noxfile.pack(site.html, archive)
        for page in site.html.rglob("*.html"):
            page.touch()
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["book.zip"]
    with zipfile.ZipFile(first) as book:
        names = set(book.namelist())
        pages = {name: book.read(name).decode() for name in names if name.endswith(".html")}
    assert {name.split("/")[0] for name in names} == {"book"}
    assert "book/_downloads/pytorch_course-0.1-py3-none-any.whl" in names
    assert {"book/index.html", "book/lessons/one/01_a.html", "book/start/b.html"} <= pages.keys()
    assert not [
        name for name in names if "_sources" in name or "/." in name or name.endswith(("objects.inv", "sitemap.xml"))
    ]
    for page, text in pages.items():
        for link in (urldefrag(link)[0].split("?")[0] for link in Links(text).found):
            target = os.path.normpath(PurePosixPath(page).parent / link)
            assert not link or ":" in link or target in names, f"{page} links to {link}"


def test_nox_says_where_the_archive_is(noxfile, monkeypatch, tmp_path):
    """It is written for the whole book; a build of one lesson, or one that fails, leaves none behind."""
    html, archive = tmp_path / "html", tmp_path / "tiny.zip"
    monkeypatch.setattr(noxfile, "HTML", html)
    monkeypatch.setattr(noxfile, "ARCHIVE", archive)

    class Builds(Session):
        def run(self, *command, **options):
            html.mkdir(exist_ok=True)
            (html / "lessons.json").write_text('{"lessons": []}')
            return True

    session = Builds(tmp_path / "env")
    noxfile.build(session, "")
    assert archive.exists()
    assert any(str(archive) in message for message in session.messages)
    noxfile.build(Builds(tmp_path / "env"), "one/01")
    assert not archive.exists()
    noxfile.build(Builds(tmp_path / "env"), "")
    with pytest.raises(StopError, match="the book is not built"):
        noxfile.build(Session(tmp_path / "env", fail=True), "")
    assert not archive.exists()


def test_lists_of_pages(shared_site):
    """llms.txt gives each page with its goal, by part; a sitemap needs the address of the book."""
    site = shared_site
    site.lesson("01_a", "assert True", title="Read & write")
    site.write("docs/start/c.rst", "A page\n======\n\nSay why\n``this`` matters.\n\nMore.\n")
    assert site.build("-D", "html_baseurl=https://example.org/book?a&b").returncode == 0
    found = ET.parse(site.html / "sitemap.xml").findall(".//{*}loc")
    found = [place.text.removeprefix("https://example.org/book?a&b/") for place in found]
    assert {"index.html", "lessons/one/01_a.html", "start/c.html"} <= set(found)
    assert found == sorted(found)
    assert "(https://example.org/book?a&b/lessons/one/01_a.html): Do a thing." in (site.html / "llms.txt").read_text()
    assert site.build().returncode == 0
    assert not (site.html / "sitemap.xml").exists(), "one of an earlier build"
    text = (site.html / "llms.txt").read_text()
    assert text.startswith("# tiny\n\n> ")
    assert "\n## Part one\n\n- [Part one](lessons/one/index.html): " in text
    assert "- [Read & write](lessons/one/01_a.html): Do a thing.\n" in text
    assert "- [A page](start/c.html): Say why this matters.\n" in text


def test_links_are_asked(noxfile, shared_site, tmp_path):
    """The session's command finds a dead link of a built book and leaves alone what turns machines away."""
    session = Session(tmp_path / "env")
    noxfile.links(session)
    command = session.commands[-1]
    options = command[command.index("-D") : command.index("-d")]
    text = "`one <https://doi.org/10/1>`__ `two <http://127.0.0.1:9/>`__ `three <http://nowhere.invalid/>`__"
    shared_site.write("docs/start/d.rst", f"Links\n=====\n\n{text}\n")
    done = shared_site.build("-b", "linkcheck", *options, "-D", "linkcheck_retries=1", "-D", "linkcheck_timeout=5")
    assert done.returncode != 0
    assert "broken link: http://127.0.0.1:9/" in done.stderr
    assert "broken link: http://nowhere.invalid/" in done.stderr
    assert "the book runs without a network" not in done.stderr
    assert "doi.org" not in done.stderr
