//! cuDNN on the streams of this process: a handle per stream, and the plans that were built on it.

use std::collections::HashMap;
use std::ffi::c_void;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};

use super::backend::{Handle, Plan};
use super::{Library, Result, library_of};
use crate::device::{Target, foreign};

/// What a plan is built for.
pub(super) trait Problem: Eq + Hash {
    /// Plans kept per stream.
    const PLANS: usize;

    fn plan(&self, handle: &Handle) -> Result<Plan>;
}

/// The sessions of one kind of problem, of every stream that has come by.
pub(super) struct Sessions<P>(Mutex<Vec<Session<P>>>);

/// cuDNN on one stream of one device.
pub(super) struct Session<P> {
    library: Arc<Library>,
    place: (usize, usize),
    /// Keeps the stream alive.
    _target: Target,
    /// A problem that was refused is not tried again.
    plans: HashMap<P, std::result::Result<Plan, String>>,
    handle: Handle,
}

pub(super) fn said(error: candle_core::Error) -> String {
    error.to_string()
}

impl<P: Problem> Sessions<P> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Runs `work` with the session of `target`'s stream, whose device's context is then current.
    pub(super) fn with<R>(
        &self,
        target: &Target,
        work: impl FnOnce(&mut Session<P>) -> std::result::Result<R, String>,
    ) -> std::result::Result<R, String> {
        let library = library_of(target).map_err(|error| error.to_string())?;
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (device, stream) = foreign::stream(target).map_err(said)?;
        let place = (device, stream as usize);
        let known = sessions
            .iter()
            .position(|session| session.place == place && Arc::ptr_eq(&session.library, &library));
        let index = if let Some(index) = known {
            index
        } else {
            // SAFETY: the context was made current with the stream; the session holds both.
            let handle = unsafe { Handle::new(&library, stream) };
            sessions.push(Session {
                handle: handle.map_err(|error| error.to_string())?,
                library,
                place,
                _target: target.clone(),
                plans: HashMap::new(),
            });
            sessions.len() - 1
        };
        work(&mut sessions[index])
    }

    /// Drops what is kept for `library`.
    #[cfg(all(test, feature = "shim", unix))]
    pub(super) fn forget(&self, library: &Arc<Library>) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|session| !Arc::ptr_eq(&session.library, library));
    }
}

impl<P: Problem> Session<P> {
    /// Why a problem like this was refused before.
    pub(super) fn refusal(&self, like: impl Fn(&P) -> bool) -> Option<String> {
        let plans = self.plans.iter();
        plans
            .filter(|(problem, _)| like(problem))
            .find_map(|(_, plan)| plan.as_ref().err().cloned())
    }

    /// The plan for a problem, built at the first request, or why there is none.
    fn planned(&mut self, problem: P) -> (&mut std::result::Result<Plan, String>, &mut Handle) {
        if self.plans.len() >= P::PLANS && !self.plans.contains_key(&problem) {
            self.plans.clear();
        }
        let handle = &mut self.handle;
        let plan = self
            .plans
            .entry(problem)
            .or_insert_with_key(|problem| problem.plan(handle).map_err(|error| error.to_string()));
        (plan, handle)
    }

    /// Builds the plan for a problem, or says why there is none.
    pub(super) fn prepare(&mut self, problem: P) -> std::result::Result<(), String> {
        let (plan, _) = self.planned(problem);
        plan.as_ref().map(drop).map_err(Clone::clone)
    }

    /// Runs the plan for a problem: the result, `shape` of `dtype`, which the graph names `uid`. `addresses`
    /// are those of the other operands.
    ///
    /// # Safety
    /// The addresses must be those of live tensors on `target` with the plan's shapes and strides, freed in
    /// the stream's order; those of operands by value must outlive the call. `shape` must be the plan's.
    pub(super) unsafe fn run(
        &mut self,
        target: &Target,
        what: &str,
        problem: P,
        mut addresses: Vec<(i64, *mut c_void)>,
        (uid, shape, dtype): (i64, &[usize], DType),
    ) -> std::result::Result<Tensor, String> {
        let (plan, handle) = self.planned(problem);
        let ready = match plan {
            Ok(plan) => plan,
            Err(reason) => return Err(reason.clone()),
        };
        let (address, result) = foreign::empty(target, what, shape, dtype).map_err(said)?;
        addresses.push((uid, address));
        let (workspace, _memory) = match ready.workspace_bytes() {
            0 => (std::ptr::null_mut(), None),
            bytes => {
                let (address, memory) =
                    foreign::empty(target, what, &[bytes], DType::U8).map_err(said)?;
                (address, Some(memory))
            }
        };
        // SAFETY: handle and plan are of one device, whose context `Sessions::with` made current; the
        // addresses are the caller's promise, and the result and workspace are freed in the stream's order.
        if let Err(error) = unsafe { ready.execute(handle, &addresses, workspace) } {
            let reason = error.to_string();
            *plan = Err(reason.clone());
            return Err(reason);
        }
        Ok(result)
    }
}
