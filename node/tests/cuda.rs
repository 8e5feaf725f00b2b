//! From `leoma-node` to the CUDA build: with drivers, libraries and a CUDA build made for the purpose, so
//! that no card is needed.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use leoma_models::tiny::make_tiny;
use leoma_models::weights::ModelKind;
use serde_json::Value;

/// A driver that is not there.
struct Driver {
    init: i32,
    version: i32,
    cards: &'static [(&'static str, i32, i32)],
}

const HOPPER: Driver = Driver {
    init: 0,
    version: 13000,
    cards: &[("NVIDIA H200", 9, 0)],
};

/// What the CUDA build is linked with, besides the driver.
const LIBRARIES: [&str; 5] = [
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcudart.so.13",
    "libcurand.so.10",
    "libnvrtc.so.13",
];

/// A machine: programs in `bin`, a driver in `driver`, libraries wherever a test wants them.
struct Machine {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Machine {
    /// With `leoma-node` and nothing else.
    fn new() -> Self {
        // Beside the real program: a link instead of a copy.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let machine = Self {
            folder,
            env: Vec::new(),
        };
        std::fs::create_dir(machine.path("bin")).unwrap();
        machine.put_program("leoma-node");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The real program under a name.
    fn put_program(&self, name: &str) {
        std::fs::hard_link(
            env!("CARGO_BIN_EXE_leoma-node"),
            self.path("bin").join(name),
        )
        .unwrap();
    }

    fn compile(&self, source: &str, args: &[&str]) {
        let path = self.path("source.c");
        std::fs::write(&path, source).unwrap();
        let done = Command::new("cc").arg(&path).args(args).output().unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    fn library(&self, folder: &Path, soname: &str, source: &str) {
        std::fs::create_dir_all(folder).unwrap();
        let out = folder.join(soname);
        let name = format!("-Wl,-soname,{soname}");
        self.compile(
            source,
            &["-shared", "-fPIC", "-o", out.to_str().unwrap(), &name],
        );
    }

    /// A driver in the folder `driver`, which is put on the loader's path.
    fn driver(self, driver: &Driver) -> Self {
        let cards: String = driver.cards.iter().fold(String::new(), |mut all, card| {
            write!(all, "{{\"{}\", {}, {}}},", card.0, card.1, card.2).unwrap();
            all
        });
        let source = format!(
            "#include <string.h>\n\
             static struct {{ const char *name; int major, minor; }} cards[] = {{ {cards} {{0, 0, 0}} }};\n\
             int cuInit(unsigned flags) {{ return {}; }}\n\
             int cuDriverGetVersion(int *version) {{ *version = {}; return 0; }}\n\
             int cuDeviceGetCount(int *count) {{ *count = {}; return 0; }}\n\
             int cuDeviceGet(int *device, int ordinal) {{ *device = ordinal; return 0; }}\n\
             int cuDeviceGetName(char *name, int size, int device) {{\n\
               strncpy(name, cards[device].name, size); return 0; }}\n\
             int cuDeviceGetAttribute(int *value, int which, int device) {{\n\
               *value = which == 75 ? cards[device].major : which == 76 ? cards[device].minor : -1; return 0; }}\n\
             int cuDeviceTotalMem_v2(size_t *bytes, int device) {{ *bytes = 1ul << 37; return 0; }}\n",
            driver.init,
            driver.version,
            driver.cards.len(),
        );
        self.library(&self.path("driver"), "libcuda.so.1", &source);
        let folder = self.text("driver");
        self.env("LD_LIBRARY_PATH", &folder)
    }

    /// The libraries, each with one function.
    fn libraries(self, folder: &str) -> Self {
        for soname in LIBRARIES {
            let name = soname.split('.').next().unwrap();
            let source = format!("int {name}_function(void) {{ return 0; }}");
            self.library(&self.path(folder), soname, &source);
        }
        self
    }

    /// A program linked like the CUDA build that says how it was started and ends with 7.
    fn cuda_build(self) -> Self {
        // Linked against libraries of its own, which are gone when it starts.
        let scratch = self.path("scratch");
        let mut calls = String::new();
        for soname in LIBRARIES.iter().chain(&["libcuda.so.1"]) {
            let name = soname.split('.').next().unwrap();
            let function = if name == "libcuda" {
                "cuInit".into()
            } else {
                format!("{name}_function")
            };
            self.library(
                &scratch,
                soname,
                &format!("int {function}() {{ return 0; }}"),
            );
            writeln!(
                calls,
                "int {function}(); void *p_{name} = (void*){function};"
            )
            .unwrap();
        }
        let out = self.text("bin/leoma-node-cuda");
        let mut args = vec!["-o".to_owned(), out, "-Wl,--no-as-needed".into()];
        args.push(format!("-L{}", scratch.display()));
        args.extend(LIBRARIES.map(|soname| format!("-l:{soname}")));
        args.push("-l:libcuda.so.1".into());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let source = format!(
            "#include <stdio.h>\n#include <stdlib.h>\n{calls}\
             int main(int n, char **argv) {{\n\
               printf(\"%s\\n\", getenv(\"LD_LIBRARY_PATH\"));\n\
               for (int i = 1; i < n; i++) printf(\"%s\\n\", argv[i]);\n\
               return 7; }}\n"
        );
        self.compile(&source, &args);
        std::fs::remove_dir_all(scratch).unwrap();
        self
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(self.path("bin/leoma-node"))
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.folder.path())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn generate(&self, more: &[&str]) -> Output {
        let mut args = vec!["generate", "--model", "m", "--prompt", "a boat at sea"];
        args.extend(more);
        self.run(&args)
    }

    /// What is said to somebody who asks for a card that cannot be had.
    fn refusal(&self, device: &str) -> String {
        let done = self.generate(&["--device", device]);
        let text = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(69), "{text}");
        assert!(done.stdout.is_empty(), "{text}");
        assert!(text.starts_with("error: cuda:"), "{text}");
        text
    }
}

fn lines(done: &Output) -> Vec<String> {
    let text = String::from_utf8(done.stdout.clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn contains_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// Tests of a machine without a driver are about this one.
fn has_driver() -> bool {
    let here = Command::new("/sbin/ldconfig").arg("-p").output();
    Path::new("/proc/driver/nvidia/version").exists()
        || here.is_ok_and(|list| String::from_utf8_lossy(&list.stdout).contains("libcuda.so.1"))
}

#[test]
fn without_a_driver_cuda_is_refused_and_auto_computes_on_the_cpu() {
    if has_driver() {
        return;
    }
    let machine = Machine::new();
    contains_all(
        &machine.refusal("cuda"),
        &[
            "error: cuda:0 cannot be used\n",
            "no NVIDIA driver: libcuda.so.1 is not on the loader's path",
            "hint: install the NVIDIA driver",
            "--gpus all",
            "the CUDA build is not installed",
            "bin/leoma-node-cuda is not there",
        ],
    );
    assert!(machine.refusal("cuda:3").contains("error: cuda:3 "));

    // The same, asked for in the environment and in the file.
    let args = ["generate", "--model", "m", "--prompt", "p"];
    let by_env = Machine::new().env("LEOMA_NODE_DEVICE", "cuda").run(&args);
    assert_eq!(by_env.status.code(), Some(69));
    std::fs::write(
        machine.path("config.toml"),
        "[generate]\ndevice = \"cuda\"\n",
    )
    .unwrap();
    let by_file = machine.run(&[&args[..], &["--config", "config.toml"]].concat());
    assert_eq!(by_file.status.code(), Some(69));
    // A server ends in the same way, before it listens.
    let server = machine.run(&["serve", "--model", "m", "--device", "cuda", "--port", "0"]);
    assert_eq!(server.status.code(), Some(69));

    make_tiny(ModelKind::Ti2v5b, 7, &machine.path("m")).unwrap();
    let done = machine.generate(&["--print-config"]);
    let text = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(0), "{text}");
    assert_eq!(
        text,
        "note: computing on the CPU: no NVIDIA driver (libcuda.so.1) on this machine\n"
    );
}

#[test]
fn what_is_wrong_with_driver_and_card_is_said() {
    let table: [(Driver, &str, &[&str]); 7] = [
        (
            Driver {
                init: 100,
                ..HOPPER
            },
            "cuda",
            &[
                "CUDA_ERROR_NO_DEVICE (100)",
                "it finds no card",
                "nvidia-smi -L",
            ],
        ),
        (
            Driver { init: 34, ..HOPPER },
            "cuda",
            &[
                "CUDA_ERROR_STUB_LIBRARY (34)",
                "stubs folder out of LD_LIBRARY_PATH",
            ],
        ),
        (
            Driver {
                init: 803,
                ..HOPPER
            },
            "cuda",
            &[
                "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)",
                "restart the machine",
            ],
        ),
        (
            Driver {
                version: 12040,
                ..HOPPER
            },
            "cuda",
            &[
                "is too old: it runs CUDA 12.4, and this build needs 13.0",
                "driver 580 or newer",
            ],
        ),
        (
            Driver {
                cards: &[("Tesla T4", 7, 5)],
                ..HOPPER
            },
            "cuda:0",
            &[
                "cuda:0 (Tesla T4) has compute capability 7.5, and 8.0 is needed",
                "--device cuda:N",
            ],
        ),
        (
            HOPPER,
            "cuda:2",
            &["there is no cuda:2: the driver shows 1 card, cuda:0\n"],
        ),
        (
            Driver {
                cards: &[],
                ..HOPPER
            },
            "cuda",
            &["there is no cuda:0: the driver shows no card"],
        ),
    ];
    for (driver, device, parts) in table {
        let machine = Machine::new().driver(&driver).libraries("lib").cuda_build();
        let text = machine.refusal(device);
        contains_all(&text, parts);
        // Nothing else is wrong.
        assert_eq!(text.matches("hint:").count(), 1, "{text}");
    }
    let masked = Machine::new().driver(&HOPPER).libraries("lib").cuda_build();
    let masked = masked.env("CUDA_VISIBLE_DEVICES", "MIG-1");
    let text = masked.refusal("cuda:1");
    assert!(
        text.contains("with CUDA_VISIBLE_DEVICES=\"MIG-1\""),
        "{text}"
    );

    let broken = Machine::new().libraries("lib").cuda_build();
    std::fs::create_dir(broken.path("driver")).unwrap();
    std::fs::write(broken.path("driver/libcuda.so.1"), "no library").unwrap();
    let folder = broken.text("driver");
    let text = broken.env("LD_LIBRARY_PATH", &folder).refusal("cuda");
    contains_all(
        &text,
        &["the NVIDIA driver cannot be opened", "libcuda.so.1"],
    );
}

#[test]
fn what_is_wrong_with_the_cuda_build_is_said() {
    let absent = Machine::new().driver(&HOPPER);
    contains_all(
        &absent.refusal("cuda"),
        &["the CUDA build is not installed", "docs/cuda.md"],
    );

    let closed = Machine::new().driver(&HOPPER).libraries("lib").cuda_build();
    let program = closed.path("bin/leoma-node-cuda");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o644)).unwrap();
    contains_all(
        &closed.refusal("cuda"),
        &["bin/leoma-node-cuda cannot be executed", "chmod 755"],
    );

    std::fs::write(&program, "no program").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    assert!(closed.refusal("cuda").contains("leoma-node-cuda"));

    // The CPU build under the name of the other is started once, not for ever.
    let twin = Machine::new().driver(&HOPPER);
    twin.put_program("leoma-node-cuda");
    contains_all(
        &twin.refusal("cuda"),
        &["bin/leoma-node-cuda is not a CUDA build", "--features cuda"],
    );

    // A library of another release, which lacks a function.
    let other = Machine::new().driver(&HOPPER).libraries("lib").cuda_build();
    other.library(
        &other.path("lib"),
        "libcublas.so.13",
        "int another_function(void) { return 0; }",
    );
    contains_all(
        &other.refusal("cuda"),
        &["leoma-node-cuda does not start", "libcublas_function"],
    );
}

#[test]
fn missing_libraries_are_named_with_where_they_were_looked_for() {
    let machine = Machine::new()
        .driver(&HOPPER)
        .libraries("toolkit/lib64")
        .cuda_build();
    let home = machine.text("toolkit");
    let machine = machine.env("CUDA_HOME", &home);
    // With all of them it starts.
    assert_eq!(
        machine.generate(&["--device", "cuda"]).status.code(),
        Some(7)
    );
    std::fs::remove_file(machine.path("toolkit/lib64/libcurand.so.10")).unwrap();
    let text = machine.refusal("cuda");
    if text.contains("libcurand.so.10 is not on the loader's path or in") {
        contains_all(&text, &["toolkit/lib64", "`pip install nvidia-curand`"]);
    } else {
        panic!("{text}");
    }
    assert_eq!(text.matches("hint:").count(), 1, "{text}");
}

#[test]
fn the_cuda_build_is_started_with_the_same_arguments_and_the_libraries_on_its_path() {
    let args = ["--device", "auto", "--seed", "7"];
    let expected = [
        "generate",
        "--model",
        "m",
        "--prompt",
        "a boat at sea",
        "--device",
        "auto",
        "--seed",
        "7",
    ];
    let wheels = "lib/python3.12/site-packages/nvidia/cu13/lib";
    // Where they lie, and the variable that leads there; in the usual folders behind what is set already.
    for (folder, variable, value) in [
        ("bin", "", ""),
        ("lib", "", ""),
        ("toolkit/lib64", "CUDA_HOME", "toolkit"),
        (&format!("venv/{wheels}"), "VIRTUAL_ENV", "venv"),
        (&format!(".local/{wheels}"), "", ""),
    ] {
        let machine = Machine::new()
            .driver(&HOPPER)
            .libraries(folder)
            .cuda_build();
        let value = machine.text(value);
        let machine = if variable.is_empty() {
            machine
        } else {
            machine.env(variable, &value)
        };
        let done = machine.generate(&args);
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(7), "{folder}: {stderr}");
        assert!(stderr.is_empty(), "{folder}: {stderr}");
        let lines = lines(&done);
        assert_eq!(
            lines[0],
            format!("{}:{}", machine.text("driver"), machine.text(folder))
        );
        assert_eq!(lines[1..], expected, "{folder}");
    }
    // What is named goes before everything, for the driver as well.
    let machine = Machine::new()
        .driver(&HOPPER)
        .libraries("named")
        .cuda_build();
    let (named, environment) = (machine.text("named"), machine.text("driver"));
    let machine = machine.env("LEOMA_NODE_CUDA_LIBS", &named);
    let done = machine.generate(&args);
    assert_eq!(lines(&done)[0], format!("{named}:{environment}"));
}

#[test]
fn a_script_around_the_cuda_build_is_started_too() {
    let machine = Machine::new().driver(&HOPPER);
    let script = machine.path("bin/leoma-node-cuda");
    std::fs::write(&script, "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 9\n").unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let done = machine.generate(&["--device", "cuda"]);
    assert_eq!(done.status.code(), Some(9));
    assert_eq!(lines(&done)[..2], ["generate", "--model"]);
}

#[test]
fn the_cpu_needs_no_look_at_the_driver() {
    let machine = Machine::new().libraries("lib").cuda_build();
    let source =
        "#include <stdlib.h>\n__attribute__((constructor)) static void start(void) { abort(); }";
    machine.library(&machine.path("driver"), "libcuda.so.1", source);
    let folder = machine.text("driver");
    let machine = machine.env("LD_LIBRARY_PATH", &folder);
    make_tiny(ModelKind::Ti2v5b, 7, &machine.path("m")).unwrap();
    let done = machine.generate(&["--device", "cpu", "--print-config"]);
    assert_eq!(done.status.code(), Some(0));
    assert!(done.stderr.is_empty());
    for args in [&["--version"][..], &["models", "inspect", "m"], &["--help"]] {
        assert_eq!(machine.run(args).status.code(), Some(0), "{args:?}");
    }
    // It would have been noticed.
    assert_eq!(machine.generate(&["--device", "cuda"]).status.code(), None);
}

#[test]
fn doctor_looks_at_the_same_things() {
    let machine = Machine::new().driver(&HOPPER).libraries("lib").cuda_build();
    let checks = |machine: &Machine| {
        let done = machine.run(&["doctor", "--role", "miner", "--format", "json"]);
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        move |id: &str| {
            let all = report["checks"].as_array().unwrap().clone();
            let check = all.into_iter().find(|check| check["id"] == id).unwrap();
            let text = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
            (text("status"), text("found"), text("remedy"))
        }
    };
    let check = checks(&machine);
    for (id, found) in [
        (
            "device",
            "cuda:0: NVIDIA H200, 128.0 GiB, compute capability 9.0",
        ),
        ("cuda_program", "leoma-node-cuda is there"),
        ("cuda_driver", "runs CUDA 13.0, shows NVIDIA H200"),
        ("cuda_libraries", "libcublas.so.13"),
    ] {
        let (status, text, _) = check(id);
        assert_eq!(status, "ok", "{id}: {text}");
        assert!(text.contains(found), "{id}: {text}");
    }
    std::fs::remove_file(machine.path("lib/libnvrtc.so.13")).unwrap();
    let check = checks(&machine);
    let (status, text, remedy) = check("cuda_libraries");
    assert_eq!(status, "warn");
    contains_all(&text, &["libnvrtc.so.13", "/lib"]);
    contains_all(&remedy, &["nvidia-cuda-nvrtc"]);
    let (status, text, _) = check("device");
    assert_eq!(status, "fail");
    assert!(text.contains("libnvrtc.so.13"), "{text}");
}

#[test]
fn the_version_says_which_build_it_is() {
    let done = Machine::new().run(&["--version"]);
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!(
        text,
        format!("leoma-node {} (CPU build)\n", env!("CARGO_PKG_VERSION"))
    );
}
