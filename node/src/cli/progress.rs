//! One bar per stage on stderr, with time left and seconds per step.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

const WAITING: &str = "queued";

/// Progress bars of one generation; silent when stderr is not a terminal.
#[derive(Debug)]
pub(super) struct Bars {
    current: Option<(String, ProgressBar)>,
    visible: bool,
}

impl Bars {
    pub(super) fn new(visible: bool) -> Self {
        Self {
            current: None,
            visible,
        }
    }

    /// `done` of `total` parts of `stage`, as [`Stage::name`] spells it, are finished.
    ///
    /// [`Stage::name`]: leoma_models::wan::pipeline::Stage::name
    pub(super) fn progress(&mut self, stage: &str, done: u64, total: u64) {
        let same = matches!(&self.current, Some((current, _)) if current == stage);
        if !same {
            self.finish();
            self.current = Some((stage.to_owned(), self.bar(stage, total)));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_position(done);
        }
    }

    /// Nothing happens yet, and why.
    pub(super) fn waiting(&mut self, message: String) {
        let same = matches!(&self.current, Some((current, _)) if current == WAITING);
        if !same {
            self.finish();
            let bar = ProgressBar::with_draw_target(None, self.target());
            if let Ok(style) = ProgressStyle::with_template("{prefix:>12} {msg}, {elapsed}") {
                bar.set_style(style);
            }
            bar.set_prefix(WAITING);
            bar.enable_steady_tick(Duration::from_millis(500));
            self.current = Some((WAITING.to_owned(), bar));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_message(message);
        }
    }

    /// Prints a line on stderr without tearing the bar.
    #[allow(clippy::print_stderr)]
    pub(super) fn note(&self, line: &str) {
        match &self.current {
            Some((_, bar)) if self.visible => bar.suspend(|| eprintln!("{line}")),
            _ => eprintln!("{line}"),
        }
    }

    fn target(&self) -> ProgressDrawTarget {
        if self.visible {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        }
    }

    fn bar(&self, stage: &str, total: u64) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total), self.target());
        let template = "{prefix:>12} [{bar:30}] {pos}/{len}  {elapsed} elapsed, {eta} left{step}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            let seconds_per_step = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                if state.pos() > 0 {
                    let seconds = state.elapsed().as_secs_f64() / state.pos() as f64;
                    let _ = write!(out, ", {seconds:.2} s/step");
                }
            };
            bar.set_style(
                style
                    .with_key("step", seconds_per_step)
                    .progress_chars("=> "),
            );
        }
        bar.set_prefix(stage.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }

    /// Leaves the last bar on screen.
    pub(super) fn finish(&mut self) {
        match self.current.take() {
            // Having waited is no result.
            Some((stage, bar)) if stage == WAITING => bar.finish_and_clear(),
            Some((_, bar)) => bar.abandon(),
            None => {}
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.finish();
    }
}
