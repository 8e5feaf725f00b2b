//! Checks of the data folder: writable, room left, not in use.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::{Finding, Subject, human};

/// The file that a running node holds a lock on, inside its data folder.
const LOCK_FILE: &str = "lock";

/// The folder, or the nearest one around it that is there already.
fn existing(folder: &Path) -> Option<&Path> {
    folder
        .ancestors()
        .map(|part| {
            if part.as_os_str().is_empty() {
                Path::new(".")
            } else {
                part
            }
        })
        .find(|part| part.exists())
}

pub(super) fn writable(subject: &Subject) -> Finding {
    let folder = &subject.data_dir;
    let shown = folder.display();
    let remedy = "choose another with --data-dir, or give this user the right to write there";
    let Some(place) = existing(folder) else {
        return Finding::bad(format!("{shown} cannot be reached"), remedy);
    };
    if !place.is_dir() {
        return Finding::bad(format!("{} is no folder", place.display()), remedy);
    }
    match tempfile::tempfile_in(place) {
        Err(error) => Finding::bad(
            format!("{} cannot be written: {error}", place.display()),
            remedy,
        ),
        Ok(_) if place == folder => Finding::good(format!("{shown} can be written")),
        Ok(_) => Finding::good(format!("{shown} will be made")),
    }
}

pub(super) fn disk(subject: &Subject) -> Finding {
    let place = existing(&subject.data_dir);
    let Some(stat) = place.and_then(|place| rustix::fs::statvfs(place).ok()) else {
        return Finding::skip("the file system does not tell");
    };
    let free = stat.f_bavail * stat.f_frsize;
    let found = format!("{} free under {}", human(free), subject.data_dir.display());
    if free < subject.min_free_bytes {
        return Finding::bad(
            format!("{found}; {} must stay free", human(subject.min_free_bytes)),
            "make room, choose another --data-dir, or lower --min-free-bytes",
        );
    }
    Finding::good(found)
}

pub(super) fn lock(subject: &Subject) -> Finding {
    let path = subject.data_dir.join(LOCK_FILE);
    let Ok(file) = File::open(&path) else {
        return Finding::good("no other node uses the data folder");
    };
    match file.try_lock() {
        // Dropping the file gives the lock back.
        Ok(()) => Finding::good("no other node uses the data folder"),
        Err(TryLockError::WouldBlock) => Finding::bad(
            format!("another node uses {}", subject.data_dir.display()),
            "stop it, or choose another --data-dir",
        ),
        Err(TryLockError::Error(error)) => {
            Finding::skip(format!("{} does not tell: {error}", path.display()))
        }
    }
}
