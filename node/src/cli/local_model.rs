//! The model that `--model` names: a folder, a repository of the Hub, or the small checkpoint inside this program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use leoma_models::tiny::shipped_checkpoint;

use super::hub::{Show, download, settings};
use super::layers::process_env;
use crate::generation::Preset;
use crate::hub::{HubError, PullOptions, RepoId, Revision, Selection, Snapshot, find};

/// What `--model` is called that means the checkpoint inside this program.
const SHIPPED: &str = "tiny";
/// What a checkpoint consists of, in the layouts that are read. Code is never among it.
const CHECKPOINT: [&str; 7] = [
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.model",
    "*.pth",
    "tokenizer*",
    "special_tokens*",
];

/// A checkpoint on this machine.
#[derive(Debug)]
pub(super) struct LocalModel {
    /// Its folder.
    pub(super) path: PathBuf,
    /// Its name, where that is not the folder's.
    pub(super) name: Option<String>,
    /// What it was made from, when it came from the Hub.
    pub(super) snapshot: Option<Snapshot>,
    /// Defaults of its clips, where none are asked for.
    pub(super) preset: Preset,
}

impl LocalModel {
    fn folder(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            name: None,
            snapshot: None,
            preset: Preset::default(),
        }
    }
}

/// Whether `--model` means the checkpoint inside this program. A folder of that name goes first.
fn is_shipped(model: &Path) -> bool {
    model == Path::new(SHIPPED) && !model.exists()
}

/// The repository that `--model` names; `None` when it names a folder, or can only mean one.
///
/// What exists is a folder. `user/name` that does not is a repository.
pub(super) fn repository(model: &Path) -> Option<RepoId> {
    let text = model.to_str().filter(|_| !model.exists())?;
    text.parse().ok().filter(|_| text.contains('/'))
}

/// The folder of the model that `--model` names, as far as it is there. Asks nobody.
pub(super) fn cached_model(model: &Path, revision: Option<&str>) -> PathBuf {
    let find_it = || {
        if is_shipped(model) {
            return shipped_checkpoint(&cache(&process_env)).ok();
        }
        let repo = repository(model)?;
        let revision = revision.map_or_else(|| Ok(Revision::default()), str::parse);
        find(&settings().ok()?.cache, &repo, &revision.ok()?).map(|(_, path)| path)
    };
    find_it().unwrap_or_else(|| model.to_owned())
}

/// The model that `--model` names, downloaded or unpacked as far as it is not there.
///
/// # Errors
/// Whatever kept it from being there; for names that may have been meant as a folder, that too.
#[allow(clippy::print_stderr)]
pub(super) fn local_model(model: &Path, revision: Option<&str>, show: Show) -> Result<LocalModel> {
    if is_shipped(model) {
        return Ok(LocalModel {
            path: shipped_checkpoint(&cache(&process_env))?,
            name: Some(SHIPPED.into()),
            snapshot: None,
            preset: Preset::Tiny,
        });
    }
    let Some(repo) = repository(model) else {
        return Ok(LocalModel::folder(model));
    };
    let revision: Revision = match revision {
        Some(revision) => revision.parse()?,
        None => Revision::default(),
    };
    let options = PullOptions {
        selection: Selection::new(&CHECKPOINT.map(str::to_owned), &[])?,
        ..PullOptions::default()
    };
    let snapshot = download(&settings()?, &repo, &revision, &options, show).map_err(|error| {
        let unknown = matches!(
            error.downcast_ref::<HubError>(),
            Some(HubError::Missing { .. } | HubError::Offline { .. })
        );
        if unknown {
            error.context(format!("model: there is no folder {}", model.display()))
        } else {
            error
        }
    })?;
    if revision.commit().is_none() {
        eprintln!(
            "note: {repo} at {revision} is commit {}; --revision {} pins it",
            snapshot.commit, snapshot.commit
        );
    }
    Ok(LocalModel {
        // The folder of a commit is named by its digits.
        name: Some(snapshot.repo.name().to_owned()),
        snapshot: Some(snapshot.clone()),
        ..LocalModel::folder(&snapshot.path)
    })
}

/// The user's cache, or a folder for temporary files where there is none (a service without a home).
fn cache(env: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let var = |name| {
        env(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    var("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(var("HOME")?.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("leoma-node")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_exists_is_a_folder_and_user_name_is_a_repository() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(repository(dir.path()), None);
        for (text, repo) in [
            ("user/name", Some("user/name")),
            (
                "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
                Some("Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
            ),
            ("name", None),
            ("./user/name", None),
            ("/user/name", None),
            ("a/b/c", None),
            ("~/name", None),
            // Cargo runs unit tests in the package's folder.
            ("src/hub", None),
        ] {
            let found = repository(Path::new(text));
            assert_eq!(found.as_ref().map(RepoId::as_str), repo, "{text}");
        }
    }

    #[test]
    fn a_folder_is_itself_and_has_the_usual_preset() {
        let folder = tempfile::tempdir().unwrap();
        // Whether it exists is for who opens it.
        for path in [folder.path(), Path::new("no/such/tiny")] {
            let model = local_model(path, None, Show::Quiet).unwrap();
            assert_eq!(model.path, path);
            assert_eq!((model.name, model.preset), (None, Preset::Leoma));
        }
    }

    #[test]
    fn the_cache_is_where_the_user_has_it() {
        let with = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, OsString)> = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect();
            cache(&move |name| {
                let found = pairs.iter().find(|(known, _)| known == name);
                found.map(|(_, value)| value.clone())
            })
        };
        let both = [("XDG_CACHE_HOME", "/c"), ("HOME", "/h")];
        assert_eq!(with(&both), Path::new("/c/leoma-node"));
        assert_eq!(with(&both[1..]), Path::new("/h/.cache/leoma-node"));
        // The standard says that a relative path is to be ignored.
        let relative = [("XDG_CACHE_HOME", "c"), ("HOME", "/h")];
        assert_eq!(with(&relative), Path::new("/h/.cache/leoma-node"));
        assert_eq!(
            with(&[("HOME", "")]),
            std::env::temp_dir().join("leoma-node")
        );
    }
}
