//! What was spent, kept in a file: a restart must not forget it.
//!
//! Before a request goes out, the most that it can cost is reserved; when the answer says what it did cost, the
//! reservation becomes that. A reservation whose process is gone counts in full: its request may have been served
//! and billed. Several processes share the file under a lock.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use leoma_models::Fault;
use serde::{Deserialize, Serialize};

use super::settings::Budget;
use crate::judge::clock::day;
use crate::judge::verdict::{NoVerdict, Reason};
use crate::media::publish::Pending;

const FILE: &str = "spent.json";
const LOCK: &str = "spent.lock";
/// A reservation older than this is taken to be of a process that is gone.
const STALE_S: f64 = 3_600.0;
/// Tasks are forgotten after this time; the network asks about none that is older than a day or two.
const TASK_KEPT_S: f64 = 7.0 * 86_400.0;
/// Of clips that belong to no task.
const NO_TASK: &str = "";

/// Tokens, and what they cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Amount {
    pub(super) nano_usd: u64,
    pub(super) tokens: u64,
}

impl Amount {
    fn plus(self, other: Self) -> Self {
        Self {
            nano_usd: self.nano_usd.saturating_add(other.nano_usd),
            tokens: self.tokens.saturating_add(other.tokens),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Book {
    version: u32,
    /// Calendar day, UTC, that `spent` is about.
    day: String,
    spent: Amount,
    tasks: BTreeMap<String, Task>,
    open: BTreeMap<String, Open>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Task {
    spent: Amount,
    /// Seconds since 1970.
    last: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Open {
    task: String,
    most: Amount,
    since: f64,
}

const VERSION: u32 = 1;

/// The file.
#[derive(Debug)]
pub(super) struct Ledger {
    folder: PathBuf,
    budget: Budget,
}

/// What may be spent by a request that is under way.
#[derive(Debug)]
#[must_use = "a reservation that is never settled counts in full"]
pub(super) struct Reservation {
    id: String,
    pub(super) most: Amount,
}

impl Ledger {
    pub(super) fn new(folder: &Path, budget: Budget) -> Self {
        Self {
            folder: folder.to_owned(),
            budget,
        }
    }

    /// Sets aside what a request can cost at most.
    ///
    /// # Errors
    /// [`Reason::Budget`] when a ceiling of the day would be passed, [`Reason::TaskBudget`] when one of the task would,
    /// [`Reason::Internal`] when the file cannot be used.
    pub(super) fn reserve(
        &self,
        task: Option<&str>,
        most: Amount,
        now: f64,
    ) -> Result<Reservation, NoVerdict> {
        let task = task.unwrap_or(NO_TASK);
        let id = uuid::Uuid::new_v4().simple().to_string();
        self.change(now, |book| {
            self.allows(book, task, most)?;
            let open = Open {
                task: task.to_owned(),
                most,
                since: now,
            };
            book.open.insert(id.clone(), open);
            Ok(())
        })?;
        Ok(Reservation { id, most })
    }

    /// Replaces a reservation by what was spent.
    ///
    /// # Errors
    /// [`Reason::Internal`] when the file cannot be used; the reservation then counts in full.
    pub(super) fn settle(
        &self,
        reservation: Reservation,
        spent: Amount,
        now: f64,
    ) -> Result<(), NoVerdict> {
        self.change(now, |book| {
            // One that was taken to be lost is in the book already, in full.
            if let Some(open) = book.open.remove(&reservation.id) {
                book.add(&open.task, spent, now);
            }
            Ok(())
        })
    }

    fn allows(&self, book: &Book, task: &str, most: Amount) -> Result<(), NoVerdict> {
        let open = |of: &dyn Fn(&Open) -> bool| {
            let open = book.open.values().filter(|open| of(open));
            open.fold(Amount::default(), |sum, open| sum.plus(open.most))
        };
        let today = book.spent.plus(open(&|_| true)).plus(most);
        let budget = &self.budget;
        let mut ceilings = vec![(
            Reason::Budget,
            "day",
            budget.nano_usd_per_day,
            budget.tokens_per_day,
            today,
        )];
        // Clips without a task have the day's ceiling only.
        if task != NO_TASK {
            let spent = book
                .tasks
                .get(task)
                .map_or(Amount::default(), |task| task.spent);
            let of_task = spent.plus(open(&|open| open.task == task)).plus(most);
            ceilings.push((
                Reason::TaskBudget,
                "task",
                budget.nano_usd_per_task,
                budget.tokens_per_task,
                of_task,
            ));
        }
        for (reason, option, dollars, tokens, total) in ceilings {
            if let Some(limit) = dollars.filter(|limit| total.nano_usd > *limit) {
                let message = format!(
                    "the budget of ${:.2} for a {option} is spent (with this request it would be up to ${:.4}); \
                     raise --usd-per-{option}, or wait",
                    limit as f64 / 1e9,
                    total.nano_usd as f64 / 1e9,
                );
                return Err(spent_out(reason, message));
            }
            if let Some(limit) = tokens.filter(|limit| total.tokens > *limit) {
                let message = format!(
                    "the budget of {limit} tokens for a {option} is spent (with this request it would be up to {}); \
                     raise --tokens-per-{option}, or wait",
                    total.tokens
                );
                return Err(spent_out(reason, message));
            }
        }
        Ok(())
    }

    /// Reads, changes and writes the book while nobody else does.
    fn change(
        &self,
        now: f64,
        change: impl FnOnce(&mut Book) -> Result<(), NoVerdict>,
    ) -> Result<(), NoVerdict> {
        let path = self.folder.join(FILE);
        std::fs::create_dir_all(&self.folder).map_err(|error| {
            broken(format!(
                "{}: cannot be made: {error}; choose another --state-dir",
                self.folder.display()
            ))
        })?;
        let lock_path = self.folder.join(LOCK);
        let lock = File::options()
            .create(true)
            .append(true)
            .open(&lock_path)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|error| {
                broken(format!(
                    "{}: cannot be locked: {error}",
                    lock_path.display()
                ))
            })?;
        let mut book = read(&path)?;
        book.turn(now);
        change(&mut book)?;
        let bytes = serde_json::to_vec(&book)
            .map_err(|error| broken(format!("{}: {error}", path.display())))?;
        let written = Pending::beside(&path).and_then(|mut pending| {
            let written = pending.file().write_all(&bytes);
            written.map_err(|error| pending.error(error))?;
            pending.publish()
        });
        drop(lock);
        written
            .map(|_| ())
            .map_err(|error| broken(error.to_string()))
    }
}

impl Book {
    /// A new day starts at nothing; what is stale is settled in full.
    fn turn(&mut self, now: f64) {
        let today = day(now);
        if self.day != today {
            self.day = today;
            self.spent = Amount::default();
        }
        let stale: Vec<_> = self
            .open
            .iter()
            .filter(|(_, open)| (now - open.since).abs() > STALE_S)
            .map(|(id, _)| id.clone())
            .collect();
        for id in stale {
            if let Some(open) = self.open.remove(&id) {
                self.add(&open.task, open.most, now);
            }
        }
        self.tasks.retain(|_, task| now - task.last < TASK_KEPT_S);
    }

    fn add(&mut self, task: &str, spent: Amount, now: f64) {
        self.spent = self.spent.plus(spent);
        if task != NO_TASK {
            let entry = self.tasks.entry(task.to_owned()).or_default();
            entry.spent = entry.spent.plus(spent);
            entry.last = now;
        }
    }
}

/// A file that cannot be read is no empty one: then a damaged disk would double the budget.
fn read(path: &Path) -> Result<Book, NoVerdict> {
    let fresh = || Book {
        version: VERSION,
        ..Book::default()
    };
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(fresh()),
        Err(error) => Err(broken(format!(
            "{}: cannot be read: {error}",
            path.display()
        ))),
        Ok(bytes) => match serde_json::from_slice::<Book>(&bytes) {
            Ok(book) if book.version == VERSION => Ok(book),
            Ok(book) => Err(broken(format!(
                "{}: is of version {}, this program writes {VERSION}; use the newer program",
                path.display(),
                book.version
            ))),
            Err(error) => Err(broken(format!(
                "{}: is damaged ({error}); remove it to start a new account of today's spending",
                path.display()
            ))),
        },
    }
}

fn spent_out(reason: Reason, message: String) -> NoVerdict {
    NoVerdict::new(super::ID, reason, Fault::Local, message)
}

fn broken(message: String) -> NoVerdict {
    NoVerdict::new(super::ID, Reason::Internal, Fault::Local, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOON: f64 = 20_779.5 * 86_400.0;

    fn amount(nano_usd: u64, tokens: u64) -> Amount {
        Amount { nano_usd, tokens }
    }

    fn ledger(folder: &Path) -> Ledger {
        Ledger::new(
            folder,
            Budget {
                nano_usd_per_day: Some(1_000),
                nano_usd_per_task: Some(600),
                tokens_per_day: Some(100),
                tokens_per_task: None,
            },
        )
    }

    fn book(folder: &Path) -> Book {
        read(&folder.join(FILE)).unwrap()
    }

    #[test]
    fn reservations_hold_until_they_are_settled_and_restarts_do_not_forget() {
        let folder = tempfile::tempdir().unwrap();
        let first = ledger(folder.path())
            .reserve(Some("7"), amount(500, 10), NOON)
            .unwrap();
        // Another process.
        let other = ledger(folder.path());
        let refused = other.reserve(Some("7"), amount(200, 1), NOON).unwrap_err();
        assert_eq!(
            (refused.reason, refused.fault),
            (Reason::TaskBudget, Fault::Local)
        );
        assert!(refused.message.contains("--usd-per-task"), "{refused}");
        let second = other.reserve(Some("8"), amount(500, 10), NOON).unwrap();
        let full = other.reserve(Some("9"), amount(1, 1), NOON).unwrap_err();
        assert_eq!(full.reason, Reason::Budget);
        assert!(full.message.contains("--usd-per-day"), "{full}");
        ledger(folder.path())
            .settle(first, amount(20, 5), NOON)
            .unwrap();
        other.settle(second, amount(30, 5), NOON).unwrap();
        let book = book(folder.path());
        assert_eq!((book.spent, book.open.len()), (amount(50, 10), 0));
        assert_eq!(book.tasks["7"].spent, amount(20, 5));
        let third = other.reserve(Some("7"), amount(580, 1), NOON).unwrap();
        other.settle(third, amount(0, 0), NOON).unwrap();
        let tokens = other.reserve(None, amount(0, 91), NOON).unwrap_err();
        assert!(tokens.message.contains("--tokens-per-day"), "{tokens}");
    }

    #[test]
    fn a_new_day_starts_at_nothing_and_lost_reservations_count_in_full() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = ledger(folder.path());
        let lost = ledger.reserve(Some("7"), amount(400, 1), NOON).unwrap();
        let later = NOON + 2.0 * STALE_S;
        let next = ledger.reserve(None, amount(1, 1), later).unwrap();
        assert_eq!(book(folder.path()).spent, amount(400, 1));
        // It comes back after all: it is in the book already.
        ledger.settle(lost, amount(1, 1), later).unwrap();
        assert_eq!(book(folder.path()).spent, amount(400, 1));
        ledger.settle(next, amount(1, 1), later + 86_400.0).unwrap();
        let book = book(folder.path());
        assert_eq!(
            (book.spent, book.day.as_str()),
            (amount(1, 1), "2026-11-23")
        );
        assert_eq!(book.tasks["7"].spent, amount(400, 1));
    }

    #[test]
    fn a_damaged_book_is_no_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        for text in [
            "",
            "{}",
            "{\"version\":2,\"day\":\"\",\"spent\":{\"nano_usd\":0,\"tokens\":0},\"tasks\":{},\"open\":{}}",
        ] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            let none = ledger(folder.path())
                .reserve(None, amount(1, 1), NOON)
                .unwrap_err();
            assert_eq!(
                (none.reason, none.fault),
                (Reason::Internal, Fault::Local),
                "{none}"
            );
        }
    }
}
