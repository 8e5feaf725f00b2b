//! Where the CUDA libraries are: what the loader finds by itself, and the usual places besides.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{LIBRARIES_VARIABLE, Problem};

/// The variable with the loader's path.
pub(super) const LOADER_PATH: &str = "LD_LIBRARY_PATH";

/// A library that a program needs and the file that the loader takes for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Name, as `libcublas.so.13`.
    pub name: String,
    /// The file; absent where there is none.
    pub path: Option<PathBuf>,
}

/// What the loader says about a program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Traced {
    pub(super) libraries: Vec<Library>,
    /// Why it refuses the program, besides missing libraries.
    pub(super) refusal: Option<String>,
}

impl Traced {
    pub(super) fn missing(&self) -> Vec<String> {
        let absent = self.libraries.iter().filter(|l| l.path.is_none());
        absent.map(|library| library.name.clone()).collect()
    }
}

/// How far the loader goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Finds the files.
    Files,
    /// Also looks every function of the program up in them.
    Functions,
}

/// Asks the loader what it would load for a program under a path, as `ldd` does. The program does not run.
pub(super) fn trace(
    program: &Path,
    loader_path: Option<&OsStr>,
    depth: Depth,
) -> Result<Traced, Problem> {
    let mut command = Command::new(program);
    command
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .env_remove("LD_VERBOSE")
        .stdin(Stdio::null());
    for name in ["LD_WARN", "LD_BIND_NOW"] {
        match depth {
            Depth::Files => command.env_remove(name),
            Depth::Functions => command.env(name, "1"),
        };
    }
    if let Some(path) = loader_path {
        command.env(LOADER_PATH, path);
    }
    let output = command.output().map_err(|error| Problem::NotExecutable {
        path: program.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(read_trace(
        program,
        &String::from_utf8_lossy(&output.stdout),
        &String::from_utf8_lossy(&output.stderr),
        output.status.success(),
    ))
}

fn read_trace(program: &Path, stdout: &str, stderr: &str, success: bool) -> Traced {
    let mut libraries: Vec<Library> = Vec::new();
    for line in stdout.lines() {
        let Some((name, place)) = line.trim().split_once(" => ") else {
            continue;
        };
        let path = match place.trim() {
            "not found" => None,
            // "/lib/x.so.1 (0x00007f…)"
            place => Some(PathBuf::from(
                place.rsplit_once(" (0x").map_or(place, |(path, _)| path),
            )),
        };
        if !libraries.iter().any(|library| library.name == name) {
            libraries.push(Library {
                name: name.to_owned(),
                path,
            });
        }
    }
    // "undefined symbol: f	(./program)"; what libraries lack among themselves may never be called.
    let of_program = format!("({})", program.display());
    let lacks = |line: &str| line.starts_with("undefined symbol") && line.ends_with(&of_program);
    let refused = stdout.lines().chain(stderr.lines()).find(|line| {
        let line = line.trim();
        line.contains("not found (required by") || lacks(line)
    });
    let refused = refused.or_else(|| {
        let mut lines = stderr.lines().filter(|line| !line.trim().is_empty());
        (!success).then(|| lines.next()).flatten()
    });
    let refusal = match refused {
        Some(line) => Some(line.trim().to_owned()),
        None if success || libraries.iter().any(|library| library.path.is_none()) => None,
        None => Some("the loader gives no reason".into()),
    };
    Traced { libraries, refusal }
}

/// What the search depends on.
pub(super) struct Places<'a> {
    pub(super) env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Folder of the program.
    pub(super) program: &'a Path,
    /// `/`, but in tests.
    pub(super) root: &'a Path,
}

impl Places<'_> {
    fn var(&self, name: &str) -> Option<OsString> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    fn absolute(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Folders that the user names; they go before everything, the loader's own path included.
    pub(super) fn named(&self) -> Vec<PathBuf> {
        let Some(list) = self.var(LIBRARIES_VARIABLE) else {
            return Vec::new();
        };
        let given = std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty());
        there(given.flat_map(|given| {
            let mut inside = vec![given.join("lib64"), given.join("lib")];
            inside.extend(environment(&given));
            inside.extend(wheels(&given));
            inside.push(given);
            inside.retain(|folder| holds_libraries(folder));
            inside
        }))
    }

    /// Folders for what the loader's path lacks, in the order in which they are tried.
    pub(super) fn usual(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.program.to_owned()];
        folders.extend(self.program.parent().map(|above| above.join("lib")));
        for name in ["CUDA_HOME", "CUDA_PATH"] {
            if let Some(home) = self.var(name).map(PathBuf::from) {
                folders.extend([home.join("lib64"), home.join("lib")]);
            }
        }
        let local = self.absolute("/usr/local");
        folders.push(local.join("cuda/lib64"));
        // Of several toolkits the newest: 13.0 before 12.8 before 12.
        let mut toolkits = matching(&local, "cuda-");
        toolkits.sort_by_key(|path| std::cmp::Reverse(release(path)));
        folders.extend(toolkits.iter().map(|path| path.join("lib64")));
        folders.extend(self.driver());
        folders.extend(self.python());
        there(folders)
    }

    /// Folders where containers and distributions have the driver that the loader's path lacks.
    pub(super) fn driver(&self) -> Vec<PathBuf> {
        let usual = [
            "/usr/local/nvidia/lib64",
            "/usr/local/nvidia/lib",
            "/usr/lib/wsl/lib",
            "/run/opengl-driver/lib",
        ];
        there(usual.map(|path| self.absolute(path)))
    }

    /// NVIDIA's wheels in the Python environments at hand. No Python is run for it.
    fn python(&self) -> Vec<PathBuf> {
        let mut prefixes: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
            .iter()
            .filter_map(|name| self.var(name).map(PathBuf::from))
            .collect();
        if let Some(path) = self.var("PATH") {
            let python = std::env::split_paths(&path)
                .map(|folder| folder.join("python3"))
                .find(|python| python.exists());
            // As on PATH, which is the environment, and what it links to, which is the installation.
            let real = python
                .as_ref()
                .and_then(|python| python.canonicalize().ok());
            let above = |path: PathBuf| Some(path.parent()?.parent()?.to_owned());
            prefixes.extend(python.into_iter().chain(real).filter_map(above));
        }
        if let Some(home) = self.var("HOME") {
            prefixes.push(Path::new(&home).join(".local"));
        }
        prefixes.extend([self.absolute("/usr/local"), self.absolute("/usr")]);
        let mut found: Vec<PathBuf> = prefixes.iter().flat_map(|p| environment(p)).collect();
        if let Some(conda) = self.var("CONDA_PREFIX") {
            found.push(Path::new(&conda).join("lib"));
        }
        found
    }
}

/// Folders of NVIDIA's wheels in an environment.
fn environment(prefix: &Path) -> Vec<PathBuf> {
    matching(&prefix.join("lib"), "python3")
        .iter()
        .flat_map(|python| [python.join("site-packages"), python.join("dist-packages")])
        .flat_map(|packages| wheels(&packages))
        .collect()
}

/// Folders of NVIDIA's wheels under `site-packages`: `nvidia/cu13/lib`, `nvidia/cudnn/lib`, …
fn wheels(packages: &Path) -> Vec<PathBuf> {
    matching(&packages.join("nvidia"), "")
        .iter()
        .map(|wheel| wheel.join("lib"))
        .collect()
}

fn holds_libraries(folder: &Path) -> bool {
    let is = |path: &PathBuf| path.to_string_lossy().contains(".so");
    matching(folder, "lib").iter().any(is)
}

/// Entries of a folder whose names begin so, in the order of their names.
fn matching(folder: &Path, start: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().as_bytes().starts_with(start.as_bytes()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// The numbers in `/usr/local/cuda-12.8`.
fn release(toolkit: &Path) -> Vec<u32> {
    let name = toolkit.file_name().unwrap_or_default().to_string_lossy();
    let numbers = name.trim_start_matches("cuda-").split('.');
    numbers.map(|number| number.parse().unwrap_or(0)).collect()
}

/// Those that are folders, each once.
fn there(folders: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut kept: Vec<PathBuf> = Vec::new();
    for folder in folders {
        if folder.is_dir() && !kept.contains(&folder) {
            kept.push(folder);
        }
    }
    kept
}

/// The first folder with a file of this name.
pub(super) fn folder_with<'a>(name: &str, folders: &'a [PathBuf]) -> Option<&'a PathBuf> {
    folders.iter().find(|folder| folder.join(name).exists())
}

/// The loader's path: what is named first, then what is set, then what is needed besides.
pub(super) fn join(named: &[PathBuf], set: Option<&OsStr>, more: &[PathBuf]) -> Option<OsString> {
    let mut parts: Vec<&[u8]> = Vec::new();
    parts.extend(named.iter().map(|folder| folder.as_os_str().as_bytes()));
    parts.extend(set.filter(|set| !set.is_empty()).map(OsStr::as_bytes));
    for folder in more {
        let folder = folder.as_os_str().as_bytes();
        if !parts.contains(&folder) {
            parts.push(folder);
        }
    }
    (!parts.is_empty()).then(|| OsString::from_vec(parts.join(&b':')))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_loaders_answer_is_read() {
        let traced = read_trace(
            Path::new("./x"),
            "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibcuda.so.1 => not found\n\tlibcuda.so.1 => not found\n\
             \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n",
            "",
            true,
        );
        assert_eq!(traced.missing(), ["libcuda.so.1"]);
        assert_eq!(traced.libraries.len(), 2);
        let c = traced.libraries.last().unwrap();
        assert_eq!(
            c.path.as_deref(),
            Some(Path::new("/lib/x86_64-linux-gnu/libc.so.6"))
        );
        assert_eq!(traced.refusal, None);
        let refusal =
            |stderr: &str, success| read_trace(Path::new("./x"), "", stderr, success).refusal;
        let version = "./x: /lib/libc.so.6: version `GLIBC_2.99' not found (required by ./x)\n";
        assert!(refusal(version, true).unwrap().contains("GLIBC_2.99"));
        assert!(refusal("error: bad\n", false).unwrap().contains("bad"));
        assert!(refusal("", false).is_some());
        let function = "undefined symbol: a\t(/lib/y.so)\nundefined symbol: b\t(./x)\n";
        assert!(
            refusal(function, true)
                .unwrap()
                .starts_with("undefined symbol: b")
        );
        let preload = "ERROR: ld.so: object 'x' from LD_PRELOAD cannot be preloaded: ignored.\n";
        assert_eq!(refusal(preload, true), None);
    }

    #[test]
    fn the_path_keeps_what_is_set_between_what_is_named_and_what_is_added() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let joined = join(
            &paths(&["/n"]),
            Some("/a::/b".as_ref()),
            &paths(&["/m", "/n"]),
        );
        assert_eq!(joined.unwrap(), "/n:/a::/b:/m");
        assert_eq!(join(&[], Some("".as_ref()), &[]), None);
        assert_eq!(join(&[], None, &paths(&["/m"])).unwrap(), "/m");
    }

    #[test]
    fn folders_are_tried_in_the_order_that_the_guide_states() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let expected: Vec<PathBuf> = [
            "opt/leoma/bin",
            "opt/leoma/lib",
            "toolkit/lib64",
            "usr/local/cuda/lib64",
            "usr/local/cuda-13.0/lib64",
            "usr/local/cuda-12.10/lib64",
            "usr/local/cuda-12.8/lib64",
            "usr/local/nvidia/lib64",
            "venv/lib/python3.12/site-packages/nvidia/cu13/lib",
            "venv/lib/python3.12/site-packages/nvidia/cudnn/lib",
            "python/lib/python3.11/site-packages/nvidia/cublas/lib",
            "home/.local/lib/python3.11/site-packages/nvidia/curand/lib",
            "usr/local/lib/python3.11/dist-packages/nvidia/cu13/lib",
        ]
        .into_iter()
        .map(make)
        .collect();
        // Of no use: no libraries there, a stub folder, another program's environment.
        make("usr/local/cuda-13.0/lib64/stubs");
        make("usr/local/cuda-11");
        make("opt/other/lib/python3.12/site-packages/nvidia/cu13/lib");
        make("python/bin");
        std::fs::write(root.path().join("python/bin/python3"), "").unwrap();
        let at = |name: &str| root.path().join(name).into_os_string();
        let env = |name: &str| match name {
            "CUDA_HOME" => Some(at("toolkit")),
            "CUDA_PATH" => Some(OsString::new()),
            "VIRTUAL_ENV" => Some(at("venv")),
            "PATH" => Some(at("python/bin")),
            "HOME" => Some(at("home")),
            _ => None,
        };
        let program = root.path().join("opt/leoma/bin");
        let places = Places {
            env: &env,
            program: &program,
            root: root.path(),
        };
        assert_eq!(places.usual(), expected);
        assert_eq!(places.named(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_folder_named_may_be_a_toolkit_an_environment_or_hold_the_libraries() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let expected = [
            make("toolkit/lib64"),
            make("venv/lib/python3.12/site-packages/nvidia/cu13/lib"),
            make("packages/nvidia/cublas/lib"),
            make("plain"),
        ];
        for folder in &expected {
            std::fs::write(folder.join("libcublas.so.13"), "").unwrap();
        }
        let list = std::env::join_paths(
            ["toolkit", "venv", "packages", "plain", "absent"].map(|name| root.path().join(name)),
        )
        .unwrap();
        let env = move |name: &str| (name == LIBRARIES_VARIABLE).then(|| list.clone());
        let places = Places {
            env: &env,
            program: Path::new("/"),
            root: root.path(),
        };
        assert_eq!(places.named(), expected);
    }
}
