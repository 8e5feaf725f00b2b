//! What goes wrong between a request and its answer, through the library: each gives the outcome that
//! `docs/judge.md` states, and never a zero.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use leoma_models::Fault;
use leoma_node::judge::clock::{Clock, ManualClock, SystemClock};
use leoma_node::judge::input::JudgeInput;
use leoma_node::judge::profile::{Configuration, Profile};
use leoma_node::judge::remote::{Budget, Price, Remote, RemoteJudge, RemoteSettings};
use leoma_node::judge::rubric::Rules;
use leoma_node::judge::sampling::FrameRule;
use leoma_node::judge::side::Judge;
use leoma_node::judge::verdict::{NoVerdict, Outcome, Reason, Verdict};
use leoma_node::media::RgbImage8;
use serde_json::json;

use crate::mock::{Answer, Mock, error, error_with, message, says};

/// Long enough for anything that answers; nothing here waits for it.
const PATIENT: Duration = Duration::from_secs(120);
/// 2026-11-22, noon.
const NOON: f64 = 20_779.5 * 86_400.0;

fn settings(base: &str, state: &Path) -> RemoteSettings {
    RemoteSettings {
        base: RemoteSettings::parse_base(base).unwrap(),
        model: "m".into(),
        key: None,
        price: Price::per_million(2.5, 10.0),
        budget: Budget::default(),
        backoff: Duration::from_millis(1),
        state: state.to_owned(),
    }
}

struct Setup {
    state: tempfile::TempDir,
    clock: Arc<dyn Clock>,
    profile: Profile,
}

impl Setup {
    fn new() -> Self {
        Self {
            state: tempfile::tempdir().unwrap(),
            clock: Arc::new(SystemClock::default()),
            profile: Profile::Subnet,
        }
    }

    fn judge(&self, change: impl FnOnce(&mut RemoteSettings), mock: &Mock) -> RemoteJudge {
        let mut settings = settings(&mock.base, self.state.path());
        change(&mut settings);
        let model = settings.model.clone();
        let remote = Remote::new(settings, Arc::clone(&self.clock)).unwrap();
        let configuration =
            Configuration::remote(self.profile, &model, Rules::default(), FrameRule::default());
        RemoteJudge::new(Arc::new(remote), configuration).unwrap()
    }
}

fn input() -> JudgeInput {
    let frame = |level: u8| RgbImage8::new(16, 16, vec![level; 768]).unwrap();
    let clip = ((0..33).map(frame).collect(), (16, 1));
    let task = Some("17".to_owned());
    JudgeInput::new(
        "0".repeat(64),
        clip,
        (frame(0), vec![0x89]),
        "a boat".into(),
        task,
    )
    .unwrap()
}

fn good() -> Answer {
    let scores = json!({
        "first_frame_fidelity": 80, "prompt_adherence": 80, "motion_quality": 80, "temporal_consistency": 80,
        "visual_quality": 80, "camera_composition": 80,
    });
    says(&json!({"overall_score": 80, "confidence": 80, "aspect_scores": scores}).to_string())
}

fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Verdict(verdict) => *verdict,
        Outcome::NoVerdict(none) => panic!("{none}"),
    }
}

fn none(outcome: Outcome) -> NoVerdict {
    match outcome {
        Outcome::NoVerdict(none) => *none,
        Outcome::Verdict(verdict) => panic!("{verdict:?}"),
    }
}

/// One question to a server that gives these answers.
fn asked(answers: Vec<Answer>) -> (Outcome, usize) {
    let setup = Setup::new();
    let mock = Mock::start(answers);
    let outcome = setup.judge(|_| (), &mock).judge(&input(), PATIENT);
    (outcome, mock.asked().len())
}

#[test]
fn what_will_not_pass_is_not_tried_again() {
    let refusal = message(
        json!({"content": null, "refusal": "I can't help with that."}),
        "stop",
    );
    let filter = message(json!({"content": ""}), "content_filter");
    for (answer, reason, fault) in [
        (refusal, Reason::Refused, Fault::Transient),
        (filter, Reason::Refused, Fault::Transient),
        (
            error(400, "content_policy_violation", "no"),
            Reason::Refused,
            Fault::Transient,
        ),
        (
            error(429, "insufficient_quota", "no credit"),
            Reason::Quota,
            Fault::Local,
        ),
        (
            error(401, "invalid_api_key", "who are you"),
            Reason::Key,
            Fault::Local,
        ),
        (
            error(404, "model_not_found", "no such model"),
            Reason::ModelGone,
            Fault::Local,
        ),
        (
            error(400, "bad", "what is this"),
            Reason::Request,
            Fault::Local,
        ),
    ] {
        let (outcome, requests) = asked(vec![answer.clone(), good()]);
        let none = none(outcome);
        assert_eq!(
            (none.reason, none.fault, requests),
            (reason, fault, 1),
            "{answer:?}: {none}"
        );
    }
}

#[test]
fn a_key_that_the_server_says_back_is_not_repeated() {
    let setup = Setup::new();
    let key = "sk-0123456789";
    let with_key = |settings: &mut RemoteSettings| settings.key = Some(key.into());
    let words = format!("Incorrect API key provided: {key}.");
    let mock = Mock::start(vec![error(401, "invalid_api_key", &words)]);
    let none = none(setup.judge(with_key, &mock).judge(&input(), PATIENT));
    let sent = mock.asked()[0].header("authorization").map(str::to_owned);
    assert_eq!(sent, Some(format!("Bearer {key}")));
    assert_eq!(none.reason, Reason::Key);
    assert!(
        none.message.contains("Incorrect API key provided: [key]."),
        "{none}"
    );
    // In an answer, which becomes evidence, too.
    let mock = Mock::start(vec![says(&words)]);
    let verdict = verdict(setup.judge(with_key, &mock).judge(&input(), PATIENT));
    assert!(!serde_json::to_string(&verdict).unwrap().contains(key));
}

#[test]
fn what_passes_is_tried_again() {
    let cut = Answer::Cut(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"choices\":".to_vec());
    let page = Answer::Full(200, Vec::new(), "<html>Bad gateway</html>".into());
    // What a worker had when its server stopped it is no answer of the model.
    let half = json!({"content": "{\"overall_score\": 9"});
    let soon = || vec![("retry-after-ms", "5".to_owned())];
    for answer in [
        error(500, "", "oops"),
        error(503, "", "busy"),
        error(408, "", "slow"),
        error_with(429, "rate_limit_exceeded", "slow down", soon()),
        cut,
        page,
        message(half.clone(), "abort"),
        message(half, "error"),
        Answer::Full(200, Vec::new(), "{\"choices\":[]}".into()),
        Answer::Cut(Vec::new()),
    ] {
        let (outcome, requests) = asked(vec![answer.clone(), good()]);
        let verdict = verdict(outcome);
        assert_eq!(
            (verdict.pass, requests, verdict.usage.requests),
            (true, 2, 2),
            "{answer:?}"
        );
    }
    // Four tries, and then it is nobody's verdict.
    let (outcome, requests) = asked(vec![error(500, "", "oops"); 9]);
    let none = none(outcome);
    assert_eq!(
        (none.reason, none.fault, requests),
        (Reason::Transport, Fault::Transient, 4),
        "{none}"
    );
}

#[test]
fn a_server_that_asks_for_more_time_than_there_is_is_not_asked_again() {
    let hour = |name: &'static str, value: &str| vec![(name, value.to_owned())];
    let setup = Setup::new();
    for headers in [
        hour("retry-after", "3600"),
        hour("retry-after-ms", "3600000"),
    ] {
        let mock = Mock::start(vec![
            error_with(429, "rate_limit_exceeded", "slow down", headers),
            good(),
        ]);
        let none = none(setup.judge(|_| (), &mock).judge(&input(), PATIENT));
        assert_eq!(
            (none.reason, mock.asked().len()),
            (Reason::RateLimited, 1),
            "{none}"
        );
    }
    // What the server says with a good answer holds for the next request, which is not even sent.
    let mut last = good();
    if let Answer::Full(_, head, _) = &mut last {
        head.push(("x-ratelimit-remaining-requests", "0".into()));
        head.push(("x-ratelimit-reset-requests", "1h".into()));
    }
    let mock = Mock::start(vec![last, good()]);
    let judge = setup.judge(|_| (), &mock);
    assert!(verdict(judge.judge(&input(), PATIENT)).pass);
    let none = none(judge.judge(&input(), PATIENT));
    assert_eq!(
        (none.reason, mock.asked().len()),
        (Reason::RateLimited, 1),
        "{none}"
    );
}

#[test]
fn silence_ends_at_the_deadline_and_counts_in_full() {
    let setup = Setup::new();
    let mock = Mock::start(vec![Answer::Silence]);
    let none = none(
        setup
            .judge(|_| (), &mock)
            .judge(&input(), Duration::from_millis(300)),
    );
    assert_eq!(
        (none.reason, none.fault),
        (Reason::Deadline, Fault::Transient),
        "{none}"
    );
    // It may have been served.
    assert!(none.usage.nano_usd.unwrap() > 0);
}

#[test]
fn nobody_there() {
    let setup = Setup::new();
    let mock = Mock::start(Vec::new());
    // A port that nobody listens on any more.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let change = |settings: &mut RemoteSettings| {
        settings.base = RemoteSettings::parse_base(&base).unwrap();
    };
    let none = none(setup.judge(change, &mock).judge(&input(), PATIENT));
    assert_eq!(
        (none.reason, none.fault),
        (Reason::Transport, Fault::Transient),
        "{none}"
    );
    assert_eq!(none.usage.nano_usd, Some(0));
}

#[test]
fn after_failures_in_a_row_nothing_is_sent_for_a_minute() {
    let setup = Setup {
        clock: Arc::new(ManualClock::at(NOON)),
        ..Setup::new()
    };
    let mock = Mock::start(vec![error(500, "", "oops"); 6]);
    let judge = setup.judge(|_| (), &mock);
    assert_eq!(
        none(judge.judge(&input(), PATIENT)).reason,
        Reason::Transport
    );
    // The fifth failure in a row opens it, in the middle of the second question.
    assert_eq!(
        none(judge.judge(&input(), PATIENT)).reason,
        Reason::Unavailable
    );
    assert_eq!(mock.asked().len(), 5);
    assert_eq!(
        none(judge.judge(&input(), PATIENT)).reason,
        Reason::Unavailable
    );
    assert_eq!(mock.asked().len(), 5);
}

#[test]
fn a_spent_budget_is_no_verdict_and_survives_a_restart() {
    let setup = Setup::new();
    let mock = Mock::start(vec![good(), good(), good()]);
    // One answer costs 6000 x 2500 + 150 x 10000 = 0.0165 dollars; before it, some 0.035 are set aside.
    let tight = |settings: &mut RemoteSettings| {
        settings.budget.nano_usd_per_task = Some(40_000_000);
    };
    let first = verdict(setup.judge(tight, &mock).judge(&input(), PATIENT));
    assert_eq!(first.usage.nano_usd, Some(16_500_000));
    let refused = none(setup.judge(tight, &mock).judge(&input(), PATIENT));
    assert_eq!(
        (refused.reason, refused.fault),
        (Reason::TaskBudget, Fault::Local),
        "{refused}"
    );
    assert_eq!(mock.asked().len(), 1);
    let day = |settings: &mut RemoteSettings| {
        settings.budget.tokens_per_day = Some(15_000);
    };
    assert_eq!(
        none(setup.judge(day, &mock).judge(&input(), PATIENT)).reason,
        Reason::Budget
    );
    assert!(verdict(setup.judge(|_| (), &mock).judge(&input(), PATIENT)).pass);
}

#[test]
fn a_model_that_has_left_is_not_asked() {
    let mut setup = Setup::new();
    let clock = Arc::new(ManualClock::at(NOON));
    setup.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    // The announcement that is known here is the provider's own.
    let mock = Mock::start(vec![good(), good()]);
    let warns = |base: &str| {
        let settings = RemoteSettings {
            model: "gpt-4o".into(),
            key: Some("sk-0123456789".into()),
            ..settings(base, setup.state.path())
        };
        let remote = Remote::new(settings, Arc::clone(&setup.clock)).unwrap();
        let mut warnings = remote.warnings().into_iter();
        warnings.any(|text| text.contains("2027-01-14"))
    };
    assert!(warns("https://api.openai.com/v1") && !warns(&mock.base));
    // A server of one's own may give that name to its model, and then it does not leave.
    let gpt = |settings: &mut RemoteSettings| settings.model = "gpt-4o".into();
    let judge = setup.judge(gpt, &mock);
    assert!(verdict(judge.judge(&input(), PATIENT)).pass);
    clock.advance(Duration::from_secs(60 * 86_400));
    assert!(verdict(judge.judge(&input(), PATIENT)).pass);
    assert_eq!(mock.asked().len(), 2);
    // By the server's own word.
    let description = json!({"id": "m", "object": "model", "shutdown_date": "2026-12-01"});
    let mock = Mock::with_model(Some(description), vec![good()]);
    let left = none(setup.judge(|_| (), &mock).judge(&input(), PATIENT));
    assert_eq!(
        (left.reason, left.fault, mock.asked().len()),
        (Reason::ModelGone, Fault::Local, 0),
        "{left}"
    );
}

#[test]
fn fields_that_a_server_does_not_take_are_learnt_once() {
    let setup = Setup {
        profile: Profile::Whitepaper,
        ..Setup::new()
    };
    let scores = json!({
        "first_frame_fidelity": 80, "prompt_adherence": 80, "motion_quality": 80, "temporal_consistency": 80,
        "visual_quality": 80, "camera_composition": 80,
    });
    let strict =
        json!({"issues": [], "aspect_scores": scores, "confidence": 1, "text_in_frames": false});
    let complaint = |field: &str| {
        let body = json!({"error": {"message": format!("Unsupported value: '{field}'"), "param": field, "code": "unsupported_value"}});
        Answer::Full(400, Vec::new(), body.to_string())
    };
    // Without the schema a fence is put up with.
    let fenced = format!("```json\n{strict}\n```");
    let mock = Mock::start(vec![
        complaint("temperature"),
        complaint("response_format"),
        complaint("max_completion_tokens"),
        says(&fenced),
        says(&fenced),
    ]);
    let judged = verdict(setup.judge(|_| (), &mock).judge(&input(), PATIENT));
    assert!(judged.pass);
    assert_eq!(
        judged.answers[0].adapted,
        ["max_completion_tokens", "temperature", "response_format"]
    );
    let body = mock.asked()[3].json();
    assert_eq!(body["max_tokens"], 900);
    assert!(body.get("temperature").is_none() && body.get("response_format").is_none());
    // The next process knows.
    assert!(verdict(setup.judge(|_| (), &mock).judge(&input(), PATIENT)).pass);
    assert_eq!(mock.asked().len(), 5);
}

#[test]
fn what_is_kept_of_an_answer() {
    let long = "x".repeat(20_000);
    let (outcome, _) = asked(vec![says(&format!("\u{1b}[2J{long}"))]);
    let verdict = verdict(outcome);
    let answer = &verdict.answers[0];
    let kept = answer.content.as_deref().unwrap();
    assert!(kept.len() <= 8 << 10 && !kept.contains('\u{1b}') && !answer.complete);
    assert_eq!(answer.request_id.as_deref(), Some("req-7"));
    assert_eq!(answer.model.as_deref(), Some("m-2026"));
    assert_eq!((answer.request_sha256.len(), verdict.pass), (64, false));
}

#[test]
fn a_clip_too_short_to_show_is_the_artifacts_fault() {
    let setup = Setup::new();
    let mock = Mock::start(vec![good()]);
    let frame = || RgbImage8::new(16, 16, vec![1; 768]).unwrap();
    let clip = (vec![frame(), frame()], (16, 1));
    let input = JudgeInput::new(
        "0".repeat(64),
        clip,
        (frame(), vec![0x89]),
        "a".into(),
        None,
    )
    .unwrap();
    let none = none(setup.judge(|_| (), &mock).judge(&input, PATIENT));
    assert_eq!(
        (none.reason, none.fault),
        (Reason::Input, Fault::Artifact),
        "{none}"
    );
    assert!(mock.asked().is_empty());
}
