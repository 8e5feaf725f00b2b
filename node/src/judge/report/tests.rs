//! Reports of logs that hold little, nothing, or what should not be there. Figures: `statistics/reference.rs`.
#![allow(clippy::unwrap_used)]

use super::{ChanceSource, Form, LogFacts, Report, html};
use crate::judge::calibration::table::Table;
use crate::judge::statistics::Undefined;
use crate::judge::statistics::pairs::{Pair, Selection, Wanted};
use crate::judge::statistics::reference::simulated;

const PICTURE: &str = "data:image/png;base64,iVBORw0KGgo=";

fn report(pairs: &[Pair]) -> Report {
    let facts = LogFacts {
        lines: pairs.len(),
        ..LogFacts::default()
    };
    Report::of(&Selection::of(pairs, Wanted::default()), facts, None)
}

fn all_forms(report: &Report) -> [String; 3] {
    [Form::Text, Form::Json, Form::Html].map(|form| report.render(form).unwrap())
}

#[test]
fn no_form_of_any_log_holds_what_is_no_number() {
    let all = simulated();
    let mut one_class = all.clone();
    for pair in &mut one_class {
        (pair.local_pass, pair.remote_pass) = (Some(true), true);
    }
    let mut constant = all.clone();
    for pair in &mut constant {
        (pair.local, pair.remote) = ([Some(70.0); 6], [70.0; 6]);
        (pair.local_overall, pair.remote_overall) = (Some(70.0), 70.0);
    }
    let mut no_local = all.clone();
    for pair in &mut no_local {
        (pair.local, pair.local_overall, pair.local_pass) = ([None; 6], None, None);
    }
    for pairs in [
        &[][..],
        &all[..1],
        &all[..50],
        &one_class,
        &constant,
        &no_local,
        &all,
    ] {
        for text in all_forms(&report(pairs)) {
            assert!(!text.contains("NaN") && !text.contains("inf ") && !text.contains("null%"));
            assert!(text.ends_with('\n'));
        }
    }
    let found = report(&one_class);
    assert_eq!(found.decision.kappa.value, Err(Undefined::OneClass));
    assert_eq!(found.chances.source, ChanceSource::None);
    let found = report(&constant);
    assert_eq!(found.scores[0].spearman.value, Err(Undefined::Constant));
    assert_eq!(
        found.scores[0].quadratic_kappa.value,
        Err(Undefined::Constant)
    );
    assert_eq!((report(&no_local).judged, report(&[]).clips), (0, 0));
}

#[test]
fn under_thirty_tasks_no_agreement_is_given() {
    let pairs = simulated();
    let few = report(&pairs[..29 * 4]);
    assert!(!few.is_sufficient() && report(&pairs[..30 * 4]).is_sufficient());
    let [text, json, html] = all_forms(&few);
    assert!(
        text.contains("insufficient (29 tasks)")
            && text.lines().nth(1).unwrap().starts_with("insufficient")
    );
    assert!(
        json.contains("\"no_interval\": \"insufficient\"")
            && json.contains("\"sufficient\": false")
    );
    let kappa = few.decision.kappa.value.unwrap();
    assert!(!html.contains(&format!("{kappa:.3}")) && !html.contains("of the row"));
}

#[test]
fn hostile_text_stays_text() {
    let mut pairs = simulated();
    let hostile = "</code><script>alert(1)</script>\u{1b}[2J\u{202e}";
    for pair in &mut pairs {
        pair.task_id = format!("{hostile}{}", pair.task_id);
        pair.prompt = hostile.into();
        pair.video = hostile.into();
        pair.remarks = vec![hostile.into()];
        pair.local_judge.local_id = hostile.into();
        pair.remote_judge.remote_model = hostile.into();
        pair.frames = vec![
            PICTURE.into(),
            "https://example.org/x.png".into(),
            "data:image/svg+xml;base64,AAAA".into(),
            "data:image/png;base64,AA\" onload=\"x".into(),
            "data:text/html;base64,AAAA".into(),
        ];
    }
    // Different videos again, so that they are different clips.
    for (number, pair) in pairs.iter_mut().enumerate() {
        pair.video.push_str(&number.to_string());
        pair.repeat_of = None;
    }
    let [text, _, html] = all_forms(&report(&pairs));
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;"));
    assert!(html.contains(PICTURE) && html.contains("img-src data:"));
    for wrong in ["example.org", "svg+xml", "onload", "text/html;base64"] {
        assert!(!html.contains(wrong), "{wrong}");
    }
    for text in [text, html] {
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
    }
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let [_, _, html] = all_forms(&report(&simulated()));
    for word in [
        "http:",
        "https:",
        "<script",
        "<link",
        "@import",
        "url(",
        "<iframe",
        "javascript:",
        " onload",
        " onclick",
    ] {
        assert!(!html.contains(word), "{word}");
    }
    // Decisions, kappas, chances, the course, and a scatter for each score.
    assert_eq!(html.matches("<svg").count(), 4 + 7);
}

#[test]
fn only_pictures_are_pictures() {
    assert!(html::is_picture(PICTURE));
    assert!(html::is_picture("data:image/jpeg;base64,/9j/4AA="));
    for wrong in [
        "",
        "data:image/png;base64,",
        "data:image/png,AAAA",
        "data:image/gif;base64,AAAA",
        "DATA:image/png;base64,AA AA",
        "data:image/png;base64,AA'AA",
        " data:image/png;base64,AAAA",
    ] {
        assert!(!html::is_picture(wrong), "{wrong}");
    }
    assert!(!html::is_picture(&format!(
        "{PICTURE}{}",
        "A".repeat(1 << 20)
    )));
}

#[test]
fn a_calibration_is_held_against_the_log() {
    let pairs = simulated();
    let selection = Selection::of(&pairs, Wanted::default());
    let mut table = Table::fit(&selection, "2026-09-01T00:00:00.000Z".into()).unwrap();
    let found = Report::of(&selection, LogFacts::default(), Some(&table));
    let check = found.table.clone().unwrap();
    assert_eq!((check.invalid, check.unfit.len()), (None, 0));
    assert!(check.drift.baseline.is_ok() && check.drift.recent.is_ok());
    for text in all_forms(&found) {
        assert!(text.contains("fits these judges"));
    }
    let drift = |table: &Table| {
        let found = Report::of(&selection, LogFacts::default(), Some(table));
        (found.table.clone().unwrap().drift, found)
    };
    // What a table was made of does not speak for it.
    let mut made = table.clone();
    made.fitted_at = "2026-11-22T00:00:00.000Z".into();
    assert_eq!(drift(&made).0.recent, Err(Undefined::NoData));
    // Nor do other judges' clips raise its alarm.
    table.oof.kappa = Some(1.0);
    assert!(drift(&table).0.alarm);
    table.remote.remote_model = "another".into();
    let (drift, found) = drift(&table);
    assert_eq!((drift.recent, drift.alarm), (Err(Undefined::NoData), false));
    assert!(found.is_alarm() && all_forms(&found)[0].contains("remote_model"));
}

#[test]
fn few_tasks_raise_no_alarm() {
    let mut pairs = simulated();
    assert!(report(&pairs).drift.alarm);
    for (number, pair) in pairs.iter_mut().enumerate() {
        pair.task_id = (number % 29).to_string();
    }
    let found = report(&pairs);
    assert!(!found.is_sufficient() && !found.is_alarm());
    assert!(!all_forms(&found)[0].contains("Kappa of the last"));
}

#[test]
fn logged_chances_go_before_made_ones() {
    let mut pairs = simulated();
    assert_eq!(report(&pairs).chances.source, ChanceSource::OutOfFold);
    for pair in &mut pairs {
        pair.local_p_pass = pair.local_overall.map(|overall| overall / 100.0);
    }
    let found = report(&pairs);
    assert_eq!(
        (found.chances.source, found.chances.brier.n),
        (ChanceSource::Logged, found.judged)
    );
    // A handful of them does not take the place of all that were held out.
    for pair in pairs.iter_mut().skip(40) {
        pair.local_p_pass = None;
    }
    let found = report(&pairs);
    assert_eq!(
        (found.chances.source, found.chances.brier.n),
        (ChanceSource::OutOfFold, found.judged)
    );
}
