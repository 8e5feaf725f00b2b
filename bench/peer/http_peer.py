"""The peer of `leoma-bench http`: a FastAPI server that does what `leoma-node serve --fake-engine` does.

One uvicorn worker (with uvloop and httptools where they are installed), a Pydantic model of the sampler's
fields, the picture decoded to RGB, a bounded queue that answers 429 when it is full, one engine thread that
hands out the same finished clip, and the effective parameters in headers. Nothing is logged per request.

Prints one JSON line when it listens: {"url": ..., "versions": {...}}.
"""

import argparse
import asyncio
import base64
import binascii
import contextlib
import io
import json
import platform
import queue
import socket
import threading
import time
from importlib import metadata
from pathlib import Path

import uvicorn
from fastapi import FastAPI, HTTPException, Response
from fastapi.concurrency import run_in_threadpool
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

SIZES = {"480p": (832, 480), "720p": (1280, 704)}
# Below this decoding a picture takes less than a turn through the thread pool would.
SMALL_IMAGE = 64 * 1024


class GenerateRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")

    prompt: str = Field(min_length=1, max_length=16_384)
    image: str | None = None
    fps: int = Field(default=16, ge=1, le=240)
    frames: int = Field(default=81, ge=1, le=241)
    resolution: str = Field(default="480p", pattern=r"^(480p|720p|\d{1,4}x\d{1,4})$")
    fast: bool = False
    steps: int = Field(default=30, ge=1, le=200)
    guidance_scale: float = 5.0
    negative_prompt: str | None = None
    seed: int = Field(default=42, ge=0)

    def size(self) -> tuple[int, int]:
        if self.resolution in SIZES:
            return SIZES[self.resolution]
        width, height = self.resolution.split("x")
        return int(width), int(height)


def decode(text: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
        return picture.convert("RGB")
    except (binascii.Error, UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise HTTPException(400, f"image: {error}") from error


class Engine:
    """One thread that works jobs off a bounded queue."""

    def __init__(self, clip: bytes, job_s: float, waiting: int):
        self.clip = clip
        self.job_s = job_s
        self.jobs = queue.Queue(maxsize=waiting)
        threading.Thread(target=self.work, daemon=True).start()

    def submit(self, picture) -> asyncio.Future:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        try:
            self.jobs.put_nowait((picture, answer, loop))
        except queue.Full:
            raise HTTPException(429, "the server is at maximum capacity", {"Retry-After": "1"}) from None
        return answer

    def work(self):
        while True:
            _picture, answer, loop = self.jobs.get()
            if self.job_s:
                time.sleep(self.job_s)
            loop.call_soon_threadsafe(self.finish, answer)

    def finish(self, answer: asyncio.Future):
        if not answer.done():
            answer.set_result(self.clip)


def application(engine: Engine, listening) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_):
        listening()
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/generate", response_class=Response)
    async def generate(request: GenerateRequest) -> Response:
        picture = None
        if request.image is not None:
            small = len(request.image) <= SMALL_IMAGE
            picture = decode(request.image) if small else await run_in_threadpool(decode, request.image)
        clip = await engine.submit(picture)
        width, height = request.size()
        headers = {
            "x-leoma-seed": str(request.seed),
            "x-leoma-steps": str(request.steps),
            "x-leoma-frames": str(request.frames),
            "x-leoma-fps": str(request.fps),
            "x-leoma-size": f"{width}x{height}",
            "x-leoma-fast": "false",
        }
        return Response(clip, media_type="video/mp4", headers=headers)

    return app


def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--job-seconds", type=float, default=0.0)
    parser.add_argument("--queue", type=int, default=4)
    args = parser.parse_args()

    names = ["fastapi", "uvicorn", "pydantic", "pillow", "uvloop", "httptools"]
    versions = {name: installed(name) or "absent" for name in names}
    versions["python"] = platform.python_version()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def listening():
        print(json.dumps({"url": url, "versions": versions}), flush=True)

    engine = Engine(args.clip.read_bytes(), args.job_seconds, args.queue)
    config = uvicorn.Config(
        application(engine, listening),
        loop="uvloop" if installed("uvloop") else "asyncio",
        http="httptools" if installed("httptools") else "h11",
        log_level="warning",
        access_log=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
