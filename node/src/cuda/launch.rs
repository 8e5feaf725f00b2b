//! Becoming the CUDA build.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::libraries::LOADER_PATH;
use super::{Problem, Survey};

/// Set to the process's number when it becomes another program: a "CUDA build" that comes here again is
/// none, and must not start itself for ever. Processes that it starts have numbers of their own.
const LAUNCHED: &str = "LEOMA_CUDA_LAUNCHED_BY";

/// Replaces this program by the CUDA build beside it, with the same arguments, when the card can be used.
///
/// # Errors
/// Everything that is missing, the deepest cause first; at least one thing.
pub fn launch(ordinal: usize) -> Result<Infallible, Vec<Problem>> {
    let own = std::process::id().to_string();
    if std::env::var(LAUNCHED).is_ok_and(|number| number == own) {
        let path = std::env::current_exe().unwrap_or_else(|_| super::CUDA_PROGRAM.into());
        return Err(vec![Problem::NotCuda { path }]);
    }
    let survey = Survey::new();
    let problems = survey.problems(ordinal);
    let program = match survey.program {
        Ok(program) if problems.is_empty() => program,
        _ => return Err(problems),
    };
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1)).env(LAUNCHED, own);
    if let Some(path) = survey.loader_path {
        command.env(LOADER_PATH, path);
    }
    // Returns only when it fails.
    let error = command.exec();
    Err(vec![Problem::NotExecutable {
        path: program,
        reason: error.to_string(),
    }])
}
