"""PyTorch's half of leoma-bench.

Reads one JSON object per line from standard input and answers each with one line on standard output:

    {"op": "hello"}                                  versions, thread count
    {"op": "setup", "case": NAME, "setup": {...}}    loads weights and inputs of a case
    {"op": "run"}                                    one iteration: wall_s, cpu_s
    {"op": "output", "path": FILE}                   writes the last result as tensor "output"
    {"op": "memory"}                                 one iteration: memory before it, and its peak
    {"op": "usage"}                                  CPU time of this process so far
    {"op": "quit"}

Started by leoma-bench as `peer.py THREADS`. Runs PyTorch, diffusers and transformers as published, in
float32 on CPU.
"""

import ctypes
import gc
import json
import os
import platform
import resource
import sys
import time

# Answers go to a private copy of standard output; whatever libraries print joins standard error.
ANSWERS = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

CASES = {}


def case(name):
    """Registers the function that turns a case's set-up into a function that runs it once."""

    def register(function):
        CASES[name] = function
        return function

    return register


def load_weights(build, path):
    """Builds a module without initialising it and copies the file's tensors into its own memory.

    The copy matters to the memory figures: tensors that `load_file` returns are views of a mapped file,
    whose pages would be counted while they are used for the first time.
    """
    with torch.device("meta"):
        module = build()
    module = module.to_empty(device="cpu").eval().requires_grad_(False)
    tensors = load_file(path)
    module.load_state_dict(tensors, strict=True)
    return module


def owned(tensors):
    """Copies of tensors in this process's own memory."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


@case("dit-block")
def dit_block(setup):
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformerBlock

    block = load_weights(
        lambda: WanTransformerBlock(
            dim=setup["dim"],
            ffn_dim=setup["ffn_dim"],
            num_heads=setup["num_heads"],
            qk_norm="rms_norm_across_heads",
            cross_attn_norm=True,
            eps=setup["eps"],
        ),
        setup["weights"],
    )
    inputs = owned(load_file(setup["inputs"]))
    frames, rows, columns = setup["grid"]
    rope = WanRotaryPosEmbed(setup["dim"] // setup["num_heads"], (1, 2, 2), 1024)
    rotary = rope(torch.empty(1, 1, frames, 2 * rows, 2 * columns))

    def run():
        return block(inputs["hidden_states"], inputs["encoder_hidden_states"], inputs["temb"], rotary)

    return run


@case("vae-decode")
def vae_decode(setup):
    from diffusers import AutoencoderKLWan

    names = ("_class_name", "_diffusers_version")
    config = {key: value for key, value in setup["config"].items() if key not in names}
    # Half of the checkpoint is the encoder; only what decoding needs is measured.
    with torch.device("meta"):
        vae = AutoencoderKLWan(**config)
    vae.encoder = torch.nn.Module()
    vae.quant_conv = torch.nn.Module()
    # The class counts the encoder's convolutions for its cache, so that count is kept at none.
    vae._cached_conv_counts["encoder"] = 0
    vae = load_weights(lambda: vae, setup["weights"])
    latents = owned(load_file(setup["inputs"]))["latents"]

    def run():
        return vae.decode(latents, return_dict=False)[0]

    return run


@case("text-block")
def text_block(setup):
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(feed_forward_proj="gated-gelu", is_encoder_decoder=False, **setup["config"])
    with torch.device("meta"):
        encoder = UMT5EncoderModel(config)
    encoder = encoder.to_empty(device="cpu").eval().requires_grad_(False)
    # The embedding table has two names in the module and one in the file.
    missing, unexpected = encoder.load_state_dict(load_file(setup["weights"]), strict=False)
    missing = [name for name in missing if name != "encoder.embed_tokens.weight"]
    if missing or unexpected:
        raise ValueError(f"missing {missing}, unexpected {unexpected}")
    encoder.encoder.embed_tokens.weight = encoder.shared.weight
    tokens = torch.tensor([setup["tokens"]])

    def run():
        return encoder(tokens).last_hidden_state

    return run


@case("pipeline")
def pipeline(setup):
    import numpy
    from PIL import Image

    import diffusers

    cls = getattr(diffusers, setup["pipeline_class"])
    pipe = cls.from_pretrained(setup["model"], torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    arguments = dict(setup["arguments"])
    if setup.get("image"):
        pixels = load_file(setup["image"])["image"]
        arguments["image"] = Image.fromarray(numpy.ascontiguousarray(pixels.numpy()))

    def run():
        generator = torch.Generator("cpu").manual_seed(setup["seed"])
        frames = pipe(**arguments, generator=generator, output_type="pt").frames
        return frames[0]

    return run


def cpu_seconds():
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def status_bytes(field):
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def reset_peak():
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
        return True
    except OSError:
        return False


def versions():
    import diffusers
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


class Session:
    """State between requests: the case that is loaded and its last result."""

    def __init__(self):
        self.iteration = None
        self.result = None

    def hello(self, _request):
        return {"versions": versions(), "threads": torch.get_num_threads()}

    def setup(self, request):
        self.iteration = self.result = None
        gc.collect()
        self.iteration = CASES[request["case"]](request["setup"])
        gc.collect()
        return {}

    def run(self, _request):
        self.result = None
        cpu, wall = cpu_seconds(), time.perf_counter()
        with torch.no_grad():
            self.result = self.iteration()
        return {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}

    def output(self, request):
        save_file({"output": self.result.float().contiguous()}, request["path"])
        return {}

    def memory(self, _request):
        self.result = None
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        reset = reset_peak()
        before = status_bytes("VmRSS:")
        with torch.no_grad():
            self.result = self.iteration()
        return {"before_bytes": before, "peak_bytes": status_bytes("VmHWM:"), "peak_was_reset": reset}

    def usage(self, _request):
        return {"cpu_s": cpu_seconds()}


def main():
    torch.set_num_threads(int(sys.argv[1]))
    session = Session()
    operations = ("hello", "setup", "run", "output", "memory", "usage")
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "quit":
            break
        try:
            if request["op"] not in operations:
                raise ValueError(f"unknown operation {request['op']!r}")
            answer = {"ok": True, **getattr(session, request["op"])(request)}
        except Exception as error:  # noqa: BLE001 - whatever fails is the other side's to report
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        ANSWERS.write(json.dumps(answer) + "\n")
        ANSWERS.flush()


if __name__ == "__main__":
    main()
