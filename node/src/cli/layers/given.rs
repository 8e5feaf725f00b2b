//! What a layer says about the settings of a subcommand, and which of it counts.

use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use super::{Env, Origin, flag, is_secret, set, settings};

/// One setting as a layer gives it.
#[derive(Debug, Clone)]
pub(super) struct Given {
    /// The argument.
    pub(super) id: String,
    /// `--flag=value`, once per value.
    pub(super) arguments: Vec<OsString>,
    /// The layer.
    pub(super) origin: Origin,
}

impl Given {
    pub(super) fn new(arg: &Arg, values: &[OsString], origin: Origin) -> Self {
        let arguments = values.iter().map(|value| {
            let mut argument = OsString::from(format!("--{}=", flag(arg)));
            argument.push(value);
            argument
        });
        Self {
            id: arg.get_id().to_string(),
            arguments: arguments.collect(),
            origin,
        }
    }

    /// Where the user finds it.
    pub(super) fn place(&self) -> String {
        match &self.origin {
            Origin::Env(name) => name.clone(),
            Origin::File { path, key, line } => format!("{}:{line}: {key}", path.display()),
            other => other.to_string(),
        }
    }

    /// Its values, for a message.
    pub(super) fn shown(&self) -> String {
        let values = self.arguments.iter().map(|argument| {
            let text = argument.to_string_lossy();
            text.split_once('=')
                .map_or_else(String::new, |(_, value)| value.to_owned())
        });
        values.collect::<Vec<_>>().join(", ")
    }
}

/// What the environment says.
pub(super) fn from_env(
    leaf: &Command,
    flags: &[&str],
    env: Env<'_>,
) -> Result<Vec<Given>, Vec<String>> {
    let mut layer = Vec::new();
    let mut problems = Vec::new();
    for arg in settings(leaf) {
        let Some(name) = arg.get_env().and_then(OsStr::to_str) else {
            continue;
        };
        let value = set(env, name);
        // A setting with a sibling for the file reads it itself.
        let file = format!("{name}_FILE");
        let sibling = settings(leaf).any(|other| is_file_of(other, arg));
        let named = (is_secret(arg) && !sibling)
            .then(|| set(env, &file))
            .flatten();
        let (value, name) = match (value, named) {
            (Some(_), Some(_)) => {
                problems.push(format!(
                    "{name} and {file} are both set; keep one and unset the other"
                ));
                continue;
            }
            (None, Some(_)) if flags.contains(&arg.get_id().as_str()) => continue,
            (None, Some(path)) => match read_secret(Path::new(&path)) {
                Ok(value) => (value, file),
                Err(problem) => {
                    problems.push(format!("{file}: {problem}"));
                    continue;
                }
            },
            (Some(value), None) => (value, name.to_owned()),
            (None, None) => continue,
        };
        layer.push(Given::new(arg, &[value], Origin::Env(name)));
    }
    if problems.is_empty() {
        Ok(layer)
    } else {
        Err(problems)
    }
}

/// The first line of a file that holds a secret.
fn read_secret(path: &Path) -> Result<OsString, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() || secret.contains('\n') {
        return Err(format!("{} must hold the secret alone", path.display()));
    }
    Ok(secret.into())
}

/// The settings that count, the strongest layer first. Flags are the strongest.
pub(super) fn stack(
    leaf: &Command,
    flags: &[&str],
    layers: Vec<Vec<Given>>,
) -> Result<Vec<Given>, Vec<String>> {
    let mut settled: Vec<String> = flags.iter().map(|id| (*id).to_owned()).collect();
    let mut kept = Vec::new();
    for layer in layers {
        let layer: Vec<Given> = layer
            .into_iter()
            .filter(|given| {
                !settled
                    .iter()
                    .any(|id| *id == given.id || conflict(leaf, id, &given.id))
            })
            .collect();
        for (index, given) in layer.iter().enumerate() {
            let other = layer
                .iter()
                .skip(index + 1)
                .find(|other| conflict(leaf, &given.id, &other.id));
            if let Some(other) = other {
                return Err(vec![format!(
                    "{} and {} cannot be used together; remove one",
                    given.place(),
                    other.place()
                )]);
            }
        }
        settled.extend(layer.iter().map(|given| given.id.clone()));
        kept.extend(layer);
    }
    Ok(kept)
}

/// Whether two settings exclude each other: by the definition, or as a secret and the file it is in.
fn conflict(leaf: &Command, a: &str, b: &str) -> bool {
    let excludes = |one: &str, other: &str| {
        let find = |id: &str| {
            leaf.get_arguments()
                .find(|arg| arg.get_id().as_str() == id && !arg.is_global_set())
        };
        let (Some(one), Some(other)) = (find(one), find(other)) else {
            return false;
        };
        let declared = leaf.get_arg_conflicts_with(one);
        declared.iter().any(|arg| arg.get_id() == other.get_id()) || is_file_of(other, one)
    };
    excludes(a, b) || excludes(b, a)
}

fn is_file_of(file: &Arg, secret: &Arg) -> bool {
    let name = |arg: &Arg| arg.get_env().and_then(OsStr::to_str).map(str::to_owned);
    is_secret(secret)
        && name(secret)
            .is_some_and(|secret| name(file).is_some_and(|file| file == format!("{secret}_FILE")))
}

/// Why the parser refuses a value; `value` only where it may be shown.
pub(super) fn reason(error: &clap::Error, value: Option<String>) -> String {
    let Some(value) = value else {
        return "its value cannot be used".into();
    };
    let valid = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(names)) if !names.is_empty() => {
            Some(format!("choose one of {}", names.join(", ")))
        }
        _ => None,
    };
    let cause = error
        .source()
        .map(ToString::to_string)
        .or(valid)
        .unwrap_or_else(|| match error.kind() {
            ErrorKind::InvalidValue => "a value is needed".into(),
            kind => kind.to_string(),
        });
    format!("`{value}` cannot be used: {cause}")
}
