//! The configuration file: TOML whose tables are subcommands and whose keys are their long flags.
//!
//! Keys in front of all tables (or in the table of a group, `[models]`) hold for every subcommand below
//! that has the flag. `_` and `-` in keys are the same.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::given::Given;
use super::{Origin, check, find, flag, has_settings, nearest, settings};

/// A file that was read and checked against every subcommand it speaks of.
#[derive(Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// One key.
#[derive(Debug)]
struct Entry {
    table: Vec<String>,
    /// As written.
    key: String,
    /// With `-`, as flags have it.
    flag: String,
    line: usize,
    value: Value,
}

#[derive(Debug)]
enum Value {
    One(OsString),
    Switch(bool),
    List(Vec<OsString>),
}

impl ConfigFile {
    /// Reads and checks a file. `None` when there is none and nobody `asked` for it.
    pub(super) fn read(
        path: &Path,
        asked: bool,
        root: &Command,
        bare: &Command,
    ) -> Result<Option<Self>, Vec<String>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && !asked => return Ok(None),
            Err(error) => {
                let text = format!(
                    "{} cannot be read: {error}; --config or LEOMA_NODE_CONFIG names another file",
                    path.display()
                );
                return Err(vec![text]);
            }
        };
        // The parser's own display quotes the line, which may hold a secret.
        let document = DeTable::parse(&text).map_err(|error| {
            let line = line_of(&text, error.span().map_or(0, |span| span.start));
            vec![format!("{}:{line}: {}", path.display(), error.message())]
        })?;
        let mut reader = Reader {
            path,
            text: &text,
            root,
            entries: Vec::new(),
            problems: Vec::new(),
        };
        reader.table(document.get_ref(), &[]);
        let Reader {
            entries,
            mut problems,
            ..
        } = reader;
        let file = Self {
            path: path.to_owned(),
            entries,
        };
        problems.extend(file.problems(root, bare));
        if problems.is_empty() {
            Ok(Some(file))
        } else {
            Err(problems)
        }
    }

    /// What the file says about one subcommand, its own table first, what is shared last.
    pub(super) fn layers(&self, path: &[String], leaf: &Command) -> Vec<Vec<Given>> {
        (0..=path.len())
            .rev()
            .map(|depth| {
                self.entries
                    .iter()
                    .filter(|entry| Some(entry.table.as_slice()) == path.get(..depth))
                    .filter_map(|entry| {
                        let arg = settings(leaf).find(|arg| flag(arg) == entry.flag)?;
                        self.given(entry, arg).ok()
                    })
                    // An empty list gives nothing.
                    .filter(|given| !given.arguments.is_empty())
                    .collect()
            })
            .collect()
    }

    /// Every value against every subcommand that would take it.
    fn problems(&self, root: &Command, bare: &Command) -> Vec<String> {
        let mut problems = Vec::new();
        for entry in &self.entries {
            for path in below(root, &entry.table) {
                let Some(leaf) = find(root, &path) else {
                    continue;
                };
                let Some(arg) = settings(leaf).find(|arg| flag(arg) == entry.flag) else {
                    continue;
                };
                let checked = self
                    .given(entry, arg)
                    .and_then(|given| check(bare, &path, leaf, &given));
                if let Err(problem) = checked {
                    let place = format!("{}:{}", self.path.display(), entry.line);
                    let key = entry.dotted();
                    let whose = if entry.table == path {
                        String::new()
                    } else {
                        format!(
                            " (for `{0}`; a key of [{1}] is not shared)",
                            path.join(" "),
                            path.join(".")
                        )
                    };
                    problems.push(format!("{place}: {key}: {problem}{whose}"));
                    break;
                }
            }
        }
        problems
    }

    fn given(&self, entry: &Entry, arg: &Arg) -> Result<Given, String> {
        let switch = arg
            .get_num_args()
            .is_some_and(|count| count.min_values() == 0);
        let list = matches!(arg.get_action(), ArgAction::Append)
            || arg
                .get_num_args()
                .is_some_and(|count| count.max_values() > 1);
        let values = match &entry.value {
            Value::Switch(on) if switch => vec![OsString::from(on.to_string())],
            Value::Switch(_) => return Err("needs a value, not true or false".into()),
            _ if switch => return Err("needs true or false".into()),
            Value::List(values) if list => values.clone(),
            Value::List(_) => return Err("needs one value, not a list".into()),
            Value::One(value) => vec![value.clone()],
        };
        let origin = Origin::File {
            path: self.path.clone(),
            key: entry.dotted(),
            line: entry.line,
        };
        Ok(Given::new(arg, &values, origin))
    }
}

impl Entry {
    fn dotted(&self) -> String {
        let names = self.table.iter().chain([&self.key]);
        names.map(String::as_str).collect::<Vec<_>>().join(".")
    }
}

/// Walks the document and sorts tables from keys.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    root: &'a Command,
    entries: Vec<Entry>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>, path: &[String]) {
        // The table is sorted by name; people read files from the top.
        let mut rows: Vec<_> = table.iter().collect();
        rows.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in rows {
            let line = line_of(self.text, name.span().start);
            let name = name.get_ref().as_ref();
            if let DeValue::Table(inner) = value.get_ref() {
                self.subcommand(name, inner, path, line);
            } else if let Err(problem) = self.key(name, value, path, line) {
                let mut dotted = path.to_vec();
                dotted.push(name.to_owned());
                self.problems.push(format!(
                    "{}:{line}: {}: {problem}",
                    self.path.display(),
                    dotted.join(".")
                ));
            }
        }
    }

    fn subcommand(&mut self, name: &str, table: &DeTable<'_>, path: &[String], line: usize) {
        let known = subcommands(self.root, path);
        let written = name.replace('_', "-");
        if known.contains(&written) {
            let mut path = path.to_vec();
            path.push(written);
            self.table(table, &path);
            return;
        }
        let hint = match nearest(&written, known.iter().map(String::as_str)) {
            Some(name) => format!("did you mean [{name}]?"),
            None if known.is_empty() => "there are no tables here".into(),
            None => format!(
                "tables are {}",
                known.into_iter().collect::<Vec<_>>().join(", ")
            ),
        };
        let place = self.path.display();
        self.problems
            .push(format!("{place}:{line}: unknown table [{name}]; {hint}"));
    }

    fn key(
        &mut self,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        path: &[String],
        line: usize,
    ) -> Result<(), String> {
        let flag = name.replace('_', "-");
        let known = flags(self.root, path);
        if !known.contains(&flag) {
            return Err(self.unknown(&flag, &known, path));
        }
        let twice = self
            .entries
            .iter()
            .find(|entry| entry.table == path && entry.flag == flag);
        if let Some(other) = twice {
            return Err(format!(
                "stands twice, also in line {}; remove one",
                other.line
            ));
        }
        let value = match value.get_ref() {
            DeValue::Boolean(on) => Value::Switch(*on),
            DeValue::Array(items) => Value::List(
                items
                    .iter()
                    .map(|item| scalar(item.get_ref()))
                    .collect::<Result<_, _>>()?,
            ),
            other => Value::One(scalar(other)?),
        };
        self.entries.push(Entry {
            table: path.to_vec(),
            key: name.to_owned(),
            flag,
            line,
            value,
        });
        Ok(())
    }

    fn unknown(&self, flag: &str, known: &BTreeSet<String>, path: &[String]) -> String {
        let key = |flag: &str| flag.replace('-', "_");
        if let Some(name) = nearest(flag, known.iter().map(String::as_str)) {
            return format!("unknown setting; did you mean `{}`?", key(name));
        }
        let owner = below(self.root, &[]).into_iter().find(|other| {
            find(self.root, other)
                .is_some_and(|leaf| settings(leaf).any(|arg| super::flag(arg) == flag))
        });
        match owner {
            Some(owner) => format!("unknown setting here; it belongs to [{}]", owner.join(".")),
            None => format!(
                "unknown setting; `leoma-node {}` lists them",
                [path.join(" ").as_str(), "--help"].join(" ").trim_start()
            ),
        }
    }
}

/// A single value as a flag would have it.
fn scalar(value: &DeValue<'_>) -> Result<OsString, String> {
    match value {
        DeValue::String(text) => Ok(text.as_ref().into()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().into()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string().into())
            .map_err(|_| "the number is out of range".into()),
        DeValue::Float(number) => Ok(number.as_str().into()),
        DeValue::Boolean(_) => {
            Err("needs a list of texts or numbers, not of true and false".into())
        }
        DeValue::Datetime(_) => Err("needs a text or a number, not a date".into()),
        DeValue::Array(_) => Err("needs a plain list, not a list of lists".into()),
        DeValue::Table(_) => Err("needs a list of texts or numbers, not of tables".into()),
    }
}

/// Paths of all subcommands with settings at or below a table.
fn below(root: &Command, table: &[String]) -> Vec<Vec<String>> {
    let names = subcommands(root, table);
    if names.is_empty() {
        return vec![table.to_vec()];
    }
    // One that can also be called by itself has settings of its own.
    let own = find(root, table)
        .filter(|command| !table.is_empty() && !command.is_subcommand_required_set());
    let own = own.map(|_| table.to_vec());
    let below = names.into_iter().flat_map(|name| {
        let mut path = table.to_vec();
        path.push(name);
        below(root, &path)
    });
    own.into_iter().chain(below).collect()
}

fn subcommands(root: &Command, path: &[String]) -> BTreeSet<String> {
    find(root, path).map_or_else(BTreeSet::new, |command| {
        command
            .get_subcommands()
            .map(|command| command.get_name())
            .filter(|name| has_settings(name))
            .map(str::to_owned)
            .collect()
    })
}

/// Flags that a key of this table can mean.
fn flags(root: &Command, table: &[String]) -> BTreeSet<String> {
    below(root, table)
        .iter()
        .filter_map(|path| find(root, path))
        .flat_map(|leaf| settings(leaf).map(|arg| flag(arg).to_owned()))
        .collect()
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes()
        .zip(0..offset)
        .fold(1, |line, (byte, _)| line + usize::from(byte == b'\n'))
}
