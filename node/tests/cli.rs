//! The command as its users run it: results, files, exit codes and sentences on a tiny checkpoint.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use leoma_models::tiny::make_tiny;
use leoma_models::weights::ModelKind;
use leoma_node::media::{read_video_info, write_png};
use serde_json::Value;

fn tiny(kind: ModelKind, folder: &Path) -> PathBuf {
    let out = folder.join(kind.as_str());
    make_tiny(kind, 7, &out).unwrap();
    out
}

fn node(args: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_leoma-node"))
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn picture(folder: &Path, width: u32, height: u32) -> PathBuf {
    let path = folder.join(format!("{width}x{height}.png"));
    let pixels: Vec<u8> = (0..width * height * 3)
        .map(|i| (i * 7 % 251) as u8)
        .collect();
    write_png(&path, width, height, &pixels).unwrap();
    path
}

/// Small and fast for every kind.
const SMALL: [&str; 8] = [
    "--width",
    "64",
    "--height",
    "64",
    "--num-frames",
    "5",
    "--num-inference-steps",
    "2",
];

#[test]
fn every_kind_makes_a_clip_with_report_frames_and_dump() {
    let folder = tempfile::tempdir().unwrap();
    let image = picture(folder.path(), 90, 70);
    let image = image.to_str().unwrap();
    for (kind, with_image) in [
        (ModelKind::Ti2v5b, true),
        (ModelKind::Ti2v5b, false),
        (ModelKind::I2vA14b, true),
        (ModelKind::T2vA14b, false),
        (ModelKind::Wan21T2v, false),
    ] {
        let model = tiny(kind, &folder.path().join(format!("{kind}-{with_image}")));
        let mut args = vec![
            "generate",
            "--model",
            model.to_str().unwrap(),
            "--prompt",
            "a boat",
        ];
        args.extend(SMALL);
        args.extend(["--fps", "12", "--format", "json", "--output", "out.mp4"]);
        args.extend(["--offload", "experts"]);
        args.extend(["--frames-dir", "frames", "--dump", "dump.safetensors"]);
        if with_image {
            args.extend(["--image", image]);
        }
        let done = node(&args, folder.path());
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(0), "{kind}: {stderr}");

        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(report["seed"], 42);
        assert_eq!(report["parameters"]["num_frames"], 5);
        assert!(report["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
        assert_eq!(report["attention"], "cpu-flash");
        for stage in [
            "load_s",
            "text_encode_s",
            "denoise_s",
            "vae_decode_s",
            "video_encode_s",
        ] {
            assert!(report["stages"][stage].as_f64().unwrap() > 0.0, "{stage}");
        }
        let info = read_video_info(&folder.path().join("out.mp4")).unwrap();
        assert_eq!((info.width, info.height, info.frames), (64, 64, 5));
        assert_eq!(
            (info.codec.as_str(), info.pix_fmt.as_str()),
            ("h264", "yuv420p")
        );
        assert_eq!(info.fps.num / info.fps.den, 12);
        let comment = info
            .metadata
            .iter()
            .find(|(key, _)| key == "comment")
            .unwrap();
        let digest = report["checkpoint_digest"].as_str().unwrap();
        assert!(comment.1.contains(digest) && comment.1.contains("guidance_scale"));

        assert_eq!(
            std::fs::read_dir(folder.path().join("frames"))
                .unwrap()
                .count(),
            5
        );
        let bytes = std::fs::read(folder.path().join("dump.safetensors")).unwrap();
        let dump = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let shape = |name: &str| dump.tensor(name).unwrap().shape().to_vec();
        assert_eq!(shape("tokens.prompt"), [1, 512]);
        assert_eq!(shape("timesteps"), [2]);
        assert_eq!(shape("sigmas"), [3]);
        assert_eq!(shape("decoded"), [1, 3, 5, 64, 64]);
        assert_eq!(shape("frames_u8"), [5, 64, 64, 3]);
        for name in [
            "velocity_cond.01",
            "velocity_uncond.01",
            "latents.01",
            "latents.final",
        ] {
            assert_eq!(shape(name)[2], 2, "{name}"); // two latent frames
        }
        let first_frame = if kind == ModelKind::I2vA14b {
            "condition"
        } else {
            "image_latents"
        };
        assert_eq!(dump.tensor(first_frame).is_ok(), with_image);
    }
}

#[test]
fn bad_input_is_exit_2_and_a_sentence_with_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(ModelKind::Ti2v5b, folder.path());
    std::fs::write(folder.path().join("text.png"), "not a picture").unwrap();
    let truncated = picture(folder.path(), 64, 64);
    let bytes = std::fs::read(&truncated).unwrap();
    std::fs::write(folder.path().join("half.png"), &bytes[..bytes.len() / 2]).unwrap();
    // A header that announces 60000 x 60000 pixels.
    let mut bomb = bytes.clone();
    bomb[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    std::fs::write(folder.path().join("bomb.png"), bomb).unwrap();
    let long = "a".repeat(100_000);

    for (args, word) in [
        (vec!["--num-inference-steps", "0"], "num_inference_steps"),
        (vec!["--num-frames", "0"], "num_frames"),
        (vec!["--num-frames", "999999999"], "num_frames"),
        (vec!["--height", "0"], "height"),
        (vec!["--height", "100"], "height"),
        (vec!["--width", "999999"], "width"),
        (vec!["--fps", "0"], "fps"),
        (vec!["--crf", "77"], "crf"),
        (vec!["--guidance-scale", "nan"], "guidance_scale"),
        (vec!["--guidance-scale-2", "3"], "guidance_scale_2"),
        (vec!["--flow-shift=-1"], "flow_shift"),
        (vec!["--boundary-ratio", "0.5"], "boundary_ratio"),
        (vec!["--scheduler", "ddim"], "scheduler"),
        (vec!["--noise-source", "cuda:h1"], "noise_source"),
        (vec!["--noise", "missing.safetensors"], "noise"),
        (vec!["--preset", "fast"], "preset"),
        (vec!["--dtype", "int4"], "dtype"),
        (vec!["--rounding", "official"], "rounding"), // the type is f32
        (vec!["--dtype", "bf16", "--rounding", "up"], "rounding"),
        (vec!["--image", "missing.png"], "image"),
        (vec!["--image", "text.png"], "image"),
        (vec!["--image", "half.png"], "image"),
        (vec!["--image", "bomb.png"], "image"),
        (vec!["--output", "no/such/folder/out.mp4"], "output"),
        (vec!["--negative-prompt", &long], "negative_prompt"),
    ] {
        let mut line = vec![
            "generate",
            "--model",
            model.to_str().unwrap(),
            "--prompt",
            "a boat",
        ];
        line.extend(&args);
        let done = node(&line, folder.path());
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(word), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        assert!(done.stdout.is_empty(), "{args:?}");
        assert!(!folder.path().join("out.mp4").exists(), "{args:?}");
    }
    for prompt in ["", "  \n ", long.as_str()] {
        let line = [
            "generate",
            "--model",
            model.to_str().unwrap(),
            "--prompt",
            prompt,
        ];
        let done = node(&line, folder.path());
        assert_eq!(done.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&done.stderr).contains("prompt"));
    }
}

#[test]
fn the_wrong_kind_of_model_for_the_task_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = picture(folder.path(), 64, 64);
    let (i2v, t2v) = (
        tiny(ModelKind::I2vA14b, folder.path()),
        tiny(ModelKind::T2vA14b, folder.path()),
    );
    let line = [
        "generate",
        "--model",
        i2v.to_str().unwrap(),
        "--prompt",
        "a boat",
    ];
    let done = node(&line, folder.path());
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("needs a first frame"));
    let image = image.to_str().unwrap();
    let line = [
        "generate",
        "--model",
        t2v.to_str().unwrap(),
        "--prompt",
        "a",
        "--image",
        image,
    ];
    let done = node(&line, folder.path());
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("takes no image"));
}

#[test]
fn print_config_names_every_origin() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(ModelKind::I2vA14b, folder.path());
    let image = picture(folder.path(), 1920, 1080);
    let mut line = vec![
        "generate",
        "--model",
        model.to_str().unwrap(),
        "--prompt",
        "a boat",
    ];
    line.extend([
        "--image",
        image.to_str().unwrap(),
        "--preset",
        "official",
        "--seed",
        "5",
    ]);
    line.extend([
        "--height",
        "480",
        "--width",
        "832",
        "--print-config",
        "--format",
        "json",
    ]);
    let done = node(&line, folder.path());
    let config: Value = serde_json::from_slice(&done.stdout).unwrap();
    let is = |name: &str, value: Value, origin: &str| {
        assert_eq!(config[name]["value"], value, "{name}");
        assert_eq!(config[name]["origin"], origin, "{name}");
    };
    is("seed", 5.into(), "request");
    is("flow_shift", 5.0.into(), "preset");
    is("boundary_ratio", 0.9.into(), "checkpoint");
    is("guidance_scale_2", 3.5.into(), "preset");
    is("width", 832.into(), "request");
    is("height", 464.into(), "derived"); // the official area rule for 16:9 pictures
    is("noise_source", "cuda:h100".into(), "preset");
    assert!(!folder.path().join("out.mp4").exists());
}

#[test]
fn an_odd_frame_count_is_rounded_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(ModelKind::T2vA14b, folder.path());
    let mut line = vec![
        "generate",
        "--model",
        model.to_str().unwrap(),
        "--prompt",
        "a boat",
    ];
    line.extend(["--num-frames", "7", "--print-config"]);
    let done = node(&line, folder.path());
    assert!(String::from_utf8_lossy(&done.stderr).contains("making 5 frames"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_exits_130_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(ModelKind::Ti2v5b, folder.path());
    let mut child = Command::new(env!("CARGO_BIN_EXE_leoma-node"))
        .args([
            "generate",
            "--model",
            model.to_str().unwrap(),
            "--prompt",
            "a boat",
        ])
        .args(["--num-frames", "81", "--num-inference-steps", "200"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        child.try_wait().unwrap().is_none(),
        "200 steps take longer than that"
    );
    let asked = Instant::now();
    Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(20));
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != model.file_name().unwrap())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn inspect_says_what_a_folder_is_and_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(ModelKind::Ti2v5b, folder.path());
    let done = node(
        &[
            "models",
            "inspect",
            model.to_str().unwrap(),
            "--format",
            "json",
        ],
        folder.path(),
    );
    assert_eq!(done.status.code(), Some(0));
    let found: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(found["kind"], "ti2v-5b");
    assert_eq!(found["problems"], Value::Array(vec![]));

    std::fs::remove_file(model.join("vae/config.json")).unwrap();
    let done = node(
        &["models", "inspect", model.to_str().unwrap()],
        folder.path(),
    );
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("vae"));
}

#[test]
fn a_clip_is_planned_and_refused_before_weights_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(ModelKind::T2vA14b, folder.path());
    // Weights that cannot be read: nobody may want to.
    for file in ["vae", "transformer"] {
        let path = model.join(file).join("diffusion_pytorch_model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
        let poisoned: Vec<u8> = (0..bytes.len())
            .map(|i| if i < header { bytes[i] } else { 0xff })
            .collect();
        std::fs::write(&path, poisoned).unwrap();
    }
    let mut args = vec![
        "generate",
        "--model",
        model.to_str().unwrap(),
        "--prompt",
        "a boat",
    ];
    args.extend(SMALL);
    args.extend(["--device", "cpu"]);

    let with = |more: &[&str]| node(&[args.as_slice(), more].concat(), folder.path());
    let done = with(&["--plan"]);
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(0), "{text}");
    for word in [
        "memory plan: t2v-a14b, 64x64, 5 frames",
        "vae decode",
        "all stages",
        "GB free",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }

    let json = |more: &[&str]| -> (Option<i32>, Value) {
        let done = with(&[&["--plan", "--format", "json"], more].concat());
        (
            done.status.code(),
            serde_json::from_slice(&done.stdout).unwrap(),
        )
    };
    let (code, plan) = json(&["--offload", "blocks"]);
    assert_eq!(code, Some(0));
    assert_eq!(plan["plan"]["offload"], "blocks");
    assert_eq!(plan["fits"], true);
    let sparing = plan["needed"]["host"].as_u64().unwrap();
    let (_, plan) = json(&["--offload", "none"]);
    let all = plan["needed"]["host"].as_u64().unwrap();
    assert!(sparing < all, "{sparing} {all}");

    // Between the two: `auto` does with less than everything.
    let limit = u64::midpoint(sparing, all).to_string();
    let (code, plan) = json(&["--memory-limit", &limit]);
    assert_eq!(code, Some(0));
    assert_ne!(plan["plan"]["offload"], "none");
    let (code, plan) = json(&["--memory-limit", "100kB"]);
    assert_eq!((code, &plan["fits"]), (Some(69), &Value::Bool(false)));

    let refused = with(&["--offload", "none", "--memory-limit", &limit]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(69), "{stderr}");
    for word in ["are needed", "are available", "--offload experts"] {
        assert!(
            stderr.contains(word) || stderr.contains("--offload blocks"),
            "{word}: {stderr}"
        );
    }
    assert!(!folder.path().join("out.mp4").exists());
}

#[test]
fn a_node_with_too_little_memory_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(ModelKind::Ti2v5b, folder.path());
    let done = node(
        &[
            "serve",
            "--model",
            model.to_str().unwrap(),
            "--device",
            "cpu",
            "--port",
            "0",
            "--data-dir",
            "data",
            "--memory-limit",
            "100kB",
        ],
        folder.path(),
    );
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(69), "{stderr}");
    assert!(stderr.contains("not even a small clip"), "{stderr}");
}

/// The tensors of a safetensors file under other names, as the official release has them.
fn repackage(from: &Path, to: &Path) {
    use leoma_models::weights::{Component, names};
    let bytes = std::fs::read(from).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let renamed: serde_json::Map<String, Value> = header
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .map(|(name, entry)| {
            let official = names::to_official(Component::Transformer, name);
            (format!("model.diffusion_model.{official}"), entry.clone())
        })
        .collect();
    let header = Value::Object(renamed).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&bytes[8 + length..]);
    std::fs::write(to, file).unwrap();
}

/// A LoRA that adds `value` to one bias.
fn write_lora(path: &Path, value: f32) {
    let header = r#"{"diffusion_model.head.head.diff_b":{"dtype":"F32","shape":[192],"data_offsets":[0,768]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend((0..192).flat_map(|_| value.to_le_bytes()));
    std::fs::write(path, file).unwrap();
}

#[test]
fn single_files_loras_and_fp8_are_used_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(ModelKind::Ti2v5b, folder.path());
    let weights = model.join("transformer/diffusion_pytorch_model.safetensors");
    repackage(&weights, &folder.path().join("comfy.safetensors"));
    write_lora(&folder.path().join("style.safetensors"), 0.05);
    let run = |extra: &[&str], output: &str| {
        let mut args = vec![
            "generate",
            "--model",
            model.to_str().unwrap(),
            "--prompt",
            "a boat",
        ];
        args.extend(SMALL);
        args.extend(["--format", "json", "--output", output]);
        args.extend(extra);
        let done = node(&args, folder.path());
        let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
        (
            done.status.code(),
            serde_json::from_slice::<Value>(&done.stdout).ok(),
            stderr,
        )
    };
    let good = |extra: &[&str], output: &str| {
        let (code, report, stderr) = run(extra, output);
        assert_eq!(code, Some(0), "{extra:?}: {stderr}");
        report.unwrap()
    };
    let frames = |output: &str| std::fs::read(folder.path().join(output)).unwrap();

    let plain = good(&[], "plain.mp4");
    assert_eq!(
        (&plain["precision"], &plain["lossy"]),
        (&"f32".into(), &false.into())
    );
    assert!(
        plain["parameters"].get("precision").is_none() && plain["loras"] == serde_json::json!([])
    );

    // The same weights in another file: the same clip and digest.
    let single = good(&["--transformer", "comfy.safetensors"], "single.mp4");
    assert_eq!(single["checkpoint_digest"], plain["checkpoint_digest"]);
    assert_eq!(frames("single.mp4"), frames("plain.mp4"));

    let fp8 = good(&["--dtype", "fp8"], "fp8.mp4");
    assert_eq!(
        (&fp8["precision"], &fp8["lossy"]),
        (&"fp8".into(), &true.into())
    );
    assert_eq!(fp8["parameters"]["precision"], "fp8 (lossy)");
    assert_ne!(frames("fp8.mp4"), frames("plain.mp4"));
    assert!(String::from_utf8_lossy(&frames("fp8.mp4")).contains("fp8 (lossy)"));

    let lora = good(&["--lora", "style.safetensors=0.5"], "lora.mp4");
    let used = &lora["loras"][0];
    assert_eq!(
        (&used["file"], &used["strength"]),
        (&"style.safetensors".into(), &0.5.into())
    );
    assert_eq!(used["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(lora["parameters"]["loras"][0], *used);
    assert_ne!(lora["checkpoint_digest"], plain["checkpoint_digest"]);
    assert_ne!(frames("lora.mp4"), frames("plain.mp4"));

    for (extra, word) in [
        (["--transformer-2", "comfy.safetensors"], "one expert"),
        (["--transformer", "style.safetensors"], "no transformer"),
        (["--lora", "comfy.safetensors"], "none of the"),
        (["--lora", "style.safetensors=much"], "not a strength"),
        (["--dtype", "fp4"], "fp8"),
    ] {
        let (code, _, stderr) = run(&extra, "none.mp4");
        assert_eq!(code, Some(2), "{extra:?}: {stderr}");
        assert!(stderr.contains(word), "{extra:?}: {stderr}");
    }
    let typed = [
        "--host",
        "http://127.0.0.1:9",
        "--lora",
        "style.safetensors",
    ];
    let mut args = vec!["generate", "--prompt", "a boat"];
    args.extend(typed);
    let done = node(&args, folder.path());
    assert!(String::from_utf8_lossy(&done.stderr).contains("--lora cannot be used with a server"));
}

/// A folder with this program and nothing beside it: on the file system of the build, for a hard link.
fn installed() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = folder.path().join("leoma-node");
    std::fs::hard_link(env!("CARGO_BIN_EXE_leoma-node"), &program).unwrap();
    (folder, program)
}

#[test]
fn bench_becomes_the_program_beside_it_with_all_arguments() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, program) = installed();
    for name in ["leoma-bench", "leoma-bench-cuda"] {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho {name} \"$@\"\nexit 7\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let answer = |arguments: &[&str]| {
        let output = Command::new(&program)
            .arg("bench")
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        answer(&["latency", "-o", "md,html"]),
        "leoma-bench latency -o md,html\n"
    );
    assert_eq!(answer(&["--help"]), "leoma-bench --help\n");
    assert_eq!(
        answer(&["latency", "--device", "cpu"]),
        "leoma-bench latency --device cpu\n"
    );
}

#[test]
fn bench_without_its_program_says_where_it_was_looked_for() {
    let (folder, program) = installed();
    let output = Command::new(&program)
        .args(["bench", "latency"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(
        text.contains("leoma-bench") && text.contains("cargo build"),
        "{text}"
    );
    assert!(text.contains(folder.path().to_str().unwrap()), "{text}");
}
