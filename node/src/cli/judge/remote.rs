//! Options of the remote judge, shared by all who ask it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use super::local;
use crate::Error;
use crate::cli::layers::Origins;
use crate::judge::clock::SystemClock;
use crate::judge::remote::{Budget, DEFAULT_BASE, DEFAULT_MODEL, Price, Remote, RemoteSettings};
use crate::judge::verdict::{NoVerdict, Reason};

/// Long enough for a server that restarts a worker.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest key file that is read.
const MAX_KEY_BYTES: u64 = 4096;

/// Who is asked, and what may be spent.
#[derive(Debug, Args)]
pub(super) struct RemoteArgs {
    /// Address of a server with the Chat Completions API, up to and with /v1.
    #[arg(
        long,
        value_name = "URL",
        default_value = DEFAULT_BASE,
        env = "LEOMA_NODE_JUDGE_BASE_URL",
        help_heading = "Remote judge"
    )]
    base_url: String,
    /// Model on that server.
    #[arg(
        long,
        value_name = "NAME",
        default_value = DEFAULT_MODEL,
        env = "LEOMA_NODE_JUDGE_MODEL",
        help_heading = "Remote judge"
    )]
    pub(super) remote_model: String,
    /// File with the server's key.
    #[arg(
        long,
        value_name = "FILE",
        env = "LEOMA_NODE_JUDGE_API_KEY_FILE",
        help_heading = "Remote judge"
    )]
    api_key_file: Option<PathBuf>,
    /// The key itself, from the environment only: others see a command line. A file goes first.
    #[arg(
        long,
        value_name = "KEY",
        env = "LEOMA_NODE_JUDGE_API_KEY",
        hide_env_values = true,
        help_heading = "Remote judge"
    )]
    api_key: Option<SecretString>,
    /// US dollars for a million tokens read and written, for models whose price is not known here.
    #[arg(
        long,
        value_name = "IN,OUT",
        env = "LEOMA_NODE_JUDGE_PRICE",
        help_heading = "Budget"
    )]
    price: Option<PriceArg>,
    /// US dollars that may be spent on a day (UTC); 0: no ceiling.
    #[arg(
        long,
        value_name = "USD",
        default_value_t = 20.0,
        env = "LEOMA_NODE_JUDGE_USD_PER_DAY",
        help_heading = "Budget"
    )]
    usd_per_day: f64,
    /// US dollars that may be spent on the clips of one task; 0: no ceiling.
    #[arg(
        long,
        value_name = "USD",
        default_value_t = 2.0,
        env = "LEOMA_NODE_JUDGE_USD_PER_TASK",
        help_heading = "Budget"
    )]
    usd_per_task: f64,
    /// Tokens that may be read and written on a day; 0: no ceiling.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20_000_000,
        env = "LEOMA_NODE_JUDGE_TOKENS_PER_DAY",
        help_heading = "Budget"
    )]
    tokens_per_day: u64,
    /// Tokens that may be read and written for the clips of one task; 0: no ceiling.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2_000_000,
        env = "LEOMA_NODE_JUDGE_TOKENS_PER_TASK",
        help_heading = "Budget"
    )]
    tokens_per_task: u64,
    /// Folder for what was spent and what servers take; default: `judge` in the folder of `serve --data-dir`.
    #[arg(
        long,
        value_name = "DIR",
        env = "LEOMA_NODE_JUDGE_STATE_DIR",
        help_heading = "Budget"
    )]
    state_dir: Option<PathBuf>,
}

impl RemoteArgs {
    /// The remote side, or why there is none.
    ///
    /// # Errors
    /// [`Error`] for options that cannot be used; what is only missing is a [`NoVerdict`].
    pub(super) fn remote(
        &self,
        origins: &Origins,
    ) -> Result<Result<Arc<Remote>, NoVerdict>, Error> {
        let base = RemoteSettings::parse_base(&self.base_url)
            .map_err(|problem| Error::caller("base_url", problem))?;
        let key = match self.key(origins)? {
            Ok(key) => key,
            Err(none) => return Ok(Err(none)),
        };
        let price = match self.price {
            Some(PriceArg(price)) => Some(price),
            // What runs on this machine costs nothing by the token.
            None if crate::client::is_loopback(&base) => Price::per_million(0.0, 0.0),
            None => Price::listed(&self.remote_model),
        };
        let settings = RemoteSettings {
            base,
            model: self.remote_model.clone(),
            key,
            price,
            budget: self.budget()?,
            backoff: FIRST_BACKOFF,
            state: match &self.state_dir {
                Some(folder) => folder.clone(),
                None => crate::cli::serve::default_data_dir()?.join("judge"),
            },
        };
        Ok(Remote::new(settings, Arc::new(SystemClock::default())).map(Arc::new))
    }

    fn budget(&self) -> Result<Budget, Error> {
        let nano = |field: &str, dollars: f64| {
            if !(0.0..=1e9).contains(&dollars) {
                return Err(Error::caller(
                    field,
                    "write a number of dollars, 0 for no ceiling",
                ));
            }
            Ok((dollars > 0.0).then(|| (dollars * 1e9).round() as u64))
        };
        let tokens = |tokens: u64| (tokens > 0).then_some(tokens);
        Ok(Budget {
            nano_usd_per_day: nano("usd_per_day", self.usd_per_day)?,
            nano_usd_per_task: nano("usd_per_task", self.usd_per_task)?,
            tokens_per_day: tokens(self.tokens_per_day),
            tokens_per_task: tokens(self.tokens_per_task),
        })
    }

    /// An unreadable key is a fault of this machine, like a missing one.
    fn key(&self, origins: &Origins) -> Result<Result<Option<SecretString>, NoVerdict>, Error> {
        if origins.typed("api_key") {
            let message = "a key on the command line can be read by every user of this machine; name a file with \
                           --api-key-file, or set LEOMA_NODE_JUDGE_API_KEY";
            return Err(Error::caller("api_key", message));
        }
        let Some(path) = &self.api_key_file else {
            let key = self
                .api_key
                .as_ref()
                .filter(|key| !key.expose_secret().trim().is_empty());
            return Ok(Ok(
                key.map(|key| SecretString::from(key.expose_secret().trim()))
            ));
        };
        let none = |why: String| local(Reason::Key, format!("{} {why}", path.display()));
        let bytes = std::fs::metadata(path).map(|file| file.len());
        let text = match bytes {
            Ok(bytes) if bytes > MAX_KEY_BYTES => {
                return Ok(Err(none(format!("has {bytes} bytes; a key has fewer"))));
            }
            _ => std::fs::read_to_string(path),
        };
        Ok(match text.as_deref().map(str::trim) {
            Err(error) => Err(none(format!("cannot be read: {error}"))),
            Ok("") => Err(none("is empty; write the server's key into it".into())),
            Ok(key) => Ok(Some(SecretString::from(key))),
        })
    }
}

/// `2.5,10`.
#[derive(Debug, Clone, Copy)]
struct PriceArg(Price);

impl std::str::FromStr for PriceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write two numbers of dollars: 2.5,10";
        let (input, output) = text.split_once(',').ok_or(form)?;
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| form.to_owned());
        let price = Price::per_million(number(input)?, number(output)?);
        price.map(Self).ok_or_else(|| form.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices() {
        assert!(
            "2.5,10"
                .parse::<PriceArg>()
                .is_ok_and(|PriceArg(price)| { (price.input, price.output) == (2_500, 10_000) })
        );
        for wrong in ["", "2.5", "2.5;10", "a,b", "-1,2", "1,2,3", "nan,1"] {
            assert!(wrong.parse::<PriceArg>().is_err(), "{wrong}");
        }
    }
}
