//! What this machine has of what the CUDA build needs.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{Access, access};

use super::driver::{self, Driver};
use super::libraries::{Depth, LOADER_PATH, Library, Places, Traced, folder_with, join, trace};
use super::problem::DRIVER;
use super::{CUDA_PROGRAM, OLDEST_CAPABILITY, Problem, Version, build};

/// cuDNN, which only makes some kernels faster.
const CUDNN: &str = "libcudnn.so.9";

/// Everything that is looked at, each with what is wrong with it.
#[derive(Debug)]
pub struct Survey {
    /// The CUDA build: this program, or the one beside it.
    pub program: Result<PathBuf, Problem>,
    /// The driver and its cards.
    pub driver: Result<Driver, Problem>,
    /// The CUDA libraries that the program needs; empty where there is no program.
    pub libraries: Vec<Library>,
    /// cuDNN, where there is one.
    pub cudnn: Option<PathBuf>,
    /// CUDA release that the driver must run, where known.
    pub needed: Option<Version>,
    /// Why the libraries will not do.
    loading: Option<Problem>,
    /// The loader's path under which the program starts.
    pub(super) loader_path: Option<OsString>,
}

impl Survey {
    /// Looks at this machine.
    pub fn new() -> Self {
        let exe = std::env::current_exe();
        let folder = exe
            .as_ref()
            .ok()
            .and_then(|exe| exe.parent())
            .unwrap_or(Path::new("."));
        let places = Places {
            env: &|name| std::env::var_os(name),
            program: folder,
            root: Path::new("/"),
        };
        let named = places.named();
        let driver = driver::ask(&named, &places.driver());
        let program = match &exe {
            Ok(exe) if cfg!(feature = "cuda") => Ok(exe.clone()),
            _ => beside(folder),
        };
        let mut survey = Self {
            program,
            driver,
            libraries: Vec::new(),
            cudnn: None,
            needed: build().cuda,
            loading: None,
            loader_path: None,
        };
        survey.look_at_libraries(&places, named);
        survey
    }

    /// The same, but gives up on a driver that hangs.
    pub fn within(patience: Duration) -> Self {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            // Nobody waits any more where this fails.
            let _ = sender.send(Self::new());
        });
        receiver.recv_timeout(patience).unwrap_or(Self {
            program: Err(Problem::Silent),
            driver: Err(Problem::Silent),
            libraries: Vec::new(),
            cudnn: None,
            needed: build().cuda,
            loading: None,
            loader_path: None,
        })
    }

    fn look_at_libraries(&mut self, places: &Places<'_>, named: Vec<PathBuf>) {
        let set = std::env::var_os(LOADER_PATH);
        let mut more: Vec<PathBuf> = Vec::new();
        if let Ok(Driver {
            folder: Some(folder),
            ..
        }) = &self.driver
        {
            more.push(folder.clone());
        }
        let usual = places.usual();
        let path = |more: &[PathBuf]| join(&named, set.as_deref(), more);
        if let Ok(program) = &self.program {
            match settle(program, &usual, &mut more, &path) {
                Ok(traced) => {
                    self.needed = self.needed.or_else(|| needed_by(&traced));
                    self.loading = self.fault(program, &traced, &usual, &named);
                    let ours = ["libcu", "libnv"];
                    self.libraries = traced.libraries;
                    self.libraries.retain(|library| {
                        library.name != DRIVER && ours.iter().any(|o| library.name.starts_with(o))
                    });
                }
                Err(problem) => self.loading = Some(problem),
            }
        }
        self.cudnn = by_itself(CUDNN, &named, set.as_deref());
        if self.cudnn.is_none()
            && let Some(folder) = folder_with(CUDNN, &usual)
        {
            self.cudnn = Some(folder.join(CUDNN));
            more.push(folder.clone());
        }
        self.loader_path = path(&more);
    }

    /// What the loader's answer means.
    fn fault(
        &self,
        program: &Path,
        traced: &Traced,
        usual: &[PathBuf],
        named: &[PathBuf],
    ) -> Option<Problem> {
        let mut names = traced.missing();
        // The driver is another matter, and told of by itself.
        names.retain(|name| name != DRIVER);
        if !names.is_empty() {
            return Some(Problem::MissingLibraries {
                names,
                looked: named.iter().chain(usual).cloned().collect(),
            });
        }
        // Without a driver its functions are missing, which says nothing new.
        if self.driver.is_err() {
            return None;
        }
        traced.refusal.as_ref().map(|reason| Problem::Loader {
            path: program.to_owned(),
            reason: reason.clone(),
        })
    }

    /// Why this card cannot be used, the deepest cause first; empty where it can.
    pub fn problems(&self, ordinal: usize) -> Vec<Problem> {
        let mut problems = card_problem(&self.driver, self.needed, ordinal)
            .into_iter()
            .collect::<Vec<_>>();
        problems.extend(self.program.as_ref().err().cloned());
        problems.extend(self.loading.clone());
        problems.dedup();
        problems
    }

    /// What is wrong with driver and card alone.
    pub fn card_problem(&self, ordinal: usize) -> Option<Problem> {
        card_problem(&self.driver, self.needed, ordinal)
    }

    /// What is wrong with the libraries alone.
    pub fn library_problem(&self) -> Option<&Problem> {
        self.loading.as_ref()
    }
}

impl Default for Survey {
    fn default() -> Self {
        Self::new()
    }
}

/// What is wrong with driver and card, in a program whose libraries are loaded already.
#[cfg(feature = "cuda")]
pub(crate) fn check(ordinal: usize) -> Option<Problem> {
    card_problem(&driver::ask(&[], &[]), build().cuda, ordinal)
}

fn card_problem(
    driver: &Result<Driver, Problem>,
    needed: Option<Version>,
    ordinal: usize,
) -> Option<Problem> {
    let driver = match driver {
        Ok(driver) => driver,
        Err(Problem::NoDriver { looked, .. }) => {
            return Some(Problem::NoDriver {
                looked: looked.clone(),
                needed,
            });
        }
        Err(problem) => return Some(problem.clone()),
    };
    if let Some(needed) = needed.filter(|needed| *needed > driver.version) {
        return Some(Problem::OldDriver {
            found: driver.version,
            needed,
            number: driver::number(),
        });
    }
    let Some(card) = driver.cards.get(ordinal) else {
        return Some(Problem::NoSuchCard {
            ordinal,
            count: driver.cards.len(),
            visible: driver::visible(),
        });
    };
    if card.capability < OLDEST_CAPABILITY {
        return Some(Problem::OldCard {
            ordinal,
            card: card.clone(),
        });
    }
    let built = build().compute_cap?;
    (!super::runs_on(built, card.capability)).then(|| Problem::OtherArchitecture {
        ordinal,
        card: card.clone(),
        built: super::architecture(built),
    })
}

/// The CUDA build in a folder.
fn beside(folder: &Path) -> Result<PathBuf, Problem> {
    let path = folder.join(CUDA_PROGRAM);
    if !path.is_file() {
        return Err(Problem::NoProgram { path });
    }
    match access(&path, Access::EXEC_OK) {
        Ok(()) => Ok(path),
        Err(error) => Err(Problem::NotExecutable {
            path,
            reason: std::io::Error::from(error).to_string(),
        }),
    }
}

/// Adds folders to the loader's path until nothing more is found, and returns what the loader says then.
fn settle(
    program: &Path,
    usual: &[PathBuf],
    more: &mut Vec<PathBuf>,
    path: &dyn Fn(&[PathBuf]) -> Option<OsString>,
) -> Result<Traced, Problem> {
    // A library that is found may need others in turn.
    const ROUNDS: usize = 8;
    for _ in 0..ROUNDS {
        let traced = trace(program, path(more).as_deref(), Depth::Files)?;
        let missing = traced.missing();
        let before = more.len();
        for name in missing.iter().filter(|name| *name != DRIVER) {
            let folder = folder_with(name, usual).filter(|folder| !more.contains(folder));
            more.extend(folder.cloned());
        }
        if missing.is_empty() {
            return trace(program, path(more).as_deref(), Depth::Functions);
        }
        if more.len() == before {
            return Ok(traced);
        }
    }
    trace(program, path(more).as_deref(), Depth::Files)
}

/// The release of the CUDA runtime that a program is linked with: what its code needs of the driver.
fn needed_by(traced: &Traced) -> Option<Version> {
    let name = |l: &Library| Some(l.name.strip_prefix("libcudart.so.")?.to_owned());
    let major = traced.libraries.iter().find_map(name)?;
    let major: u32 = major.split('.').next()?.parse().ok()?;
    Some(Version(major * 1000))
}

/// A library where the loader finds it without help, as far as can be told without loading it.
fn by_itself(name: &str, named: &[PathBuf], set: Option<&OsStr>) -> Option<PathBuf> {
    let set: Vec<PathBuf> = set
        .map(|set| std::env::split_paths(set).collect())
        .unwrap_or_default();
    let system = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
    ]
    .map(PathBuf::from);
    let mut places = [named, &set, &system].into_iter();
    let folder = places.find_map(|folders| folder_with(name, folders))?;
    Some(folder.join(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cuda::Card;

    fn driver(version: u32, capabilities: &[(u32, u32)]) -> Driver {
        let card = |capability: &(u32, u32)| Card {
            name: "a card".into(),
            capability: *capability,
            memory_bytes: 1 << 34,
        };
        Driver {
            folder: None,
            version: Version(version),
            cards: capabilities.iter().map(card).collect(),
        }
    }

    #[test]
    fn the_card_asked_for_must_be_there_and_new_enough() {
        let needed = Some(Version(13000));
        let hopper = Ok(driver(13000, &[(9, 0), (7, 5)]));
        assert_eq!(card_problem(&hopper, needed, 0), None);
        assert!(matches!(
            card_problem(&hopper, needed, 1),
            Some(Problem::OldCard { ordinal: 1, .. })
        ));
        assert!(matches!(
            card_problem(&hopper, needed, 2),
            Some(Problem::NoSuchCard { count: 2, .. })
        ));
        assert!(matches!(
            card_problem(&Ok(driver(12080, &[(9, 0)])), needed, 0),
            Some(Problem::OldDriver { .. })
        ));
        assert_eq!(card_problem(&Ok(driver(13010, &[(8, 0)])), needed, 0), None);
    }

    #[test]
    fn the_runtime_tells_which_driver_is_needed() {
        let traced = |name: &str| Traced {
            libraries: vec![Library {
                name: name.into(),
                path: None,
            }],
            refusal: None,
        };
        assert_eq!(needed_by(&traced("libcudart.so.13")), Some(Version(13000)));
        assert_eq!(needed_by(&traced("libcudart.so.12")), Some(Version(12000)));
        assert_eq!(needed_by(&traced("libc.so.6")), None);
    }

    #[test]
    fn the_program_beside_must_be_there_and_executable() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            beside(folder.path()),
            Err(Problem::NoProgram { .. })
        ));
        let path = folder.path().join(CUDA_PROGRAM);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(
            beside(folder.path()),
            Err(Problem::NotExecutable { .. })
        ));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(beside(folder.path()), Ok(path));
    }
}
