//! Settings in layers: flag, then environment, then configuration file, then default.
//!
//! The command line's own definition is the only list of settings. A first, lenient parse tells which
//! subcommand is meant and which flags were given; what the environment and the file say about the rest is
//! put in front of those flags, and the whole is parsed once, strictly. So types, lists, required and
//! conflicting settings are the parser's business in every layer.
//!
//! A layer never conflicts with the ones below: whatever excludes a setting of a higher layer is dropped
//! (`--fake-engine` on the command line drops `model` of the file). Within one layer it is an error.

mod file;
mod given;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use clap::builder::{BoolishValueParser, Resettable};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use file::ConfigFile;
use given::Given;

/// Subcommands that have options but no settings: neither environment nor file changes what they do.
const HELPERS: [&str; 6] = ["bench", "config", "completions", "doctor", "man", "help"];

/// Looks a variable up in the environment.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The environment of this process.
pub(crate) fn process_env(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Where the value of a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The command line.
    Flag,
    /// The variable of this name.
    Env(String),
    /// This key of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Tables and name, dotted.
        key: String,
        /// Its line.
        line: usize,
    },
    /// The program.
    Default,
    /// Nowhere: it has no value.
    Unset,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Env(name) => write!(f, "env {name}"),
            Self::File { path, key, .. } => write!(f, "file {}:{key}", path.display()),
            Self::Default => f.write_str("default"),
            Self::Unset => f.write_str("unset"),
        }
    }
}

/// Where the values of a subcommand come from.
#[derive(Debug, Default)]
pub(crate) struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Whether the option stands on the command line.
    pub(crate) fn typed(&self, id: &str) -> bool {
        self.0.get(id) == Some(&Origin::Flag)
    }

    /// Whether the user chose the value: on the command line, in the environment or in the file.
    pub(crate) fn chosen(&self, id: &str) -> bool {
        let origin = self.0.get(id);
        origin.is_some_and(|origin| !matches!(origin, Origin::Default | Origin::Unset))
    }
}

/// Why there are no settings.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line cannot be used, or asked for help.
    Usage(Box<clap::Error>),
    /// Environment or file cannot be used: one sentence each, with their place.
    Settings(Vec<String>),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(f),
            Self::Settings(problems) => f.write_str(&problems.join("\n")),
        }
    }
}

impl std::error::Error for Failure {}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        Self::Usage(Box::new(error))
    }
}

/// The settings of one subcommand after all layers.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The parsed command line, root first.
    pub(crate) matches: ArgMatches,
    /// The subcommand that was called, e.g. `models`, `inspect`.
    pub(crate) path: Vec<String>,
    /// The configuration file, where there is one.
    pub(crate) file: Option<PathBuf>,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
    /// Settings that neither a flag nor a default decided, by argument.
    origins: BTreeMap<String, Origin>,
    secrets: Vec<String>,
}

impl Resolved {
    /// The matches of the subcommand that was called.
    pub(crate) fn leaf(&self) -> &ArgMatches {
        let mut matches = &self.matches;
        while let Some((_, inner)) = matches.subcommand() {
            matches = inner;
        }
        matches
    }

    /// Whether the configuration file holds a secret that is used.
    pub(crate) fn has_secret_in_file(&self) -> bool {
        let from_file = |id| matches!(self.origins.get(id), Some(Origin::File { .. }));
        self.secrets.iter().any(from_file)
    }

    /// Where all values come from.
    pub(crate) fn origins(&self) -> Origins {
        let ids = self.leaf().ids().map(|id| id.as_str());
        Origins(ids.map(|id| (id.to_owned(), self.origin(id))).collect())
    }

    /// Where the value of an argument comes from.
    pub(crate) fn origin(&self, id: &str) -> Origin {
        if let Some(origin) = self.origins.get(id) {
            return origin.clone();
        }
        match self.leaf().value_source(id) {
            Some(ValueSource::CommandLine) => Origin::Flag,
            Some(_) => Origin::Default,
            None => Origin::Unset,
        }
    }
}

/// Whether required settings must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// A missing one is an error.
    Refused,
    /// To look at the settings only.
    Allowed,
}

/// Lets a switch also be given as `--switch=false`, so that a flag can undo what a lower layer says.
pub(crate) fn with_switches(command: Command) -> Command {
    command
        .mut_args(|arg| match arg.get_action() {
            ArgAction::SetTrue => arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .value_name("BOOL")
                .value_parser(BoolishValueParser::new())
                .default_value("false")
                .default_missing_value("true")
                .hide_default_value(true)
                .hide_possible_values(true),
            _ => arg,
        })
        .mut_subcommands(with_switches)
}

/// Parses a command line on top of environment and file. `command` is as defined, not yet built.
pub(crate) fn resolve(
    command: &Command,
    argv: &[OsString],
    env: Env<'_>,
    missing: Missing,
) -> Result<Resolved, Failure> {
    let first = command.clone().ignore_errors(true);
    let first = first.try_get_matches_from(argv)?;
    let path = subcommand_path(&first);
    let bare = without_env(command.clone());
    if path.is_empty() {
        // No subcommand: the strict parse says so.
        let matches = command.clone().try_get_matches_from(argv)?;
        return Ok(Resolved {
            matches,
            path,
            file: None,
            warnings: Vec::new(),
            origins: BTreeMap::new(),
            secrets: Vec::new(),
        });
    }

    let mut built = command.clone();
    built.build();
    let located = locate(&first, env);
    let (leaf, matches) = descend(&built, &first, &path);
    let flags: Vec<&str> = leaf
        .get_arguments()
        .map(|arg| arg.get_id().as_str())
        .filter(|id| matches.value_source(id) == Some(ValueSource::CommandLine))
        .collect();
    let warnings = settings(leaf)
        .filter(|arg| is_secret(arg) && flags.contains(&arg.get_id().as_str()))
        .map(exposed)
        .collect();

    let mut layers = Vec::new();
    let mut file = located.as_ref().map(|(file, _)| file.clone());
    if !path
        .first()
        .is_some_and(|name| HELPERS.contains(&name.as_str()))
    {
        layers.push(given::from_env(leaf, &flags, env).map_err(Failure::Settings)?);
        if let Some((place, asked)) = located {
            match ConfigFile::read(&place, asked, &built, &bare).map_err(Failure::Settings)? {
                Some(read) => layers.extend(read.layers(&path, leaf)),
                None => file = None,
            }
        }
    }
    let kept = given::stack(leaf, &flags, layers).map_err(Failure::Settings)?;
    let problems: Vec<String> = kept
        .iter()
        .filter(|given| matches!(given.origin, Origin::Env(_)))
        .filter_map(|given| {
            let problem = check(&bare, &path, leaf, given).err()?;
            Some(format!("{}: {problem}", given.place()))
        })
        .collect();
    if !problems.is_empty() {
        return Err(Failure::Settings(problems));
    }

    let mut full = argv.to_vec();
    let at = end_of_subcommand(&built, argv, path.len());
    full.splice(
        at..at,
        kept.iter().flat_map(|given| given.arguments.clone()),
    );
    let strict = bare.clone().try_get_matches_from(&full);
    let matches = match strict {
        Err(error)
            if missing == Missing::Allowed
                && error.kind() == ErrorKind::MissingRequiredArgument =>
        {
            bare.ignore_errors(true).try_get_matches_from(&full)?
        }
        // Help names the variables, so it is made from the whole definition.
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            command.clone().try_get_matches_from(argv)?
        }
        other => other?,
    };
    let origins = kept
        .into_iter()
        .map(|given| (given.id, given.origin))
        .collect();
    Ok(Resolved {
        matches,
        path,
        file,
        warnings,
        origins,
        secrets: settings(leaf)
            .filter(|arg| is_secret(arg))
            .map(|arg| arg.get_id().to_string())
            .collect(),
    })
}

/// The options of a subcommand that a file or the environment can set.
pub(crate) fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| {
        arg.get_long().is_some() && arg.get_action().takes_values() && !arg.is_global_set()
    })
}

/// Whether the value must never be shown: the definition hides what its variable holds.
pub(crate) fn is_secret(arg: &Arg) -> bool {
    arg.is_hide_env_values_set()
}

/// Whether the subcommand's options can come from file and environment.
pub(crate) fn has_settings(name: &str) -> bool {
    !HELPERS.contains(&name)
}

/// The long flag of a setting.
pub(crate) fn flag(arg: &Arg) -> &str {
    arg.get_long().unwrap_or_default()
}

/// A subcommand by its path.
pub(crate) fn find<'a>(root: &'a Command, path: &[String]) -> Option<&'a Command> {
    path.iter()
        .try_fold(root, |command, name| command.find_subcommand(name))
}

/// Of several names the one most like `name`, when one is like it at all.
pub(crate) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|known| {
            let typos = strsim::osa_distance(name, known);
            (typos, strsim::jaro_winkler(name, known), known)
        })
        .filter(|(typos, likeness, known)| *likeness > 0.85 || *typos <= known.chars().count() / 3)
        .min_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)))
        .map(|(_, _, known)| known)
}

/// The configuration file that counts, and whether somebody asked for this one.
pub(crate) fn locate(root: &ArgMatches, env: Env<'_>) -> Option<(PathBuf, bool)> {
    if root.value_source("config") == Some(ValueSource::CommandLine) {
        let path = root.get_one::<PathBuf>("config")?;
        return Some((path.clone(), true));
    }
    let folder =
        |name: &str, below: &str| set(env, name).map(|folder| Path::new(&folder).join(below));
    if let Some(path) = set(env, "LEOMA_NODE_CONFIG") {
        return Some((path.into(), true));
    }
    folder("XDG_CONFIG_HOME", "")
        .or_else(|| folder("HOME", ".config"))
        .map(|folder| (folder.join("leoma-node").join("config.toml"), false))
}

/// A variable that is set to something: an empty one counts as absent, as compose files make them.
fn set(env: Env<'_>, name: &str) -> Option<OsString> {
    env(name).filter(|value| !value.is_empty())
}

fn exposed(arg: &Arg) -> String {
    let flag = flag(arg);
    let remedy = match arg.get_env().and_then(OsStr::to_str) {
        Some(name) => format!("put it into a file named by {name}_FILE, or into {name}"),
        None => "put it into a file".to_owned(),
    };
    format!("--{flag} on the command line can be read by every user of this machine; {remedy}")
}

fn subcommand_path(matches: &ArgMatches) -> Vec<String> {
    let mut path = Vec::new();
    let mut matches = matches;
    while let Some((name, inner)) = matches.subcommand() {
        path.push(name.to_owned());
        matches = inner;
    }
    path
}

fn descend<'a>(
    root: &'a Command,
    matches: &'a ArgMatches,
    path: &[String],
) -> (&'a Command, &'a ArgMatches) {
    path.iter()
        .fold((root, matches), |(command, matches), name| {
            (
                command.find_subcommand(name).unwrap_or(command),
                matches.subcommand_matches(name).unwrap_or(matches),
            )
        })
}

fn without_env(command: Command) -> Command {
    command
        .mut_args(|arg| arg.env(Resettable::Reset))
        .mut_subcommands(without_env)
}

/// The place in `argv` behind the names of the subcommand, where its options begin.
fn end_of_subcommand(root: &Command, argv: &[OsString], depth: usize) -> usize {
    let mut command = root;
    let mut found = 0;
    let mut at = 1;
    while found < depth
        && let Some(token) = argv.get(at)
    {
        at += 1;
        let token = token.to_string_lossy();
        if let Some(name) = token.strip_prefix("--") {
            let takes_next = root
                .get_arguments()
                .any(|arg| arg.get_long() == Some(name) && arg.get_action().takes_values());
            at += usize::from(takes_next);
        } else if let Some(inner) = command.find_subcommand(token.as_ref()) {
            command = inner;
            found += 1;
        }
    }
    at.min(argv.len())
}

/// Whether the parser takes this value for this argument.
fn check(bare: &Command, path: &[String], leaf: &Command, given: &Given) -> Result<(), String> {
    let mut argv = vec![OsString::from(bare.get_name())];
    argv.extend(path.iter().map(OsString::from));
    argv.extend(given.arguments.iter().cloned());
    let Err(error) = bare.clone().try_get_matches_from(argv) else {
        return Ok(());
    };
    // Whether something else is missing shows when everything is together.
    if matches!(
        error.kind(),
        ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        return Ok(());
    }
    let secret = leaf
        .get_arguments()
        .any(|arg| arg.get_id().as_str() == given.id && is_secret(arg));
    Err(given::reason(&error, (!secret).then(|| given.shown())))
}
