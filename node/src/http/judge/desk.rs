//! Who judges, how many clips at a time, and who has to come back later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use leoma_models::Fault;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::super::ApiError;
use crate::engine::Engine;
use crate::judge::input::JudgeInput;
use crate::judge::log::Log;
use crate::judge::profile::Configuration;
use crate::judge::side::{Bench, Judge, Mode};
use crate::judge::verdict::{NoVerdict, Outcome, Reason};

/// Clips that are judged at a time: each may hold a gigabyte of frames.
const TURNS: usize = 2;
/// Requests that may wait for a turn: each holds a clip and a picture as files.
const WAITING: usize = 4;
/// When a refused caller should try again.
const COME_BACK: Duration = Duration::from_secs(10);
/// Between two looks at whether the device is free.
const LOOK: Duration = Duration::from_millis(50);

/// How `POST /v1/judge` judges.
#[derive(Debug)]
pub struct JudgeOptions {
    /// The judges, the mode that counts where a request names none, and the time that the judges have.
    pub bench: Bench,
    /// Whether the local judge computes on the device that makes clips, and so lets clips go first.
    pub shares_device: bool,
    /// Where every judgement becomes a line.
    pub log: Option<Log>,
}

/// The judges and the line before them. Cheap to clone.
#[derive(Debug, Clone)]
pub(in super::super) struct Desk {
    options: Arc<JudgeOptions>,
    /// A permit for every request that waits or is judged.
    line: Arc<Semaphore>,
    /// A permit for every clip that is judged.
    turns: Arc<Semaphore>,
}

/// A place in the line.
#[derive(Debug)]
pub(super) struct Place {
    turns: Arc<Semaphore>,
    patience: Duration,
    permit: OwnedSemaphorePermit,
}

/// A turn; given back when the work that holds it is over, also when the client has left.
#[derive(Debug)]
pub(super) struct Turn {
    _place: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

impl Desk {
    pub(in super::super) fn new(options: JudgeOptions) -> Self {
        Self {
            options: Arc::new(options),
            line: Arc::new(Semaphore::new(TURNS + WAITING)),
            turns: Arc::new(Semaphore::new(TURNS)),
        }
    }

    /// The mode that counts where a request names none.
    pub(in super::super) fn mode(&self) -> Mode {
        self.options.bench.mode
    }

    /// Where every judgement becomes a line.
    pub(super) fn log(&self) -> Option<Log> {
        self.options.log.clone()
    }

    /// Clips being judged, and requests that wait for a turn.
    pub(in super::super) fn load(&self) -> (usize, usize) {
        let running = TURNS - self.turns.available_permits().min(TURNS);
        let inside = TURNS + WAITING - self.line.available_permits().min(TURNS + WAITING);
        (running, inside.saturating_sub(running))
    }

    /// Whether there is a place now, before a body is read.
    ///
    /// # Errors
    /// 503 when there is none.
    pub(super) fn admit(&self) -> Result<(), ApiError> {
        if self.line.available_permits() > 0 {
            Ok(())
        } else {
            Err(full())
        }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// 503 when there is none.
    pub(super) fn enter(&self) -> Result<Place, ApiError> {
        let permit = Arc::clone(&self.line).try_acquire_owned();
        Ok(Place {
            turns: Arc::clone(&self.turns),
            patience: self.options.bench.deadline,
            permit: permit.map_err(|_| full())?,
        })
    }

    /// The judges in a mode. `engine` makes clips, on the device that the local judge may need, too.
    pub(super) fn bench(&self, mode: Mode, engine: Option<&Arc<Engine>>) -> Bench {
        let mut bench = Bench {
            mode,
            ..self.options.bench.clone()
        };
        if let Some(engine) = engine.filter(|_| self.options.shares_device) {
            let engine = Arc::clone(engine);
            bench.local = bench
                .local
                .map(|judge| Arc::new(AfterClips { judge, engine }) as Arc<dyn Judge>);
        }
        bench
    }
}

impl Place {
    /// Waits for a turn, no longer than the judges have.
    ///
    /// # Errors
    /// 503 when it does not come.
    pub(super) async fn turn(self) -> Result<Turn, ApiError> {
        let turn = timeout(self.patience, self.turns.acquire_owned()).await;
        match turn {
            Ok(Ok(turn)) => Ok(Turn {
                _place: self.permit,
                _turn: turn,
            }),
            // Never closed, so only the time can be over.
            Ok(Err(_)) | Err(_) => Err(full()),
        }
    }
}

fn full() -> ApiError {
    let message = "too many clips are being judged; try again later";
    ApiError::unavailable("judge_busy", message, COME_BACK)
}

/// A judge that lets the engine's clips go first. What begins while it works shares the device with it.
struct AfterClips {
    judge: Arc<dyn Judge>,
    engine: Arc<Engine>,
}

impl Judge for AfterClips {
    fn id(&self) -> &str {
        self.judge.id()
    }

    fn configuration(&self) -> &Configuration {
        self.judge.configuration()
    }

    /// Runs on a thread of its own, beside the one that asks the remote judge.
    fn judge(&self, input: &JudgeInput, within: Duration) -> Outcome {
        let start = Instant::now();
        while self.engine.load().running > 0 {
            if start.elapsed() >= within {
                let message = "the device made clips all the time; judge again when it is idle";
                return NoVerdict::new(self.id(), Reason::Deadline, Fault::Transient, message)
                    .into();
            }
            std::thread::sleep(LOOK);
        }
        let left = within.saturating_sub(start.elapsed());
        self.judge.judge(input, left)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn desk(deadline: Duration) -> Desk {
        let none = || NoVerdict::new("test", Reason::Key, Fault::Local, "no key");
        Desk::new(JudgeOptions {
            bench: Bench {
                mode: Mode::Remote,
                remote: Err(none()),
                local: Err(none()),
                calibration: None,
                deadline,
            },
            shares_device: false,
            log: None,
        })
    }

    #[tokio::test]
    async fn the_line_is_as_long_as_it_says_and_moves_on() {
        let desk = desk(Duration::from_secs(30));
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push(desk.enter().unwrap().turn().await.unwrap());
        }
        let mut waiting: Vec<Place> = (0..WAITING).map(|_| desk.enter().unwrap()).collect();
        assert_eq!(desk.load(), (TURNS, WAITING));
        for refused in [desk.admit(), desk.enter().map(|_| ())] {
            let error = refused.unwrap_err();
            assert_eq!((error.status().as_u16(), error.code()), (503, "judge_busy"));
        }
        // One that leaves makes room, one that ends gives its turn on.
        drop(waiting.pop());
        desk.admit().unwrap();
        turns.pop();
        let next = waiting.pop().unwrap().turn().await.unwrap();
        assert_eq!(desk.load(), (TURNS, WAITING - 2));
        drop((turns, waiting, next));
        assert_eq!(desk.load(), (0, 0));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_turn_longer_than_the_judges_have() {
        let desk = desk(Duration::from_millis(5));
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push(desk.enter().unwrap().turn().await.unwrap());
        }
        let error = desk.enter().unwrap().turn().await.unwrap_err();
        assert_eq!(error.code(), "judge_busy");
        assert_eq!(desk.load(), (TURNS, 0), "its place is free again");
    }
}
