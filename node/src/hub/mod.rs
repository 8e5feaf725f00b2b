//! Checkpoints from the Hugging Face Hub, in the cache that the Python tools share.
//!
//! ```text
//! user/name, main ──► commit ──► tree ──► blobs that are missing ──► links ──► refs/main
//!                  (asked once)        (ranges, resumed, checked)
//! ```
//!
//! A branch becomes a commit first, and everything after speaks of that commit: a branch that moves meanwhile
//! changes nothing. A blob gets its name only when its size and digest are those the Hub gave; a name in the
//! cache never stands for half a file, however the process ends. What the cache holds of a full commit is used
//! without asking anybody.
//!
//! `hf-hub` gives the names in the cache. Its network half is not used: release 1 needs a newer compiler than
//! ours and a second TLS library, release 0.5 a second HTTP client, and neither checks or resumes what it
//! downloads.

mod blob;
mod cache;
mod describe;
mod digest;
mod error;
mod history;
mod http;
mod layout;
mod lock;
mod name;
mod part;
mod pull;
mod ranges;
mod retry;
mod select;
mod settings;
mod tree;
mod verify;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use cache::{CachedRepo, CachedRevision, Removed, find, list, remove};
pub use describe::{Described, DescribedFile, describe};
pub use error::{HubError, Result};
pub use history::commit_date;
pub use name::{Commit, RepoId, Revision};
pub use pull::{PullOptions, Snapshot, pull};
pub use select::Selection;
pub use settings::{Env, HubSettings};
pub use tree::{Tree, TreeFile};
pub use verify::{FileCheck, FileState, Verification, verify};

/// Who is told what happens. Called from several threads.
pub type Report = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// What happens between a name and its files, for whoever watches.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The revision stands for this commit.
    Resolved {
        /// What was asked for.
        revision: &'a Revision,
        /// What it is.
        commit: &'a Commit,
    },
    /// The repository has another name now; the old one still leads to it.
    Renamed {
        /// What was asked for.
        from: &'a RepoId,
        /// What the Hub calls it.
        to: &'a str,
    },
    /// The Hub cannot be asked; what it said earlier is used.
    Unasked {
        /// What was asked for.
        revision: &'a Revision,
        /// What it was when the Hub was last asked.
        commit: &'a Commit,
        /// Why the Hub cannot be asked.
        reason: &'a str,
    },
    /// What there is to do.
    Planned {
        /// Files that are wanted.
        files: usize,
        /// Contents of them that are missing.
        missing: usize,
        /// Bytes of the missing contents.
        bytes: u64,
    },
    /// So many bytes of the missing contents are there from an earlier attempt.
    Kept(u64),
    /// So many more bytes of the missing contents arrived.
    Bytes(u64),
    /// Another process fetches this file; it is waited for.
    Waiting {
        /// Path in the repository.
        file: &'a str,
        /// Bytes that it has.
        done: u64,
        /// Bytes in all.
        size: u64,
    },
    /// Something went wrong and is tried again.
    Retrying {
        /// Path in the repository, or what was asked.
        file: &'a str,
        /// What went wrong.
        reason: &'a str,
        /// When it is tried again.
        delay: Duration,
    },
    /// The bytes that came were not those of the file; they are fetched anew.
    StartedOver {
        /// Path in the repository.
        file: &'a str,
        /// Bytes that were reported and are gone.
        lost: u64,
        /// What was expected and what came.
        reason: &'a str,
    },
    /// A content is whole and right, and gets its name.
    Publishing {
        /// Path in the repository.
        file: &'a str,
        /// How far that is.
        step: PublishStep,
    },
    /// A content was there, and was not what the Hub says; it is fetched again.
    Removed {
        /// Path in the repository.
        file: &'a str,
        /// What was expected and what was found.
        reason: &'a str,
    },
    /// A file of the commit is in its place.
    Linked {
        /// Path in the repository.
        file: &'a str,
    },
}

/// Steps of giving a blob its name, in order. After a power cut between any two, the name stands for the whole
/// content or for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishStep {
    /// Size and digest are right.
    Checked,
    /// The bytes are on the disk.
    Synced,
    /// The name is there.
    Renamed,
    /// The name is on the disk.
    Settled,
}

impl fmt::Display for PublishStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checked => "checked",
            Self::Synced => "synced",
            Self::Renamed => "renamed",
            Self::Settled => "settled",
        })
    }
}
