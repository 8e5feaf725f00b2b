"""PyTorch's half of `leoma-bench suite`, on the card.

Reads one JSON object per line from standard input and answers each with one line on standard output:

    {"op": "hello"}                                  versions, whether there is a card
    {"op": "setup", "case": NAME, "setup": {...}}    makes a case ready
    {"op": "run", "subject": NAME}                   one iteration: wall_s by device events, cpu_s
    {"op": "output", "path": FILE}                   writes the last result as tensor "output"
    {"op": "memory"}                                 peak bytes allocated since the set-up
    {"op": "quit"}

Started by leoma-bench as `card.py THREADS`. Plain PyTorch: nothing else is assumed to be installed but
safetensors.
"""

import json
import os
import platform
import sys
import time

# Answers go to a private copy of standard output; whatever libraries print joins standard error.
ANSWERS = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

CASES = {}
# Which part of a result is written for comparison.
ROWS = {}


def case(name):
    """Registers the function that turns a case's set-up into functions that run it once, by subject."""

    def register(function):
        CASES[name] = function
        return function

    return register


def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@case("noise")
def noise(setup):
    def draw():
        generator = torch.Generator(device()).manual_seed(setup["seed"])
        return torch.randn(setup["n"], generator=generator, device=device())

    return {"": draw}


def rms(x, weight, eps):
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, eps)


def rotary_tables(grid, width):
    """cos and sin [L, width / 2] f32: frames, rows and columns take their share of the pairs."""
    side = 2 * (width // 6)
    tables = []
    for axis, share in enumerate((width - 2 * side, side, side)):
        rates = 10000.0 ** (-torch.arange(0, share, 2, dtype=torch.float64) / share)
        angles = torch.arange(grid[axis], dtype=torch.float64)[:, None] * rates
        shape = [1, 1, 1, share // 2]
        shape[axis] = grid[axis]
        tables.append(angles.view(shape).expand(*grid, share // 2))
    angles = torch.cat(tables, -1).reshape(-1, width // 2)
    return angles.cos().float().to(device()), angles.sin().float().to(device())


def rotate(x, cos, sin):
    """Adjacent pairs of [1, L, heads, width], in float32 as diffusers does, rounded at the end."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[None, :, None], sin[None, :, None]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).type_as(x)


def scores(q, k, v):
    """[1, L, heads, width] in and out."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def block_function(w, x, context, modulation, heads, tables, eps):
    """Wan 2.2's transformer block with the roundings of diffusers 0.35.2."""
    linear, norm = torch.nn.functional.linear, torch.nn.functional.layer_norm

    def project(name, x):
        return linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def attend(name, x, source, rotary):
        q = rms(project(f"{name}.to_q", x), w[f"{name}.norm_q.weight"], eps)
        k = rms(project(f"{name}.to_k", source), w[f"{name}.norm_k.weight"], eps)
        q, k, v = (y.unflatten(-1, (heads, -1)) for y in (q, k, project(f"{name}.to_v", source)))
        if rotary:
            q, k = rotate(q, *tables), rotate(k, *tables)
        return project(f"{name}.to_out.0", scores(q, k, v).flatten(-2))

    def run():
        dim = (x.shape[-1],)
        parts = (w["scale_shift_table"].float() + modulation).chunk(6, 1)
        shift, scale, gate, shift_ff, scale_ff, gate_ff = parts
        y = (norm(x.float(), dim, None, None, eps) * (1 + scale) + shift).type_as(x)
        z = (x.float() + attend("attn1", y, y, True) * gate).type_as(x)
        affine = w["norm2.weight"].float(), w["norm2.bias"].float()
        y = norm(z.float(), dim, *affine, eps).type_as(x)
        z = z + attend("attn2", y, context, False)
        y = (norm(z.float(), dim, None, None, eps) * (1 + scale_ff) + shift_ff).type_as(x)
        y = torch.nn.functional.gelu(project("ffn.net.0.proj", y), approximate="tanh")
        return (z.float() + project("ffn.net.2", y).float() * gate_ff).type_as(x)

    return run


def backends():
    """PyTorch's attention kernels by name."""
    from torch.nn.attention import SDPBackend

    return {
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
    }


def within(backend, function):
    from torch.nn.attention import sdpa_kernel

    def run():
        with sdpa_kernel(backend):
            return function()

    return run


def usable(functions):
    """Those that run here."""
    found = {}
    for name, function in functions.items():
        try:
            with torch.no_grad():
                function()
            torch.cuda.synchronize()
            found[name] = function
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
    return found


def seconds(function):
    """Median of three runs after one."""
    times = []
    with torch.no_grad():
        for _ in range(4):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
    return sorted(times[1:])[1]


@case("block")
def block(setup):
    heads, grid, eps = setup["heads"], setup["grid"], setup["eps"]
    weights = {name: tensor.to(device()) for name, tensor in load_file(setup["weights"]).items()}
    inputs = {name: tensor.to(device()) for name, tensor in load_file(setup["inputs"]).items()}
    x, context, modulation = inputs["x"][None], inputs["context"][None], inputs["modulation"]
    tables = rotary_tables(grid, x.shape[-1] // heads)
    eager = block_function(weights, x, context, modulation, heads, tables, eps)

    def exact():
        wide = {name: tensor.float() for name, tensor in weights.items()}
        return block_function(wide, x.float(), context.float(), modulation, heads, tables, eps)()

    def checked(function):
        def run():
            return function()[0]

        return run

    subjects = {"eager": eager}
    if torch.cuda.is_available():
        subjects["compiled"] = torch.compile(eager)
        candidates = usable({name: within(each, eager) for name, each in backends().items()})
        if candidates:
            best = min(candidates, key=lambda name: seconds(candidates[name]))
            print(f"best attention: {best}", file=sys.stderr)
            subjects[f"compiled_{best}"] = within(backends()[best], torch.compile(eager))
    subjects = {name: checked(function) for name, function in subjects.items()}
    # Compilation and choice of kernels stay out of the times.
    with torch.no_grad():
        for function in subjects.values():
            function()
    subjects["exact"] = checked(exact)
    ROWS["of"] = lambda result: result[:: setup["every"]]
    return subjects


@case("attention")
def attention(setup):
    q, k, v = (load_file(setup["inputs"])[name].to(device()) for name in "qkv")
    rows = setup["rows"]

    def default():
        return scores(q, k, v)

    def exact():
        # The rows that are compared, head by head.
        a, b, c = (x[0].transpose(0, 1).float() for x in (q[:, :rows], k, v))
        heads = [torch.softmax(a[i] @ b[i].T / a.shape[-1] ** 0.5, -1) @ c[i] for i in range(a.shape[0])]
        return torch.stack(heads, 1)[None]

    subjects = {"default": default}
    if torch.cuda.is_available():
        subjects |= usable({name: within(each, default) for name, each in backends().items()})
    subjects["exact"] = exact
    ROWS["of"] = lambda result: result[0, :rows].flatten(1)
    return subjects


class Session:
    """State between requests: the case that is ready and its last result."""

    def __init__(self):
        self.subjects = {}
        self.result = None

    def hello(self, _request):
        cuda = torch.cuda.is_available()
        versions = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda or "none",
            "cudnn": str(torch.backends.cudnn.version()),
        }
        return {"versions": versions, "cuda": cuda, "threads": torch.get_num_threads()}

    def setup(self, request):
        self.subjects, self.result = {}, None
        ROWS.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.subjects = CASES[request["case"]](request["setup"])
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        return {"subjects": sorted(self.subjects)}

    def run(self, request):
        self.result = None
        iteration = self.subjects[request.get("subject", "")]
        cpu = time.process_time()
        with torch.no_grad():
            if torch.cuda.is_available():
                start = torch.cuda.Event(enable_timing=True)
                end = torch.cuda.Event(enable_timing=True)
                start.record()
                self.result = iteration()
                end.record()
                torch.cuda.synchronize()
                wall = start.elapsed_time(end) / 1e3
            else:
                begin = time.perf_counter()
                self.result = iteration()
                wall = time.perf_counter() - begin
        return {"wall_s": wall, "cpu_s": time.process_time() - cpu}

    def output(self, request):
        result = ROWS.get("of", lambda whole: whole)(self.result)
        save_file({"output": result.float().cpu().contiguous()}, request["path"])
        return {}

    def memory(self, _request):
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return {"peak_bytes": peak}


def main():
    torch.set_num_threads(int(sys.argv[1]))
    session = Session()
    operations = ("hello", "setup", "run", "output", "memory")
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
