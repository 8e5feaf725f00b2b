//! Which options the user wrote, which came from the environment, and which are defaults.

use std::collections::BTreeMap;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

/// Where the options' values came from; an argument group without arguments of its own.
#[derive(Debug, Default)]
pub(super) struct Explicit(BTreeMap<String, ValueSource>);

impl Explicit {
    /// Whether the option stands on the command line.
    pub(super) fn typed(&self, id: &str) -> bool {
        self.0.get(id) == Some(&ValueSource::CommandLine)
    }

    /// Whether the user chose the value, here or in the environment.
    pub(super) fn chosen(&self, id: &str) -> bool {
        self.typed(id) || self.0.get(id) == Some(&ValueSource::EnvVariable)
    }
}

impl FromArgMatches for Explicit {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let sources = matches.ids().filter_map(|id| {
            let source = matches.value_source(id.as_str())?;
            Some((id.as_str().to_owned(), source))
        });
        Ok(Self(sources.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Explicit {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}
