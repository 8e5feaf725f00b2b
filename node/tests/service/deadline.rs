//! Requests that would come too late are refused at once, not timed out late.

use serde_json::json;

use crate::client::Reply;
use crate::node::{Place, flat};

#[test]
fn what_cannot_be_in_time_is_refused_at_once() {
    let place = Place::new();
    let script = "step_s = 0.05\ndecode_s = 0.05\nclip = \"fixed\"\n";
    let node = place.start(script, &["--deadline", "1s", "--queue", "8"]);
    // Twice: the first one also encodes the clip that is handed out from then on.
    for _ in 0..2 {
        let reply = node.generate(&flat("measured"));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let steps = |steps: u64| {
        let mut body = flat("clip");
        body["steps"] = json!(steps);
        body
    };
    // Ten seconds of steps.
    let refused = node.generate(&steps(200));
    assert_eq!((refused.status, refused.code().as_str()), (400, "too_slow"));
    assert!(refused.text().contains("/v1/videos"), "{}", refused.text());

    // Each takes 0.65 s alone; behind two others that is too long.
    let mut clients: Vec<_> = (0..4).map(|_| node.start_generate(&steps(12))).collect();
    let replies: Vec<_> = clients
        .iter_mut()
        .map(|client| Reply::read(client, false).unwrap())
        .collect();
    let (served, refused): (Vec<_>, Vec<_>) =
        replies.into_iter().partition(|reply| reply.status == 200);
    assert!(!served.is_empty());
    assert!(!refused.is_empty());
    for reply in refused {
        assert_eq!((reply.status, reply.code().as_str()), (429, "deadline"));
        assert!((1..=600).contains(&reply.number("retry-after")));
    }
    let refusals =
        |reason: &str| node.metric(&format!("leoma_refusals_total{{reason=\"{reason}\"}}"));
    assert_eq!(refusals("too_slow"), 1.0);
    assert!(refusals("deadline") >= 1.0);

    // What fits is served, and what nobody waits for has no deadline.
    assert_eq!(node.generate(&steps(4)).status, 200);
    let mut long = crate::node::clip("long");
    long["steps"] = json!(24);
    let id = node.create(&long);
    node.completed(&id);
}

#[test]
fn speed_is_remembered() {
    let place = Place::new();
    let script = "step_s = 0.05\ndecode_s = 0.05\nclip = \"fixed\"\n";
    let mut node = place.start(script, &["--deadline", "1s"]);
    assert_eq!(node.generate(&flat("measured")).status, 200);
    node.signal(rustix::process::Signal::TERM);
    assert_eq!(node.end(), Some(0));
    let node = place.start(script, &["--deadline", "1s"]);
    let mut long = flat("long");
    long["steps"] = json!(200);
    assert_eq!(node.generate(&long).code(), "too_slow");
}
