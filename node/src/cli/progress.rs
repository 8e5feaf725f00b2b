//! One bar per stage on stderr, with time left and seconds per step.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use leoma_models::wan::pipeline::Stage;

/// Progress bars of one generation; silent when stderr is not a terminal.
#[derive(Debug)]
pub(super) struct Bars {
    current: Option<(Stage, ProgressBar)>,
    visible: bool,
}

impl Bars {
    pub(super) fn new(visible: bool) -> Self {
        Self {
            current: None,
            visible,
        }
    }

    pub(super) fn progress(&mut self, stage: Stage, done: usize, total: usize) {
        let same = matches!(&self.current, Some((current, _)) if *current == stage);
        if !same {
            self.finish();
            self.current = Some((stage, self.bar(stage, total)));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_position(done as u64);
        }
    }

    fn bar(&self, stage: Stage, total: usize) -> ProgressBar {
        let target = if self.visible {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
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
        bar.set_prefix(stage.name());
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }

    /// Leaves the last bar on screen.
    pub(super) fn finish(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.abandon();
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.finish();
    }
}
