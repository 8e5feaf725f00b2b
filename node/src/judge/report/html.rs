//! The agreement page.

use super::sentences::{self, estimate, plain, share};
use super::{ChanceSource, Disagreement, LIMITS, Report, Share, plots};
use crate::judge::calibration::WINDOW;
use crate::judge::rubric::Dimension;
use crate::judge::statistics::bootstrap::ENOUGH_TASKS;
use crate::report::Tool;
use crate::report::html::{self, Images, escaped, put};
use crate::report::words::count;
use crate::time::rfc3339;

const STYLE: &str = include_str!("agreement.css");
/// Frames of a clip.
const FRAMES: usize = 16;
/// Longest frame, as a data URL.
const FRAME_BYTES: usize = 1 << 20;
/// Bytes of all frames: a page that no browser opens helps nobody.
const ALL_FRAMES_BYTES: usize = 48 << 20;

pub(super) fn render(report: &Report) -> String {
    let title = report.title();
    let mut page = html::open(&title, Images::Inline, STYLE);
    let class = if !report.is_sufficient() {
        "incomplete"
    } else if report.is_alarm() {
        "found"
    } else {
        "clean"
    };
    put!(
        page,
        "<p class=\"outcome {class}\">{}</p>",
        escaped(&capital(&sentences::conclusion(report)))
    );
    put!(page, "<section>\n<h2>What the figures say</h2>\n<ul>");
    for sentence in sentences::all(report) {
        put!(page, "<li>{}</li>", escaped(&sentence));
    }
    put!(page, "</ul>\n</section>");
    if report.judged > 0 {
        decisions(&mut page, report);
        kappas(&mut page, report);
        scores(&mut page, report);
        chances(&mut page, report);
        course(&mut page, report);
        clips(&mut page, report);
    }
    put!(page, "<section>\n<h2>What this does not prove</h2>\n<ul>");
    for limit in LIMITS {
        put!(page, "<li>{}</li>", escaped(limit));
    }
    put!(page, "</ul>\n</section>");
    facts(&mut page, report);
    html::close(
        &mut page,
        &Tool::THIS,
        "Every formula is in docs/judge-agreement.md of the sources; the JSON form of this report has all figures.",
    );
    page
}

fn capital(sentence: &str) -> String {
    let mut rest = sentence.chars();
    rest.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(rest).chain(['.']).collect()
    })
}

fn row(page: &mut String, name: &str, value: &str) {
    put!(
        page,
        "<tr><th scope=\"row\">{name}</th><td>{}</td></tr>",
        escaped(value)
    );
}

fn decisions(page: &mut String, report: &Report) {
    let decision = &report.decision;
    put!(
        page,
        "<section>\n<h2>Pass and fail</h2>\n<div class=\"beside\">"
    );
    put!(
        page,
        "<figure><div class=\"wide\">{}</div></figure>\n<div class=\"wide\"><table class=\"figures\"><tbody>",
        plots::confusion(&decision.confusion, report.is_sufficient())
    );
    row(page, "same decision", &estimate(&decision.agreement));
    row(page, "kappa", &estimate(&decision.kappa));
    row(
        page,
        "kappa of the remote judge with itself",
        &estimate(&report.ceiling.kappa),
    );
    row(page, "false pass", &share(&decision.false_pass));
    row(page, "its Wilson interval", &wilson(&decision.false_pass));
    row(page, "false fail", &share(&decision.false_fail));
    row(page, "its Wilson interval", &wilson(&decision.false_fail));
    put!(page, "</tbody></table></div>\n</div>");
    put!(
        page,
        "<p class=\"note\">A false pass is a clip that the local judge lets pass and the remote one does not; a false \
         fail is the other way round. Intervals are of 95 %, over draws of whole tasks; Wilson's take every clip as \
         independent, and hold where nothing was counted.</p>\n</section>"
    );
}

fn wilson(share: &Share) -> String {
    match share.wilson {
        Some(_) if !share.rate.is_sufficient() => "insufficient".into(),
        Some([low, high]) => format!("{:.1} % to {:.1} %", 100.0 * low, 100.0 * high),
        None => "none".into(),
    }
}

/// What stands where a drawing of too few tasks would be believed.
fn insufficient(page: &mut String, report: &Report) {
    put!(
        page,
        "<p>Insufficient: {} of the {ENOUGH_TASKS} tasks that are needed.</p>",
        report.tasks
    );
}

fn kappas(page: &mut String, report: &Report) {
    put!(page, "<section>\n<h2>Agreement and its ceiling</h2>");
    if report.is_sufficient() {
        put!(
            page,
            "<figure>\n<figcaption>Pass or fail: Cohen's kappa. Scores: kappa with quadratic weights on five bins. \
             Nothing more can be asked of a judge that lies at the ceiling.</figcaption>\n<div class=\"wide\">{}\
             </div>\n<p class=\"legend\"><span class=\"swatch same\"></span> local with remote <span \
             class=\"swatch against\"></span> remote with itself, asked twice</p>\n</figure>",
            plots::kappas(report)
        );
        if !report.ceiling.kappa.is_sufficient() {
            put!(
                page,
                "<p class=\"note\">The ceiling is not drawn: clips of {} were shown to the remote judge twice, and \
                 {ENOUGH_TASKS} are needed.</p>",
                count(report.ceiling.kappa.tasks, "task")
            );
        }
    } else {
        insufficient(page, report);
    }
    put!(page, "</section>");
}

fn scores(page: &mut String, report: &Report) {
    put!(
        page,
        "<section>\n<h2>Scores</h2>\n<div class=\"wide\"><table><thead><tr><th>score</th><th class=\"number\">clips\
         </th><th class=\"number\">quadratic kappa</th><th class=\"number\">Spearman</th><th class=\"number\">local \
         less remote</th><th class=\"number\">distance</th></tr></thead><tbody>"
    );
    for scored in &report.scores {
        put!(
            page,
            "<tr><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
            scored.name(),
            scored.points.len(),
            escaped(&estimate(&scored.quadratic_kappa)),
            escaped(&estimate(&scored.spearman)),
            escaped(&plain(scored.mean_gap)),
            escaped(&plain(scored.mean_distance))
        );
    }
    put!(page, "</tbody></table></div>\n<div class=\"many\">");
    for scored in report
        .scores
        .iter()
        .filter(|scored| !scored.points.is_empty())
    {
        put!(
            page,
            "<figure><figcaption><strong>{}</strong></figcaption>{}</figure>",
            scored.name().replace('_', " "),
            plots::scatter(scored)
        );
    }
    put!(
        page,
        "</div>\n<p class=\"note\">A dot is a clip. On the dashed line both judges give the same score; a cloud beside \
         the line is a judge that is harder or milder, which a calibration mends; a wide cloud is disagreement, which \
         nothing mends.</p>\n</section>"
    );
}

fn chances(page: &mut String, report: &Report) {
    let chances = &report.chances;
    put!(page, "<section>\n<h2>Chances of a remote pass</h2>");
    if chances.source == ChanceSource::None {
        let why = chances.refusal.as_deref().unwrap_or("the log holds none.");
        put!(page, "<p>None: {}</p>\n</section>", escaped(why));
        return;
    }
    if !chances.brier.is_sufficient() {
        insufficient(page, report);
        put!(page, "</section>");
        return;
    }
    let source = match (chances.source, chances.method) {
        (ChanceSource::Logged, _) => "as logged when the clips were judged".to_owned(),
        (_, Some(method)) => {
            format!("calibrated on other tasks of this log ({method}, five parts)")
        }
        (_, None) => "calibrated on other tasks of this log".to_owned(),
    };
    put!(
        page,
        "<div class=\"beside\">\n<figure><div class=\"wide\">{}</div></figure>\n<div class=\"wide\"><table \
         class=\"figures\"><tbody>",
        plots::reliability(&chances.bins)
    );
    row(page, "chances", &source);
    row(page, "Brier score", &estimate(&chances.brier));
    row(
        page,
        "of always the same chance",
        &plain(chances.base_brier),
    );
    row(page, "expected calibration error", &estimate(&chances.ece));
    row(
        page,
        "area under the ROC curve, local overall",
        &estimate(&chances.auc),
    );
    row(
        page,
        "kappa of the calibrated decision",
        &estimate(&chances.kappa),
    );
    put!(
        page,
        "</tbody></table></div>\n</div>\n<p class=\"note\">Each dot is a tenth of the clips, with Wilson's interval of \
         the share that passed. On the dashed line a chance of 0.7 means that seven of ten pass. The calibration error of few clips is \
         never 0 even for perfect chances, and its draws lie higher still.</p>\n</section>"
    );
}

fn course(page: &mut String, report: &Report) {
    put!(page, "<section>\n<h2>Over time</h2>");
    let sufficient = report.is_sufficient() && report.course.len() > 1;
    if sufficient {
        let window = WINDOW.min(report.judged / 2).max(1);
        put!(
            page,
            "<figure><div class=\"wide\">{}</div></figure>\n<p class=\"note\">Windows overlap, so neighbouring dots \
             share most of their clips.</p>",
            plots::course(&report.course, window)
        );
    } else {
        insufficient(page, report);
    }
    put!(page, "</section>");
}

fn clips(page: &mut String, report: &Report) {
    put!(page, "<section>\n<h2>Clips that disagree most</h2>");
    if report.disagreements.is_empty() {
        put!(page, "<p>No clip lies far apart.</p>\n</section>");
        return;
    }
    put!(
        page,
        "<p>{} of {} differ in the decision, by more than 20 points overall, or by more than 30 in a critical \
         dimension. The worst come first.</p>",
        report.disagreeing,
        count(report.judged, "clip")
    );
    let mut room = ALL_FRAMES_BYTES;
    for clip in report.disagreements.iter().take(Report::SHOWN_CLIPS) {
        self::clip(page, clip, &mut room);
    }
    let left = report.disagreeing - report.disagreements.len().min(Report::SHOWN_CLIPS);
    if left > 0 {
        put!(page, "<p>{} more are in the JSON form.</p>", left);
    }
    put!(page, "</section>");
}

fn clip(page: &mut String, clip: &Disagreement, room: &mut usize) {
    let pair = &clip.pair;
    put!(
        page,
        "<article class=\"clip\">\n<h3>Task {}</h3>\n<p>",
        escaped(&pair.task_id)
    );
    for reason in &clip.reasons {
        let class = if clip.is_decision() { "high" } else { "medium" };
        put!(
            page,
            "<span class=\"severity {class}\">{}</span>",
            reason.words()
        );
    }
    put!(
        page,
        "</p>\n<p class=\"note\">{}, video <code>{}</code></p>",
        rfc3339(pair.time),
        escaped(&pair.video)
    );
    if !pair.prompt.is_empty() {
        put!(page, "<p class=\"said\">{}</p>", escaped(&pair.prompt));
    }
    put!(
        page,
        "<div class=\"wide\"><table class=\"marks\"><thead><tr><th></th><th class=\"number\">overall</th>"
    );
    for dimension in Dimension::ALL {
        put!(
            page,
            "<th class=\"number\">{}</th>",
            dimension.key().replace('_', " ")
        );
    }
    put!(page, "</tr></thead><tbody>");
    let known: [Option<f64>; 6] = pair.remote.map(Some);
    for (name, overall, passes, scores) in [
        ("local", clip.local_overall, clip.local_pass, &pair.local),
        ("remote", pair.remote_overall, pair.remote_pass, &known),
    ] {
        let decided = if passes {
            ("clean", "pass")
        } else {
            ("high", "fail")
        };
        put!(
            page,
            "<tr><td>{name} <span class=\"severity {}\">{}</span></td><td class=\"number\">{overall:.0}</td>",
            decided.0,
            decided.1
        );
        for score in scores {
            let score = score.map_or_else(|| "–".to_owned(), |score| format!("{score:.0}"));
            put!(page, "<td class=\"number\">{score}</td>");
        }
        put!(page, "</tr>");
    }
    put!(page, "</tbody></table></div>");
    frames(page, &pair.frames, room);
    if !pair.remarks.is_empty() {
        put!(page, "<ul class=\"note\">");
        for remark in &pair.remarks {
            put!(page, "<li>{}</li>", escaped(remark));
        }
        put!(page, "</ul>");
    }
    put!(page, "</article>");
}

fn frames(page: &mut String, frames: &[String], room: &mut usize) {
    let mut shown: Vec<&String> = Vec::new();
    for frame in frames.iter().filter(|frame| is_picture(frame)).take(FRAMES) {
        if frame.len() <= *room {
            *room -= frame.len();
            shown.push(frame);
        }
    }
    if shown.is_empty() {
        return;
    }
    put!(page, "<div class=\"frames\">");
    for (number, frame) in shown.into_iter().enumerate() {
        put!(page, "<img alt=\"frame {}\" src=\"{frame}\">", number + 1);
    }
    put!(page, "</div>");
}

/// Whether a text is a picture as a data URL and nothing else: it goes into the page as it is.
pub(super) fn is_picture(text: &str) -> bool {
    let data = ["data:image/jpeg;base64,", "data:image/png;base64,"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix));
    data.is_some_and(|data| {
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
        !data.is_empty() && text.len() <= FRAME_BYTES && data.bytes().all(is_base64)
    })
}

fn facts(page: &mut String, report: &Report) {
    let log = &report.log;
    put!(
        page,
        "<section>\n<h2>What this was made from</h2>\n<div class=\"wide\"><table class=\"figures\"><tbody>"
    );
    if report.clips > 0 {
        let local = &report.local;
        row(page, "local judge", &local.local_id);
        row(
            page,
            "its weights",
            local.weights_sha256.as_deref().unwrap_or("none"),
        );
        row(page, "its prompt and rules", &local.prompt_sha256);
        row(page, "frames", &local.sampling);
        row(page, "remote judge", &report.remote.remote_model);
        let digest = report.remote.remote_configuration_sha256.as_deref();
        row(page, "its configuration", digest.unwrap_or("not logged"));
    }
    if let Some((from, to)) = report.span {
        row(page, "from", &rfc3339(from));
        row(page, "to", &rfc3339(to));
    }
    row(page, "lines of the log", &log.lines.to_string());
    row(
        page,
        "without two verdicts",
        &log.without_verdicts.to_string(),
    );
    row(page, "unusable", &log.unusable.to_string());
    row(
        page,
        "clips, also without a local verdict",
        &report.clips.to_string(),
    );
    row(
        page,
        "repeats of the remote judge",
        &report.ceiling.kappa.n.to_string(),
    );
    for (local, remote, records) in &report.others {
        let local = match local.local_id.as_str() {
            "" => "no local verdict",
            name => name,
        };
        let name = format!("{local} beside {}", remote.remote_model);
        row(
            page,
            "other judges",
            &format!("{name}: {}", count(*records, "record")),
        );
    }
    put!(page, "</tbody></table></div>");
    if !log.problems.is_empty() {
        put!(page, "<ul class=\"note\">");
        for problem in &log.problems {
            let (place, reason) = (problem.place(), &problem.reason);
            put!(page, "<li>{}: {}</li>", escaped(&place), escaped(reason));
        }
        put!(page, "</ul>");
    }
    put!(page, "</section>");
}
