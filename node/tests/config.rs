//! Settings as users give them: flag, environment, file and default, on the real binary.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Must never be seen in any output.
const CANARY: &str = "canary-9f2c71";

/// An empty home, a configuration file, some variables.
struct Setup {
    folder: tempfile::TempDir,
    env: Vec<(&'static str, String)>,
}

impl Setup {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            env: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the file where it is found without being named.
    fn file(self, text: &str) -> Self {
        let folder = self.path("leoma-node");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.toml"), text).unwrap();
        self
    }

    fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    fn node(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leoma-node"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LEOMA_NODE_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .env("XDG_CONFIG_HOME", self.folder.path())
            .env("XDG_DATA_HOME", self.path("data"))
            .env_remove("STATE_DIRECTORY")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// `config show --format json` of a command line.
    fn show(&self, line: &[&str]) -> Value {
        let mut args = vec!["config", "show", "--format", "json"];
        args.extend(line);
        let shown = self.node(&args);
        let stderr = String::from_utf8_lossy(&shown.stderr);
        assert_eq!(shown.status.code(), Some(0), "{line:?}: {stderr}");
        serde_json::from_slice(&shown.stdout).unwrap()
    }

    /// The error of a command line that cannot be used.
    fn problem(&self, args: &[&str]) -> String {
        let done = self.node(args);
        let text = all(&done);
        assert_eq!(done.status.code(), Some(2), "{args:?}: {text}");
        assert!(done.stdout.is_empty(), "{text}");
        text
    }
}

fn all(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}

#[test]
fn flag_then_environment_then_file_then_default() {
    // Name, variable, and per layer what is written and what is seen.
    #[rustfmt::skip]
    let table: [(&str, &str, Value, [&str; 3], [Value; 3]); 7] = [
        // text
        ("chute_username", "LEOMA_NODE_CHUTE_USERNAME", "local".into(),
         ["\"file\"", "env", "flag"], ["file".into(), "env".into(), "flag".into()]),
        // path without a default
        ("model", "LEOMA_NODE_MODEL", Value::Null,
         ["\"a/file\"", "a/env", "a/flag"], ["a/file".into(), "a/env".into(), "a/flag".into()]),
        // number
        ("port", "LEOMA_NODE_PORT", 8000.into(),
         ["1", "2", "3"], [1.into(), 2.into(), 3.into()]),
        // switch
        ("image_urls", "LEOMA_NODE_IMAGE_URLS", false.into(),
         ["true", "off", "true"], [true.into(), false.into(), true.into()]),
        // list
        ("allowed_host", "LEOMA_NODE_ALLOWED_HOST", Value::Array(vec![]),
         ["[\"a\", \"b\"]", "c,d", "e,f"],
         [vec!["a", "b"].into(), vec!["c", "d"].into(), vec!["e", "f"].into()]),
        // time
        ("deadline", "LEOMA_NODE_DEADLINE", "300s".into(),
         ["\"5m\"", "90s", "1h"], ["5m".into(), "90s".into(), "1h".into()]),
        // size; a bare number in the file
        ("max_body_bytes", "LEOMA_NODE_MAX_BODY_BYTES", "32MiB".into(),
         ["4096", "1MB", "64KiB"], ["4096".into(), "1MB".into(), "64KiB".into()]),
    ];
    for (name, variable, default, written, seen) in table {
        let flag = format!("--{}={}", name.replace('_', "-"), written[2]);
        let line = ["serve", flag.as_str()];
        let get = |setup: &Setup, line: &[&str]| setup.show(line)["settings"][name].clone();

        let found = get(&Setup::new(), &line[..1]);
        assert_eq!(found["value"], default, "{name}");
        let origin = if default.is_null() || default == Value::Array(vec![]) {
            "unset"
        } else {
            "default"
        };
        assert_eq!(found["origin"], origin, "{name}");

        let setup = Setup::new().file(&format!("# first\n[serve]\n{name} = {}\n", written[0]));
        let found = get(&setup, &line[..1]);
        assert_eq!(found["value"], seen[0], "{name}");
        assert_eq!(found["origin"], "file", "{name}");
        assert_eq!(found["key"], format!("serve.{name}"));
        assert_eq!(found["line"], 3);

        let setup = setup.env(variable, written[1]);
        let found = get(&setup, &line[..1]);
        assert_eq!(found["value"], seen[1], "{name}");
        assert_eq!(found["origin"], "env", "{name}");
        assert_eq!(found["variable"], variable);

        let found = get(&setup, &line);
        assert_eq!(found["value"], seen[2], "{name}");
        assert_eq!(found["origin"], "flag", "{name}");
    }
}

#[test]
fn a_layer_drops_what_excludes_it_below() {
    let setup = Setup::new().file("[serve]\nmodel = \"m\"\n");
    let shown = setup.show(&["serve", "--fake-engine", "f.toml"]);
    assert_eq!(shown["settings"]["model"]["origin"], "unset");
    assert_eq!(shown["settings"]["fake_engine"]["value"], "f.toml");
    let setup = setup.env("LEOMA_NODE_FAKE_ENGINE", "e.toml");
    let shown = setup.show(&["serve"]);
    assert_eq!(shown["settings"]["fake_engine"]["origin"], "env");
    assert_eq!(shown["settings"]["model"]["value"], Value::Null);
    let text = setup.problem(&["serve", "--model", "a", "--fake-engine", "b"]);
    assert!(text.contains("cannot be used with"), "{text}");
}

#[test]
fn every_subcommand_reads_the_file() {
    let setup = Setup::new().file(
        "out = \"tiny\"\n[models.make-tiny]\nkind = \"ti2v-5b\"\nseed = 5\n[generate]\nprompt = \"p\"\n",
    );
    // Required options stand in the file alone.
    let made = setup.node(&["models", "make-tiny"]);
    assert_eq!(made.status.code(), Some(0), "{}", all(&made));
    assert!(setup.path("tiny/model_index.json").is_file());
    let shown = setup.show(&["generate", "--fps", "8"]);
    assert_eq!(shown["subcommand"], "generate");
    assert_eq!(shown["settings"]["prompt"]["value"], "p");
    assert_eq!(shown["settings"]["fps"]["value"], 8);
    let shown = setup.show(&["models", "make-tiny"]);
    assert_eq!(shown["settings"]["out"]["key"], "out");
    // What `generate` makes of it, model missing.
    let text = setup.problem(&["generate"]);
    assert!(text.contains("--model"), "{text}");
}

#[test]
fn unknown_and_wrong_keys_name_file_key_and_remedy() {
    for (text, parts) in [
        (
            "[serve]\nprot = 1\n",
            &["config.toml:2: serve.prot", "`port`"][..],
        ),
        (
            "[serv]\nport = 1\n",
            &["config.toml:1", "[serv]", "[serve]"],
        ),
        ("[serve]\nprompt = \"x\"\n", &["serve.prompt", "[generate]"]),
        (
            "[serve]\ndeadline = \"5 weeks\"\n",
            &["config.toml:2: serve.deadline", "5 weeks", "ms, s, m, h, d"],
        ),
        ("[serve]\npreset = \"nope\"\n", &["serve.preset", "nope"]),
        (
            "[serve]\nport = \"http\"\n",
            &["serve.port", "invalid digit"],
        ),
        (
            "[serve]\nimage_urls = 1\n",
            &["serve.image_urls", "true or false"],
        ),
        ("[doctor]\nrole = \"miner\"\n", &["[doctor]"]),
        ("[serve\n", &["config.toml:1"]),
    ] {
        let setup = Setup::new().file(text);
        for args in [&["serve", "--model", "m"][..], &["config", "show"]] {
            let problem = setup.problem(args);
            for part in parts {
                assert!(problem.contains(part), "{text:?}: {problem}");
            }
        }
        // Help and the other helpers work all the same.
        for args in [
            &["serve", "--help"][..],
            &["config", "path"],
            &["completions", "bash"],
        ] {
            assert_eq!(setup.node(args).status.code(), Some(0), "{args:?}");
        }
    }
    let setup = Setup::new().env("LEOMA_NODE_PORT", "http");
    let problem = setup.problem(&["serve", "--model", "m"]);
    assert!(problem.contains("LEOMA_NODE_PORT: `http`"), "{problem}");
    let problem = Setup::new().problem(&["--config", "nowhere.toml", "config", "show"]);
    assert!(problem.contains("nowhere.toml"), "{problem}");
}

#[test]
fn the_file_is_found_or_named() {
    let setup = Setup::new().file("[serve]\nport = 1\n");
    let text = |setup: &Setup, args: &[&str]| {
        let done = setup.node(args);
        assert_eq!(done.status.code(), Some(0), "{}", all(&done));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    let found = setup.path("leoma-node/config.toml");
    assert_eq!(text(&setup, &["config", "path"]), found.to_str().unwrap());
    std::fs::write(setup.path("other.toml"), "[serve]\nport = 2\n").unwrap();
    let setup = setup.env("LEOMA_NODE_CONFIG", "other.toml");
    assert_eq!(text(&setup, &["config", "path"]), "other.toml");
    assert_eq!(setup.show(&[])["settings"]["port"]["value"], 2);
    std::fs::write(setup.path("third.toml"), "[serve]\nport = 3\n").unwrap();
    for args in [
        ["--config", "third.toml", "config", "show"],
        ["config", "show", "--config", "third.toml"],
        ["config", "--config=third.toml", "show", "serve"],
    ] {
        assert!(text(&setup, &args).contains("port = 3"), "{args:?}");
    }
    let missing = Setup::new();
    assert!(text(&missing, &["config", "path"]).ends_with("(does not exist)"));
    // The text form can be used as a file.
    let shown = text(&setup, &["config", "show", "--origin", "serve"]);
    assert!(shown.contains("# file other.toml:serve.port"), "{shown}");
    std::fs::write(setup.path("again.toml"), &shown).unwrap();
    let again = text(
        &setup,
        &["--config", "again.toml", "config", "show", "serve"],
    );
    assert!(again.contains("port = 2"), "{again}");
}

#[test]
fn secrets_are_never_shown() {
    let key = |setup: &Setup| setup.path("key");
    let written = |setup: Setup| {
        std::fs::write(key(&setup), CANARY).unwrap();
        setup
    };
    let from_env = Setup::new().env("LEOMA_NODE_API_KEY", CANARY);
    let from_file = Setup::new().file(&format!("[serve]\napi_key = \"{CANARY}\"\n"));
    let both = written(Setup::new()).env("LEOMA_NODE_API_KEY", CANARY);
    let path = key(&both).to_str().unwrap().to_owned();
    let both = both.env("LEOMA_NODE_API_KEY_FILE", path);
    let broken = Setup::new().file(&format!("[serve]\napi_key = \"{CANARY}\n"));
    let wrong = Setup::new().file(&format!("[serve]\napi_key = [\"{CANARY}\"]\n"));
    let flag = format!("--api-key={CANARY}");
    for setup in [&from_env, &from_file, &both, &broken, &wrong] {
        for args in [
            &["--help"][..],
            &["serve", "--help"],
            &["serve", "-h"],
            &["serve", "--port", "x"],
            &["serve"],
            &["serve", &flag, "--port", "x"],
            &["serve", &flag, "--api-key-file", "f"],
            &["config", "show"],
            &[
                "config", "show", "--origin", "--format", "json", "serve", &flag,
            ],
            &["config", "path"],
            &["doctor"],
            &["doctor", "--format", "json"],
            &["man"],
            &["completions", "zsh"],
        ] {
            let text = all(&setup.node(args));
            assert!(!text.contains(CANARY), "{args:?}: {text}");
        }
    }
    let shown = from_env.show(&["serve"]);
    assert_eq!(shown["settings"]["api_key"]["value"], "***");
    assert_eq!(shown["settings"]["api_key"]["origin"], "env");
    let problem = both.problem(&["config", "show"]);
    for name in [
        "LEOMA_NODE_API_KEY ",
        "LEOMA_NODE_API_KEY_FILE ",
        "remove one",
    ] {
        assert!(problem.contains(name), "{problem}");
    }
    let warned = Setup::new().node(&["config", "show", "serve", &flag]);
    let stderr = String::from_utf8_lossy(&warned.stderr);
    assert!(stderr.contains("warning: --api-key") && stderr.contains("LEOMA_NODE_API_KEY_FILE"));
}

fn doctor(setup: &Setup, args: &[&str]) -> (Option<i32>, Value) {
    let mut line = vec!["doctor", "--format", "json"];
    line.extend(args);
    let done = setup.node(&line);
    let report = serde_json::from_slice(&done.stdout);
    (
        done.status.code(),
        report.unwrap_or_else(|_| panic!("{}", all(&done))),
    )
}

fn check(report: &Value, id: &str) -> Value {
    let checks = report["checks"].as_array().unwrap();
    checks
        .iter()
        .find(|check| check["id"] == id)
        .unwrap()
        .clone()
}

fn tiny(folder: &Path) -> String {
    let model = folder.join("tiny");
    leoma_models::tiny::make_tiny(leoma_models::weights::ModelKind::Ti2v5b, 0, &model).unwrap();
    model.to_str().unwrap().to_owned()
}

#[test]
fn doctor_reports_what_is_there_and_what_to_do() {
    let setup = Setup::new().env("LEOMA_NODE_DEVICE", "cpu");
    let model = tiny(setup.folder.path());
    let args = ["--role", "miner", "--model", &model, "--port", "0"];
    let (code, report) = doctor(&setup, &args);
    assert_eq!(report["role"], "miner");
    for check in report["checks"].as_array().unwrap() {
        let keys: Vec<_> = check.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["found", "id", "remedy", "status"]);
        let status = check["status"].as_str().unwrap();
        assert!(["ok", "warn", "fail", "skip"].contains(&status));
        assert_eq!(
            check["remedy"].is_string(),
            ["warn", "fail"].contains(&status),
            "{check}"
        );
        assert!(!check["found"].as_str().unwrap().is_empty());
    }
    for id in ["config", "model", "memory", "device", "data_dir", "port"] {
        assert_eq!(check(&report, id)["status"], "ok", "{report:#}");
    }
    let encoder = if cfg!(feature = "ffmpeg") {
        "ok"
    } else {
        "fail"
    };
    assert_eq!(check(&report, "encoder")["status"], encoder);
    let failed = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .any(|check| check["status"] == "fail");
    assert_eq!(report["ok"], !failed);
    assert_eq!(code, Some(i32::from(failed)));
}

#[test]
fn doctor_finds_what_is_wrong() {
    let setup = Setup::new()
        .file("[serve]\nprot = 1\n")
        .env("LEOMA_NODE_PROT", "1");
    let (code, report) = doctor(&setup, &[]);
    assert_eq!((code, &report["ok"]), (Some(1), &Value::Bool(false)));
    assert_eq!(check(&report, "config")["status"], "fail");
    assert!(
        check(&report, "config")["found"]
            .as_str()
            .unwrap()
            .contains("serve.prot")
    );
    assert_eq!(check(&report, "environment")["status"], "warn");
    assert!(
        check(&report, "environment")["remedy"]
            .as_str()
            .unwrap()
            .contains("LEOMA_NODE_PORT")
    );

    let setup = Setup::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    std::fs::write(setup.path("plain"), "").unwrap();
    std::fs::create_dir(setup.path("empty")).unwrap();
    let args = [
        "--role",
        "miner",
        "--port",
        &port,
        "--data-dir",
        "plain",
        "--model",
        "empty",
    ];
    let (code, report) = doctor(&setup, &args);
    assert_eq!(code, Some(1));
    for id in ["port", "data_dir", "model"] {
        assert_eq!(check(&report, id)["status"], "fail", "{report:#}");
    }
    // The same things, where the role can do without.
    let args = ["--role", "auditor", "--port", &port];
    let (_, report) = doctor(&setup, &args);
    assert_eq!(check(&report, "port")["status"], "warn");
}

#[test]
fn doctor_sees_an_open_key_file_and_a_held_lock() {
    use std::os::unix::fs::PermissionsExt;
    let setup = Setup::new();
    let key = setup.path("key");
    std::fs::write(&key, CANARY).unwrap();
    std::fs::create_dir(setup.path("store")).unwrap();
    let lock = std::fs::File::create(setup.path("store/lock")).unwrap();
    lock.lock().unwrap();
    let setup = setup.env("LEOMA_NODE_API_KEY_FILE", key.to_str().unwrap());
    for (mode, status) in [(0o644, "warn"), (0o600, "ok")] {
        std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
        let (_, report) = doctor(&setup, &["--role", "miner", "--data-dir", "store"]);
        assert_eq!(check(&report, "key_file")["status"], status);
        assert_eq!(check(&report, "lock")["status"], "fail");
        assert!(!report.to_string().contains(CANARY));
    }
    drop(lock);
    let (_, report) = doctor(&setup, &["--role", "miner", "--data-dir", "store"]);
    assert_eq!(check(&report, "lock")["status"], "ok");
}

#[test]
fn doctor_sees_a_secret_in_an_open_file() {
    use std::os::unix::fs::PermissionsExt;
    let setup = Setup::new().file(&format!("[serve]\napi_key = \"{CANARY}\"\n"));
    let path = setup.path("leoma-node/config.toml");
    for (mode, status) in [(0o644, "warn"), (0o600, "ok")] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let (_, report) = doctor(&setup, &[]);
        assert_eq!(check(&report, "config")["status"], status);
        assert!(!report.to_string().contains(CANARY));
    }
}

#[test]
fn help_completions_and_pages_are_whole() {
    let setup = Setup::new();
    let help = setup.node(&["--help"]);
    let text = all(&help);
    for part in [
        "Video:",
        "Examples:",
        "Exit codes:",
        "serve",
        "doctor",
        "completions",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(
        !text.contains("Other:"),
        "every subcommand has a group: {text}"
    );
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = setup.node(&["completions", shell]);
        assert_eq!(script.status.code(), Some(0));
        assert!(all(&script).contains("make-tiny"), "{shell}");
    }
    let page = setup.node(&["man"]);
    for part in [".TH leoma-node 1", ".nf\nExamples:", ".SH VERSION"] {
        assert!(all(&page).contains(part), "{}", all(&page));
    }
    let pages = setup.node(&["man", "--out", "pages"]);
    assert_eq!(pages.status.code(), Some(0), "{}", all(&pages));
    for name in [
        "leoma-node.1",
        "leoma-node-serve.1",
        "leoma-node-models-inspect.1",
    ] {
        assert!(setup.path("pages").join(name).is_file(), "{name}");
    }
    for wrong in [&["serve", "--prot", "1"][..], &["nope"], &[]] {
        assert_eq!(setup.node(wrong).status.code(), Some(2), "{wrong:?}");
    }
}
