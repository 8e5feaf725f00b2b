//! `leoma-node config`: the settings of a subcommand after flag, environment, file and default.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use clap::{Arg, Args, Subcommand};
use serde_json::{Value, json};

use super::generate::Format;
use super::layers::{
    Missing, Origin, Resolved, find, flag, has_settings, is_secret, process_env, resolve, settings,
};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print every setting of a subcommand as it would be used; the text form can be used as a file.
    Show(ShowArgs),
    /// Print which configuration file is used.
    Path(PathArgs),
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Also print where each value comes from.
    #[arg(long)]
    origin: bool,
    /// How to print them.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Subcommand, and flags that count as given to it; default: serve.
    #[arg(
        value_name = "SUBCOMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    line: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct PathArgs {
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The settings that a command line would have; one that lacks something required can be looked at too.
pub(super) fn settings_of(line: &[OsString], config: Option<&Path>) -> Result<Resolved> {
    let mut argv = vec![OsString::from("leoma-node")];
    if let Some(config) = config {
        argv.extend([OsString::from("--config"), config.into()]);
    }
    argv.extend(line.iter().cloned());
    Ok(resolve(
        &super::definition(),
        &argv,
        &process_env,
        Missing::Allowed,
    )?)
}

pub(super) fn run(command: &ConfigCommand, config: Option<&Path>) -> Result<()> {
    match command {
        ConfigCommand::Show(args) => show(args, config),
        ConfigCommand::Path(args) => path(args, config),
    }
}

#[allow(clippy::print_stderr)]
fn show(args: &ShowArgs, config: Option<&Path>) -> Result<()> {
    let serve = [OsString::from("serve")];
    let line = if args.line.is_empty() {
        &serve
    } else {
        args.line.as_slice()
    };
    let resolved = settings_of(line, config)?;
    for warning in &resolved.warnings {
        eprintln!("warning: {warning}");
    }
    let name = resolved.path.join(" ");
    if !resolved.path.first().is_some_and(|name| has_settings(name)) {
        let message = format!("`{name}` has no settings; choose serve, generate or models");
        return Err(crate::Error::caller("SUBCOMMAND", message).into());
    }
    let mut root = super::definition();
    root.build();
    let rows: Vec<Row> = find(&root, &resolved.path)
        .into_iter()
        .flat_map(settings)
        .map(|arg| Row::new(arg, &resolved))
        .collect();
    super::output(
        match args.format {
            Format::Json => json_form(&name, &resolved, &rows),
            Format::Text => text_form(&resolved.path.join("."), &rows, args.origin),
        }
        .as_bytes(),
    )
}

fn path(args: &PathArgs, config: Option<&Path>) -> Result<()> {
    // What a command with settings would do, less the reading.
    let argv: Vec<OsString> = match config {
        Some(path) => vec![
            "leoma-node".into(),
            "--config".into(),
            path.into(),
            "config".into(),
            "path".into(),
        ],
        None => vec!["leoma-node".into(), "config".into(), "path".into()],
    };
    let matches = resolve(&super::definition(), &argv, &process_env, Missing::Allowed)?.matches;
    let located = super::layers::locate(&matches, &process_env);
    let path = located.map(|(path, _)| path);
    let exists = path.as_deref().is_some_and(Path::is_file);
    let text = match (args.format, path) {
        (Format::Json, path) => format!("{}\n", json!({ "path": path, "exists": exists })),
        (Format::Text, Some(path)) if exists => format!("{}\n", path.display()),
        (Format::Text, Some(path)) => format!("{} (does not exist)\n", path.display()),
        (Format::Text, None) => {
            "none: neither --config, LEOMA_NODE_CONFIG, XDG_CONFIG_HOME nor HOME is set\n".into()
        }
    };
    super::output(text.as_bytes())
}

/// One setting.
struct Row {
    /// As the file has it.
    name: String,
    value: Value,
    secret: bool,
    origin: Origin,
}

impl Row {
    fn new(arg: &Arg, resolved: &Resolved) -> Self {
        let origin = resolved.origin(arg.get_id().as_str());
        let secret = is_secret(arg);
        let raw: Vec<String> = resolved
            .leaf()
            .get_raw(arg.get_id().as_str())
            .into_iter()
            .flatten()
            .map(|value| value.to_string_lossy().into_owned())
            .collect();
        let value = match (secret, raw.is_empty()) {
            (true, false) => Value::from("***"),
            (true, true) => Value::Null,
            (false, _) => typed(arg, raw),
        };
        Self {
            name: flag(arg).replace('-', "_"),
            value,
            secret,
            origin,
        }
    }
}

/// Values in the type that TOML and JSON have for them.
fn typed(arg: &Arg, raw: Vec<String>) -> Value {
    let kind = arg.get_value_parser().type_id();
    let is = |types: &[TypeId]| types.iter().any(|id| kind == *id);
    let whole = [
        TypeId::of::<u8>(),
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
    ];
    let one = |text: String| {
        let number = if is(&whole) {
            text.parse::<u64>().ok().map(Value::from)
        } else if is(&[TypeId::of::<f64>()]) {
            text.parse::<f64>().ok().map(Value::from)
        } else if is(&[TypeId::of::<bool>()]) {
            let no = ["false", "0", "no", "n", "off", "f"];
            Some(Value::from(
                !no.contains(&text.to_ascii_lowercase().as_str()),
            ))
        } else {
            None
        };
        number.unwrap_or_else(|| Value::from(text))
    };
    if matches!(arg.get_action(), clap::ArgAction::Append) {
        return raw.into_iter().map(one).collect();
    }
    raw.into_iter().next_back().map_or(Value::Null, one)
}

fn json_form(name: &str, resolved: &Resolved, rows: &[Row]) -> String {
    let settings: BTreeMap<&str, Value> = rows
        .iter()
        .map(|row| {
            let mut object = json!({ "value": row.value });
            match &row.origin {
                Origin::Flag => object["origin"] = "flag".into(),
                Origin::Default => object["origin"] = "default".into(),
                Origin::Unset => object["origin"] = "unset".into(),
                Origin::Env(name) => {
                    object["origin"] = "env".into();
                    object["variable"] = name.as_str().into();
                }
                Origin::File { path, key, line } => {
                    object["origin"] = "file".into();
                    object["file"] = path.to_string_lossy().into();
                    object["key"] = key.as_str().into();
                    object["line"] = (*line).into();
                }
            }
            (row.name.as_str(), object)
        })
        .collect();
    let whole = json!({ "subcommand": name, "file": resolved.file, "settings": settings });
    format!("{whole:#}\n")
}

/// TOML that gives the same settings again, less the secrets.
fn text_form(table: &str, rows: &[Row], origins: bool) -> String {
    let lines: Vec<String> = rows
        .iter()
        .map(|row| match &row.value {
            Value::Null => format!("# {} =", row.name),
            Value::Array(values) if values.is_empty() => format!("# {} = []", row.name),
            value if row.secret => format!("# {} = {value}", row.name),
            // JSON's texts, numbers and lists are TOML's.
            value => format!("{} = {value}", row.name),
        })
        .collect();
    let width = lines.iter().map(|line| line.chars().count()).max();
    let width = width.unwrap_or(0).min(60);
    let mut text = format!("[{table}]\n");
    for (line, row) in lines.iter().zip(rows) {
        let _ = if origins {
            writeln!(text, "{line:width$}  # {}", row.origin)
        } else {
            writeln!(text, "{line}")
        };
    }
    text
}
