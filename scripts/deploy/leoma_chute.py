"""Runs leoma-node as a chute: the SDK process starts the server beside it and carries its answers.

    chutes build leoma_chute:chute      # with `leoma-node` and `leoma-node-cuda` in this folder
    chutes deploy leoma_chute:chute
    CHUTES_EXECUTION_CONTEXT=REMOTE chutes run leoma_chute:chute --dev      # on this machine

Settings are read from the environment (docs/deployment.md lists them) and baked into the image, because the
platform runs this file again inside the container and must find the same values there.
"""

import asyncio
import base64
import ctypes
import json
import os
import secrets
import shlex
import signal
import struct
import subprocess
import tempfile
import threading
import zlib
from typing import Any

import aiohttp
from chutes.chute import Chute, NodeSelector
from chutes.image import Image
from fastapi import HTTPException, Response
from loguru import logger
from pydantic import BaseModel, ConfigDict

SETTINGS = {
    "LEOMA_CHUTE_USERNAME": "",  # account on the platform
    "LEOMA_CHUTE_NAME": "leoma-node",
    "LEOMA_CHUTE_TAG": "0.1.0",  # of the image; change it whenever a setting or the binary changes
    "LEOMA_CHUTE_REPO": "",  # model repository on the Hugging Face Hub; empty: download nothing
    "LEOMA_CHUTE_REVISION": "",  # full commit of that repository
    "LEOMA_CHUTE_BASE_IMAGE": "parachutes/python:3.12",
    "LEOMA_CHUTE_BINARY": "/usr/local/bin/leoma-node",
    "LEOMA_CHUTE_SERVE_FLAGS": "--dtype bf16 --device cuda",
    "LEOMA_CHUTE_PORT": "10101",  # of the server inside; 8000 and 8001 are the SDK's
    "LEOMA_CHUTE_CONCURRENCY": "4",
    "LEOMA_CHUTE_GPU_COUNT": "1",
    "LEOMA_CHUTE_MIN_VRAM_GB": "80",
    "LEOMA_CHUTE_IDLE_SECONDS": "3600",  # without requests until the platform stops the instance
    "LEOMA_CHUTE_READY_SECONDS": "1800",  # for the checkpoint to load
}
SETTINGS = {name: os.environ.get(name, default) for name, default in SETTINGS.items()}


def setting(name: str) -> str:
    """Value of a setting by the last part of its name."""
    return SETTINGS[f"LEOMA_CHUTE_{name}"]


# The libraries of CUDA 13, and cuDNN, which makes some kernels faster.
CUDA_LIBRARIES = (
    "nvidia-cublas==13.*",
    "nvidia-cuda-nvrtc==13.*",
    "nvidia-cuda-runtime==13.*",
    "nvidia-curand==10.4.*",
    "nvidia-cudnn-cu13==9.*",
)

PORT = int(setting("PORT"))
BASE_URL = f"http://127.0.0.1:{PORT}"
if PORT in (8000, 8001):
    raise ValueError(f"LEOMA_CHUTE_PORT is {PORT}, which the SDK itself listens on; choose another, e.g. 10101")
if setting("REPO") and not setting("REVISION"):
    raise ValueError("LEOMA_CHUTE_REVISION is empty; set it to the full commit that LEOMA_CHUTE_REPO is served at")

image = (
    Image(username=setting("USERNAME"), name=setting("NAME"), tag=setting("TAG"))
    .from_base(setting("BASE_IMAGE"))
    .set_user("root")
    # curl: the platform's readiness probe. ffmpeg: the libraries that the binary is linked with.
    .run_command("apt-get update && apt-get -y install curl ffmpeg && rm -rf /var/lib/apt/lists/*")
    .run_command("pip install --no-cache-dir huggingface_hub")
    # What `leoma-node-cuda` is linked with; `leoma-node` finds it among the packages of the python3 on PATH.
    .run_command(f"pip install --no-cache-dir {shlex.join(CUDA_LIBRARIES)}")
    .add(source="leoma-node", dest=setting("BINARY"), chmod="755")
    .add(source="leoma-node-cuda", dest=f"{os.path.dirname(setting('BINARY'))}/leoma-node-cuda", chmod="755")
    # A binary that does not fit the base image fails the build here, not the instance at its start.
    .run_command(f"{setting('BINARY')} --version")
    .set_user("chutes")
)
for name, value in SETTINGS.items():
    image = image.with_env(name, json.dumps(value))

chute = Chute(
    username=setting("USERNAME"),
    name=setting("NAME"),
    tagline=setting("REPO"),
    image=image,
    revision=setting("REVISION") or None,
    node_selector=NodeSelector(gpu_count=int(setting("GPU_COUNT")), min_vram_gb_per_gpu=int(setting("MIN_VRAM_GB"))),
    concurrency=int(setting("CONCURRENCY")),
    shutdown_after_seconds=int(setting("IDLE_SECONDS")),
    passthrough_headers={},
)
chute.server = None


class VideoRequest(BaseModel):
    """What /generate, /image2video and /text2video read; docs/serving.md has the meaning of each field.

    Types only. The server knows the ranges, the rounding and the conflicts between names, and its messages name
    the field; fields not listed here go to it as they are.
    """

    model_config = ConfigDict(extra="allow")

    prompt: str
    image: str | None = None
    image_b64: str | None = None
    first_image_b64: str | None = None
    negative_prompt: str | None = None
    frames: int | None = None
    num_frames: int | None = None
    fps: int | None = None
    resolution: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    flow_shift: float | None = None
    sample_shift: float | None = None
    shift: float | None = None
    seed: int | None = None
    fast: bool | None = None
    single_frame: bool | None = None


def command(model: str | None) -> list[str]:
    """Command line of the server."""
    line = [setting("BINARY"), "serve", "--host", "127.0.0.1", "--port", str(PORT)]
    # The folder in the cache is named by the commit, which says little to who reads the list of models.
    line += ["--model", model, "--model-name", setting("REPO")] if model else []
    line += ["--revision", setting("REVISION")] if setting("REVISION") else []
    return line + shlex.split(setting("SERVE_FLAGS"))


def environment(key: str) -> dict[str, str]:
    """Environment of the server: this one without its credentials, with the key that only this process knows."""
    secret = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "CHUTES_LAUNCH_JWT", "LEOMA_NODE_API_KEY_FILE")
    child = {name: value for name, value in os.environ.items() if name not in secret}
    child.setdefault("LEOMA_NODE_DATA_DIR", tempfile.mkdtemp(prefix="leoma-node-"))
    # Requests beyond `concurrency` are refused by the SDK; up to it, none may be refused for a full queue.
    child.setdefault("LEOMA_NODE_QUEUE", setting("CONCURRENCY"))
    return child | {"LEOMA_NODE_API_KEY": key}


def end_with_parent() -> None:
    """Asks the kernel to stop the server when this process is gone, however it went."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def watch(server: subprocess.Popen) -> None:
    """Ends this process when the server has died: the platform then starts a new instance."""
    code = server.wait()
    if chute.server is server:
        logger.error(f"leoma-node ended with exit code {code}")
        os._exit(code if 0 < code < 128 else 1)


def stop() -> None:
    """Ends the server and gives it the time to finish what it is doing."""
    server, chute.server = chute.server, None
    if server is None:
        return
    server.terminate()
    try:
        server.wait(timeout=60)
    except subprocess.TimeoutExpired:
        server.kill()


def still_picture(width: int = 64, height: int = 64) -> str:
    """A grey PNG in base64, for the warm-up."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x80" * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    png = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + png).decode()


def session() -> aiohttp.ClientSession:
    """Connection to the server. Its own deadline ends a request that takes too long, with a reason."""
    return aiohttp.ClientSession(
        BASE_URL,
        headers=chute.passthrough_headers,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        read_bufsize=8 * 1024 * 1024,
    )


async def ask(path: str, body: dict[str, Any]) -> Response:
    """Sends a request to the server; its refusal is a refusal here, its failure a failure here."""
    try:
        async with session() as connection, connection.post(path, json=body) as answer:
            content = await answer.read()
    except aiohttp.ClientError as error:
        raise HTTPException(500, f"the server inside the chute does not answer: {error}") from error
    headers = answer.headers
    if answer.ok:
        return Response(
            content=content,
            media_type=headers["Content-Type"],
            headers={name: headers[name] for name in headers if name.lower().startswith("x-leoma-")},
        )
    try:
        detail = json.loads(content)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = content.decode(errors="replace")
    retry = {"Retry-After": headers["Retry-After"]} if "Retry-After" in headers else None
    raise HTTPException(answer.status if answer.status < 500 else 500, detail, headers=retry)


async def wait_until_ready(server: subprocess.Popen) -> None:
    """Returns when the server has loaded its checkpoint and passed its self-test."""
    state = "not listening yet"
    for _ in range(int(setting("READY_SECONDS"))):
        if server.poll() is not None:
            raise RuntimeError(f"leoma-node ended with exit code {server.returncode} before it was ready; see above")
        try:
            async with session() as connection, connection.get("/ready") as answer:
                if answer.ok:
                    return
                state = await answer.text()
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(1)
    raise RuntimeError(f"leoma-node is not ready after LEOMA_CHUTE_READY_SECONDS={setting('READY_SECONDS')}: {state}")


async def warm_up() -> None:
    """Makes one short clip, so that no caller waits for what happens only once."""
    async with session() as connection, connection.get("/v1/models", raise_for_status=True) as answer:
        tasks = (await answer.json())["data"][0]["tasks"]
    body = {"prompt": "a grey wall", "frames": 5, "steps": 2}
    if "image_to_video" in tasks:
        await ask("/generate", body | {"image": still_picture()})
    else:
        await ask("/text2video", body)


@chute.on_startup()
async def start(_: Chute) -> None:
    """Downloads the weights, starts the server, returns when it has made a clip."""
    model = None
    if setting("REPO"):
        # Here and not later: the platform cuts the network once the chute is active.
        from huggingface_hub import snapshot_download

        model = await asyncio.to_thread(snapshot_download, repo_id=setting("REPO"), revision=setting("REVISION"))
    key = secrets.token_urlsafe(32)
    chute.passthrough_headers["Authorization"] = f"Bearer {key}"
    chute.server = subprocess.Popen(command(model), env=environment(key), preexec_fn=end_with_parent)
    try:
        await wait_until_ready(chute.server)
        await warm_up()
    except BaseException:
        stop()
        raise
    threading.Thread(target=watch, args=(chute.server,), daemon=True).start()
    # SDK 0.6.9 collects shutdown hooks and never calls them, and leaves SIGTERM to the kernel.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(end_on_signal()))
    logger.info("leoma-node is ready")


@chute.on_shutdown()
async def end(_: Chute) -> None:
    """Stops the server."""
    await asyncio.to_thread(stop)


async def end_on_signal() -> None:
    """Lets the server finish its requests and the SDK deliver the answers, then ends this process."""
    await asyncio.to_thread(stop)
    await asyncio.sleep(1)
    os._exit(0)


# `self` has no type on purpose: with one it would be a field of the published schema.
@chute.cord(public_api_path="/generate", output_content_type="video/mp4")
async def generate(self, request: VideoRequest) -> Response:
    """A clip from a prompt and a first frame."""
    return await ask("/generate", request.model_dump(exclude_none=True))


@chute.cord(public_api_path="/image2video", output_content_type="video/mp4")
async def image2video(self, request: VideoRequest) -> Response:
    """A clip from a prompt and a first frame, in the vocabulary of the Wan 2.1 chute."""
    return await ask("/image2video", request.model_dump(exclude_none=True))


@chute.cord(public_api_path="/text2video", output_content_type="video/mp4")
async def text2video(self, request: VideoRequest) -> Response:
    """A clip from a prompt alone, where the model can."""
    return await ask("/text2video", request.model_dump(exclude_none=True))


# Passthrough cords carry JSON only, which is why the routes above are not of this kind.
@chute.cord(
    public_api_path="/info",
    public_api_method="GET",
    method="GET",
    passthrough=True,
    passthrough_port=PORT,
    passthrough_path="/info",
)
async def info(self) -> dict:
    """What is loaded and how busy it is."""


@chute.cord(
    public_api_path="/v1/models",
    public_api_method="GET",
    method="GET",
    passthrough=True,
    passthrough_port=PORT,
    passthrough_path="/v1/models",
)
async def models(self) -> dict:
    """The model and its defaults."""
