//! Where the Hub is, who we are to it, and where its cache lies: the variables that the Python tools read,
//! with the same names, defaults and precedence (`huggingface_hub/constants.py`).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Url;
use secrecy::SecretString;

use super::error::{HubError, Result};
use crate::client::is_loopback;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Longest token file that is read.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Looks up an environment variable.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What the environment says about the Hub.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// `HF_ENDPOINT`: the Hub or a mirror of it.
    pub endpoint: Url,
    /// `HF_TOKEN`, else the file that `hf auth login` wrote.
    pub token: Option<SecretString>,
    /// `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// `HF_HUB_OFFLINE`: use what is there and no network.
    pub offline: bool,
}

impl HubSettings {
    /// Reads the environment, and the token's file.
    ///
    /// # Errors
    /// [`HubError::Invalid`] when a variable cannot be used, or none says where the cache is.
    pub fn from_env(env: Env<'_>) -> Result<Self> {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).map(|value| value.to_string_lossy().into_owned());
        let path = |name: &str| text(name).map(|value| expand(&value, env));

        let home = || {
            path("HF_HOME").or_else(|| {
                let caches =
                    path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")))?;
                Some(caches.join("huggingface"))
            })
        };
        let nowhere = || HubError::Invalid {
            field: "HF_HOME",
            message: "the cache has no place; set HF_HOME or HF_HUB_CACHE to a folder".into(),
        };
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(home()?.join("hub")))
            .ok_or_else(nowhere)?;
        let offline = text("HF_HUB_OFFLINE").or_else(|| text("TRANSFORMERS_OFFLINE"));
        let token_file = path("HF_TOKEN_PATH").or_else(|| Some(home()?.join("token")));
        Ok(Self {
            endpoint: endpoint(text("HF_ENDPOINT").as_deref().unwrap_or(DEFAULT_ENDPOINT))?,
            token: token(
                text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")),
                token_file.as_deref(),
                text("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)),
            )?,
            cache,
            offline: offline.is_some_and(|value| is_true(&value)),
        })
    }
}

impl HubSettings {
    /// Whether the token goes over a network unencrypted.
    pub fn shows_token(&self) -> bool {
        self.token.is_some() && self.endpoint.scheme() == "http" && !is_loopback(&self.endpoint)
    }
}

/// What the Python tools take for yes.
fn is_true(value: &str) -> bool {
    matches!(
        value.to_ascii_uppercase().as_str(),
        "1" | "ON" | "YES" | "TRUE"
    )
}

fn endpoint(text: &str) -> Result<Url> {
    let refuse = |message: String| HubError::Invalid {
        field: "HF_ENDPOINT",
        message,
    };
    let text = text.trim_end_matches('/');
    let url = Url::parse(text).map_err(|error| refuse(format!("{error}; write https://NAME")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(refuse("is no http or https address".into()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not repeated: there is a password in it.
        return Err(refuse(
            "has a user name or password; give the token by HF_TOKEN".into(),
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("goes on after the path".into()));
    }
    Ok(url)
}

/// The token that goes with every request to the Hub.
fn token(
    variable: Option<String>,
    file: Option<&Path>,
    explicit_only: bool,
) -> Result<Option<SecretString>> {
    if explicit_only {
        return Ok(None);
    }
    let usable = |text: &str| {
        // Line ends come from editors and `echo`.
        let token = text.trim().to_owned();
        (!token.is_empty()).then_some(token)
    };
    if let Some(token) = variable.as_deref().and_then(usable) {
        return check("HF_TOKEN", token).map(Some);
    }
    let Some(file) = file else {
        return Ok(None);
    };
    let unreadable = |error: std::io::Error| HubError::Invalid {
        field: "HF_TOKEN_PATH",
        message: format!("{} cannot be read: {error}", file.display()),
    };
    match fs::metadata(file) {
        Ok(found) if found.len() > MAX_TOKEN_BYTES => Err(HubError::Invalid {
            field: "HF_TOKEN_PATH",
            message: format!("{} is too large for a token", file.display()),
        }),
        Ok(_) => {
            let text = fs::read_to_string(file).map_err(unreadable)?;
            usable(&text)
                .map(|token| check("HF_TOKEN_PATH", token))
                .transpose()
        }
        // Nobody has logged in.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(error)),
    }
}

fn check(field: &'static str, token: String) -> Result<SecretString> {
    if token.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(token.into());
    }
    Err(HubError::Invalid {
        field,
        message: "the token has characters that no token has".into(),
    })
}

/// `~` and `$NAME` as the Python tools expand them.
fn expand(text: &str, env: Env<'_>) -> PathBuf {
    let value = |name: &str| env(name).map(|value| value.to_string_lossy().into_owned());
    let mut rest = text;
    let mut expanded = String::new();
    if (rest == "~" || rest.starts_with("~/"))
        && let Some(home) = value("HOME")
    {
        expanded.push_str(&home);
        rest = rest.get(1..).unwrap_or_default();
    }
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let (name, tail) =
            if let Some((name, tail)) = after.strip_prefix('{').and_then(|a| a.split_once('}')) {
                (name, tail)
            } else {
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = after.find(|c| !is_part(c)).unwrap_or(after.len());
                after.split_at(end)
            };
        if let Some(value) = value(name).filter(|_| !name.is_empty()) {
            expanded.push_str(&value);
            rest = tail;
        } else {
            // What names nothing stands for itself.
            expanded.push('$');
            rest = after;
        }
    }
    expanded.push_str(rest);
    PathBuf::from(expanded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use secrecy::ExposeSecret as _;

    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<HubSettings> {
        let map: HashMap<_, _> = pairs.iter().copied().collect();
        HubSettings::from_env(&|name| map.get(name).map(OsString::from))
    }

    #[test]
    fn the_cache_is_where_the_python_tools_have_it() {
        for (pairs, cache) in [
            (vec![("HOME", "/h")], "/h/.cache/huggingface/hub"),
            (
                vec![("HOME", "/h"), ("XDG_CACHE_HOME", "/x")],
                "/x/huggingface/hub",
            ),
            (vec![("HOME", "/h"), ("HF_HOME", "~/hf")], "/h/hf/hub"),
            (
                vec![("D", "/d"), ("HF_HOME", "$D/${D}e/$Z$")],
                "/d//de/$Z$/hub",
            ),
            (
                vec![("HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")],
                "/old",
            ),
            (
                vec![
                    ("HF_HOME", "/hf"),
                    ("HUGGINGFACE_HUB_CACHE", "/old"),
                    ("HF_HUB_CACHE", "/c"),
                ],
                "/c",
            ),
            (
                vec![("HOME", "/h"), ("HF_HOME", "")],
                "/h/.cache/huggingface/hub",
            ),
        ] {
            assert_eq!(
                settings(&pairs).unwrap().cache,
                Path::new(cache),
                "{pairs:?}"
            );
        }
        assert!(
            settings(&[])
                .unwrap_err()
                .to_string()
                .contains("HF_HUB_CACHE")
        );
    }

    #[test]
    fn the_token_comes_from_the_variable_then_from_the_file() {
        let home = tempfile::tempdir().unwrap();
        let hf = home.path().to_str().unwrap();
        let token = |pairs: &[(&str, &str)]| {
            let mut all = vec![("HF_HOME", hf)];
            all.extend_from_slice(pairs);
            let token = settings(&all).unwrap().token;
            token.map(|token| token.expose_secret().to_owned())
        };
        assert_eq!(token(&[]), None);
        fs::write(home.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(token(&[]).as_deref(), Some("hf_file"));
        assert_eq!(
            token(&[("HF_TOKEN", " hf_env\n")]).as_deref(),
            Some("hf_env")
        );
        assert_eq!(token(&[("HF_TOKEN", "\n")]).as_deref(), Some("hf_file"));
        assert_eq!(
            token(&[("HF_TOKEN", "x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]),
            None
        );
        let other = home.path().join("other");
        fs::write(&other, "hf_other").unwrap();
        let path = other.to_str().unwrap();
        assert_eq!(
            token(&[("HF_TOKEN_PATH", path)]).as_deref(),
            Some("hf_other")
        );
        let bad = settings(&[("HF_HOME", hf), ("HF_TOKEN", "se cret")]).unwrap_err();
        assert!(!bad.to_string().contains("cret"), "{bad}");
        let shown = format!("{:?}", settings(&[("HF_HOME", hf)]).unwrap());
        assert!(!shown.contains("hf_file"), "{shown}");
    }

    #[test]
    fn endpoints_and_offline() {
        let with = |name, value| settings(&[("HOME", "/h"), (name, value)]);
        let plain = settings(&[("HOME", "/h")]).unwrap();
        assert_eq!(plain.endpoint.as_str(), "https://huggingface.co/");
        assert!(!plain.offline);
        let mirror = with("HF_ENDPOINT", "http://127.0.0.1:9/hf/").unwrap();
        assert_eq!(mirror.endpoint.as_str(), "http://127.0.0.1:9/hf");
        for wrong in ["huggingface.co", "ftp://a", "https://a?b", "https://u:pw@a"] {
            let error = with("HF_ENDPOINT", wrong).unwrap_err().to_string();
            assert!(
                error.starts_with("HF_ENDPOINT: ") && !error.contains("pw"),
                "{error}"
            );
        }
        for (value, offline) in [
            ("1", true),
            ("yes", true),
            ("True", true),
            ("0", false),
            ("x", false),
        ] {
            assert_eq!(
                with("HF_HUB_OFFLINE", value).unwrap().offline,
                offline,
                "{value}"
            );
        }
        assert!(with("TRANSFORMERS_OFFLINE", "1").unwrap().offline);
        for (endpoint, shows) in [
            ("http://a", true),
            ("https://a", false),
            ("http://[::1]:80", false),
        ] {
            let pairs = [("HOME", "/h"), ("HF_ENDPOINT", endpoint), ("HF_TOKEN", "t")];
            assert_eq!(settings(&pairs).unwrap().shows_token(), shows, "{endpoint}");
        }
    }
}
