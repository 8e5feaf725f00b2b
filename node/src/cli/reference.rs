//! The reference pages `docs/reference/{cli,environment}.md`, made from the definition of the command line.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Command};

use super::layers::{flag, has_settings, is_secret, settings};

/// Variables that are no settings of a subcommand.
const OTHER_VARIABLES: [(&str, &str); 20] = [
    ("LEOMA_NODE_CONFIG", "Configuration file, as `--config`."),
    (
        "LEOMA_NODE_LOG",
        "What is logged to stderr: `info` (default), `debug`, `leoma_node=trace`, …",
    ),
    (
        "LEOMA_NODE_CUDA_LIBS",
        "More places with CUDA libraries, separated by colons: folders of libraries, toolkits or Python \
         environments ([cuda.md](../cuda.md)).",
    ),
    (
        "LD_LIBRARY_PATH",
        "The loader's path: CUDA libraries are looked for there first.",
    ),
    (
        "CUDA_HOME, CUDA_PATH",
        "A toolkit, whose libraries are looked for next.",
    ),
    (
        "CUDA_VISIBLE_DEVICES",
        "Cards or MIG slices that are seen, as for every CUDA program.",
    ),
    (
        "LEOMA_NODE_ATTENTION",
        "Where the search for an attention kernel begins: `auto` (default), `leoma` (without cuDNN), \
         `chunked` (without fused kernels).",
    ),
    (
        "LEOMA_KERNELS_ISA",
        "A lesser instruction set for the CPU kernels: `scalar`, `avx2`, `avx512`.",
    ),
    (
        "XDG_CONFIG_HOME",
        "Folder with `leoma-node/config.toml`; default `~/.config`.",
    ),
    (
        "XDG_DATA_HOME",
        "Folder for `leoma-node` with jobs and clips; default `~/.local/share`.",
    ),
    (
        "STATE_DIRECTORY",
        "The same, as systemd sets it; goes before `XDG_DATA_HOME`.",
    ),
    (
        "NOTIFY_SOCKET",
        "Where systemd listens for `READY=1` and the watchdog's sign of life.",
    ),
    (
        "HF_TOKEN",
        "Token for the Hub (secret); else the file `HF_TOKEN_PATH`, default `token` in `HF_HOME`, which \
         `hf auth login` writes.",
    ),
    ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "`1`: no token is sent."),
    (
        "HF_HOME",
        "Folder of the Python tools for the Hub; default `huggingface` in `$XDG_CACHE_HOME` or `~/.cache`.",
    ),
    (
        "HF_HUB_CACHE",
        "Folder for what comes from the Hub, shared with the Python tools; default `hub` in `HF_HOME`.",
    ),
    (
        "HF_HUB_OFFLINE",
        "`1`: use what is in that folder, and no network.",
    ),
    (
        "HF_ENDPOINT",
        "The Hub or a mirror of it; default `https://huggingface.co`.",
    ),
    (
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "`1`: no bars for downloads.",
    ),
    ("NO_COLOR", "No colours in help and errors."),
];

const MADE: &str = "<!-- Made from the command line's definition. After a change there:\n\
     LEOMA_UPDATE_DOCS=1 cargo test --workspace reference_pages -->\n";

fn definition() -> Command {
    let mut root = super::definition();
    root.build();
    root
}

/// All subcommands that can be called, by their path.
fn leaves<'a>(command: &'a Command, path: &str) -> Vec<(String, &'a Command)> {
    let inner: Vec<_> = command
        .get_subcommands()
        .filter(|inner| inner.get_name() != "help")
        .collect();
    if inner.is_empty() {
        return vec![(path.to_owned(), command)];
    }
    // One that can also be called by itself has options of its own.
    let own = (!path.is_empty() && !command.is_subcommand_required_set())
        .then(|| (path.to_owned(), command));
    let below = inner
        .into_iter()
        .flat_map(|inner| leaves(inner, format!("{path} {}", inner.get_name()).trim()));
    own.into_iter().chain(below).collect()
}

/// Text for a table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn usage(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let value = names
        .iter()
        .map(|name| name.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    if arg.is_positional() {
        return format!("`{value}`");
    }
    let switch = arg
        .get_num_args()
        .is_some_and(|count| count.min_values() == 0);
    match (switch, value.is_empty()) {
        (true, _) | (_, true) => format!("`--{}`", flag(arg)),
        _ => format!("`--{} {}`", flag(arg), value),
    }
}

fn default(arg: &Arg) -> String {
    if arg.is_required_set() {
        return "required".into();
    }
    let values: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    let hidden = arg.is_hide_default_value_set();
    if values.is_empty() || hidden {
        return String::new();
    }
    format!("`{}`", values.join(","))
}

fn meaning(arg: &Arg) -> String {
    let mut text = cell(&arg.get_help().map(ToString::to_string).unwrap_or_default());
    let values: Vec<_> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !values.is_empty() && !arg.is_hide_possible_values_set() {
        let _ = write!(text, "; one of {}", values.join(", "));
    }
    text
}

fn command_page() -> String {
    let mut page = format!(
        "{MADE}\n# Command line\n\nA switch is also taken as `--switch=false`, which undoes what environment or file \
         say. Every command takes `--help` and `--config FILE`. Variables and the configuration file: \
         [environment.md](environment.md).\n"
    );
    let root = definition();
    for (path, command) in leaves(&root, "") {
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        let _ = write!(page, "\n## leoma-node {path}\n\n{about}\n");
        let mut headings: Vec<Option<&str>> = Vec::new();
        let shown = || {
            command.get_arguments().filter(|arg| {
                !arg.is_global_set()
                    && !arg.is_hide_set()
                    && !["help", "version"].contains(&arg.get_id().as_str())
            })
        };
        for arg in shown() {
            if !headings.contains(&arg.get_help_heading()) {
                headings.push(arg.get_help_heading());
            }
        }
        headings.sort_by_key(|heading| heading.is_some());
        for heading in headings {
            if let Some(heading) = heading {
                let _ = write!(page, "\n### {heading}\n");
            }
            page.push_str("\n| option | default | |\n|---|---|---|\n");
            for arg in shown().filter(|arg| arg.get_help_heading() == heading) {
                let _ = writeln!(
                    page,
                    "| {} | {} | {} |",
                    cell(&usage(arg)),
                    cell(&default(arg)),
                    meaning(arg)
                );
            }
        }
        if let Some(after) = command.get_after_help() {
            let _ = write!(page, "\n```text\n{after}\n```\n");
        }
    }
    let after = root
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let codes = after.split("Exit codes:").nth(1).unwrap();
    page.push_str("\n## Exit codes\n\n| code | |\n|---|---|\n");
    for line in codes.lines().filter(|line| !line.trim().is_empty()) {
        let (code, text) = line.trim().split_once(' ').unwrap();
        let _ = writeln!(page, "| {code} | {} |", text.trim());
    }
    page
}

fn environment_page() -> String {
    let mut page = format!(
        "{MADE}\n# Environment and configuration file\n\n\
         A flag goes before its variable, that before the configuration file, that before the default;\n\
         `leoma-node config show --origin` says what holds and why. A layer drops what excludes it in the layers\n\
         below: `--fake-engine` on the command line drops `model` of the file. Within one layer two settings that\n\
         exclude each other are an error. An empty variable counts as not set. Relative paths start at the\n\
         working folder, in a file too.\n\n\
         ## File\n\n\
         `--config FILE`, else `LEOMA_NODE_CONFIG`, else `leoma-node/config.toml` in `$XDG_CONFIG_HOME` or\n\
         `~/.config`, where there is one. Tables are subcommands, keys are flags with `_` for `-`. Keys in front\n\
         of all tables hold for every subcommand that has the flag. An unknown key or table is an error.\n\n\
         ```toml\nmodel = \"/srv/wan2.2-ti2v-5b\"   # serve and generate\n\n\
         [serve]\nport = 9000\n\n[generate]\nno_progress = true\n```\n\n\
         ## Secrets\n\n\
         For each variable `NAME` that holds a secret, `NAME_FILE` names a file with it; both set is an error.\n\
         The file holds the secret alone; the end of the line does not count. Secrets are never shown or logged.\n\n\
         ## Variables\n\n| variable | same as | for |\n|---|---|---|\n"
    );
    let root = definition();
    let mut rows = std::collections::BTreeMap::<String, (Vec<String>, Vec<String>)>::new();
    for (path, command) in leaves(&root, "") {
        if !has_settings(path.split(' ').next().unwrap()) {
            continue;
        }
        for arg in settings(command) {
            let Some(name) = arg.get_env() else { continue };
            let name = name.to_string_lossy().into_owned();
            let row = rows.entry(name).or_default();
            let mut option = format!("`--{}`", flag(arg));
            if is_secret(arg) {
                option.push_str(" (secret)");
            }
            // Two commands may call it by different names.
            if !row.0.contains(&option) {
                row.0.push(option);
            }
            row.1.push(path.clone());
        }
    }
    for (name, (options, users)) in rows {
        let (options, users) = (options.join(", "), users.join(", "));
        let _ = writeln!(page, "| `{name}` | {options} | {users} |");
    }
    page.push_str("\nAlso read:\n\n| variable | |\n|---|---|\n");
    for (name, text) in OTHER_VARIABLES {
        let _ = writeln!(page, "| `{name}` | {text} |");
    }
    page
}

#[test]
fn reference_pages_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
    for (name, page) in [
        ("cli.md", command_page()),
        ("environment.md", environment_page()),
    ] {
        let path = folder.join(name);
        if std::env::var_os("LEOMA_UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &page).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == page,
            "docs/reference/{name} is out of date: LEOMA_UPDATE_DOCS=1 cargo test --workspace reference_pages"
        );
    }
}

#[test]
fn the_definition_is_sound() {
    super::definition().debug_assert();
}
