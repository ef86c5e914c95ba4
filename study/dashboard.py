"""optuna-dashboard for a database of studies, with a note and figures of ours that are made when they are looked at.

They are computed in the dashboard's own process from what workers have committed, and are not written anywhere: a
dashboard never makes a worker wait, and what it shows is never stale.
"""

import hmac
import io
import json
import logging
import mimetypes
import re
import secrets
import socketserver
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import optuna
import sqlalchemy
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import InMemoryStorage
from optuna.storages._rdb import models as tables
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial
from optuna_dashboard import save_note, save_plotly_graph_object, wsgi

from models import ModelError
from models.bundle import folder as bundle
from models.bundle.card import Card
from models.bundle.readable import in_markdown
from models.bundle.verdict import Verdict, verdict
from study import StudyError
from study.attributes import CONFIG, IDENTITY, OPENINGS, VERSIONS
from study.config.schema import STORED, StudyConfig
from study.result.pictures import confusion_picture, mistakes_picture
from study.result.report import search_figures
from study.search.best import best_of, read_best
from study.search.contract import files_of
from study.search.members import Membership
from study.storage.address import storage_option
from study.storage.door import open_storage, runs_folder
from study.storage.lean import UNREADABLE, LeanStorage, readable
from study.storage.names import check_name
from study.storage.owners.ownership import check_folder
from study.use.loopback import refusal

FRESH_SECONDS = 5.0
"""Shortest time, in seconds, before a study's figures are made again."""
SHARE = 0.1
"""Largest share of the time that is spent on making figures: for a long history that takes seconds."""
OFFERED = ("report.html", bundle.CARD, bundle.READABLE)
"""Files of a model folder that the page offers."""

SHORT = 100
"""Most characters of an attribute that is shown.

Longer ones, and those that are neither text nor numbers, stay in the database.
"""

logger = logging.getLogger(__name__)


class DashboardStorage(LeanStorage):
    """Database as the dashboard sees it: each study of this program has a note, figures and files in addition."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.url = ""
        self._lock = threading.Lock()
        self._said: dict[str, str] = {}
        self.offered: dict[str, Offer] = {}  # every file ever shown, by its number
        self._cache: dict[tuple[int, str], tuple[float, StudyExtras]] = {}  # (fresh until, what was made)

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return all studies, with what we make for showing them."""
        try:
            studies = super().get_all_studies()
        except UNREADABLE:  # something in one of the studies
            studies = self._readable_studies()
        named = [study for study in studies if isinstance(study.study_name, str)]  # SQLite keeps any type there
        for study in named:
            made = self._made_for(study)
            study.system_attrs.update(made.attributes)
            if made.facts:
                study.user_attrs = made.facts
        return named

    def _readable_studies(self) -> list[FrozenStudy]:
        """Return all studies; for one that another program has made unreadable, only the name."""
        with self.reading() as connection:
            rows = connection.execute(
                sqlalchemy.select(tables.StudyModel.study_id, tables.StudyModel.study_name).order_by("study_id")
            ).all()
        found = []
        for number, name in rows:
            directions: list[StudyDirection] = [StudyDirection.MAXIMIZE]
            user: dict[str, Any] = {}
            system: dict[str, Any] = {}
            try:
                with readable(f"the study {name!r}"):
                    directions = self.get_study_directions(number)
                user, system = self.get_study_user_attrs(number), super().get_study_system_attrs(number)
            except StudyError as error:
                self._say_once(str(name), error)
            found.append(FrozenStudy(str(name), None, user, system, number, directions=directions))
        return found

    def _say_once(self, name: str, error: Exception) -> None:
        if self._said.get(name) != str(error):
            self._said[name] = str(error)
            logger.warning(f"{name} is shown without what cannot be read: {error}")

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return a study's Optuna attributes, with what we make to show it. Raises KeyError if it does not exist."""
        found = super().get_study_system_attrs(study_id)
        made = next((made.attributes for (known, _), (_, made) in list(self._cache.items()) if known == study_id), {})
        return {**found, **made}

    def is_own(self, study_id: int) -> bool:
        """Return whether there is such a study and this program made it."""
        try:
            return CONFIG in self.get_study_user_attrs(study_id)
        except (KeyError, StudyError):
            return False

    def _made_for(self, study: FrozenStudy) -> "StudyExtras":
        key = (study._study_id, study.study_name)
        with self._lock:
            made = self._cache.get(key)
            if made is None or time.monotonic() > made[0]:
                began = time.monotonic()
                try:
                    trials = self.get_all_trials(study._study_id, deepcopy=False)
                    found = extras(study, trials, self.files_of(study), self.url)
                    # Files that were offered before stay, with the pictures drawn for them.
                    self.offered = {offer.number: offer for offer in found.files} | self.offered
                except Exception as error:  # a study of another version is shown as plain Optuna shows it
                    self._say_once(study.study_name, error)
                    found = StudyExtras()
                ended = time.monotonic()
                for other in [one for one in self._cache if one[0] == key[0] and one != key]:
                    # SQLite gives the number of a deleted study to the next one.
                    gone = {offer.number for offer in self._cache[other][1].files}
                    self.offered = {number: one for number, one in self.offered.items() if number not in gone}
                    del self._cache[other]
                made = self._cache[key] = ended + max(FRESH_SECONDS, (ended - began) / SHARE), found
            return made[1]

    def files_of(self, study: FrozenStudy) -> Path | None:
        """Return the folder of a study's files; None if it is that of another database's study of the same name."""
        try:
            check_name(study.study_name)  # no other name may become a path
            folder = files_of(study, self.url)
            check_folder(study.study_name, folder, self)
        except StudyError:
            return None
        return folder


@dataclass(frozen=True, kw_only=True)
class StudyExtras:
    """Note, figures and files that we make for showing a study; empty for one of plain Optuna."""

    attributes: dict[str, Any] = field(default_factory=dict)  # system attributes for the note, figures and files
    facts: dict[str, str | float] = field(default_factory=dict)  # shown in place of the study's own attributes
    files: "list[Offer]" = field(default_factory=list)


def extras(study: FrozenStudy, trials: list[FrozenTrial], folder: Path | None, url: str) -> StudyExtras:
    """Make a study's note, which begins with what the model is worth, the same as a table, figures and files."""
    if CONFIG not in study.user_attrs:
        return StudyExtras()
    config = StudyConfig.model_validate(study.user_attrs[CONFIG], context=STORED)
    own = Membership(config).own(trials)
    memory = InMemoryStorage()
    scratch = optuna.create_study(study_name=study.study_name, storage=memory)
    worth = worth_of(study, folder)
    save_note(scratch, note(study.study_name, config, worth, url))
    for name, figure in search_figures(own, config).items():
        save_plotly_graph_object(scratch, figure, graph_object_id=name)
    files = offers(study, own, folder)
    attributes = {offer.attribute: json.dumps(offer.described) for offer in files}
    return StudyExtras(
        attributes={**memory.get_study_system_attrs(scratch._study_id), **attributes},
        facts=facts(study, worth),
        files=files,
    )


def worth_of(study: FrozenStudy, folder: Path | None) -> Verdict | str:
    """Return what the shipped model is worth, or a sentence why nobody can say it."""
    model = folder / "model" if folder else None
    if model is None or not (model / bundle.CARD).is_file():
        return "No model here." if study.user_attrs.get(OPENINGS) else "No model yet: the test part was not opened."
    try:
        return verdict(bundle.read_card(model, Card)) or "The model was never scored."
    except (ModelError, OSError) as error:
        return f"What the model is worth cannot be read: {error}"


def facts(study: FrozenStudy, worth: Verdict | str) -> dict[str, str | float]:
    """Return the table of the study's attributes: what its model is worth, and all that is short enough to read."""
    short = {
        key: value
        for key, value in study.user_attrs.items()
        if isinstance(value, str | int | float) and len(str(value)) <= SHORT and key != IDENTITY
    }
    if isinstance(worth, str):
        return {"model": worth, **short}
    notes = {f"note {number}": one for number, one in enumerate(worth.notes, 1)}
    first = {worth.metric: f"{worth.value} ({worth.on})", "verdict": worth.word, "model": worth.choice}
    return {key: value for key, value in {**first, **notes, **short}.items() if value != ""}


def note(name: str, config: StudyConfig, worth: Verdict | str, url: str) -> str:
    """Write, in Markdown, what the model is worth, what is searched, on what, how to read it and how to go on.

    `url`: address of the study's database.
    """
    rungs = "; ".join(" → ".join(map(str, one)) for one in config.brackets) if config.brackets else "no pruning"
    leaky = " (LEAKY)" if config.leaky else ""
    lines = [
        *_said(worth),
        f"### {in_markdown(name)}: what is searched",
        f"Searches {len(config.space)} parameters of a CNN on {in_markdown(config.data)} at {config.image_size} px, "
        f"protocol **{config.protocol}**{leaky}; {config.trials or 'any number of'} trials of up to {config.epochs} "
        f"epochs; rungs (epochs, by bracket): {rungs}.",
        f"The value of a trial is the validation {config.metric.replace('_', ' ')} after its last epoch: a *selection "
        "score*. The best of many is not a performance; that is the score on the test part, above and in the report, "
        "once the study has ended.",
    ]
    with suppress(StudyError):  # an invalid name cannot be part of a command
        check_name(name)
        there = storage_option(url)
        commands = (f"resume {name}{there}", f"resume {name} --trials N{there}", f"status {name}{there}")
        lines.append("Go on: `study {}`. More: `study {}`. Standing: `study {}`.".format(*commands))
    return "\n\n".join(lines)


def _said(worth: Verdict | str) -> list[str]:
    """Return the first paragraphs of a note."""
    if isinstance(worth, str):
        return [f"## {in_markdown(worth)}"]
    score, *others = worth.lines
    said = (f"**{in_markdown(line)}**" if line == worth.word else in_markdown(line) for line in others)
    return [f"## {in_markdown(score)}", *said]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """File that the page offers, for a study or for one of its trials."""

    number: str
    name: str
    trial_id: int | None
    content: Callable[[], BinaryIO]

    @property
    def attribute(self) -> str:
        """Name under which the dashboard looks for the file among the study's system attributes."""
        place = "" if self.trial_id is None else f"{self.trial_id}:"
        return f"{'dashboard:' if place else ''}artifacts:{place}{self.number}"

    @property
    def described(self) -> dict[str, str | None]:
        """Description of the file, in the dashboard's format for artifacts."""
        kind = mimetypes.guess_type(self.name)[0] or "text/plain"
        return {"artifact_id": self.number, "filename": self.name, "mimetype": kind, "encoding": None}


def offers(study: FrozenStudy, own: list[FrozenTrial], folder: Path | None) -> list[Offer]:
    """Return the shipped model's report and cards, and the best trial's confusion matrix and worst mistakes."""
    if folder is None:
        return []
    found = [
        Offer(number=_number(study.study_name, name), name=name, trial_id=None, content=partial(_opened, path))
        for name in OFFERED
        if (path := folder / "model" / name).is_file()
    ]
    best, kept = best_of(own), read_best(folder)
    if best and kept and (kept.study, kept.trial) == (study.user_attrs.get(IDENTITY), best.number):
        for name, draw in PICTURES.items():
            number = _number(study.study_name, f"{kept.study}/{best.number}/{name}")
            drawn = cache(partial(draw, kept))  # drawing takes a second, and every look at the page asks for it
            content = partial(_drawn, drawn)
            found.append(Offer(number=number, name=name, trial_id=best._trial_id, content=content))
    return found


PICTURES = {"confusion-val.png": confusion_picture, "worst-mistakes-val.png": mistakes_picture}


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def _drawn(picture: Callable[[], bytes]) -> BinaryIO:
    return io.BytesIO(picture())


SECRET = uuid.uuid4()
"""Secret of this process, without which nobody can tell the address of a file."""


def _number(study: str, name: str) -> str:
    return str(uuid.uuid5(SECRET, f"{study}/{name}"))


class ArtifactFiles:
    """Artifact store of the dashboard: model folders as they are, and what is uploaded through the page."""

    def __init__(self, storage: DashboardStorage) -> None:
        self._storage = storage
        self._uploads = runs_folder(storage.url) / "artifacts"

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Return the content of a file; for one that is gone by now, a line that says so."""
        offer = self._storage.offered.get(artifact_id)
        try:
            if offer is None and not self._uploads.is_dir():
                raise ArtifactNotFound
            return offer.content() if offer else self._store().open_reader(artifact_id)
        except (ArtifactNotFound, FileNotFoundError):
            return io.BytesIO(b"this file no longer exists\n")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep an uploaded file."""
        self._store().write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Remove an uploaded file; model folders, and what another store holds, stay as they are."""
        if artifact_id not in self._storage.offered:
            with suppress(ArtifactNotFound):
                self._store().remove(artifact_id)

    def _store(self) -> FileSystemArtifactStore:
        self._uploads.mkdir(parents=True, exist_ok=True)
        return FileSystemArtifactStore(self._uploads)


def application(url: str, *, write: bool) -> WSGIApplication:
    """Return the dashboard as a WSGI application; without `write` it can change nothing. Raises StudyError."""
    storage = open_storage(url, create=False, write=write, kind=DashboardStorage)
    assert isinstance(storage, DashboardStorage)
    storage.url = url
    app = add_page_changes(wsgi(storage, artifact_store=ArtifactFiles(storage)), storage, write=write)
    return app if write else _read_only(app)


def _read_only(app: WSGIApplication) -> WSGIApplication:
    """Refuse every request that could change something; the database is opened for reading only, too."""

    def guarded(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environment, start)
        start("403 Forbidden", [("Content-Type", "application/json")])
        return [json.dumps({"reason": "read-only: start it with study dashboard --write"}).encode()]

    return guarded


NARROW_STYLE = """
.MuiTypography-root, td { overflow-wrap: anywhere }
main { min-width: 0 }
main .MuiCard-root { max-width: 100% }
main .MuiTable-root { min-width: 0 }
@media (max-width: 40rem) {
  main .MuiGrid-root { max-width: 100%; flex-basis: 100%; flex-direction: column; flex-wrap: nowrap }
  main .MuiContainer-root { padding: 0 .5rem }
  main .MuiCard-root { margin-left: 0; margin-right: 0 }
  main .MuiCardContent-root, main .MuiTableContainer-root { overflow-x: auto }
  main .MuiCardContent-root > .MuiBox-root { flex-wrap: wrap; gap: .5rem }
  main .MuiBox-root:has(> .MuiDivider-vertical) { flex-direction: column }
  main .MuiBox-root:has(+ .MuiDivider-vertical) { height: 11rem; overflow: auto }
  main .MuiBox-root > p.MuiTypography-root:has(+ .MuiBox-root) { min-width: 6.5rem; width: 6.5rem }
  main .MuiFormGroup-row, main .MuiFormControl-root { flex-wrap: wrap }
  main .MuiTypography-h4 { font-size: 1.4rem } main .MuiTypography-h5 { font-size: 1.2rem }
  main h2 { font-size: 1.2rem; line-height: 1.35 } main h3 { font-size: 1.05rem; line-height: 1.35 }
}
"""
"""Style that keeps everything within the width of a phone's screen."""

READ_ONLY_STYLE = """
:is(button, [role=button]):is([aria-label="rename study"], [aria-label="delete study"], [aria-label="delete artifact"],
  [aria-label="skip trial"]),
button:has([data-testid=AddBoxIcon], [data-testid=EditIcon]),
main .MuiButton-outlinedError,
.MuiCard-root:has(> .MuiCardActionArea-root [data-testid=UploadFileIcon]) { display: none }
"""
"""Style that hides buttons which could only fail where nothing may be written.

They are: create, rename, delete, edit, upload, and "Fail Trial".
"""

BEST_VALUE_STYLE = """
h6 + h3.MuiTypography-h3 { color: inherit; font-size: 1.25rem; font-weight: normal }
h6 + h3.MuiTypography-h3::before { content: "Selection score on validation, the best of many and not a performance: " }
"""
"""Style in which the largest number of a study's page says what it is, and is not red."""

OPEN_NOTE_SCRIPT = """
document.addEventListener("click", event => {
  const link = event.target.closest('main a[href*="/dashboard/studies/"]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  if (!/^\\/dashboard\\/?$/.test(location.pathname) || !/\\/studies\\/\\d+$/.test(link.pathname)) return;
  event.preventDefault();
  event.stopPropagation();
  location.assign(link.pathname + "?first");
}, true);
"""
"""Script that opens a study chosen from the list at its note."""


def add_page_changes(app: WSGIApplication, storage: DashboardStorage, *, write: bool) -> WSGIApplication:
    """Add our styles to the dashboard's pages, open a study at its note, and leave out long attributes."""

    def answer(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environment.get("PATH_INFO", "").rstrip("/")
        if environment["REQUEST_METHOD"] != "GET":
            return app(environment, start)
        if path == "/first.js":
            start("200 OK", [("Content-Type", "text/javascript; charset=utf-8")])
            return [OPEN_NOTE_SCRIPT.encode()]
        found = re.match(r"/(dashboard|api)/studies/(\d{1,18})(/.*)?$", path)
        own = found is not None and storage.is_own(int(found[2]))
        if path.startswith("/dashboard"):
            if own and environment.get("QUERY_STRING") == "first":
                start("302 Found", [("Location", f"{path}/note")])
                return []
            return _changed(app, environment, start, partial(_styled, write=write, own=own))
        if own and found and not found[3]:
            return _changed(app, environment, start, _without_walls)
        return app(environment, start)

    return answer


def _changed(
    app: WSGIApplication, environment: WSGIEnvironment, start: StartResponse, change: Callable[[bytes], bytes]
) -> Iterable[bytes]:
    """Pass a request on and change the content of the answer, if its status is "200 OK"."""
    given: list[Any] = []
    written: list[bytes] = []  # by the function that WSGI lets an application write with

    def begin(*answer: Any) -> Callable[[bytes], object]:
        given[:] = answer
        return written.append

    asked = {key: value for key, value in environment.items() if key not in PARTIAL_HEADERS}
    content = app(asked, begin)
    body = b"".join([*written, *content])
    if close := getattr(content, "close", None):
        close()
    status, headers, *more = given
    if status.startswith("200"):
        body = change(body)
        headers = [pair for pair in headers if pair[0].lower() not in ("content-length", "last-modified", "etag")]
        headers.append(("Content-Length", str(len(body))))
    start(status, headers, *more)
    return [body]


PARTIAL_HEADERS = ("HTTP_IF_MODIFIED_SINCE", "HTTP_IF_NONE_MATCH", "HTTP_RANGE")
"""Request headers that ask for less than the whole answer."""


def _styled(page: bytes, *, write: bool, own: bool) -> bytes:
    style = NARROW_STYLE + ("" if write else READ_ONLY_STYLE) + (BEST_VALUE_STYLE if own else "")
    return page.replace(b"</head>", f'<style>{style}</style><script defer src="/first.js"></script></head>'.encode(), 1)


def _without_walls(answer: bytes) -> bytes:
    """Leave out of a study's trials what no person reads; it stays in the database and in the CSV."""
    found = json.loads(answer)
    for trial in (*found["trials"], *found["best_trials"]):
        trial["user_attrs"] = [one for one in trial["user_attrs"] if one["key"] != VERSIONS]
    found["union_user_attrs"] = [one for one in found["union_user_attrs"] if one["key"] != VERSIONS]
    return json.dumps(found).encode()


def require_own_pages(app: WSGIApplication, port: int, token: str | None) -> WSGIApplication:
    """Answer only requests from this server's own pages: any other website can send requests to 127.0.0.1, too.

    With a token, answer only those who have it: from the printed address at first, and by a cookie from then on. Files
    of a study are shown in a sandbox: a report may run scripts, but not read what else is served here.
    """
    cookie = f"archstudy-{port}"

    def answer(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        asked = parse_qs(environment.get("QUERY_STRING", "")).get("token", [""])[0]
        if reason := refused(environment, asked):
            start("403 Forbidden", [("Content-Type", "application/json")])
            return [json.dumps({"reason": reason}).encode()]

        def begin(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            kept = [pair for pair in headers if pair[0].lower() != "access-control-allow-origin"]
            kept += [("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer")]
            kept += [("X-Frame-Options", "SAMEORIGIN")]
            if environment.get("PATH_INFO", "").startswith("/artifacts/"):
                kept.append(("Content-Security-Policy", "sandbox allow-scripts"))
            if token and asked:
                kept.append(("Set-Cookie", f"{cookie}={token}; Path=/; HttpOnly; SameSite=Strict"))
            return start(status, kept, *more)

        return app(environment, begin)

    def refused(environment: WSGIEnvironment, asked: str) -> str | None:
        reason = refusal(environment.get("HTTP_HOST", ""), environment.get("HTTP_ORIGIN"))
        if reason or token is None:
            return reason
        pairs = [pair.strip().partition("=") for pair in environment.get("HTTP_COOKIE", "").split(";")]
        given = asked or next((value for name, _, value in pairs if name == cookie), "")
        return None if hmac.compare_digest(given.encode(), token.encode()) else "open the address that was printed"

    return answer


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Write nothing, because nobody reads a line for every request."""


def serve(app: WSGIApplication, port: int, ready: Callable[[str], None], *, secret: bool = False) -> None:
    """Serve on this machine alone until interrupted; `ready` gets the address. Raises StudyError if the port is taken.

    `secret`: serve only those who have the token that is part of the address.
    """
    token = secrets.token_urlsafe(24) if secret else None
    try:
        server = make_server("127.0.0.1", port, app, server_class=_Server, handler_class=_QuietHandler)
    except OSError as error:
        raise StudyError(f"port {port}: {error.strerror} (choose another with --port, or 0 for any)") from error
    with server:
        server.set_app(require_own_pages(app, server.server_port, token))
        ready(f"http://127.0.0.1:{server.server_port}/dashboard{f'?token={token}' if token else ''}")
        server.serve_forever()
