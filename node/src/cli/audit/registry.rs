//! `leoma-node audit registry`: models that are known.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::source::{Named, closed, fetched, named};
use crate::audit::compare::sketch::Sketch;
use crate::audit::identity::{Options, identify};
use crate::audit::registry::{Candidate, Entry, Origin, Registry, Role, utc};
use crate::audit::scan::Place;
use crate::cli::hub::{Show, commit_date, settings};
use crate::cli::serve::default_data_dir;
use crate::hub::{Commit, HubError};

/// Where the registry is; shared by the commands that ask it.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct RegistryArg {
    /// Registry of known models; default audit/registry.sqlite in the data folder (see `serve --data-dir`).
    #[arg(long, value_name = "FILE", env = "LEOMA_NODE_AUDIT_REGISTRY")]
    registry: Option<PathBuf>,
}

impl RegistryArg {
    fn path(&self) -> Result<PathBuf> {
        match &self.registry {
            Some(path) => Ok(path.clone()),
            None => Ok(default_data_dir()?.join("audit/registry.sqlite")),
        }
    }

    /// The registry, which is made where there is none.
    fn open(&self) -> Result<Registry> {
        Ok(Registry::open(&self.path()?)?)
    }

    /// The registry that was asked for, or the usual one where there is one.
    pub(super) fn existing(&self) -> Result<Option<Registry>> {
        let path = match self.path() {
            Ok(path) => path,
            // No home: then there is no usual one.
            Err(_) if self.registry.is_none() => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = Registry::existing(&path)?;
        if found.is_none() && self.registry.is_some() {
            let message = format!(
                "there is no {}; `audit registry add` makes one",
                path.display()
            );
            return Err(crate::Error::caller("registry", message).into());
        }
        Ok(found)
    }
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum RegistryCommand {
    /// Add a model: its digests and a sketch. What is known of it later (block, hotkey) is added the same way.
    Add(AddArgs),
    /// List the models that are known.
    List {
        #[command(flatten)]
        registry: RegistryArg,
        /// Form of the list.
        #[arg(long, value_enum, default_value_t = ListForm::Text)]
        format: ListForm,
    },
    /// Find registered models that one of them equals or resembles.
    Near {
        /// Its name, as `list` shows it.
        name: String,
        /// Its full commit; none for a folder.
        #[arg(long, default_value = "")]
        revision: String,
        /// Name of the registered base to see the differences from; default: the only one there is.
        #[arg(long, value_name = "NAME")]
        base: Option<String>,
        /// Most models that resemble it.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// Form of the list.
        #[arg(long, value_enum, default_value_t = ListForm::Text)]
        format: ListForm,
        #[command(flatten)]
        registry: RegistryArg,
    },
    /// Take a model out.
    Remove {
        /// Its name, as `list` shows it.
        name: String,
        /// Its full commit; none for a folder.
        #[arg(long, default_value = "")]
        revision: String,
        #[command(flatten)]
        registry: RegistryArg,
    },
    /// Write all models to a file, one JSON object a line, for another auditor.
    Export {
        /// The file, or - for the standard output.
        file: PathBuf,
        #[command(flatten)]
        registry: RegistryArg,
    },
    /// Take over another auditor's list: all of it or nothing. What it says is marked as a claim.
    Import {
        /// The file, or - for the standard input.
        file: PathBuf,
        #[command(flatten)]
        registry: RegistryArg,
    },
    /// Read all of the registry and say whether it is as it was written.
    Check {
        #[command(flatten)]
        registry: RegistryArg,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ListForm {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AddArgs {
    /// Folder of the model, or user/name@revision of the Hub.
    #[arg(value_name = "PATH|REPO@REV")]
    source: String,
    /// What it is called; default: the repository, or the folder's path.
    #[arg(long)]
    name: Option<String>,
    /// Full commit, for a folder that is one.
    #[arg(long, value_name = "SHA")]
    revision: Option<String>,
    /// It is what entrants fine-tune, not an entrant.
    #[arg(long)]
    as_base: bool,
    /// SS58 address of the miner.
    #[arg(long)]
    hotkey: Option<String>,
    /// Block of the commitment on the chain.
    #[arg(long)]
    block: Option<u64>,
    /// Date of the commit, in UTC, such as 2026-05-01T12:00:00Z; default for REPO@REV: what the Hub says.
    #[arg(long, value_name = "TIME")]
    committed_at: Option<String>,
    #[command(flatten)]
    registry: RegistryArg,
    /// No progress bar.
    #[arg(long, env = "LEOMA_NODE_NO_PROGRESS")]
    no_progress: bool,
}

#[allow(clippy::print_stderr)]
pub(super) fn run(command: &RegistryCommand) -> Result<ExitCode> {
    match command {
        RegistryCommand::Add(args) => add(args)?,
        RegistryCommand::List { registry, format } => list(registry, *format)?,
        RegistryCommand::Near {
            name,
            revision,
            base,
            limit,
            format,
            registry,
        } => {
            let registry = registry.open()?;
            let found = near(&registry, (name, revision), base.as_deref(), *limit)?;
            let mut text = Vec::new();
            match format {
                ListForm::Json => {
                    serde_json::to_writer_pretty(&mut text, &json!({ "candidates": found }))?;
                    text.push(b'\n');
                }
                ListForm::Text => {
                    for candidate in &found {
                        writeln!(
                            text,
                            "{}: {}",
                            candidate.entry.who().escape_debug(),
                            candidate.reason
                        )?;
                    }
                    if found.is_empty() {
                        writeln!(text, "nothing like it is registered")?;
                    }
                }
            }
            super::super::output(&text)?;
        }
        RegistryCommand::Remove {
            name,
            revision,
            registry,
        } => {
            if !registry.open()?.remove(name, revision)? {
                let message =
                    format!("{name} at {revision:?} is not registered; `list` shows what is");
                return Err(crate::Error::caller("name", message).into());
            }
        }
        RegistryCommand::Export { file, registry } => {
            let registry = registry.open()?;
            let count = if file.as_os_str() == "-" {
                registry.export(file, &mut std::io::stdout().lock())?
            } else {
                let name = file.display();
                let folder = file
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new("."));
                let mut out = tempfile::NamedTempFile::new_in(folder)
                    .with_context(|| format!("cannot write {name}"))?;
                let count = registry.export(file, &mut out)?;
                out.persist(file)
                    .with_context(|| format!("cannot write {name}"))?;
                count
            };
            eprintln!("{count} models written");
        }
        RegistryCommand::Import { file, registry } => {
            let mut registry = registry.open()?;
            let imported = if file.as_os_str() == "-" {
                registry.import(file, &mut std::io::stdin().lock())?
            } else {
                let list =
                    File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
                registry.import(file, &mut BufReader::new(list))?
            };
            eprintln!(
                "{} models added, {} were known",
                imported.added, imported.known
            );
        }
        RegistryCommand::Check { registry } => {
            let Some(found) = registry.existing()? else {
                let message = "there is none to check; `audit registry add` makes one";
                return Err(crate::Error::caller("registry", message).into());
            };
            let text = format!("{} models, as they were written\n", found.check()?);
            super::super::output(text.as_bytes())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stderr)]
fn add(args: &AddArgs) -> Result<()> {
    // What is wrong with the registry, or with a time, must not be found after reading a model.
    let mut registry = args.registry.open()?;
    let given = args.committed_at.as_deref().map(time).transpose()?;
    let show = Show::new(args.no_progress);
    let place = fetched(&args.source, show)?;
    closed(&place)?;
    let identity = identify(&place.path, &Options::default())?;
    if identity.is_incomplete() {
        let message = format!(
            "{} could not be read as a whole; `audit hash` says why",
            args.source
        );
        return Err(leoma_models::Error::artifact(&place.path, message).into());
    }
    let sketch = Sketch::of(&place.path)?;
    let revision = match (&args.revision, &place.source.commit) {
        (Some(given), Some(commit)) if given != commit => {
            let message = format!("{} is commit {commit}, not {given}", args.source);
            return Err(crate::Error::caller("revision", message).into());
        }
        (given, commit) => given.clone().or_else(|| commit.clone()).unwrap_or_default(),
    };
    let digest = identity.model_digest.as_ref();
    let entry = Entry {
        name: args
            .name
            .clone()
            .unwrap_or_else(|| place.source.name.clone()),
        revision,
        role: if args.as_base {
            Role::Base
        } else {
            Role::Model
        },
        origin: Origin::Local,
        hotkey: args.hotkey.clone(),
        block: args.block,
        committed_at: match given {
            Some(given) => Some(given),
            None => date(args, &place, show)?,
        },
        model_hash: identity.model_hash.clone(),
        named: digest.map(|digest| digest.named.clone()),
        unnamed: digest.map(|digest| digest.unnamed.clone()),
        added_at: crate::time::now_rfc3339(),
    };
    let same = registry.candidates(&entry, None, 0)?;
    let is_new = registry.add(&entry, &sketch)?;
    let what = if is_new {
        "registered"
    } else {
        "was known; brought up to date"
    };
    eprintln!("{}: {what}", entry.name);
    for candidate in same {
        eprintln!("note: it has the weights of {}", candidate.entry.name);
    }
    Ok(())
}

/// A time as the registry keeps it.
fn time(text: &str) -> Result<String> {
    let message = || format!("{text:?} is no time in UTC; write it like 2026-05-01T12:00:00Z");
    utc(text).ok_or_else(|| crate::Error::caller("committed-at", message()).into())
}

/// The date of the commit, by the Hub's word, where the model came from there. A registry can do without, and it can
/// be added later.
#[allow(clippy::print_stderr)]
fn date(args: &AddArgs, place: &Place, show: Show) -> Result<Option<String>> {
    let (Named::Hub(repo, _), Some(commit)) = (named(&args.source)?, &place.source.commit) else {
        return Ok(None);
    };
    let commit: Commit = commit.parse()?;
    let dated = commit_date(&settings()?, &repo, &commit, show).and_then(|date| time(&date));
    match dated {
        Ok(date) => Ok(Some(date)),
        Err(error)
            if matches!(
                error.downcast_ref::<HubError>(),
                Some(HubError::Interrupted)
            ) =>
        {
            Err(error)
        }
        Err(error) => {
            eprintln!(
                "warning: registered without the date of its commit: {error:#}. Add it again later, or with \
                 --committed-at"
            );
            Ok(None)
        }
    }
}

/// What a registered model equals or resembles.
fn near(
    registry: &Registry,
    (name, revision): (&str, &str),
    base: Option<&str>,
    limit: usize,
) -> Result<Vec<Candidate>> {
    let entries = registry.entries()?;
    let sketch = registry.sketch(name, revision)?;
    let entry = entries
        .iter()
        .find(|entry| (entry.name.as_str(), entry.revision.as_str()) == (name, revision));
    let entry = entry.with_context(|| format!("{name} is not registered"))?;
    let mut bases = entries.iter().filter(|entry| match base {
        Some(base) => entry.name == base,
        None => entry.role == Role::Base,
    });
    let base = match (bases.next(), bases.next(), base) {
        (Some(one), None, _) => one,
        (None, _, Some(base)) => {
            return Err(crate::Error::caller("base", format!("{base} is not registered")).into());
        }
        (None, _, None) => {
            let message = "no base is registered; `audit registry add --as-base` does it";
            return Err(crate::Error::caller("base", message).into());
        }
        (Some(_), Some(_), _) => {
            return Err(crate::Error::caller("base", "there are several; name one").into());
        }
    };
    let base = registry.sketch(&base.name, &base.revision)?;
    Ok(registry.candidates(entry, Some((&sketch, &base)), limit)?)
}

fn list(registry: &RegistryArg, format: ListForm) -> Result<()> {
    let entries = match registry.existing()? {
        Some(registry) => registry.entries()?,
        None => Vec::new(),
    };
    let mut text = Vec::new();
    match format {
        ListForm::Json => {
            serde_json::to_writer_pretty(&mut text, &json!({ "models": entries }))?;
            text.push(b'\n');
        }
        ListForm::Text => {
            for entry in &entries {
                let block = entry
                    .block
                    .map_or_else(|| "-".to_owned(), |block| block.to_string());
                // The day is enough to read; --format json has the time.
                let date = entry.committed_at.as_deref().unwrap_or("-");
                let hash = entry.model_hash.as_deref().unwrap_or("-");
                let mut notes = String::new();
                if entry.role == Role::Base {
                    notes.push_str("  base");
                }
                if entry.origin == Origin::Imported {
                    notes.push_str("  imported");
                }
                let name = entry.name.escape_debug();
                let at = if entry.revision.is_empty() { "" } else { "@" };
                writeln!(
                    text,
                    "{block:>9}  {date:<10.10}  {hash:<16.16}  {name}{at}{}{notes}",
                    entry.revision
                )?;
            }
            if entries.is_empty() {
                writeln!(text, "no models are registered")?;
            }
        }
    }
    super::super::output(&text)?;
    Ok(())
}
