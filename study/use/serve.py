"""Server of `study serve`: models behind one page and a small HTTP interface, on this machine alone.

Images are decoded in threads, and those of several requests go through the network together. Requests beyond the
limits are refused with a sentence, before they are read where that is possible. No image is kept.
"""

import asyncio
import base64
import hashlib
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse
from numpy.typing import NDArray
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartParser
from starlette.requests import ClientDisconnect

from data import DataError
from data.batches import images_at_once
from data.formats.ranges import AS_16_BITS, Ranges
from data.images import MOST_MEGAPIXELS, decode
from data.processes import usable_cpus
from data.slides import ENDINGS
from models import ModelError
from models.bundle.card import NOTICE
from models.bundle.explain import SMALLEST, grad_cam, overlay
from models.bundle.folder import WEIGHTS
from models.bundle.predictor import Bundle
from models.bundle.verdict import score_of, verdict
from study import StudyError
from study.result.html import picture
from study.storage.names import is_name
from study.use.guard import MOST_UPLOAD, Guard, busy_response
from study.use.predict import Pixels, Row, make_row, refused_sets, threshold_of, unlike_training

MOST_IMAGES = 64
"""Images in one request at most."""
MOST_AT_ONCE, MOST_PIXELS = 2048, 10**8
"""Images in work for each model at most, and their pixels as the network sees them: 0.3 GB."""
BATCH, EXPLAINED = 32, 8
"""Images that go through the network together, and that are explained together, unless they are large.

Of images above predict.SIDE pixels, fewer go together. Explaining takes more memory, since the output of every layer
is kept.
"""
UPLOAD_SECONDS = 60.0
"""Seconds for a request to arrive."""
END_SECONDS = 3
"""Seconds for requests to be answered, once the server is told to end."""


logger = logging.getLogger(__name__)


PendingRequest = tuple[Pixels, asyncio.Future[NDArray[np.float64]]]
"""Images of a request [N, S, S, 3], and the future of their probabilities [N, K]."""


@dataclass(frozen=True)
class ServedModel:
    """Model that is served."""

    name: str  # as the page shows it
    bundle: Bundle


class Network:
    """Network of a model, which takes the images of several requests together, one batch at a time."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.threshold = threshold_of(bundle.card.conformal if bundle.card else None, None)
        self.most = bundle.megapixels(MOST_MEGAPIXELS)
        self.ranges: Ranges = bundle.ranges or AS_16_BITS
        self.batch, self.explained = (images_at_once(count, bundle.image_size) for count in (BATCH, EXPLAINED))
        self.most_at_once = min(MOST_AT_ONCE, max(MOST_IMAGES, MOST_PIXELS // bundle.image_size**2))
        self.at_once = 0  # images in work
        self._queue: asyncio.Queue[PendingRequest] = asyncio.Queue()
        self._explained = deepcopy(bundle.predictor)  # Grad-CAM hooks into its network
        self._turn = asyncio.Lock()

    @contextmanager
    def room(self, images: int) -> Iterator[None]:
        """Reserve room for images, from their decoding to the answer. Raises HTTPException where there is none."""
        if self.at_once + images > self.most_at_once:
            raise busy_response(f"{self.at_once} images are being processed")
        self.at_once += images
        try:
            yield
        finally:
            self.at_once -= images

    async def predict(self, images: Pixels) -> NDArray[np.float64]:
        """Return the probabilities [N, K] of images, uint8 [N, S, S, 3]."""
        future: asyncio.Future[NDArray[np.float64]] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((images, future))
        return await future

    async def run(self) -> None:
        """Serve for ever: all images that have come while the last batch ran make the next."""
        while True:
            some = [await self._queue.get()]
            while not self._queue.empty() and sum(len(images) for images, _ in some) < self.batch:
                some.append(self._queue.get_nowait())
            some = [one for one in some if not one[1].done()]  # the client may have gone
            if not some:
                continue
            try:
                pixels = np.concatenate([images for images, _ in some])
                found = await asyncio.to_thread(self.bundle.predict, pixels, self.batch)
            except Exception as error:  # each request says so; the next batch may be better
                _settle(some, error)
                continue
            _settle(some, np.split(found, np.cumsum([len(images) for images, _ in some])[:-1]))

    async def explain(self, images: Pixels, labels: NDArray[np.int64]) -> list[dict[str, str]]:
        """Return each image as the network sees it, and a picture of what in it spoke for the label, as data URLs."""
        async with self._turn:
            return await asyncio.to_thread(self._pictures, images, labels)

    def _pictures(self, images: Pixels, labels: NDArray[np.int64]) -> list[dict[str, str]]:
        each = self.explained
        parts = range(0, len(images), each)
        heats = np.concatenate([grad_cam(self._explained, images[i : i + each], labels[i : i + each]) for i in parts])
        side = max(SMALLEST, images.shape[1])
        return [
            {"image": picture(image, "JPEG", side), "explanation": picture(np.asarray(overlay(image, heat)), "JPEG")}
            for image, heat in zip(images, heats, strict=True)
        ]


def _settle(some: Sequence[PendingRequest], found: Exception | Sequence[NDArray[np.float64]]) -> None:
    for place, (_, future) in enumerate(some):
        if future.done():
            continue
        if isinstance(found, Exception):
            future.set_exception(found)
        else:
            future.set_result(found[place])


def application(models: Sequence[ServedModel], threads: int = 2) -> FastAPI:
    """Build the page and the interface for some models; the first one answers where none is named."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the client is told of a broken form
    MultiPartParser.spool_max_size = MOST_UPLOAD  # in memory: no image touches the disk
    networks = [Network(one.bundle) for one in models]
    turns = asyncio.Semaphore(threads)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = [asyncio.create_task(network.run()) for network in networks]
        yield
        for task in running:
            task.cancel()

    app = FastAPI(title="archstudy", description=NOTICE, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Guard)

    def network_of(model: int) -> Network:
        if not 0 <= model < len(networks):
            raise HTTPException(404, f"no model {model} (there are: 0 to {len(networks) - 1})")
        return networks[model]

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether it serves, and how many images are being processed."""
        return {"status": "ok", "models": len(networks), "images": sum(network.at_once for network in networks)}

    @app.get("/models")
    async def all_models() -> list[dict[str, Any]]:
        """What the page says of each model."""
        return [model_description(one) for one in models]

    @app.get("/card")
    async def card(model: int = 0) -> dict[str, Any]:
        """Everything that is known of a model."""
        found = network_of(model).bundle.card
        if found is None:
            raise HTTPException(404, "this model has no card: it is a checkpoint in the reference's layout")
        return found.model_dump(mode="json")

    @app.post("/predict", openapi_extra=BODY)
    async def predict(request: Request, model: int = 0, explain: bool = False) -> JSONResponse:
        """Label, probabilities and prediction set of one image or of many, in their order.

        An image that cannot be read has an error in its row; where none can be read, the status is 422. A warning says
        that the images have another size than those of the training.
        """
        network = network_of(model)
        files = await uploaded(request)
        own_turns = asyncio.Semaphore(max(1, threads // 2))  # so that no request takes all threads

        async def read(content: bytes) -> Pixels | DataError:
            async with own_turns, turns:
                if await request.is_disconnected():
                    raise HTTPException(499, "the client has disconnected")
                return await _decoded(content, network)

        with network.room(len(files)):
            images = await asyncio.gather(*(read(content) for _, content in files))
            try:
                rows = await _rows(network, [name for name, _ in files], images, explain=explain)
            except (RuntimeError, ModelError) as error:  # RuntimeError: torch's, such as a lack of memory
                logger.exception("the network failed")
                raise HTTPException(500, f"the network failed on these images: {str(error).splitlines()[0]}") from error
        errors = [row for row in rows if "error" in row]
        if len(errors) < len(rows):
            contents = cast("list[Path]", [content for _, content in files])  # what opens files opens contents too
            unlike = await asyncio.to_thread(unlike_training, network.bundle, contents)
            return JSONResponse({"model": models[model].name, "images": rows, "warning": unlike})
        detail = f"{errors[0]['path']}: {errors[0]['error']}"
        return JSONResponse({"detail": detail, "images": rows}, 422)

    return app


async def _rows(
    network: Network, names: Sequence[str], images: Sequence[Pixels | DataError], *, explain: bool
) -> list[Row]:
    good = [image for image in images if not isinstance(image, DataError)]
    if not good:
        return [Row(path=name, error=_why(name, error)) for name, error in zip(names, images, strict=True)]
    pixels = np.stack(good)
    probabilities = await network.predict(pixels)
    shown = await network.explain(pixels, probabilities.argmax(axis=1)) if explain else [{}] * len(good)
    found = iter(zip(probabilities, shown, strict=True))
    rows = []
    for name, image in zip(names, images, strict=True):
        if isinstance(image, DataError):
            rows.append(Row(path=name, error=_why(name, image)))
            continue
        one, pictures = next(found)
        rows.append(Row(**{**make_row(name, network.bundle.classes, one, network.threshold), **pictures}))  # type: ignore[typeddict-item]
    return rows


def _why(name: str, error: object) -> str:
    """Return why a file could not be read; a whole slide needs another command."""
    slide = Path(name).suffix.lower() in ENDINGS
    return "a whole slide: study predict MODEL SLIDE --out DIR maps it" if slide else str(error)


def _read(content: bytes, network: Network) -> Pixels | DataError:
    try:
        return decode(content, network.bundle.image_size, network.most, network.ranges)
    except DataError as error:
        return error


async def _decoded(content: bytes, network: Network) -> Pixels | DataError:
    """Decode an image in a thread that ends with the process: stopping the server does not wait for a large image."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Pixels | DataError] = loop.create_future()

    def settle(found: Pixels | DataError) -> None:
        if not future.done():
            future.set_result(found)

    def work() -> None:
        found = _read(content, network)
        with suppress(RuntimeError):  # the server has ended meanwhile
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=work, name="decode", daemon=True).start()
    return await future


async def uploaded(request: Request) -> list[tuple[str, bytes]]:
    """Read (name, content) of each image of a request: a form with files, or one image alone. Raises HTTPException."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            if kind == "multipart/form-data":
                found = await _from_form(request)
            elif kind.startswith("image/") or kind == "application/octet-stream":
                found = [("image", await request.body())]
            else:
                asked = "send a form with files, or one image as image/jpeg or the like"
                raise HTTPException(415, f"content type {kind or 'missing'}: {asked}")
    except ClientDisconnect:
        raise HTTPException(499, "the client has disconnected") from None
    except TimeoutError:
        raise HTTPException(408, f"the request did not arrive within {UPLOAD_SECONDS:g} seconds") from None
    if not found or not any(content for _, content in found):
        raise HTTPException(400, "no image was sent (a form needs files: curl -F images=@FILE)")
    return found


async def _from_form(request: Request) -> list[tuple[str, bytes]]:
    try:
        async with request.form(max_files=MOST_IMAGES, max_fields=MOST_IMAGES) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            named = [(file.filename or "image").encode(errors="replace").decode() for file in files]
            return [(name, await file.read()) for name, file in zip(named, files, strict=True)]
    except (FormParserError, UnicodeDecodeError, LookupError) as error:  # LookupError: an unknown character set
        raise HTTPException(400, f"the form cannot be read: {error}") from error


BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


PAGE = Path(__file__).with_name("serve.html").read_text(encoding="utf-8")


def _hash(tag: str) -> str:
    """Return the CSP hash of the inline script or style."""
    content = PAGE.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_hash('script')}; style-src {_hash('style')}; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy (CSP): the page runs its own script and asks this server; nothing else."""


def model_description(served: ServedModel) -> dict[str, Any]:
    """Return what the page says of a model."""
    bundle, card = served.bundle, served.bundle.card
    found: dict[str, Any] = {"name": served.name, "classes": bundle.classes, "size": bundle.image_size}
    if card is None:
        return {**found, "notice": NOTICE}
    speed = card.formats[WEIGHTS].speed_cpu if WEIGHTS in card.formats else []
    worth = verdict(card)
    found |= {
        "notice": card.notice,
        "verdict": asdict(worth) if worth else None,
        "sets": threshold_of(card.conformal, None) is not None,
        "refused": refused_sets(card.conformal),
        "milliseconds": next((one.milliseconds for one in speed if one.batch == 1), None),
    }
    if card.data:
        data = card.data
        found["data"] = {"source": Path(data.source).name, "images": data.images, "groups": data.groups}
    if card.test:
        value, ends = score_of(card, card.test)
        found["score"] = {"name": card.score_name, "value": value, "interval": ends}
    if card.study and is_name(card.study.name):  # the page shows it in a command
        found["study"] = {"name": card.study.name, "trial": card.study.trial}
    if card.final:
        found["parameters"] = card.final.num_params
    return found


def run(models: Sequence[ServedModel], port: int, ready: Callable[[str], None]) -> None:
    """Serve on this machine alone until interrupted; `ready` gets the address. Raises StudyError for a taken port."""
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise StudyError(f"port {port}: {reason} (choose another with --port, or 0 for any)") from error
    with listening:
        ready(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        config = uvicorn.Config(
            application(models, usable_cpus()),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=END_SECONDS,
        )
        logging.getLogger("uvicorn.error").addFilter(_told)
        uvicorn.Server(config).run(sockets=[listening])


def _told(record: logging.LogRecord) -> bool:
    """Return whether a log record is for the user: a request that is cut off when the server ends is no error."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
