//! Layers on a small definition, where the environment is a closure.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::{Failure, Missing, Origin, Resolved, nearest, resolve, with_switches};

#[derive(Debug, Parser)]
#[command(name = "probe")]
struct Probe {
    #[arg(long, global = true, env = "LEOMA_NODE_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Job,
}

#[derive(Debug, Subcommand)]
enum Job {
    Run(Run),
    #[command(subcommand)]
    Group(Group),
}

#[derive(Debug, Subcommand)]
enum Group {
    MakeIt(MakeIt),
}

#[derive(Debug, Args)]
struct MakeIt {
    #[arg(long)]
    seed: u64,
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct Run {
    #[arg(long, env = "PROBE_MODEL", required_unless_present = "fake_engine")]
    model: Option<PathBuf>,
    #[arg(long, env = "PROBE_FAKE", conflicts_with = "model")]
    fake_engine: Option<PathBuf>,
    #[arg(long, env = "PROBE_PORT", default_value_t = 8000)]
    port: u16,
    #[arg(long, env = "PROBE_FAST")]
    fast: bool,
    #[arg(long, env = "PROBE_NAMES", value_delimiter = ',', action = ArgAction::Append)]
    names: Vec<String>,
    #[arg(long, env = "PROBE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[arg(long, env = "PROBE_KEY", hide_env_values = true)]
    key: Option<String>,
    #[arg(long, env = "PROBE_KEY_FILE")]
    key_file: Option<PathBuf>,
    #[arg(long)]
    seed: Option<u64>,
    rest: Vec<String>,
}

struct Setup {
    env: HashMap<String, String>,
    _folder: tempfile::TempDir,
    folder: PathBuf,
}

impl Setup {
    fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, file).unwrap();
        let mut env = HashMap::new();
        env.insert("LEOMA_NODE_CONFIG".into(), path.to_str().unwrap().into());
        Self {
            env,
            folder: folder.path().to_owned(),
            _folder: folder,
        }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    fn resolve(&self, line: &str) -> Result<Resolved, Failure> {
        let argv: Vec<OsString> = ["probe"]
            .into_iter()
            .chain(line.split_whitespace())
            .map(OsString::from)
            .collect();
        let env = |name: &str| self.env.get(name).map(OsString::from);
        resolve(
            &with_switches(Probe::command()),
            &argv,
            &env,
            Missing::Refused,
        )
    }

    fn run(&self, line: &str) -> Run {
        let resolved = self.resolve(line).unwrap();
        match Probe::from_arg_matches(&resolved.matches).unwrap().command {
            Job::Run(run) => run,
            Job::Group(group) => unreachable!("{group:?}"),
        }
    }

    fn problem(&self, line: &str) -> String {
        self.resolve(line).unwrap_err().to_string()
    }
}

#[test]
fn each_layer_goes_before_the_next() {
    let file = "[run]\nmodel = \"file\"\nport = 1\nfast = true\nnames = [\"a\", \"b\"]\n";
    let setup = Setup::new(file);
    let run = setup.run("run");
    assert_eq!((run.port, run.fast), (1, true));
    assert_eq!(run.names, ["a", "b"]);
    let setup = setup
        .env("PROBE_PORT", "2")
        .env("PROBE_NAMES", "c,d")
        .env("PROBE_FAST", "no");
    let run = setup.run("run");
    assert_eq!((run.port, run.fast), (2, false));
    assert_eq!(run.names, ["c", "d"]);
    let run = setup.run("run --port 3 --fast --names e");
    assert_eq!((run.port, run.fast), (3, true));
    assert_eq!(run.names, ["e"]);
    // An empty variable is none.
    assert_eq!(setup.env("PROBE_PORT", "").run("run").port, 1);
    assert!(!Setup::new(file).run("run --fast=false").fast);
    assert_eq!(Setup::new("").run("run --model m x --port 9").rest, ["x"]);
}

#[test]
fn a_higher_layer_drops_what_excludes_it() {
    let setup = Setup::new("[run]\nmodel = \"file\"\n");
    let run = setup.run("run --fake-engine f");
    assert!(run.model.is_none() && run.fake_engine.is_some());
    let setup = setup.env("PROBE_FAKE", "f");
    assert!(setup.run("run").model.is_none());
    let run = setup.run("run --model flag");
    assert!(run.model.is_some() && run.fake_engine.is_none());
    // The table of the subcommand goes before what is shared.
    let setup = Setup::new("model = \"shared\"\n[run]\nfake_engine = \"own\"\n");
    assert!(setup.run("run").model.is_none());
    // Within one layer there is no telling.
    let setup = Setup::new("[run]\nmodel = \"m\"\nfake-engine = \"f\"\n");
    let problem = setup.problem("run");
    assert!(
        problem.contains("run.model") && problem.contains("run.fake-engine"),
        "{problem}"
    );
}

#[test]
fn required_settings_can_stand_in_the_file_of_a_group() {
    let setup = Setup::new("[group]\nseed = 3\n[group.make-it]\n");
    let resolved = setup.resolve("group make-it dir").unwrap();
    let Job::Group(Group::MakeIt(made)) =
        Probe::from_arg_matches(&resolved.matches).unwrap().command
    else {
        panic!("another subcommand");
    };
    assert_eq!((made.seed, made.dir), (3, PathBuf::from("dir")));
    assert!(
        Setup::new("")
            .problem("group make-it dir")
            .contains("--seed")
    );
    assert!(Setup::new("").problem("run").contains("--model"));
}

#[test]
fn wrong_files_name_line_key_and_remedy() {
    for (file, parts) in [
        (
            "[run]\nprot = 1\n",
            &["config.toml:2: run.prot", "`port`"][..],
        ),
        ("[rnu]\n", &["config.toml:1", "[rnu]", "[run]"]),
        ("[group]\nmake-it = 1\n", &["group.make-it", "unknown"]),
        (
            "port = \"no\"\n",
            &[":1: port", "`no`", "invalid digit", "[run]"],
        ),
        ("[run]\nport = 70000\n", &["run.port", "70000"]),
        ("[run]\nport = true\n", &["run.port", "value"]),
        ("[run]\nport = [1]\n", &["run.port", "not a list"]),
        ("[run]\nfast = \"yes\"\n", &["run.fast", "true or false"]),
        ("[run]\nnames = [true]\n", &["run.names", "list"]),
        ("[run]\nmodel = 1979-05-27\n", &["run.model", "date"]),
        (
            "[run]\nfake_engine = 1\nfake-engine = 2\n",
            &["stands twice", "line 2"],
        ),
        ("[run]\nconfig = \"x\"\n", &["run.config", "unknown"]),
        ("[run\nport = 1\n", &["config.toml:1"]),
        ("[group.make_it]\nport = 1\n", &["belongs to [run]"]),
    ] {
        let problem = Setup::new(file).problem("run --model m");
        for part in parts {
            assert!(problem.contains(part), "{file:?}: {problem}");
        }
    }
    let missing = Setup::new("").env("LEOMA_NODE_CONFIG", "/nowhere/config.toml");
    assert!(
        missing
            .problem("run --model m")
            .contains("/nowhere/config.toml")
    );
}

#[test]
fn wrong_variables_are_named() {
    let setup = Setup::new("").env("PROBE_PORT", "x");
    assert!(
        setup
            .problem("run --model m")
            .starts_with("PROBE_PORT: `x`")
    );
    assert_eq!(setup.run("run --model m --port 4").port, 4);
    let setup = Setup::new("")
        .env("PROBE_MODEL", "a")
        .env("PROBE_FAKE", "b");
    let problem = setup.problem("run");
    assert!(problem.contains("PROBE_MODEL") && problem.contains("PROBE_FAKE"));
}

#[test]
fn secrets_come_from_files_and_are_not_told() {
    let setup = Setup::new("");
    let path = setup.folder.join("token");
    std::fs::write(&path, "canary\n").unwrap();
    let setup = setup.env("PROBE_TOKEN_FILE", path.to_str().unwrap());
    assert_eq!(setup.run("run --model m").token.as_deref(), Some("canary"));
    let resolved = setup.resolve("run --model m --token flag").unwrap();
    assert!(
        resolved
            .warnings
            .iter()
            .any(|text| text.contains("--token") && !text.contains("flag "))
    );
    assert_eq!(
        setup.run("run --model m --token flag").token.as_deref(),
        Some("flag")
    );
    std::fs::write(&path, "canary\ncanary\n").unwrap();
    let problem = setup.problem("run --model m");
    assert!(problem.contains("PROBE_TOKEN_FILE") && !problem.contains("canary"));
    let setup = setup.env("PROBE_TOKEN", "canary");
    let problem = setup.problem("run --model m");
    assert!(problem.contains("both set") && !problem.contains("canary"));
    for file in ["[run]\ntoken = [\"canary\"]\n", "[run]\ntoken = \"canary\n"] {
        let problem = Setup::new(file).problem("run --model m");
        assert!(!problem.contains("canary"), "{problem}");
    }
}

#[test]
fn origins_are_told() {
    let setup = Setup::new("port = 5\n[run]\nfast = false\n").env("PROBE_NAMES", "a");
    let resolved = setup.resolve("run --model m").unwrap();
    let origin = |id: &str| resolved.origin(id);
    assert_eq!(origin("model"), Origin::Flag);
    assert_eq!(origin("names"), Origin::Env("PROBE_NAMES".into()));
    assert_eq!(origin("token"), Origin::Unset);
    let file = |key: &str, line| Origin::File {
        path: setup.folder.join("config.toml"),
        key: key.into(),
        line,
    };
    assert_eq!(origin("port"), file("port", 1));
    assert_eq!(origin("fast"), file("run.fast", 3));
    let origins = resolved.origins();
    assert!(origins.typed("model") && origins.chosen("model"));
    for id in ["names", "port", "fast"] {
        assert!(origins.chosen(id) && !origins.typed(id), "{id}");
    }
    assert!(!origins.chosen("token") && !origins.chosen("seed"));
}

#[test]
fn a_secret_with_an_option_for_its_file_is_not_given_twice() {
    let setup = Setup::new("")
        .env("PROBE_KEY", "canary")
        .env("PROBE_KEY_FILE", "f");
    let problem = setup.problem("run --model m");
    assert!(
        problem.contains("PROBE_KEY and PROBE_KEY_FILE cannot"),
        "{problem}"
    );
    assert!(!problem.contains("canary"));
    // What is typed decides.
    let run = setup.run("run --model m --key-file g");
    assert!(run.key.is_none() && run.key_file.is_some());
    let run = setup.run("run --model m --key k");
    assert!(run.key.is_some() && run.key_file.is_none());
}

#[test]
fn likeness_has_a_limit() {
    let names = || ["port", "host", "model"].into_iter();
    assert_eq!(nearest("prot", names()), Some("port"));
    assert_eq!(nearest("zzz", names()), None);
}
