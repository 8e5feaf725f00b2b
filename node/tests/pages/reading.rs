//! The pages that are read: status and API.

use serde_json::json;

use crate::browser::{Browser, switched_off};
use crate::node::Node;

const METHODS: [&str; 7] = ["get", "post", "put", "patch", "delete", "head", "options"];

#[tokio::test]
async fn the_api_page_has_every_operation() {
    if switched_off() {
        return;
    }
    let node = Node::start("", None);
    let (_, document) = node.get("/openapi.json").await;
    let paths = document["paths"].as_object().unwrap();
    let mut wanted: Vec<String> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods
                .filter(|key| METHODS.contains(&key.as_str()))
                .map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    wanted.sort();
    assert!(wanted.len() > 10, "{wanted:?}");

    let browser = Browser::start().await;
    browser.go(&node.page("/docs")).await;
    browser.shown(".operation").await;
    let shown = browser.value(
        "[...document.querySelectorAll('.operation')].map((operation) => ['.method', '.path'].map((css) => operation.querySelector(css).textContent).join(' ')).sort()",
    );
    assert_eq!(shown.await, json!(wanted));

    // By address, with fields, answers and a command that names the key without knowing it.
    browser.go(&node.page("/docs#post-v1-videos")).await;
    browser.reload().await;
    browser
        .shown("#post-v1-videos .operation-body .shell")
        .await;
    let body = browser.text("#post-v1-videos .operation-body").await;
    for word in [
        "negative_prompt",
        "required",
        "Idempotency-Key",
        "429",
        "curl ",
    ] {
        assert!(body.contains(word), "no {word} in {body}");
    }
    browser.screenshot("docs").await;
    browser.dark(true).await;
    browser.screenshot("docs-dark").await;

    // No reference stays unresolved in any of them.
    browser
        .js("for (const fold of document.querySelectorAll('details')) fold.open = true; return new Promise((done) => setTimeout(done, 200))")
        .await;
    let text = browser
        .value("document.querySelector('main').innerText")
        .await;
    let text = text.as_str().unwrap();
    assert!(
        !text.contains("$ref") && !text.contains("[object") && !text.contains("undefined"),
        "{text}"
    );

    browser.fill("#search", "idempotency").await;
    let left = "[...document.querySelectorAll('.operation')].filter((operation) => !operation.hidden).map((operation) => operation.id)";
    let left = browser.value(left).await;
    let left: Vec<_> = left.as_array().unwrap().iter().collect();
    assert!(
        left.contains(&&json!("post-v1-videos")) && left.len() < wanted.len(),
        "{left:?}"
    );
    browser.assert_clean(&[]).await;
}

#[tokio::test]
async fn the_status_page_reads_the_node() {
    if switched_off() {
        return;
    }
    let node = Node::start("step_s = 0.02\n", None);
    let id = node.order("a status").await;
    node.ended(&id).await;
    let browser = Browser::start().await;
    browser.go(&node.page("/status")).await;
    browser
        .until("document.getElementById('overall').textContent === 'Ready'")
        .await;
    let (_, ready) = node.get("/ready").await;
    let checks = browser
        .value("[...document.querySelectorAll('#checks .pill')].map((pill) => pill.textContent)")
        .await;
    let all = ready["checks"].as_object().unwrap().len();
    assert_eq!(checks, json!(vec!["OK"; all]));
    browser.shown("#work tr").await;
    let value = async |name: &str| {
        let rows = "[...document.querySelectorAll('tr, .tile')]";
        let cell = format!(
            "{rows}.find((row) => row.firstElementChild.textContent === '{name}')?.lastElementChild.textContent"
        );
        let text = browser.value(&cell).await;
        text.as_str()
            .unwrap_or_else(|| panic!("no {name}"))
            .to_owned()
    };
    let (_, info) = node.get("/info").await;
    assert_eq!(value("Name").await, info["model"]["name"]);
    assert_eq!(value("Clips kept").await, "1");
    assert_eq!(value("Jobs ended").await, "1 completed");
    assert!(value("Memory in use").await.ends_with("iB"));
    let step = value("Mean step").await;
    let (number, unit) = step.split_once(' ').unwrap();
    let factor = if unit == "ms" { 1e-3 } else { 1.0 };
    assert!(number.parse::<f64>().unwrap() * factor >= 0.02, "{step}");

    // It looks again by itself.
    node.order("another status").await;
    browser
        .until("document.getElementById('tiles').textContent.includes('Clips kept2')")
        .await;
    browser.screenshot("status").await;
    browser.dark(true).await;
    browser.screenshot("status-dark").await;
    browser.assert_clean(&[]).await;
}
